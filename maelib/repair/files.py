"""`maelib reconstruct`: repair a photo, or a folder of them, with a trained model."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm
from tyro.conf import Positional

from maelib.data import photos
from maelib.data.photos import SUFFIXES, Photo, PhotoError
from maelib.model import MaskedAutoencoder
from maelib.repair.photo import repair_photo
from maelib.weights import bundled_checkpoint, load_model


@dataclass(frozen=True)
class ReconstructConfig:
    """Repair a photo, or every photo of a folder. Give exactly one kind of mask; the photos themselves never change."""

    photo: Positional[Path]
    """photo to repair (an image or .npy), or a folder of them"""
    checkpoint: Path | None = None
    """model.safetensors of a training run, or published weights; by default the bundled model"""
    mask: Path | None = None
    """picture as large as the photo, white where to repair and black elsewhere; for a folder of photos, one for all of
    them or a folder with NAME.png or NAME_mask.png for each"""
    mask_colour: tuple[int, int, int] | None = None
    """repair what has this colour (red green blue, 0 to 255), such as 0 0 0 where a scan is missing"""
    tolerance: int = 8
    """how far each channel of a pixel may be from --mask-colour"""
    mask_alpha: bool = False
    """repair what is transparent"""
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    """repair boxes: left top right bottom in pixels, right and bottom excluded; four numbers for each box"""
    detail: float = 1.0
    """share of the photo's own texture in the repair: 0 is the model alone, a blur; 1 is as sharp as the photo"""
    out: Path | None = None
    """file for the repaired photo, or folder (one that exists, or a name without suffix); by default the folder
    `repaired` beside the photos. NAME_mask.png and NAME_side_by_side.png are written beside it. All formats but JPEG
    keep what is visible to the bit; what a format cannot hold (16 bits, colour profile, EXIF, XMP) is warned of"""
    overwrite: bool = False
    """repair again what has been repaired; without it only missing files are made"""

    def __post_init__(self) -> None:
        given = sum([self.mask is not None, self.mask_colour is not None, self.mask_alpha, bool(self.boxes)])
        if given != 1:
            cure = "use one of --mask, --mask-colour, --mask-alpha, --boxes"
            raise ValueError(f"{given} kinds of mask are given, one is needed; {cure}")


class Repair(NamedTuple):
    """What became of one photo.

    Attributes
    ----------
    photo : the photo.
    out : where its repair is, or would be.
    error : what was wrong with the photo or its mask.
    skipped : whether the repair was there before.
    """

    photo: Path
    out: Path
    error: str | None = None
    skipped: bool = False

    def __str__(self) -> str:
        kept = f"kept      {self.out} (exists already; --overwrite repairs the photo again)"
        text = f"failed    {self.error}" if self.error else kept if self.skipped else f"repaired  {self.out}"
        return text.encode("utf-8", "backslashreplace").decode()  # names of files need not be UTF-8


def _plan(config: ReconstructConfig) -> list[tuple[Path, Path]]:
    """Photos to repair, and where each repair goes."""
    source, files = config.photo, [config.photo]
    if source.is_dir():
        mask = config.mask and config.mask.resolve()
        files = [p for p in photos.list_photos(source) if not p.stem.endswith("_mask") and p.resolve() != mask]
        if not files:
            raise FileNotFoundError(f"folder {source} holds no photo; put images or .npy arrays into it")
    out = config.out or (source if source.is_dir() else source.parent) / "repaired"
    if out.suffix and not out.is_dir():
        photos.check_output(out)
        if not source.is_dir():
            return [(source, out)]
    if not out.is_dir() and (out.suffix or out.exists()):
        raise ValueError(f"--out {out} is a file, but several files go there; name a folder")
    kept = {path: SUFFIXES.get(path.suffix.lower(), "JPEG") != "JPEG" for path in files}  # JPEG would lose pixels
    return [(path, out / (path.name if kept[path] else f"{path.stem}.png")) for path in files]


