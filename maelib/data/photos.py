"""Photos and masks, in and out of files.

The pixels of a file become uint8 `(H, W, 3)`, upright. A `Photo` also keeps what else the file was, so that
`write_photo` can give it back. Whatever is wrong with a file becomes one `PhotoError`, which names the file, the fault
and the cure.
"""

import io
import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from maelib.files import write_atomic

MAX_PIXELS = 150_000_000  # below the limit at which Pillow itself suspects a decompression bomb
ROUNDING = 1e-3  # how far rounding may take floats beyond 0 and 1
READABLE = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # not EPS, for which Pillow would run Ghostscript
# What belongs to a photo beside its pixels, by Pillow's names.
METADATA = {"icc_profile": "colour profile", "exif": "EXIF data", "xmp": "XMP data", "dpi": "resolution"}
LONGEST = {"exif": 65_000, "xmp": 65_000}  # bytes that fit into a JPEG
TIFF_TAGS = (270, 271, 272, 305, 306, 315, 33432, 0x8769, 0x8825)  # describe the photo; all others, the file's layout
FORMATS: dict[str, tuple[dict[str, Any], set[str]]] = {  # options for saving; what fits in beside 8-bit colours
    "BMP": ({}, {"dpi"}),
    "JPEG": ({"quality": 95, "subsampling": 0}, {*METADATA}),
    "NPY": ({}, {"alpha"}),
    "PNG": ({}, {*METADATA, "alpha", "uint16"}),
    "TIFF": ({}, {"icc_profile", "exif", "dpi", "alpha", "uint16", "float32"}),
    # exact: what is transparent keeps its colours too
    "WEBP": ({"lossless": True, "exact": True}, {"icc_profile", "exif", "xmp", "alpha"}),
}
SUFFIXES = {".npy": "NPY", ".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".webp": "WEBP"}
SUFFIXES |= {".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}
PHOTO_SUFFIXES = tuple(SUFFIXES)
TEXT_SUFFIXES = (".csv", ".json", ".md", ".txt", ".xml")  # text that lies beside photos
TOO_LARGE = f"more than the limit of {MAX_PIXELS // 1_000_000} megapixels; save a smaller copy"


class PhotoError(ValueError):
    """A photo or mask cannot be used; the message names the file, what is wrong with it, and the cure."""


@dataclass(frozen=True)
class Photo:
    """A photo as it is seen, upright, and what else its file was.

    Attributes
    ----------
    pixels : uint8 `(H, W, 3)`.
    alpha : uint8 `(H, W)`, 255 = opaque, where the file has transparency.
    values : the file's own numbers where they are not uint8 `(H, W, 3 or 4)`: grey, 16 bits, floats, channels first.
    metadata : colour profile, EXIF and XMP data, and resolution, as Pillow names and saves them.
    lost : what reading has given up.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    values: np.ndarray | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    lost: tuple[str, ...] = ()

    @property
    def transparent(self) -> np.ndarray:
        """`(H, W)` bool, True where alpha is below 128: what is there is not known."""
        return np.broadcast_to(False, self.pixels.shape[:2]) if self.alpha is None else self.alpha < 128


def list_photos(folder: Path | str) -> list[Path]:
    """The photos and `.npy` arrays of a folder, by name; hidden files, whose names begin with a dot, are left out.

    Warns of files that are neither photos nor text. Raises `FileNotFoundError` when there is no such folder.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"folder {folder} does not exist; give one with photos or .npy arrays")
    with os.scandir(folder) as entries:  # much faster than Path.iterdir where there are 100,000 files
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file())
    photos = [name for name in names if name.lower().endswith(PHOTO_SUFFIXES)]
    others = [name.lower() for name in set(names).difference(photos) if not name.lower().endswith(TEXT_SUFFIXES)]
    if others:
        kinds = ", ".join(sorted({os.path.splitext(name)[1] or "no suffix" for name in others}))
        warnings.warn(f"{folder}: {len(others)} files of other kinds were left aside: {kinds}", stacklevel=2)
    folder = Path(folder)
    return [folder / name for name in photos]


def _channels_last(array: np.ndarray, name: str | Path = "photo") -> np.ndarray:
    """A view `(H, W, C)` of any layout, C = 1, 3 or 4."""
    view = array[..., None] if array.ndim == 2 else array
    if view.ndim == 3 and view.shape[2] not in (1, 3, 4):
        view = np.moveaxis(view, 0, 2)  # (C, H, W) -> (H, W, C)
    if view.ndim != 3 or view.shape[2] not in (1, 3, 4) or not view.size:
        layouts = "(H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels"
        raise PhotoError(f"{name}: an array of shape {array.shape} is not a photo; save one photo a file, as {layouts}")
    return view


