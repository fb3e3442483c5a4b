"""Weights: our checkpoints, and the files that others publish."""

from maelib.weights.checkpoint import CheckpointError, bundled_checkpoint, load_model, load_tensors, start_from

__all__ = ["CheckpointError", "bundled_checkpoint", "load_model", "load_tensors", "start_from"]
