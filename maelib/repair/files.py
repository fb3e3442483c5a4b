"""`maelib reconstruct`: repair a photo, or a folder of them, with a trained model."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm
from tyro.conf import Positional

from maelib.data.photos import (
    PHOTO_SUFFIXES,
    Photo,
    PhotoError,
    mask_from_alpha,
    mask_from_boxes,
    mask_from_colour,
    open_photo,
    read_mask,
    write_photo,
)
from maelib.model import MaskedAutoencoder
from maelib.repair.photo import repair_photo
from maelib.weights.checkpoint import bundled_checkpoint
from maelib.weights.published import load_model

PANEL_HEIGHT = 1024  # most pixels of a side-by-side


@dataclass(frozen=True)
class ReconstructConfig:
    """Repair a photo, or every photo of a folder. Give exactly one kind of mask; the photos themselves never change."""

    photo: Positional[Path]
    """photo to repair (an image or .npy), or a folder of them"""
    checkpoint: Path | None = None
    """model.safetensors of a training run, or published weights; by default the bundled model"""
    mask: Path | None = None
    """picture as large as the photo, white where to repair; for a folder of photos, one for all of them or a folder
    with NAME.png or NAME_mask.png for each"""
    mask_colour: tuple[int, int, int] | None = None
    """repair what has this colour (red green blue, 0 to 255), such as 0 0 0 where a scan is missing"""
    tolerance: int = 8
    """how far in each channel a pixel may lie from --mask-colour"""
    mask_alpha: bool = False
    """repair what is transparent"""
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    """repair boxes: left top right bottom in pixels, right and bottom excluded; four numbers for each box"""
    out: Path | None = None
    """file for the repaired photo, or folder; by default the folder `repaired` beside the photos. NAME_mask.png and
    NAME_side_by_side.png are written beside it. PNG keeps what is visible to the bit, JPEG does not"""
    overwrite: bool = False
    """repair again what is there already; without it only what is missing is made"""

    def __post_init__(self) -> None:
        given = [self.mask is not None, self.mask_colour is not None, self.mask_alpha, bool(self.boxes)]
        if sum(given) != 1:
            raise ValueError(
                f"{sum(given)} kinds of mask are given, one is needed; use one of --mask, --mask-colour, --mask-alpha, "
                "--boxes"
            )


@dataclass(frozen=True)
class Repair:
    """What became of one photo."""

    photo: Path
    """the photo"""
    out: Path
    """where its repair is, or would be"""
    error: str | None = None
    """what was wrong with the photo or its mask"""
    skipped: bool = False
    """whether the repair was there before"""

    def __str__(self) -> str:
        if self.error:
            return f"failed    {self.error}"
        if self.skipped:
            return f"kept      {self.out} (there already; --overwrite makes it again)"
        return f"repaired  {self.out}"


def _photos(config: ReconstructConfig) -> list[tuple[Path, Path]]:
    """Photos to repair, and where each repair goes."""
    source, out = config.photo, config.out
    if source.is_dir():
        photos = sorted(path for path in source.iterdir() if path.suffix.lower() in PHOTO_SUFFIXES)
        photos = [path for path in photos if not path.stem.endswith("_mask")]
        if not photos:
            raise FileNotFoundError(f"folder {source} holds no photo; put images or .npy arrays into it")
        out = source / "repaired" if out is None else out
    else:
        photos = [source]
        out = source.parent / "repaired" if out is None else out
        if out.suffix.lower() in PHOTO_SUFFIXES and not out.is_dir():
            return [(source, out)]
    if out.is_file() or out.suffix.lower() in PHOTO_SUFFIXES:
        raise ValueError(f"--out {out} is a file, but several files go there; name a folder")
    lossless = set(PHOTO_SUFFIXES) - {".jpg", ".jpeg"}  # so that what is visible stays as it is
    return [(path, out / (path.stem + (path.suffix if path.suffix.lower() in lossless else ".png"))) for path in photos]


def _mask_file(masks: Path, photo: Path) -> Path:
    """The mask of a photo: `masks` itself, or the file of the photo's name in it."""
    if not masks.is_dir():
        return masks
    for stem in (f"{photo.stem}_mask", photo.stem):
        for path in sorted(masks.glob("*")):
            if path.stem == stem and path.suffix.lower() in PHOTO_SUFFIXES and path.resolve() != photo.resolve():
                return path
    raise PhotoError(f"{photo}: {masks} holds no mask for it; add {photo.stem}_mask.png, white where to repair")


