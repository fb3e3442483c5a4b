"""Exercises of notebook 05: training."""

from maelib.exercises.exercise import Exercise

EXERCISES: dict[str, Exercise] = {}
