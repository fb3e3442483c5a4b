"""Photos and masks, in and out of files.

Whatever a file holds becomes uint8 `(H, W, 3)`, upright; whatever is wrong with it becomes one `PhotoError` that
names the file, the fault and the cure.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from maelib.files import write_atomic

MAX_PIXELS = 150_000_000  # below the limit at which Pillow itself suspects a decompression bomb
ROUNDING = 1e-3  # by so much may floats pass 0 and 1
SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".png": {"format": "PNG"},
    ".webp": {"format": "WEBP", "lossless": True},
    ".tif": {"format": "TIFF", "compression": "tiff_lzw"},
    ".tiff": {"format": "TIFF", "compression": "tiff_lzw"},
    ".bmp": {"format": "BMP"},
}
PHOTO_SUFFIXES = (".npy", *SAVE_OPTIONS)


class PhotoError(ValueError):
    """A photo or mask cannot be used; the message names the file, what is wrong with it, and the cure."""


@dataclass(frozen=True)
class Photo:
    """A photo as it is seen: upright, 8 bits a channel."""

    pixels: np.ndarray
    """uint8 `(H, W, 3)`"""
    alpha: np.ndarray | None = None
    """uint8 `(H, W)`, 255 = opaque, where the file has one"""
    icc_profile: bytes | None = None
    """colour profile of the pixels, to be written back with them"""


def _check_size(height: int, width: int, name: str | Path) -> None:
    if height * width > MAX_PIXELS:
        raise PhotoError(
            f"{name}: {width} x {height} = {height * width / 1e6:.0f} megapixels, more than the limit of "
            f"{MAX_PIXELS // 1_000_000}; save a smaller copy"
        )


def _channels_last(array: np.ndarray, name: str | Path) -> np.ndarray:
    """Any layout as uint8 `(H, W, C)`, C = 1, 3 or 4."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, 2)  # (C, H, W) -> (H, W, C)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise PhotoError(
            f"{name}: an array of shape {array.shape} is no photo; save one photo a file, as (H, W), (H, W, C) or "
            "(C, H, W) with 1, 3 or 4 channels"
        )
    _check_size(*array.shape[:2], name)
    if array.dtype == np.uint8:
        return np.array(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise PhotoError(f"{name}: values are {array.dtype}; save uint8 0..255, or floats 0..1 or 0..255")
    low, high = float(array.min()), float(array.max())  # NaN when there is one
    if not -ROUNDING <= low <= high <= 255 or 1 + ROUNDING < high < 2:
        raise PhotoError(
            f"{name}: values run from {low:.4g} to {high:.4g}, which is neither 0..1 nor 0..255; undo a normalisation, "
            "clip what resampling overshot, replace what is not finite, and save again"
        )
    scaled = array.astype(np.float32) * (255 if high <= 1 + ROUNDING else 1)
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def as_rgb_uint8(array: np.ndarray, name: str | Path) -> np.ndarray:
    """Photo array in any usual form as uint8 `(H, W, 3)`.

    Parameters
    ----------
    array : ndarray
        uint8 0..255, or float 0..1 or 0..255 (a maximum of 1.001 or less means 0..1); `(H, W)`, `(H, W, C)` or
        `(C, H, W)` with 1, 3 or 4 channels, the fourth (alpha) is left out.
    name : str or Path
        What an error calls it.

    Raises
    ------
    PhotoError
        For other shapes, types and ranges, NaN, nothing at all, or more than `MAX_PIXELS`.
    """
    array = _channels_last(array, name)
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[..., :3]


def _open_array(path: Path) -> Photo:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a lying header cannot claim memory
    except ValueError as error:  # numpy's own words would advise to allow pickles
        raise PhotoError(
            f"{path}: damaged or cut short, or no array of plain numbers; save the photo again with np.save, as uint8"
        ) from error
    if not isinstance(array, np.ndarray):
        raise PhotoError(f"{path}: an archive of arrays; save one photo a file with np.save")
    array = _channels_last(array, path)
    return Photo(as_rgb_uint8(array, path), array[..., 3] if array.shape[2] == 4 else None)


def _to_srgb(image: Image.Image) -> Image.Image:
    """Printing inks, or another space that a plain conversion would only guess, by the profile in the file."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("CMYK", "LAB"):
        return image
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")


def _open_image(path: Path) -> Photo:
    with Image.open(path) as image:
        _check_size(image.height, image.width, path)
        if image.format == "EPS":  # Pillow would have Ghostscript run it
            raise PhotoError(f"{path}: PostScript is a program, not pixels; export it as PNG or JPEG")
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # phones put previews behind the one picture of an MPO
            raise PhotoError(f"{path}: holds {frames} frames or pages; save the one to use as PNG or JPEG")
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):
            values = np.asarray(image)
            wide = values.dtype.kind in "iu" and values.min() >= 0 and values.max() < 2**16
            return Photo(as_rgb_uint8(values / np.float32(65535) if wide else values, path))  # scaled, not clipped
        profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None
        image = _to_srgb(image)
        pixels = np.array(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    return Photo(pixels[..., :3], pixels[..., 3] if pixels.shape[2] == 4 else None, profile)


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Turn what readers raise on bad files into `PhotoError`."""
    try:
        yield
    except PhotoError:
        raise
    except FileNotFoundError as error:
        raise PhotoError(f"{path}: there is no such file; check the path") from error
    except IsADirectoryError as error:
        raise PhotoError(f"{path}: is a folder; name a file in it") from error
    except PermissionError as error:
        raise PhotoError(f"{path}: may not be read; change its permissions") from error
    except Image.DecompressionBombError as error:
        limit = MAX_PIXELS // 1_000_000
        raise PhotoError(f"{path}: more than the limit of {limit} megapixels; save a smaller copy") from error
    except UnidentifiedImageError as error:
        raise PhotoError(f"{path}: not an image of a known format; save it as PNG or JPEG") from error
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise PhotoError(f"{path}: damaged or cut short ({error}); copy or export it again") from error


def open_photo(path: Path | str) -> Photo:
    """Read a photo with its alpha channel and colour profile: `.npy` (see `as_rgb_uint8`) or any still image.

    EXIF orientation is applied, 16 bits are scaled to 8, grey, palette and CMYK become RGB.

    Raises
    ------
    PhotoError
        When the file is missing, no image, damaged, animated, or larger than `MAX_PIXELS`.
    """
    path = Path(path)
    with _named_errors(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of sizes below our own limit, and of odd EXIF data
        return _open_array(path) if path.suffix.lower() == ".npy" else _open_image(path)


def read_photo(path: Path | str) -> np.ndarray:
    """Pixels of a photo, uint8 `(H, W, 3)`; see `open_photo`."""
    return open_photo(path).pixels


def check_hole(hole: np.ndarray, shape: tuple[int, ...], name: str | Path = "mask") -> np.ndarray:
    """Return `hole` when it is a mask for a photo of `shape` `(H, W, ...)` that hides something, not everything.

    Raises
    ------
    PhotoError
        When it is not.
    """
    if hole.shape != tuple(shape[:2]) or hole.dtype != bool:
        mask, photo = (" x ".join(map(str, size[::-1])) for size in (hole.shape, shape[:2]))
        raise PhotoError(
            f"{name}: the mask is {mask} px (width x height) of {hole.dtype}, the photo {photo} px; "
            "make a bool mask of the photo itself, upright and at its full size"
        )
    if not hole.any():
        raise PhotoError(f"{name}: nothing is hidden; mark what to repair in white (above 127)")
    if hole.all():
        raise PhotoError(f"{name}: everything is hidden; leave visible what the repair is to follow")
    return hole


def read_mask(path: Path | str, shape: tuple[int, ...]) -> np.ndarray:
    """Read where to repair a photo of `shape` `(H, W, ...)`: white (above 127) and opaque. Returns `(H, W)` bool.

    Raises
    ------
    PhotoError
        As `open_photo` and `check_hole`.
    """
    mask = open_photo(path)
    hole = mask.pixels.mean(axis=2) > 127
    return check_hole(hole if mask.alpha is None else hole & (mask.alpha > 127), shape, path)


def mask_from_colour(
    photo: np.ndarray, colour: Sequence[int], tolerance: int = 8, name: str | Path = "photo"
) -> np.ndarray:
    """Hide what has one colour, such as the black missing areas of scanned facades.

    Pixels within `tolerance` of `colour` in each channel are hidden; so are those beside them (2 px) within four
    times that, because compression frays such areas. Returns `(H, W)` bool.

    Raises
    ------
    PhotoError
        When no pixel, or every pixel, has the colour, or the colour is not three values 0..255.
    """
    if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
        raise PhotoError(f"{name}: colour {tuple(colour)} is not red, green, blue from 0 to 255; use three such values")
    distance = np.abs(photo.astype(np.int16) - np.array(colour, np.int16)).max(axis=2)
    core = np.pad(distance <= tolerance, 2)
    height, width = distance.shape
    near = np.any([core[y : y + height, x : x + width] for y in range(5) for x in range(5)], axis=0)
    return check_hole(near & (distance <= 4 * tolerance), photo.shape, f"{name}, colour {tuple(colour)}")


def mask_from_alpha(photo: Photo, name: str | Path = "photo") -> np.ndarray:
    """Hide what is transparent (alpha below 128). Returns `(H, W)` bool; raises `PhotoError` as `check_hole`."""
    if photo.alpha is None:
        raise PhotoError(f"{name}: has no alpha channel; give a mask, a colour or boxes")
    return check_hole(photo.alpha < 128, photo.pixels.shape, f"{name}, alpha")


def mask_from_boxes(boxes: Sequence[Sequence[int]], shape: tuple[int, ...], name: str | Path = "photo") -> np.ndarray:
    """Hide boxes `(left, top, right, bottom)` in pixels, right and bottom excluded. Returns `(H, W)` bool.

    Raises
    ------
    PhotoError
        When a box is empty or leaves the photo, or they hide nothing or everything.
    """
    height, width = shape[:2]
    hole = np.zeros((height, width), bool)
    for left, top, right, bottom in boxes:
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise PhotoError(
                f"{name}: box {left} {top} {right} {bottom} is empty or leaves the photo; use left < right <= {width} "
                f"and top < bottom <= {height}, from 0"
            )
        hole[top:bottom, left:right] = True
    return check_hole(hole, shape, name)


def _encode(photo: Photo, suffix: str) -> bytes:
    """The bytes of a file of that kind; JPEG and BMP hold no alpha."""
    buffer = io.BytesIO()
    alpha = photo.alpha is not None and suffix not in (".jpg", ".jpeg", ".bmp")
    pixels = np.dstack([photo.pixels, photo.alpha]) if alpha else photo.pixels
    if suffix == ".npy":
        np.save(buffer, pixels)
    else:
        profile = {"icc_profile": photo.icc_profile} if photo.icc_profile else {}
        Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, **SAVE_OPTIONS[suffix], **profile)
    return buffer.getvalue()


def write_photo(path: Path | str, photo: Photo | np.ndarray, overwrite: bool = False) -> None:
    """Write a photo, or uint8 `(H, W[, 3])`, in the format of the suffix: whole or not at all.

    PNG, WebP, TIFF, BMP and `.npy` keep every pixel; JPEG (quality 95) does not.

    Raises
    ------
    PhotoError
        When the suffix is unknown, the file exists (unless `overwrite`), or it cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in PHOTO_SUFFIXES:
        raise PhotoError(f"{path}: suffix {suffix!r} cannot be written; use one of {', '.join(PHOTO_SUFFIXES)}")
    if path.exists() and not overwrite:
        raise PhotoError(f"{path}: exists already; choose another name, or ask to overwrite")
    try:
        write_atomic(path, _encode(photo if isinstance(photo, Photo) else Photo(photo), suffix))
    except OSError as error:
        raise PhotoError(f"{path}: cannot be written ({error}); choose another folder or make room") from error
