"""Masked autoencoders that repair facades.

The ten names most used can be imported from here: `from maelib import load_model`. Each loads its module when it is
asked for, so that `import maelib` alone costs nothing.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "MAEConfig": "maelib.model",
    "MaskedAutoencoder": "maelib.model",
    "block_mask": "maelib.masking",
    "bundled_checkpoint": "maelib.weights",
    "draw_images": "maelib.facades",
    "hole_psnr": "maelib.metrics",
    "load_model": "maelib.weights",
    "mask_to_pixels": "maelib.masking",
    "patchify": "maelib.patches",
    "repair_photo": "maelib.repair.photo",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