def _find_hole(config: ReconstructConfig, path: Path, photo: Photo) -> np.ndarray:
    if config.mask is not None:
        return read_mask(_mask_file(config.mask, path), photo.pixels.shape)
    if config.mask_colour is not None:
        return mask_from_colour(photo.pixels, config.mask_colour, config.tolerance, path)
    if config.mask_alpha:
        return mask_from_alpha(photo, path)
    return mask_from_boxes(config.boxes, photo.pixels.shape, path)


def side_by_side(photo: np.ndarray, hole: np.ndarray, repaired: np.ndarray) -> np.ndarray:
    """Photo, photo with the hole in grey, and repair in one picture, uint8 `(h, w, 3)`, at most 1024 px high."""
    panels = [photo, np.where(hole[..., None], np.uint8(128), photo), repaired]
    height, width = hole.shape
    scale = min(1, PANEL_HEIGHT / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    panels = [np.asarray(Image.fromarray(panel).resize(size, Image.Resampling.LANCZOS)) for panel in panels]
    gap = np.full((size[1], max(4, size[0] // 50), 3), 255, np.uint8)
    return np.hstack([panels[0], gap, panels[1], gap, panels[2]])


def _repair_file(config: ReconstructConfig, path: Path, out: Path, model: MaskedAutoencoder, inputs: set[Path]) -> bool:
    """Repair one file, never over one of `inputs`; False when nothing was missing."""
    outs = [out, *(out.with_name(f"{out.stem}_{what}.png") for what in ("mask", "side_by_side"))]
    if out.suffix.lower() not in PHOTO_SUFFIXES:
        raise PhotoError(f"{out}: suffix {out.suffix!r} cannot be written; use one of {', '.join(PHOTO_SUFFIXES)}")
    missing = [target for target in outs if config.overwrite or not target.exists()]
    for target in outs:
        if target.resolve() in inputs:
            raise PhotoError(f"{target}: would be written over an input; choose another --out")
    if not missing:
        return False
    photo = open_photo(path)
    hole = _find_hole(config, path, photo)
    repaired = repair_photo(photo.pixels, hole, model)
    alpha = None if photo.alpha is None else np.where(hole, np.uint8(255), photo.alpha)
    pictures = (
        Photo(repaired, alpha, photo.icc_profile),
        hole.astype(np.uint8) * 255,
        side_by_side(photo.pixels, hole, repaired),
    )
    for target, picture in zip(outs, pictures, strict=True):
        if target in missing:
            write_photo(target, picture, config.overwrite)
    return True


def reconstruct(config: ReconstructConfig) -> list[Repair]:
    """Repair what `config` names and tell what became of each photo; a bad one does not stop the others.

    Beside each repair `NAME.png` go its mask, `NAME_mask.png`, and `NAME_side_by_side.png`.

    Raises
    ------
    FileNotFoundError
        When a folder holds no photo, or there is no such checkpoint.
    ValueError
        When several photos would go into one file, or the checkpoint is damaged.
    """
    model, notes = load_model(config.checkpoint or bundled_checkpoint())
    for note in notes:
        tqdm.write(note, file=sys.stderr)
    results: list[Repair] = []
    jobs = _photos(config)
    masks = [] if config.mask is None else [config.mask, *config.mask.glob("*")]
    inputs = {path.resolve() for path in (*masks, *(photo for photo, _ in jobs))}
    for path, out in tqdm(jobs, "repairing", unit="photo", disable=len(jobs) == 1):
        try:
            twin = next((result.photo for result in results if result.out == out), None)
            if twin is not None:
                raise PhotoError(f"{path}: its repair would have the name of that of {twin.name}; rename one")
            results.append(Repair(path, out, skipped=not _repair_file(config, path, out, model, inputs)))
        except (ValueError, OSError) as error:
            results.append(Repair(path, out, error=str(error)))
    return results
