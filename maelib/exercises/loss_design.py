"""Exercises of notebook 04: loss design."""

from maelib.exercises.exercise import Exercise

EXERCISES: dict[str, Exercise] = {}
