"""Repair a photo of one's own without code: choose it, paint the hole, repair, compare, save.

`photo_painter.js` shows all of that and asks for each step by a message, which `PhotoPainter.receive` answers. Messages
are not saved with a notebook, and a page that is loaded again asks for everything anew. Files travel in parts, because
Jupyter's server closes the connection on a message of more than 10 MB.
"""

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anywidget
import numpy as np
from PIL import Image

from maelib.course import own_photos
from maelib.data.photos import Photo, fill_hole, open_photo, photo_from_array, write_photo
from maelib.files import data_folder
from maelib.model import MaskedAutoencoder
from maelib.repair.photo import repair_photo

SIDE = 1024  # px, longest side of the picture that is painted on
PART = 1 << 20  # bytes of a file that one message carries
LOSSLESS = (".npy", ".tif", ".tiff")  # hold more than .png can; from any other photo, a .png keeps all


class PhotoPainter(anywidget.AnyWidget):
    """A photo to paint a hole on, a button that repairs it at its full size, and a slider that compares.

    Parameters
    ----------
    model : MaskedAutoencoder
        Repairs the hole.
    photo : Path or ndarray, optional
        A file, or an array as `photo_from_array` takes it, to begin with; another can be chosen in the widget.

    Attributes
    ----------
    photo : Photo or None
    folder : Path
        Where the repair of an uploaded photo is saved: `data/photos`, or beside the notebook.
    hole : ndarray
        `(H, W)` bool, True = repaired. Set by a repair, as `repaired` is.
    repaired : ndarray or None
        uint8 `(H, W, 3)`.

    Raises
    ------
    PhotoError
        When `photo` cannot be read.
    """

    _esm = Path(__file__).with_suffix(".js")

    def __init__(self, model: MaskedAutoencoder, photo: Path | np.ndarray | None = None) -> None:
        super().__init__()
        self.model, self.photo, self.name, self.repaired = model, None, "", None
        self.uploads = TemporaryDirectory(prefix="maelib-", ignore_cleanup_errors=True)
        self.folder = data_folder() / "photos"
        if not self.folder.is_dir():
            self.folder = Path.cwd()
        if isinstance(photo, np.ndarray):
            self._take(photo_from_array(photo), "facade", self.folder)
        elif photo is not None:
            self._take(open_photo(photo), Path(photo).name, Path(photo).parent)
        self.on_msg(self.receive)

    def __repr__(self) -> str:
        if self.photo is None:
            return "PhotoPainter(no photo yet)"
        height, width = self.photo.pixels.shape[:2]
        return f"PhotoPainter({self.name!r}, {width} x {height} px)"

    def receive(self, _: object, content: dict[str, Any], parts: Sequence[bytes]) -> None:
        """Take one step that the page asks for, and say what came of it, or why it cannot be taken."""
        does = self.show, self.upload, self.choose, self.paint, self.repair, self.save, self.download
        steps = {step.__name__: step for step in does}
        options = {key: value for key, value in content.items() if key != "do"}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            try:
                steps[content["do"]](*map(bytes, parts), **options)
                for warning in caught:
                    self.send({"kind": "note", "text": str(warning.message)})
            except (ValueError, OSError, MemoryError, RuntimeError) as error:
                why = str(error)
                if isinstance(error, MemoryError | RuntimeError):  # torch raises RuntimeError when memory runs out
                    why = f"no memory was left, or {error!r}; use a smaller copy, or close other programs"
                self.send({"kind": "problem", "text": why.replace(self.uploads.name + os.sep, "")})
            except KeyboardInterrupt:  # of the kernel, which goes on
                self.send({"kind": "problem", "text": "interrupted; press the button again to start anew"})
                raise
            finally:
                self.send({"kind": "ready"})

    def _take(self, photo: Photo, name: str, folder: Path) -> None:
        self.photo, self.name, self.target = photo, name, folder
        self.mask, self.repaired, self.saved = b"", None, []

    def _preview(self, pixels: np.ndarray) -> bytes:
        if self.photo.alpha is not None:
            pixels = np.dstack([pixels, self.photo.alpha])
        small, file = Image.fromarray(pixels), io.BytesIO()
        small.thumbnail((SIDE, SIDE))
        small.save(file, "png", compress_level=1)
        return file.getvalue()

    def show(self) -> None:
        """Send all that there is to see."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other files beside the photos
            self.send({"kind": "listed", "names": [path.name for path in own_photos()]})
        if self.photo is None:
            return
        height, width = self.photo.pixels.shape[:2]
        text = {"kind": "photo", "name": self.name, "width": width, "height": height}
        self.send(text, [self._preview(self.photo.pixels)])
        if self.mask:
            self.send({"kind": "mask"}, [self.mask])
        if self.repaired is not None:
            self.send({"kind": "repaired"}, [self._preview(self.repaired)])
        if self.saved:
            self._tell_saved()

    def upload(self, part: bytes = b"", *, name: str, first: bool, last: bool) -> None:
        """Take the next part of a file. After the last, the photo in it replaces the one before, if it can be read."""
        path = Path(self.uploads.name, Path(name).name)
        with path.open("wb" if first else "ab") as file:
            file.write(part)
        if last:
            self._take(open_photo(path), path.name, self.folder)
            self.show()

    def choose(self, name: str) -> None:
        """Open one of `own_photos`."""
        path = self.folder / Path(name).name
        self._take(open_photo(path), path.name, path.parent)
        self.show()

    def paint(self, mask: bytes) -> None:
        """Keep the mask: a PNG of the size of the preview, opaque where painted."""
        self.mask = mask

    def repair(self, detail: float) -> None:
        """Repair what is painted, at the photo's full size."""
        height, width = self.photo.pixels.shape[:2]
        with Image.open(io.BytesIO(self.mask), formats=["PNG"]) as mask:
            alpha = mask.getchannel("A").resize((width, height), Image.Resampling.BILINEAR)
        hole, photo = np.asarray(alpha) > 127, self.photo
        self.repaired = repair_photo(photo.pixels, hole, self.model, photo.transparent, detail, self._passes)
        self.hole, self.saved = hole, []
        self.send({"kind": "repaired"}, [self._preview(self.repaired)])

    def _passes(self, sizes: list[Any]) -> Iterator[Any]:
        for done, size in enumerate(sizes):
            text = f"Repairing, pass {done + 1} of {len(sizes)}"
            self.send({"kind": "progress", "text": text, "share": (done + 0.1) / (len(sizes) + 1)})
            yield size
        self.send({"kind": "progress", "text": "Adding detail", "share": len(sizes) / (len(sizes) + 1)})

    def save(self) -> None:
        """Write `NAME_repaired` and `NAME_mask` beside the photo, under names that no file has yet."""
        stem, suffix = os.path.splitext(self.name)
        suffix = suffix if suffix.lower() in LOSSLESS else ".png"
        names = (stem if number == 1 else f"{stem}_{number}" for number in count(1))
        pairs = ([self.target / f"{name}_repaired{suffix}", self.target / f"{name}_mask.png"] for name in names)
        files = self.saved or next(pair for pair in pairs if not any(file.exists() for file in pair))
        if not self.saved:
            write_photo(files[0], fill_hole(self.photo, self.repaired, self.hole))
            write_photo(files[1], self.hole * np.uint8(255))
        self.saved = files
        self._tell_saved()

    def _tell_saved(self) -> None:
        self.send({"kind": "saved", "names": [path.name for path in self.saved], "folder": str(self.target.resolve())})

    def download(self, which: int) -> None:
        """Send a saved file: 0 the repair, 1 the mask."""
        path = self.saved[which]
        data = path.read_bytes()
        for start in range(0, len(data), PART):
            end = start + PART
            self.send({"kind": "file", "name": path.name, "last": end >= len(data)}, [data[start:end]])
