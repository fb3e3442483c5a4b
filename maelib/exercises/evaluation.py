"""Exercises of notebook 06: evaluation."""

from maelib.exercises.exercise import Exercise

EXERCISES: dict[str, Exercise] = {}
