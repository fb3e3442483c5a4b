"""How to repair photos far above the model's size: three strategies, on drawn facades of 1024 px with the truth behind.

    python benchmarks/large_photos.py --checkpoint FILE

prints hole PSNR (dB) / SSIM / sharpness of the coarse pass alone, tiles at full size alone, and `repair_photo`, which
goes from coarse to fine, for holes that are large, middling, small, scattered, and thin.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import tyro
from tqdm import tqdm

from maelib.facades import draw_facade
from maelib.metrics import hole_psnr, hole_sharpness, hole_ssim
from maelib.repair import photo as inpaint
from maelib.weights.checkpoint import bundled_checkpoint, load_model


@dataclass(frozen=True)
class LargeConfig:
    """Compare strategies for large photos."""

    checkpoint: Path | None = None
    """model to repair with; by default the bundled one"""
    count: int = 8
    """facades"""
    size: int = 1024
    """their side in pixels"""


def holes(size: int, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """One hole `(size, size)` of each kind, the same shares and another place each time."""
    for share in (0.25, 0.06, 0.01):
        hole = np.zeros((size, size), bool)
        aspect = np.exp(rng.uniform(-0.5, 0.5))
        height, width = int(size * (share * aspect) ** 0.5), int(size * (share / aspect) ** 0.5)
        top, left = rng.integers(size - height), rng.integers(size - width)
        hole[top : top + height, left : left + width] = True
        yield f"box {share:.0%}", hole
    yield "blocks 75%", np.kron(rng.permutation(64).reshape(8, 8) < 48, np.ones((size // 8, size // 8), bool))
    line = (np.arange(size) + rng.integers(180)) % 180 < 12
    yield "wires", line | line[:, None]


def strategies() -> dict[str, dict]:
    """What to replace in `maelib.repair.photo` for each strategy."""
    sizes = inpaint._sizes
    return {
        "coarse pass, enlarged": {"_sizes": lambda shape, model: sizes(shape, model)[:1]},
        "tiles at full size": {"_sizes": lambda shape, model: [sizes(shape, model)[0], shape], "MOST_HIDDEN": 0.999},
        "coarse to fine": {"_sizes": sizes},
    }


def main(config: LargeConfig) -> str:
    """The table."""
    model = load_model(config.checkpoint or bundled_checkpoint())
    scores: dict[tuple[str, str], list[list[float]]] = {}
    rng = np.random.default_rng(0)
    for seed in tqdm(range(900_000_000, 900_000_000 + config.count), "repairing", unit="facade"):
        facade = draw_facade(seed, config.size).image
        for kind, hole in holes(config.size, rng):
            for name, changes in strategies().items():
                with patch.multiple(inpaint, **changes):
                    repaired = inpaint.repair_photo(facade, hole, model, detail=0)
                images = [torch.from_numpy(x)[None].permute(0, 3, 1, 2) / 255 for x in (repaired, facade)]
                row = [f(*images, torch.from_numpy(hole)[None]).item() for f in (hole_psnr, hole_ssim, hole_sharpness)]
                scores.setdefault((name, kind), []).append(row)
    names, kinds = (list(dict.fromkeys(key[i] for key in scores)) for i in (0, 1))
    rows = [f"| PSNR / SSIM / sharpness | {' | '.join(kinds)} |", "|---|" + "---|" * len(kinds)]
    for name in names:
        means = [np.mean(scores[name, kind], axis=0) for kind in kinds]
        rows.append(f"| {name} | " + " | ".join("{:.1f} / {:.2f} / {:.2f}".format(*mean) for mean in means) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(main(tyro.cli(LargeConfig)))
