"""Exercises of notebook 07: transfer."""

from maelib.exercises.exercise import Exercise

EXERCISES: dict[str, Exercise] = {}
