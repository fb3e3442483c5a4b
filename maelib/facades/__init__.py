"""Facades drawn from a seed, with NumPy alone."""

from maelib.facades.brush import LABELS, Label
from maelib.facades.facade import STYLES, Facade, draw_facade, draw_images, draw_rgba

__all__ = ["LABELS", "STYLES", "Facade", "Label", "draw_facade", "draw_images", "draw_rgba"]
