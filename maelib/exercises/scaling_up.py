"""Exercises of notebook 08: scaling up."""

from maelib.exercises.exercise import Exercise

EXERCISES: dict[str, Exercise] = {}
