"""Checks of exercises: an answer is tried on the cases of an exercise, and a mistake gets a hint.

Nothing here prints. `check` returns a verdict, which a notebook shows as a line of text.
"""

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maelib.course.exercises import EXERCISES


@dataclass(frozen=True)
class Verdict:
    """A line of text for the learner, and whether it is good news."""

    passed: bool
    text: str

    def __repr__(self) -> str:
        return self.text


def check(name: str, answer: Any) -> Verdict:
    """Try the answer to exercise `name`, a function or a value, on the cases of the exercise.

    Returns
    -------
    Verdict
        Passed with a confirmation; otherwise "not attempted yet", or a hint aimed at the mistake. An exception that
        the learner's code raises becomes a hint too.
    """
    exercise = EXERCISES[name]
    for first, (given, kept) in enumerate(zip(exercise.cases(), exercise.cases(), strict=True)):
        got = _outcome(answer, given)
        untouched = got is None or got is ... or (isinstance(got, NotImplementedError) and not got.args)
        if first == 0 and untouched:
            return Verdict(False, f"Exercise {name}: not attempted yet (nothing is returned).")
        problem = difference(got, exercise.solution(*kept))
        if problem is not None:
            hints = (hint for mistake, hint in exercise.mistakes if difference(got, _outcome(mistake, kept)) is None)
            return Verdict(False, f"Exercise {name}: not yet. {next(hints, problem)}")
    return Verdict(True, f"Exercise {name}: passed. {exercise.praise}")


def _outcome(answer: Any, given: tuple) -> Any:
    """What `answer` returns for the arguments `given`, or the exception that it raises."""
    try:
        return answer(*given) if callable(answer) else answer
    except Exception as error:
        return error


def difference(got: Any, want: Any) -> str | None:
    """Say how `got` differs from `want`, a number, a tensor or an exception; None when they are equal.

    Whole numbers are compared exactly, others to three digits.
    """
    if isinstance(got, Exception):
        if type(got) is type(want) and str(got) == str(want):
            return None
        library = Path(__file__).parents[1]
        frames = [f for f in traceback.extract_tb(got.__traceback__) if library not in Path(f.filename).parents]
        at = f" at `{frames[0].line}`" if frames and frames[0].line else ""  # the line of the learner's code
        return f"It stops with {type(got).__name__}{at}: {got}"
    if isinstance(want, Exception):
        return f"It returns a {type(got).__name__}; a {type(want).__name__} is wanted."
    want = torch.as_tensor(want)
    try:
        got = torch.as_tensor(got, dtype=torch.float64 if isinstance(got, float) else None)
    except (TypeError, ValueError, RuntimeError):
        return f"It returns a {type(got).__name__}; a {_kind(want)} is wanted."
    if got.shape != want.shape or (got.dtype == torch.bool) != (want.dtype == torch.bool):
        return f"It returns a {_kind(got)}; a {_kind(want)} is wanted."
    rtol, atol, digits = (1e-3, 1e-5, ".3g") if want.is_floating_point() else (0, 0, ".12g")
    wrong = ~torch.isclose(got.double(), want.double(), rtol=rtol, atol=atol)
    if not wrong.any():
        return None
    place = tuple(wrong.nonzero()[0].tolist())
    where = f" at {list(place)}" if place else ""
    return f"It returns {got[place].item():{digits}}{where}; {want[place].item():{digits}} is wanted."


def _kind(value: Tensor) -> str:
    kind = "bool" if value.dtype == torch.bool else "number"
    return f"{kind} tensor of shape {tuple(value.shape)}" if value.ndim else f"single {kind}"
