"""What the lessons share: checked exercises, predictions, pictures with captions, the learner's own photos."""

import warnings
from pathlib import Path

from maelib.course.check import check
from maelib.course.predict import predict, reveal
from maelib.course.widgets import figure
from maelib.data.photos import list_photos
from maelib.files import data_folder

__all__ = ["check", "figure", "own_photos", "predict", "reveal"]


def own_photos() -> list[Path]:
    """List the photos in the repository's `data/photos`, or beside the notebook where there is no repository.

    Files named `..._mask`, `..._repaired` and `..._side_by_side` belong to other photos and are left out.
    """
    folder = data_folder() / "photos"
    with warnings.catch_warnings():
        if not folder.is_dir():
            folder = Path.cwd()
            warnings.simplefilter("ignore")  # notebooks and wheels lie there too
        files = list_photos(folder)
    return [file for file in files if not file.stem.endswith(("_mask", "_repaired", "_side_by_side"))]
