"""Exercises of notebook 01: patching."""

from maelib.exercises.exercise import Exercise

EXERCISES: dict[str, Exercise] = {}
