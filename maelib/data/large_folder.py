"""Folders too large to be read before training starts: each file is read when its image is needed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maelib.data.border_fill import find_border_fill
from maelib.data.images import MOST_BITS, Images, difference_hash, resize_to_square
from maelib.data.photos import PhotoError, read_photo
from maelib.masking import mask_from_pixels

LARGE = 4096  # files; folders of up to so many are read whole, once


class FileImages(Images):
    """Images read from the files `names` of `folder`, as squares of `size` pixels, whenever they are asked for.

    What cannot be used (vanished, damaged, nothing but void) is left out, and `left_out` says why, by name: the next
    image that can be used stands in for it.
    """

    def __init__(self, folder: Path, names: Sequence[str], size: int, patch_size: int | None = None) -> None:
        self.folder, self.names, self.size, self.patch_size = Path(folder), list(names), size, patch_size
        self.left_out: dict[str, str] = {}
        self.seen: dict[int, np.ndarray | None] = {}  # of images looked at before their voids, a bit a pixel, or None
        self.held_out = np.empty((0, 8), np.uint8)  # difference hashes of images that no other may resemble

    def __getitems__(self, indices: list[int]) -> Tensor:
        return self.batch(indices)[0]

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor | None]:
        """Images `(B, C, H, W)` uint8 and, when wedges are looked for, their voids `(B, H, W)` bool, if any.

        Raises
        ------
        PhotoError
            When more than half of the files cannot be used.
        """
        images = np.empty((len(indices), self.size, self.size, 3), np.uint8)
        files, todo = np.array(indices), np.arange(len(indices))
        voids = np.zeros(images.shape[:3], bool)
        while len(todo):
            for place in todo:
                files[place], images[place] = self._read(int(files[place]))
            new = np.array([place for place in todo if int(files[place]) not in self.seen], int)
            for place in np.setdiff1d(todo, new):
                if (packed := self.seen[int(files[place])]) is not None:
                    voids[place] = np.unpackbits(packed, axis=1, count=self.size)
            voids[new], whys = self._look_at(images[new])
            for place, why in zip(new, whys, strict=True):
                file, void = int(files[place]), voids[place]
                if why:
                    self.left_out[self.names[file]] = f"{self.folder / self.names[file]}: {why}"
                else:
                    self.seen[file] = np.packbits(void, axis=1) if void.any() else None
            todo = new[whys != ""]
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(voids) if voids.any() else None

    def _read(self, index: int) -> tuple[int, np.ndarray]:
        """Index and image `(H, W, 3)` of the first file, from `index` on, that can be read."""
        while 2 * len(self.left_out) <= len(self):
            index %= len(self)
            name = self.names[index]
            if name not in self.left_out:
                try:
                    return index, resize_to_square(read_photo(self.folder / name), self.size)
                except PhotoError as error:
                    self.left_out[name] = str(error)
            index += 1
        raise PhotoError(
            f"{self.folder}: {len(self.left_out)} of {len(self)} files cannot be used, more than half; the last: "
            f"{list(self.left_out.values())[-1]}"
        )

    def _look_at(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Voids `(B, H, W)` of images `(B, H, W, 3)`, and why each cannot be used, "" where it can, `(B,)`."""
        codes = difference_hash(torch.from_numpy(images).permute(0, 3, 1, 2))
        twin = (np.unpackbits(self.held_out ^ codes[:, None], axis=2).sum(axis=2) <= MOST_BITS).any(axis=1)
        whys = np.where(twin, "nearly the same as an image to validate on", "")
        voids = np.zeros(images.shape[:3], bool)
        if self.patch_size is not None and len(images):
            voids = find_border_fill(images)
            whole = mask_from_pixels(torch.from_numpy(voids), self.patch_size).all(dim=1).numpy()
            whys = np.where(whole, f"flat wedges touch every patch of {self.patch_size} px", whys)
        return voids, whys

    def with_wedges(self, patch_size: int = 1) -> "FileImages":
        """The same images; flat wedges will be marked as void (see `maelib.data.border_fill`)."""
        if patch_size == self.patch_size:
            return self
        images = FileImages(self.folder, self.names, self.size, patch_size)
        images.held_out = self.held_out
        return images

    def subset(self, indices: Sequence[int]) -> "FileImages":
        """A dataset of its own of these images."""
        return FileImages(self.folder, [self.names[i] for i in indices], self.size, self.patch_size)

    def split(self, val_share: float, seed: int, judged: int) -> tuple["FileImages", "FileImages"]:
        """Training and validation parts: whole files, drawn by seed. The first `judged` of the latter are read now.

        Whatever nearly equals one of these will be left out of the training part when it is met.
        """
        order = np.random.default_rng(seed).permutation(len(self))
        count = min(max(round(val_share * len(self)), 1), len(self) - 1)
        train, val = self.subset(np.sort(order[count:])), self.subset(order[:count])
        train.held_out = difference_hash(val.__getitems__(list(range(min(judged, count)))))
        return train, val
