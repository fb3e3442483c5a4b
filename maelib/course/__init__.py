"""What the lessons share: predictions, checked exercises, figures with alt text, widgets."""

from maelib.course.check import check, figure, own_photos, predict, reveal

__all__ = ["check", "figure", "own_photos", "predict", "reveal"]
