"""Exercises of notebook 02: block masking."""

from maelib.exercises.exercise import Exercise

EXERCISES: dict[str, Exercise] = {}
