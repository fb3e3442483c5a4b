"""Weights: our checkpoints, and those that others published."""