def _white(values: np.ndarray) -> int:
    """The number that stands for white."""
    if values.dtype.kind == "u":
        return np.iinfo(values.dtype).max
    return 255 if values.max() > 1 + ROUNDING else 1


def _to_uint8(values: np.ndarray, name: str | Path) -> np.ndarray:
    if values.dtype == np.uint8:
        return np.array(values)
    low, high = values.min(), values.max()  # NaN when there is one
    deep = values.dtype.name == "uint16" and not 0 < high <= 255  # else these are 8 bits in a file of 16
    real = values.dtype.kind == "f" and -ROUNDING <= low <= high <= 255 and not 1 + ROUNDING < high < 2
    if not (deep or real):
        raise PhotoError(
            f"{name}: the values are {values.dtype} from {low:.4g} to {high:.4g}; save uint8, uint16 up to 65535, or "
            "floats 0..1 or 0..255: undo a normalisation, clip what resampling overshot, replace what is not finite"
        )
    scaled = values.astype(np.float32)
    scaled *= 255 / _white(values)
    return np.rint(scaled.clip(0, 255, out=scaled), out=scaled).astype(np.uint8)


def photo_from_array(array: np.ndarray, name: str | Path = "photo") -> Photo:
    """A photo from an array in any usual form.

    Parameters
    ----------
    array : ndarray
        uint8 0..255, uint16 0..65535, or float 0..1 or 0..255 (a maximum of 1.001 or less means 0..1); `(H, W)`,
        `(H, W, C)` or `(C, H, W)` with 1, 3 or 4 channels, the fourth of which is alpha.
    name : str or Path
        What an error calls the array.

    Raises
    ------
    PhotoError
        For other shapes, types and ranges, values that are not finite, or more than `MAX_PIXELS`.
    """
    channels = _channels_last(array, name)
    if channels[..., 0].size > MAX_PIXELS:
        raise PhotoError(f"{name}: shape {array.shape}, {TOO_LARGE}")
    shown = _to_uint8(channels, name)
    pixels = np.repeat(shown, 3, axis=2) if shown.shape[2] == 1 else shown[..., :3]
    plain = array.dtype == np.uint8 and array.shape == shown.shape and shown.shape[2] > 1
    return Photo(pixels, shown[..., 3] if shown.shape[2] == 4 else None, None if plain else array)


def _read_metadata(image: Image.Image) -> dict[str, Any]:
    metadata, dpi = {}, image.info.get("dpi", (0, 0))
    for name in ("icc_profile", "xmp"):
        if image.info.get(name):
            metadata[name] = image.info[name]
    with suppress(Exception):  # damaged EXIF data must not cost the photo
        exif = tags = image.getexif()
        if image.format == "TIFF":
            exif = Image.Exif()
            exif.update({tag: tags.get_ifd(tag) or tags[tag] for tag in TIFF_TAGS if tag in tags})
        if len(exif):
            metadata["exif"] = exif.tobytes()
    if all(1 < value < 1e5 for value in dpi):  # Pillow says (1, 1) where a TIFF does not say
        metadata["dpi"] = tuple(map(float, dpi))
    return metadata


def _open_image(path: Path) -> Photo:
    with Image.open(path, formats=READABLE) as image:
        if image.width * image.height > MAX_PIXELS:
            raise PhotoError(f"{path}: {image.width} x {image.height} px, {TOO_LARGE}")
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # phones put previews behind the one picture of an MPO
            raise PhotoError(f"{path}: holds {frames} frames or pages; save the one to use as PNG or JPEG")
        lost = ("16 bits a channel",) if ";16" in str(image.tile) else ()  # Pillow reads colours with 8
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        metadata = _read_metadata(image)
        if image.mode.startswith(("I", "F")):
            return replace(photo_from_array(np.asarray(image), path), metadata=metadata)
        mode = ("L" if image.mode in ("1", "L", "LA") else "RGB") + ("A" if image.has_transparency_data else "")
        if image.mode == "CMYK":
            lost += ("CMYK inks (converted to sRGB)",)
            if profile := metadata.pop("icc_profile", None):
                srgb = ImageCms.createProfile("sRGB")
                image = ImageCms.profileToProfile(image, io.BytesIO(profile), srgb, outputMode="RGB")
        shown = np.asarray(image if image.mode == mode else image.convert(mode))
    photo = photo_from_array(shown[..., 0] if mode == "LA" else shown, path)
    return replace(photo, alpha=shown[..., -1] if mode.endswith("A") else None, metadata=metadata, lost=lost)


