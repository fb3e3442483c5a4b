"""Images to learn from: the files of a folder, or drawn facades, as uint8 RGBA.

A dataset hands out one image `(4, H, W)` at a time. Alpha is 255 where an image shows its facade and 0 where it shows
none: border fill, transparency, what the drawing left empty. Augmentation moves the four channels together.
"""

import hashlib
import os
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from maelib import facades
from maelib.data.border_fill import find_border_fill
from maelib.data.photos import PhotoError, list_photos, open_photo
from maelib.files import cache_folder, download, unpack

MAX_DISTANCE = 7  # near-duplicates differ in at most this many of the 64 bits of their difference hashes
CACHE_BYTES = 2 << 30  # a folder keeps this much of what it has read; the rest is read again in every epoch
TEST_SEEDS = range(900_000_000, 900_000_256)  # never drawn for training; see maelib.repair.evaluate
CMP_URL = "https://cmp.felk.cvut.cz/~tylecr1/facade"


def fetch_cmp(folder: Path) -> None:
    """Download and unpack the 606 photos of the CMP Facade Database into `folder`, unless they are there."""
    for part in ("base", "extended"):
        archive = download(f"{CMP_URL}/CMP_facade_DB_{part}.zip", Path(folder) / f"CMP_facade_DB_{part}.zip")
        if not archive.with_suffix("").is_dir():
            unpack(archive, archive.with_suffix(""))


class FolderImages(Dataset):
    """The `.npy` arrays and photos of a folder as squares of `size` pixels, each read when it is first needed.

    A photo is cropped to its centre square. The photos of the CMP Facade Database (R. Tyleček and R. Šára, GCPR 2013)
    are squeezed into a square instead, as is usual with them, so that no part of a facade is lost; they may lie up to
    three folders deep, as their archives have them.

    Parameters
    ----------
    folder : Path
    size : int
        Side of the images in pixels.
    skip_bad : bool
        Warn of a file that cannot be used, and let the next one stand in for it, instead of raising an error.
    border_fill : bool
        Look for the flat corners that rectification leaves in photos, and make them transparent.
    files : list of Path, optional
        Use these files only.

    Attributes
    ----------
    names : list of str
        File names, sorted.
    skipped : dict of str to str
        Why a file is left out, by name, as far as files have been read.

    Raises
    ------
    FileNotFoundError
        When the folder does not exist or holds no image.
    PhotoError
        On reading a file that cannot be used, unless `skip_bad`; when no file can be used.
    """

    def __init__(
        self, folder: Path, size: int, skip_bad: bool = False, border_fill: bool = True, files: list[Path] | None = None
    ) -> None:
        self.folder, self.size, self.skip_bad, self.border_fill = Path(folder), size, skip_bad, border_fill
        self.files = files or _find_files(self.folder)
        self.names = [file.name for file in self.files]
        self.skipped: dict[str, str] = {}
        self.held_out = np.empty((0, 8), np.uint8)  # hashes of validation images, which no other image may resemble
        self._cache: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        if index >= len(self):
            raise IndexError(f"index {index} of {len(self)} images")  # ends a loop over them
        for i in range(index, index + len(self)):
            image = self._read(i % len(self))
            if image is not None:
                return image
        raise PhotoError(f"{self.folder}: none of its {len(self)} files can be used; {[*self.skipped.values()][-1]}")

    def _read(self, index: int) -> Tensor | None:
        """The image of one file, or None when the file is left out."""
        if index in self._cache or self.names[index] in self.skipped:
            return self._cache.get(index)
        try:
            image = self._open(self.files[index])
        except PhotoError as error:
            if not self.skip_bad:
                raise PhotoError(f"{error}; or leave such files out (--skip-bad)") from error
            return self._skip(index, str(error))
        if len(self.held_out):
            differing = np.unpackbits(self.held_out ^ difference_hash(image[None]), axis=1).sum(axis=1)
            if differing.min() <= MAX_DISTANCE:
                return self._skip(index, f"{self.files[index]}: nearly equals an image that validation uses")
        if (len(self._cache) + 1) * image.nbytes <= CACHE_BYTES:
            self._cache[index] = image
        return image

    def _skip(self, index: int, why: str) -> None:
        self.skipped[self.names[index]] = why
        warnings.warn(f"left out: {why}", stacklevel=2)

    def _open(self, path: Path) -> Tensor:
        photo = open_photo(path)
        image = Image.fromarray(photo.pixels)
        alpha = Image.fromarray(np.full(photo.pixels.shape[:2], 255, np.uint8) if photo.alpha is None else photo.alpha)
        if not path.name.startswith("cmp_"):
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image, alpha = (x.crop((left, top, left + side, top + side)) for x in (image, alpha))
        shape = (self.size, self.size)
        method = Image.Resampling.LANCZOS if max(image.size) > self.size else Image.Resampling.BICUBIC
        pixels = np.asarray(image if image.size == shape else image.resize(shape, method))
        seen = np.asarray(alpha.resize(shape, Image.Resampling.BOX)) == 255
        if self.border_fill:
            seen &= ~find_border_fill(pixels)
        if not seen.any():
            raise PhotoError(f"{path}: is all border fill or transparent; crop it or leave it out")
        rgba = np.dstack([pixels, np.where(seen, np.uint8(255), np.uint8(0))])
        return torch.from_numpy(rgba).permute(2, 0, 1)  # (H, W, 4) -> (4, H, W)

    def subset(self, indices: Sequence[int]) -> "FolderImages":
        """A separate dataset of some files, so that nothing set on one part of a split reaches the other."""
        files = [self.files[i] for i in indices]
        return FolderImages(self.folder, self.size, self.skip_bad, self.border_fill, files)


