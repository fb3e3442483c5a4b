"""Weights: our checkpoints, and the files that others publish."""

from maelib.weights.checkpoint import (  # isort: skip
    CheckpointError, bundled_checkpoint, load_model, load_tensors, save_model, save_tensors, start_from,
)  # fmt: skip

__all__ = [
    "CheckpointError", "bundled_checkpoint", "load_model", "load_tensors", "save_model", "save_tensors", "start_from",
]  # fmt: skip