def open_photo(path: Path | str) -> Photo:
    """Read a photo: `.npy` (see `photo_from_array`) or a still image in a format that `READABLE` names.

    EXIF orientation is applied. In `pixels`, 16 bits are scaled to 8, and grey, palette and CMYK become RGB.

    Raises
    ------
    PhotoError
        When the file is missing, not an image, damaged, animated, or larger than `MAX_PIXELS`.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".npy":  # mapped, since a false header cannot claim memory then
            return photo_from_array(np.load(path, mmap_mode="r", allow_pickle=False), path)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # of sizes below our own limit, and of odd EXIF data
            return _open_image(path)
    except (PhotoError, MemoryError):
        raise
    except Exception as error:  # decoders raise nearly anything on damaged files
        why = f"damaged or cut short ({error}); copy or export it again"
        if isinstance(error, OSError) and error.errno:
            why = f"cannot be opened ({error.strerror}); check the path and its permissions"
        elif isinstance(error, Image.DecompressionBombError):
            why = TOO_LARGE
        elif isinstance(error, UnidentifiedImageError):
            why = "not an image of a known format; save it as PNG or JPEG"
        elif path.suffix.lower() == ".npy":  # NumPy's own words would advise to allow pickles
            why = "damaged, or not one array of plain numbers; save the photo with np.save, as uint8"
        raise PhotoError(f"{path}: {why}") from error


def read_photo(path: Path | str) -> np.ndarray:
    """The pixels of a photo, uint8 `(H, W, 3)`; see `open_photo`."""
    return open_photo(path).pixels


def check_hole(hole: np.ndarray, shape: tuple[int, ...], name: str | Path = "mask") -> np.ndarray:
    """Return `hole` if it is a mask for a photo of `shape` `(H, W, ...)` that hides something, but not everything.

    Raises
    ------
    PhotoError
        When it is not.
    """
    if hole.shape != tuple(shape[:2]) or hole.dtype != bool:
        sizes = f"the mask is {hole.dtype} of height and width {hole.shape}, the photo of {tuple(shape[:2])}"
        raise PhotoError(f"{name}: {sizes}; make a bool mask of the photo itself, upright and at its full size")
    if hole.all() or not hole.any():
        what = "everything" if hole.any() else "nothing"
        raise PhotoError(f"{name}: {what} is hidden; mark what to repair and no more (in a mask, white: above 127)")
    return hole


def read_mask(path: Path | str, shape: tuple[int, ...]) -> np.ndarray:
    """Read where to repair a photo of `shape` `(H, W, ...)`: white (above 127) and opaque. Returns `(H, W)` bool.

    Raises
    ------
    PhotoError
        As `open_photo` and `check_hole`, and when the picture is not black and white.
    """
    mask = open_photo(path)
    seen, pixels = ~mask.transparent, mask.pixels
    grey = (pixels.max(axis=2) > 32) & (pixels.min(axis=2) < 255 - 32) & seen  # compression strays by less
    if grey.sum() > 0.3 * seen.sum():  # soft edges are grey too
        cure = "paint what to repair white and all else black, or repair what is transparent with --mask-alpha"
        raise PhotoError(f"{path}: not a black and white picture, as a mask is; {cure}")
    return check_hole((pixels.sum(axis=2, dtype=np.uint16) > 3 * 127) & seen, shape, path)


def mask_from_colour(photo: Photo, colour: Sequence[int], tolerance: int = 8, name: str | Path = "photo") -> np.ndarray:
    """Hide what has one colour, such as the black missing areas of scanned facades.

    Pixels within `tolerance` of `colour` in each channel are hidden; so are those beside them (2 px) within four
    times that, because compression frays such areas. What is transparent has no colour. Returns `(H, W)` bool.

    Raises
    ------
    PhotoError
        When no pixel, or every pixel, has the colour, or a value of the colour is not in 0..255.
    """
    from scipy.ndimage import maximum_filter

    if not all(0 <= value <= 255 for value in colour):
        raise PhotoError(f"{name}: colour {tuple(colour)} leaves 0 to 255; use red, green and blue from that range")
    pixels, value = photo.pixels, np.array(colour, np.uint8)
    distance = (np.maximum(pixels, value) - np.minimum(pixels, value)).max(axis=2)
    distance[photo.transparent] = 255
    near = maximum_filter(distance <= tolerance, size=5, mode="constant")
    return check_hole(near & (distance <= 4 * tolerance), photo.pixels.shape, f"{name}, colour {tuple(colour)}")


def mask_from_boxes(boxes: Sequence[Sequence[int]], shape: tuple[int, ...], name: str | Path = "photo") -> np.ndarray:
    """Hide boxes `(left, top, right, bottom)` in pixels, right and bottom excluded. Returns `(H, W)` bool.

    Raises
    ------
    PhotoError
        When a box is empty or leaves the photo, or they hide everything.
    """
    hole = np.zeros(shape[:2], bool)
    for left, top, right, bottom in boxes:
        if not (0 <= left < right <= shape[1] and 0 <= top < bottom <= shape[0]):
            limits = f"left < right <= {shape[1]} and top < bottom <= {shape[0]}, from 0"
            raise PhotoError(f"{name}: box {left} {top} {right} {bottom} is empty or leaves the photo; use {limits}")
        hole[top:bottom, left:right] = True
    return check_hole(hole, shape, name)


def fill_hole(photo: Photo, repaired: np.ndarray, hole: np.ndarray) -> Photo:
    """The photo with its hole `(H, W)` as in `repaired` uint8 `(H, W, 3)`, which equals its pixels everywhere else.

    The hole becomes opaque. Of the file's own values, those outside the hole stay as they are, to the bit.
    """
    alpha = None if photo.alpha is None else np.where(hole, np.uint8(255), photo.alpha)
    values = photo.values
    if values is not None:
        values = np.array(values)
        channels = _channels_last(values)
        filled = np.dstack([repaired, hole * np.uint8(255)])[hole]  # (M, 4); of grey, the first channel
        channels[hole] = filled[:, : channels.shape[2]] * (_white(values) / 255)
    return replace(photo, pixels=repaired, alpha=alpha, values=values)


def check_output(path: Path, alpha: np.ndarray | None = None) -> None:
    """Raise `PhotoError` unless a file of this suffix can be written, and can hold this alpha."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise PhotoError(f"{path}: suffix {suffix!r} cannot be written; use one of {', '.join(PHOTO_SUFFIXES)}")
    if alpha is not None and "alpha" not in FORMATS[SUFFIXES[suffix]][1] and (alpha < 255).any():
        raise PhotoError(f"{path}: {suffix} cannot hold what is transparent in the photo; use .png")


