"""Facades to train on: from a folder or drawn, split without leakage, augmented batch by batch.

A dataset holds uint8 images `(C, H, W)` and hands out whole batches; augmentation turns a batch into floats in [0, 1].
"""

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from maelib import facades
from maelib.data.border_fill import find_border_fill
from maelib.data.photos import PHOTO_SUFFIXES, PhotoError, read_photo
from maelib.files import cache_folder
from maelib.masking import mask_from_pixels

MOST_BITS = 7  # by so many of 64 may the difference hashes of near-duplicates differ
TEST_SEEDS = range(900_000_000, 900_000_256)  # never drawn for training; see maelib.repair.evaluate


class Images(Dataset):
    """Equally large images in memory or memory-mapped: uint8 `(N, H, W, C)` inside, `(C, H, W)` tensors outside.

    Where pixels hold no facade, `voids` says so: bool `(N, H, W)`, as `np.packbits` packs it along W; None for nowhere.
    """

    def __init__(self, images: np.ndarray, names: Sequence[str], voids: np.ndarray | None = None) -> None:
        self.images, self.names, self.voids = images, list(names), voids
        self.left_out: dict[str, str] = {}  # of those read when needed (see maelib.data.large_folder): why, by name

    def __len__(self) -> int:
        return len(self.names)

    def __getitems__(self, indices: list[int]) -> Tensor:
        """A batch `(B, C, H, W)` uint8, without voids."""
        return torch.from_numpy(self.images[np.asarray(indices)]).permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)

    def __getitem__(self, index: int) -> Tensor:
        return self.__getitems__([index])[0]

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor | None]:
        """Images `(B, C, H, W)` uint8 and their voids `(B, H, W)` bool, None when no image has any."""
        if self.voids is None:
            return self.__getitems__(indices), None
        voids = np.unpackbits(self.voids[np.asarray(indices)], axis=2, count=self.images.shape[2])
        return self.__getitems__(indices), torch.from_numpy(voids).bool()

    def with_wedges(self, patch_size: int = 1) -> "Images":
        """The same images, their flat wedges marked as void (see `maelib.data.border_fill`).

        Raises
        ------
        ValueError
            When wedges touch every patch of an image: nothing is left to learn from.
        """
        voids = []
        for start in range(0, len(self), 1000):  # a bit a pixel: a large pool stays small
            found = find_border_fill(self.images[start : start + 1000])
            touched = mask_from_pixels(torch.from_numpy(found), patch_size).all(dim=1).numpy()
            if touched.any():
                name = self.names[start + int(touched.argmax())]
                raise ValueError(f"{name}: flat wedges touch every patch of {patch_size} px; crop them or leave it out")
            voids.append(np.packbits(found, axis=2))
        voids = np.concatenate(voids)
        return Images(self.images, self.names, voids if voids.any() else None)

    def __add__(self, other: "Images") -> "Images":
        """Both, one after the other: in memory where both are, else each left where it is (`Joined`)."""
        if type(self) is not Images or type(other) is not Images:
            return Joined(self, other)
        voids = None
        if self.voids is not None or other.voids is not None:
            voids = np.concatenate([part._packed_voids() for part in (self, other)])
        return Images(np.concatenate([self.images, other.images]), self.names + other.names, voids)

    def _packed_voids(self) -> np.ndarray:
        count, height, width = self.images.shape[:3]
        return np.zeros((count, height, -(-width // 8)), np.uint8) if self.voids is None else self.voids

    def subset(self, indices: Sequence[int]) -> "Images":
        """A dataset of its own, so that nothing set on one part of a split reaches the other."""
        indices = np.asarray(indices, dtype=int)
        voids = None if self.voids is None else self.voids[indices]
        return Images(self.images[indices], [self.names[i] for i in indices], voids)


class Joined(Images):
    """Images of several datasets, one after the other or in an `order` of their indices, each left where it is."""

    def __init__(self, *parts: Images, order: Sequence[int] | None = None) -> None:
        names = [name for part in parts for name in part.names]
        self.parts, self.order = parts, np.arange(len(names)) if order is None else np.asarray(order)
        self.names, self.starts = [names[i] for i in self.order], np.cumsum([0, *(len(part) for part in parts)])

    @property
    def left_out(self) -> dict[str, str]:
        return {name: why for part in self.parts for name, why in list(part.left_out.items())}

    def __getitems__(self, indices: list[int]) -> Tensor:
        return self.batch(indices)[0]

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor | None]:
        indices = self.order[np.asarray(indices)]
        owner = np.searchsorted(self.starts, indices, side="right") - 1
        images, voids = None, None
        for number in np.unique(owner):
            here = torch.from_numpy(owner == number)
            some, holes = self.parts[number].batch(list(indices[owner == number] - self.starts[number]))
            images = some.new_empty(len(indices), *some.shape[1:]) if images is None else images
            images[here] = some
            if holes is not None:
                voids = holes.new_zeros(len(indices), *holes.shape[1:]) if voids is None else voids
                voids[here] = holes
        return images, voids

    def with_wedges(self, patch_size: int = 1) -> "Joined":
        return Joined(*(part.with_wedges(patch_size) for part in self.parts), order=self.order)

    def subset(self, indices: Sequence[int]) -> "Joined":
        return Joined(*self.parts, order=self.order[np.asarray(indices, dtype=int)])


def epoch_indices(count: int, drawn: int, share: float) -> np.ndarray:
    """Indices of an epoch over `count` images, the last `drawn` of them drawings: the others make up `share` of it.

    Each of the others stands there equally often, at least once; where there are only drawings, or none, every image
    stands there once.
    """
    others = count - drawn
    often = max(1, round(drawn * share / (1 - share) / others)) if others else 0
    return np.concatenate([np.tile(np.arange(others), often), np.arange(others, count)])


class StepSampler(Sampler[list[int]]):
    """Batches of indices for a whole run: one seeded permutation of `epoch` after another, each entry once in each.

    `epoch` holds the indices of an epoch; an image that stands there twice is seen twice as often. The batch of a
    step depends on seed and step alone, so a run continues at `first_step` as if never interrupted. Of each batch
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

    def __len__(self) -> int:
        return self.steps - self.first_step

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
    images: Images, sampler: StepSampler, threads: int | None = None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The sampler's batches (see `Images.batch`), in its order, read by threads while earlier ones are learnt from.

    Threads, not processes: reading is waiting, and decoders work outside Python's lock; nothing is copied, nothing is
    left behind, and there is one list of files. By default one thread for two cores, at most 4: decoders gain from
    more, small arrays lose, since their threads queue for the lock (`benchmarks/loader.py --threads 4`).
    """
    threads = threads or max(1, min(4, (os.cpu_count() or 1) // 2))
    pool, queue = ThreadPoolExecutor(threads), deque()
    try:
        for indices in sampler:
            queue.append(pool.submit(images.batch, indices))
            if len(queue) > threads:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def resize_to_square(photo: np.ndarray, size: int) -> np.ndarray:
    """Crop the centre square of uint8 `(H, W, 3)` and resample it (antialiased) to `(size, size, 3)`."""
    from PIL import Image

    height, width = photo.shape[:2]
    if height == width == size:
        return photo
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(photo[top : top + side, left : left + side])
    return np.asarray(
        square.resize((size, size), Image.Resampling.LANCZOS if side > size else Image.Resampling.BICUBIC)
    )


def photo_names(folder: Path) -> list[str]:
    """Names of a folder's `.npy` arrays and photos, sorted.

    Raises
    ------
    FileNotFoundError
        When the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"folder {folder} does not exist; give one with .npy arrays or photos")
    return sorted(name for name in os.listdir(folder) if name.lower().endswith(PHOTO_SUFFIXES))


def read_folder(folder: Path, size: int, skip_bad: bool = False) -> tuple[Images, list[str]]:
    """Read every `.npy` array and photo of a folder, in the order of their names, as squares of `size` pixels.

    Takes what `maelib.data.photos.read_photo` takes: uint8, or floats in 0..1 or 0..255; HWC or CHW; grey, RGB or RGBA.

    Returns
    -------
    images : Images
    skipped : list of str
        What was wrong with the files left out; empty unless `skip_bad`.

    Raises
    ------
    FileNotFoundError
        When the folder does not exist or holds no image.
    PhotoError
        At the first bad file, unless `skip_bad`.
    """
    photos, names, skipped = [], [], []
    for name in photo_names(folder):
        try:
            photos.append(resize_to_square(read_photo(Path(folder) / name), size))
            names.append(name)
        except PhotoError as error:
            if not skip_bad:
                raise
            skipped.append(str(error))
    if not photos:
        raise FileNotFoundError(f"folder {folder} holds no image that can be read; put .npy arrays or photos into it")
    return Images(np.stack(photos), names), skipped


def drawn_pool(count: int, size: int, seed: int = 0, workers: int | None = None) -> Images:
    """Facades drawn once and kept in a memory-mapped file, since drawing each step would cost as much as training.

    The file's name holds a digest of the drawing code: facades drawn by other code are never taken for these.

    Parameters
    ----------
    count, size : int
        How many facades, and their side in pixels.
    seed : int
        Pools of different seeds share no facade.
    workers : int, optional
        Processes that draw; None uses all cores.

    Raises
    ------
    ValueError
        When `count` is not between 1 and a million, which is the room a seed has.
    """
    if not 1 <= count <= 1_000_000 or not 0 <= seed < 900:
        raise ValueError(f"count {count}, seed {seed}: draw 1 to 1000000 facades with a seed from 0 to 899")
    code = b"".join(file.read_bytes() for file in sorted(Path(facades.__file__).parent.glob("*.py")))
    digest = hashlib.sha256(code).hexdigest()[:12]
    path = cache_folder() / f"facades-{digest}-{size}px-seed{seed}-{count}.npy"
    names = [str(seed * 1_000_000 + i) for i in range(count)]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            pool = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(count, size, size, 3))
            for start, images in _draw_chunks([int(name) for name in names], size, workers):
                pool[start : start + len(images)] = images
            pool.flush()
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return Images(np.load(path, mmap_mode="r"), names)


def _draw_chunks(seeds: list[int], size: int, workers: int | None) -> Iterator[tuple[int, np.ndarray]]:
    """First index and images of each chunk, drawn by several processes where that is worth their start."""
    from multiprocessing import get_context

    from tqdm import tqdm

    starts = range(0, len(seeds), 250)
    chunks = [seeds[start : start + 250] for start in starts]
    workers = min(workers or os.cpu_count() or 1, len(chunks))
    if workers == 1:
        yield from ((start, facades.draw_images(chunk, size)) for start, chunk in zip(starts, chunks, strict=True))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        drawn = pool.map(facades.draw_images, chunks, [size] * len(chunks))
        yield from zip(starts, tqdm(drawn, "drawing facades", len(chunks), unit="chunk"), strict=True)


def difference_hash(images: Tensor) -> np.ndarray:
    """8 bytes each, `(B, 8)`, for images `(B, C, H, W)`: is a pixel of the 9 x 8 thumbnail brighter than the next?"""
    grey = images.float().mean(1, keepdim=True)
    thumbs = F.interpolate(grey, size=(8, 9), mode="area")[:, 0]  # (B, 1, H, W) -> (B, 8, 9)
    return np.packbits((thumbs[:, :, 1:] > thumbs[:, :, :-1]).flatten(1).numpy(), axis=1)


def near_duplicates(images: Images, most_bits: int = MOST_BITS) -> np.ndarray:
    """Group number `(N,)` of each image; near-duplicates share one.

    Two images are near-duplicates when the 64 bits of their difference hashes differ in at most `most_bits` places.
    Such a pair agrees in at least one of 8 bytes, so only images that share a byte are compared.
    """
    codes = np.concatenate([difference_hash(images.__getitems__([i])) for i in range(len(images))])
    group = np.arange(len(codes))
    for i, code in enumerate(codes):
        rivals = i + 1 + np.flatnonzero((codes[i + 1 :] == code).any(axis=1))
        close = rivals[np.unpackbits(codes[rivals] ^ code, axis=1).sum(axis=1) <= most_bits]
        for other in set(group[close]) - {group[i]}:
            group[group == other] = group[i]
    return np.unique(group, return_inverse=True)[1]


def split(images: Images, val_share: float, seed: int) -> tuple[Images, Images]:
    """Training and validation parts: whole files, drawn by seed, near-duplicates on one side.

    Raises
    ------
    ValueError
        When a part would be empty.
    """
    groups = near_duplicates(images)
    order = np.random.default_rng(seed).permutation(groups.max() + 1)
    wanted = round(val_share * len(images))
    sizes = np.bincount(groups)[order].cumsum()
    chosen = order[: np.searchsorted(sizes, wanted) + 1] if wanted else order[:0]
    in_val = np.isin(groups, chosen)
    if not 0 < in_val.sum() < len(images):
        raise ValueError(
            f"val_share {val_share} of {len(images)} images in {len(order)} groups of near-duplicates leaves a part "
            "empty; use a share such as 0.2, or more and more varied images"
        )
    return images.subset(np.flatnonzero(~in_val)), images.subset(np.flatnonzero(in_val))