def _find_hole(config: ReconstructConfig, path: Path, photo: Photo) -> np.ndarray:
    if config.mask_colour is not None:
        return photos.mask_from_colour(photo, config.mask_colour, config.tolerance, path)
    if config.mask_alpha:
        return photos.check_hole(photo.transparent, photo.pixels.shape, f"{path}, alpha")
    if config.boxes:
        return photos.mask_from_boxes(config.boxes, photo.pixels.shape, path)
    mask = config.mask
    if mask.is_dir():
        names = {file.stem: file for file in reversed(photos.list_photos(mask)) if file.resolve() != path.resolve()}
        mask = names.get(f"{path.stem}_mask", names.get(path.stem))
        if mask is None:
            cure = f"add {path.stem}_mask.png, white where to repair"
            raise PhotoError(f"{path}: {config.mask} holds no mask for it; {cure}")
    return photos.read_mask(mask, photo.pixels.shape)


def side_by_side(photo: np.ndarray, hole: np.ndarray, repaired: np.ndarray) -> np.ndarray:
    """Photo, photo with the hole in grey, and repair in one picture, uint8 `(h, w, 3)`, at most 1024 px high."""
    height, width = hole.shape
    scale = min(1, 1024 / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    photo, repaired = (np.asarray(Image.fromarray(x).resize(size, Image.Resampling.LANCZOS)) for x in (photo, repaired))
    hole = np.asarray(Image.fromarray(hole).convert("L").resize(size, Image.Resampling.BOX)) > 127
    gap = np.full((size[1], max(4, size[0] // 50), 3), 255, np.uint8)
    return np.hstack([photo, gap, np.where(hole[..., None], np.uint8(128), photo), gap, repaired])


def _repair_file(config: ReconstructConfig, path: Path, out: Path, model: MaskedAutoencoder, taken: set[Path]) -> bool:
    """Repair one file, never over a file in `taken`, to which its own are added. False when nothing was missing."""
    targets = [out, *(out.with_name(f"{out.stem}_{what}.png") for what in ("mask", "side_by_side"))]
    for target in targets:
        if target.resolve() in taken:
            raise PhotoError(f"{path}: {target} is an input or another photo's; rename the photo or change --out")
    taken.update(target.resolve() for target in targets)
    missing = [target for target in targets if config.overwrite or not target.exists()]
    if not missing:
        return False
    photo = photos.open_photo(path)
    hole = _find_hole(config, path, photo)
    if photo.alpha is not None:
        photos.check_output(out, photo.alpha[~hole])
    repaired = repair_photo(photo.pixels, hole, model, photo.transparent, config.detail)
    pictures = photos.fill_hole(photo, repaired, hole), hole * np.uint8(255), side_by_side(photo.pixels, hole, repaired)
    for target, picture in zip(targets, pictures, strict=True):
        if target in missing:
            photos.write_photo(target, picture)
    return True


def reconstruct(config: ReconstructConfig) -> list[Repair]:
    """Repair what `config` names and say what became of each photo; one that fails does not stop the others.

    Beside each repair `NAME.png` go its mask, `NAME_mask.png`, and `NAME_side_by_side.png`.

    Raises
    ------
    FileNotFoundError
        When a folder holds no photo, or there is no such checkpoint.
    ValueError
        When `--out` cannot be written, several photos would go into one file, or the checkpoint is damaged.
    """
    jobs = _plan(config)
    model = load_model(config.checkpoint or bundled_checkpoint())
    masks = [] if config.mask is None else [config.mask, *config.mask.glob("*")]
    taken = {path.resolve() for path in (*masks, *(path for path, _ in jobs))}
    results = []
    for path, out in tqdm(jobs, "repairing", unit="photo", disable=len(jobs) == 1):
        try:
            results.append(Repair(path, out, skipped=not _repair_file(config, path, out, model, taken)))
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            why = str(error)
            if isinstance(error, MemoryError | RuntimeError):  # torch raises RuntimeError when memory runs out
                why = f"no memory was left, or {error!r}; save a smaller copy, or close other programs"
            results.append(Repair(path, out, why if isinstance(error, PhotoError) else f"{path}: {why}"))
    return results