def _file_array(photo: Photo, kind: str) -> np.ndarray:
    """What a file of this kind holds: the photo's own values where they fit in, else uint8."""
    array, fits, values = photo.pixels, FORMATS[kind][1], photo.values
    if values is not None:
        channels = _channels_last(values)
        if kind == "NPY" and (photo.alpha is None or channels.shape[2] == 4):
            return values
        if channels.shape[2] == 1 and kind != "NPY":
            array = channels[..., 0] if values.dtype.name in {"uint8", *fits} else array[..., 0]
    return np.dstack([array, photo.alpha]) if photo.alpha is not None and "alpha" in fits else array


def write_photo(path: Path | str, photo: Photo | np.ndarray) -> None:
    """Write a photo, or uint8 `(H, W[, 3])`, in the format of the suffix: whole or not at all.

    PNG, WebP, TIFF, BMP and `.npy` keep every pixel; JPEG (quality 95) does not. Warns of what the file was and the
    format cannot hold: 16 bits or floats, colour profile, EXIF and XMP data, resolution.

    Raises
    ------
    PhotoError
        When the suffix is unknown, or the format cannot hold transparency.
    """
    path, photo = Path(path), photo if isinstance(photo, Photo) else Photo(photo)
    check_output(path, photo.alpha)
    kind = SUFFIXES[path.suffix.lower()]
    options, fits = FORMATS[kind]
    array, buffer = _file_array(photo, kind), io.BytesIO()
    metadata = {key: value for key, value in photo.metadata.items() if key in fits}
    if kind == "JPEG":
        metadata = {key: value for key, value in metadata.items() if len(value) <= LONGEST.get(key, len(value))}
    lost = [*photo.lost, *(METADATA[key] for key in photo.metadata if key not in metadata)]
    if photo.values is not None and array.dtype != photo.values.dtype:
        lost.append(f"{photo.values.dtype.name} values (8 bits are written)")
    if lost:
        warnings.warn(f"{path}: written without the photo's {', '.join(lost)}", stacklevel=2)
    if kind == "NPY":
        np.save(buffer, array)
    else:
        if kind == "PNG" and "xmp" in metadata:
            metadata["pnginfo"] = PngInfo()
            metadata["pnginfo"].add_itxt("XML:com.adobe.xmp", metadata.pop("xmp").decode(errors="replace"))
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
        Image.fromarray(array).save(buffer, kind, **options, **metadata)
    write_atomic(path, buffer.getbuffer())
