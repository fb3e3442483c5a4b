"""What tests of training share: facades without border fill, and a run that takes seconds."""

from itertools import count, islice
from pathlib import Path

import numpy as np
import torch

from maelib.facades import LABELS, draw_facade, draw_images
from maelib.model import MAEConfig
from maelib.training.recipes import TrainConfig

TINY = MAEConfig(img_size=32, embed_dim=32, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1,
                 decoder_num_heads=1)  # fmt: skip


def plain_seeds(number: int, first: int = 0, size: int | tuple[int, int] = 64) -> list[int]:
    """The first `number` seeds from `first` on whose facades, at this aspect ratio, fill their pictures."""
    void = LABELS.index("void")
    return list(islice((seed for seed in count(first) if not (draw_facade(seed, size).labels == void).any()), number))


def draw_plain(number: int, size: int, first: int = 0) -> np.ndarray:
    """Their pictures `(number, size, size, 3)` uint8."""
    return draw_images(plain_seeds(number, first), size)


def fill_folder(path: Path, number: int = 24, size: int = 32, corners: bool = False, first: int = 0) -> Path:
    """Save facades as arrays 00.npy, 01.npy, ...; with `corners`, every third has a black one."""
    path.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:size, :size]
    for i, image in enumerate(draw_plain(number, size, first)):
        if corners and i % 3 == 0:
            image[x - y > size // 4 + i % 5] = 0
        np.save(path / f"{i:02d}.npy", image)
    return path


def tiny_run(data: Path, out: Path, **options: object) -> TrainConfig:
    """Six steps on the facades of a folder."""
    settings = {"model": TINY, "steps": 6, "batch_size": 4, "eval_every": 3, "precision": "float32"} | options
    return TrainConfig(out=out, data=data, **settings)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
