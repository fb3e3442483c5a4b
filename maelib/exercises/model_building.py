"""Exercises of notebook 03: model building."""

from maelib.exercises.exercise import Exercise

EXERCISES: dict[str, Exercise] = {}
