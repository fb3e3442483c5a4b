"""The exercises of the course, one module for each notebook; an exercise is named by notebook and number: "00.1"."""

from maelib.course.exercises import (
    block_masking,
    detail,
    evaluation,
    loss_design,
    model_building,
    patching,
    scaling_up,
    start_here,
    training,
    transfer,
)
from maelib.course.exercises.exercise import Exercise

_NOTEBOOKS = (
    start_here,
    patching,
    block_masking,
    model_building,
    loss_design,
    training,
    evaluation,
    detail,
    transfer,
    scaling_up,
)
EXERCISES: dict[str, Exercise] = {
    name: exercise for notebook in _NOTEBOOKS for name, exercise in notebook.EXERCISES.items()
}
