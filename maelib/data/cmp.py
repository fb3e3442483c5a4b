"""The CMP Facade Database: 606 rectified photos of facades from around the world, with label maps.

R. Tyleček and R. Šára, Spatial Pattern Templates for Recognition of Objects with Regular Structure, GCPR 2013. For
research; whoever publishes with it cites the paper. `base` holds 378 photos, `extended` 228 less regular ones; each
item is a photo, `cmp_b0001.jpg`, a label map of the same size, `.png`, and boxes, `.xml`, which are not read here.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from maelib.data.images import Images, photo_names, read_folder
from maelib.data.photos import PhotoError, read_photo
from maelib.downloads import extract_zip, fetch

BASE_URL = "https://cmp.felk.cvut.cz/~tylecr1/facade"
PARTS = ("base", "extended")
CMP_CLASSES = (  # label n is the name at n - 1
    "background", "facade", "window", "door", "cornice", "sill", "balcony", "blind", "deco", "molding", "pillar",
    "shop",
)  # fmt: skip


def fetch_cmp(folder: Path, base_url: str = BASE_URL, parts: tuple[str, ...] = PARTS) -> list[Path]:
    """Download and unpack parts of the database into `folder`, unless they are there. Returns the parts' folders.

    The archives stay, with their digests beside them, and are checked at every call (see `maelib.downloads.fetch`).

    Raises
    ------
    DownloadError
        When an archive cannot be had or trusted.
    """
    folders = []
    for part in parts:
        archive = fetch(f"{base_url}/CMP_facade_DB_{part}.zip", Path(folder) / f"CMP_facade_DB_{part}.zip")
        folders.append(archive.with_suffix(""))
        if not folders[-1].is_dir():
            extract_zip(archive, folders[-1])
    return folders


def cmp_photos(folder: Path) -> list[Path]:
    """The database's photos in `folder` and up to three folders below it, by name."""
    found = [path for depth in range(4) for path in Path(folder).glob("*/" * depth + "cmp_[bx][0-9]*.jpg")]
    return sorted(found, key=lambda path: path.name)


def read_cmp(folder: Path, size: int, skip_bad: bool = False) -> tuple[Images, np.ndarray, list[str]]:
    """Read photos, wedges and label maps as squares of `size` pixels.

    The whole photo is squashed to a square, as everybody does with this database: no part of a facade is lost, and its
    proportions are not kept.

    Returns
    -------
    images : Images
        The photos, their wedges as `voids`.
    labels : ndarray
        uint8 `(N, size, size)`, 1 to 12 as in `CMP_CLASSES`, resized without mixing.
    skipped : list of str
        What was wrong with the items left out; empty unless `skip_bad`.

    Raises
    ------
    FileNotFoundError
        When the folder holds no item that can be read.
    PhotoError
        At the first bad item, unless `skip_bad`.
    """
    images, labels, skipped = _read(folder, size, skip_bad, with_labels=True)
    return images.with_wedges(), np.stack(labels), skipped


def read_photos(folder: Path, size: int, skip_bad: bool = False) -> tuple[Images, list[str]]:
    """Photos to train on or judge by: the database's, squashed, where a folder holds nothing else at its top level.

    Every other folder is read by `maelib.data.images.read_folder`; errors are those of the two.
    """
    if not all(name.startswith("cmp_") for name in photo_names(folder)) or not cmp_photos(folder):
        return read_folder(folder, size, skip_bad)
    images, _, skipped = _read(folder, size, skip_bad, with_labels=False)
    return images, skipped


def _read(folder: Path, size: int, skip_bad: bool, with_labels: bool) -> tuple[Images, list[np.ndarray], list[str]]:
    photos, labels, names, skipped = [], [], [], []
    for path in cmp_photos(folder):
        try:
            photo = read_photo(path)
            if with_labels:
                labels.append(_read_labels(path.with_suffix(".png"), photo.shape[:2], size))
        except PhotoError as error:
            if not skip_bad:
                raise
            skipped.append(str(error))
            continue
        photos.append(np.asarray(Image.fromarray(photo).resize((size, size), Image.Resampling.LANCZOS)))
        names.append(path.name)
    if not photos:
        raise FileNotFoundError(f"folder {folder} holds no photo of the CMP Facade Database; run `maelib fetch cmp`")
    return Images(np.stack(photos), names), labels, skipped


def _read_labels(path: Path, shape: tuple[int, ...], size: int) -> np.ndarray:
    """The label map of a photo of `shape` `(H, W)`, `(size, size)`."""
    try:
        with Image.open(path) as image:
            labels = np.asarray(image)
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError on broken PNG
        raise PhotoError(f"{path}: no label map can be read ({error}); fetch the database anew") from error
    if labels.shape != shape or not 1 <= labels.min() <= labels.max() <= len(CMP_CLASSES):
        raise PhotoError(
            f"{path}: {labels.shape} with labels {labels.min()} to {labels.max()} is no map of labels 1 to "
            f"{len(CMP_CLASSES)} for a photo of {shape}; fetch the database anew"
        )
    return np.asarray(Image.fromarray(labels).resize((size, size), Image.Resampling.NEAREST))