def _find_files(folder: Path) -> list[Path]:
    """A folder's photos, without the CMP database's label maps; where there are none, that database's further down."""
    photos = list_photos(folder)
    files = [file for file in photos if not (file.name.startswith("cmp_") and file.suffix == ".png")]
    if not files:
        found = [file for depth in (1, 2, 3) for file in folder.glob("*/" * depth + "cmp_[bx][0-9]*.jpg")]
        files = sorted(found, key=lambda file: file.name)
    if not files:
        raise FileNotFoundError(f"folder {folder} holds no photo and no .npy array; put some into it")
    return files


class DrawnImages(Dataset):
    """Facades drawn once and kept in a memory-mapped file: drawing them in each step would cost as much as training.

    The file's name holds a digest of the drawing code, so that facades drawn by other code are never mistaken for
    these. Several processes draw, each a Python of its own, so this works from scripts and notebooks alike.

    Parameters
    ----------
    count, size : int
        How many facades, and their side in pixels.
    seed : int
        Datasets of different seeds share no facade.
    workers : int, optional
        Processes that draw; None uses all cores.

    Raises
    ------
    ValueError
        When `count` or `seed` is out of range.
    """

    def __init__(self, count: int, size: int, seed: int = 0, workers: int | None = None) -> None:
        if not 1 <= count <= 1_000_000 or not 0 <= seed < 900:
            raise ValueError(f"count {count}, seed {seed}: draw 1 to 1000000 facades with a seed from 0 to 899")
        code = b"".join(file.read_bytes() for file in sorted(Path(facades.__file__).parent.glob("*.py")))
        digest = hashlib.sha256(code).hexdigest()[:12]
        path = cache_folder() / f"facades-{digest}-{size}px-seed{seed}-{count}.npy"
        if not path.is_file():
            _draw_pool(path, count, size, seed * 1_000_000, workers or os.cpu_count() or 1)
        self.pixels = np.load(path, mmap_mode="r")  # (N, H, W, 4)
        self.names = [str(seed * 1_000_000 + i) for i in range(count)]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> Tensor:
        return torch.from_numpy(self.pixels[indices]).permute(0, 3, 1, 2)  # (B, H, W, 4) -> (B, 4, H, W)


_DRAW = """
import sys
import numpy as np
from maelib.facades import draw_rgba
path, (size, seed, start, stop) = sys.argv[1], map(int, sys.argv[2:])
np.load(path, mmap_mode="r+")[start:stop] = draw_rgba(range(seed + start, seed + stop), size)
"""


