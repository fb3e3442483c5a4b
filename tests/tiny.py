"""What tests of training share: facades without border fill, and a run that takes seconds."""

from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch

from maelib.facades import LABELS, draw_facade, draw_images
from maelib.model import MAEConfig
from maelib.training.recipes import TrainConfig
from maelib.weights import load_tensors

TINY = MAEConfig(img_size=32, embed_dim=32, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1,
                 decoder_num_heads=1)  # fmt: skip


def draw_plain(number: int, size: int, first: int = 0) -> np.ndarray:
    """Pictures `(number, size, size, 3)` uint8 of the first facades from seed `first` on that fill their pictures."""
    void = LABELS.index("void")
    plain = (seed for seed in count(first) if not (draw_facade(seed, 64).labels == void).any())
    return draw_images(list(islice(plain, number)), size)


def fill_folder(path: Path, number: int = 24, size: int = 32, corners: bool = False, first: int = 0) -> Path:
    """Save facades as arrays 00.npy, 01.npy, ...; with `corners`, every third has a black one."""
    path.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:size, :size]
    for i, image in enumerate(draw_plain(number, size, first)):
        if corners and i % 3 == 0:
            image[x - y > size // 4 + i % 5] = 0
        np.save(path / f"{i:02d}.npy", image)
    return path


@contextmanager
def full_disk(size: int):
    """Lets no file grow beyond `size` bytes."""
    import resource  # Windows has none

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def tiny_run(data: Path, out: Path, **options: object) -> TrainConfig:
    """Six steps on the facades of a folder."""
    settings = {"model": TINY, "steps": 6, "batch_size": 4, "eval_every": 3, "precision": "float32"} | options
    return TrainConfig(out=out, data=data, **settings)


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint of ours."""
    return load_tensors(path)[0]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