def _draw_pool(path: Path, count: int, size: int, seed: int, workers: int) -> None:
    """Draw the facades of the seeds from `seed` on into an array file, in parts, each by a process of its own."""
    from tqdm import tqdm

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    step = min(1000, -(-count // workers))

    def draw(start: int) -> None:
        numbers = map(str, (size, seed, start, min(start + step, count)))
        command = [sys.executable, "-c", _DRAW, str(partial), *numbers]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if run.returncode:
            raise OSError(
                f"{path}: facades cannot be drawn ({run.stderr[-300:].strip()}); see to memory and disk space"
            )

    try:
        pool = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(count, size, size, 4))
        starts = range(0, count, step)
        if count * size**2 < 250 * 64**2:  # drawn before another process has started
            pool[:] = facades.draw_rgba(range(seed, seed + count), size)
        else:
            with ThreadPoolExecutor(workers) as threads:
                list(tqdm(threads.map(draw, starts), "drawing facades", len(starts), unit="part", leave=False))
        pool.flush()
        del pool  # Windows renames no file that is still mapped
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def difference_hash(images: Tensor) -> np.ndarray:
    """Hashes `(B, 8)` uint8 of images `(B, C, H, W)`: is each pixel of a 9 x 8 thumbnail brighter than its left one?"""
    grey = images[:, :3].float().mean(1, keepdim=True)
    thumbs = F.interpolate(grey, size=(8, 9), mode="area")[:, 0]  # (B, 1, H, W) -> (B, 8, 9)
    return np.packbits((thumbs[:, :, 1:] > thumbs[:, :, :-1]).flatten(1).numpy(), axis=1)


def split(
    images: FolderImages, val_share: float, seed: int, val_images: int = 128
) -> tuple[FolderImages, FolderImages]:
    """Training and validation parts of a folder: whole files, drawn by seed, without leakage.

    Of the validation share the first `val_images` are used and read now. The training part leaves out what nearly
    equals one of them as soon as it reads it.

    Raises
    ------
    ValueError
        When the folder holds fewer than two images.
    PhotoError
        As `FolderImages`.
    """
    if len(images) < 2:
        raise ValueError(f"{images.folder} holds 1 image, and a split needs 2; add images")
    order = np.random.default_rng(seed).permutation(len(images))
    count = min(max(round(val_share * len(images)), 1), len(images) - 1)
    train, val = images.subset(np.sort(order[count:])), images.subset(np.sort(order[: min(count, val_images)]))
    train.held_out = difference_hash(torch.stack([val[i] for i in range(len(val))]))
    return train, val


def epoch_indices(count: int, drawn: int, share: float) -> np.ndarray:
    """Indices of an epoch over `count` images, the last `drawn` of them drawings; the others make up `share` of it.

    Each of the others occurs equally often, at least once. Without drawings, or with nothing else, every image occurs
    once.
    """
    others = count - drawn
    often = max(1, round(drawn * share / (1 - share) / others)) if others else 0
    return np.concatenate([np.tile(np.arange(others), often), np.arange(others, count)])


class StepSampler(Sampler[list[int]]):
    """Batches of indices for a whole run: one seeded permutation of `epoch` after another, each entry once in each.

    `epoch` holds the indices of an epoch; an image that occurs twice is seen twice as often. The batch of a step
    depends on seed and step alone, so a run that resumes at `first_step` sees what it would have seen. Of each batch,
    `part` is handed out: all of it, or what one of several processes takes.
    """

    def __init__(
        self,
        epoch: Sequence[int],
        batch_size: int,
        steps: int,
        seed: int,
        first_step: int = 0,
        part: slice = slice(None),
    ) -> None:
        self.epoch, self.batch_size, self.seed = np.asarray(epoch), batch_size, seed
        self.first_step, self.steps, self.part = first_step, steps, part

    def __iter__(self) -> Iterator[list[int]]:
        current, order, count = -1, None, len(self.epoch)
        for step in range(self.first_step, self.steps):
            batch = []
            for position in range(step * self.batch_size, (step + 1) * self.batch_size):
                if position // count != current:
                    current = position // count
                    order = self.epoch[np.random.default_rng((self.seed, current)).permutation(count)]
                batch.append(int(order[position % count]))
            yield batch[self.part]


def prefetch(
    images: Dataset, sampler: Sampler[list[int]], threads: int | None = None
) -> Iterator[tuple[list[int], Tensor]]:
    """The sampler's batches, indices and images `(B, 4, H, W)`, read by threads while earlier ones are learnt from.

    Threads rather than processes: reading is mostly waiting, decoders release Python's lock, and nothing is copied. By
    default one thread for two cores, at most 4: photos gain from more, small arrays lose, since their threads queue
    for the lock (see `benchmarks/loader.py`). Where there is a GPU, the images lie in pinned memory, from which they
    travel while it computes.
    """

    def read(indices: list[int]) -> tuple[list[int], Tensor]:
        together = getattr(images, "__getitems__", None)  # PyTorch's name for reading a batch at once
        batch = together(indices) if together else torch.stack([images[i] for i in indices])
        return indices, batch.pin_memory() if torch.cuda.is_available() else batch

    yield from ahead(read, sampler, threads or max(1, min(4, (os.cpu_count() or 1) // 2)))


def ahead(function: Callable[[Any], Any], jobs: Iterable, threads: int) -> Iterator:
    """Yield `function(job)` for each job, in order, computed by `threads` threads while earlier results are used."""
    pool, queue = ThreadPoolExecutor(threads), deque()
    try:
        for job in jobs:
            queue.append(pool.submit(function, job))
            if len(queue) > threads:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
