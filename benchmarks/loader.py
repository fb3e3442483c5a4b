"""Does training ever wait for its images? `python benchmarks/loader.py`

measures how fast a large folder starts, and how many images a second come out of a folder of `.npy` arrays and out of
the pool of drawings, beside what training uses up.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import tyro
from common import RESULTS, write_report
from step_profile import profile

from maelib.data.images import DrawnImages, StepSampler, prefetch
from maelib.training.recipes import RECIPES
from maelib.training.train import load_images

EXPLANATION = """\
Images a second, {steps} batches of the recipe, nothing else running in the process; "first time" includes the search
for border fill and for near-duplicates of validation images; "afterwards" they come from the folder's cache. Training
is the step of `step_profile.py`. Start is the time until the folder is listed and its validation images are read."""


@dataclass(frozen=True)
class LoaderConfig:
    """Measure how fast images come, beside how fast they are learnt from."""

    files: int = 100_000
    """`.npy` files in the folder at 64 px; larger images get 8192, which fill a disk as well"""
    steps: int = 200
    """batches to load"""
    threads: int | None = None
    """threads that load; by default as many as in training"""
    recipes: tuple[str, ...] = ("facade_tiny", "facade_base")
    """recipes, each at its size"""
    out: Path = RESULTS
    """folder of the report"""


def fill(folder: Path, pool: DrawnImages, count: int) -> None:
    """Save `count` arrays: the pool's facades, each time around moved a little further, every other time mirrored."""
    for i in range(count):
        turn, which = divmod(i, len(pool))
        image = np.roll(pool.pixels[which, ..., :3], turn, axis=1)
        np.save(folder / f"{i:06d}.npy", image[:, :: -1 if turn % 2 else 1])


def rate(batches: Iterator, batch_size: int) -> float:
    """Images a second, the first batch not counted."""
    next(batches)
    began, count = time.perf_counter(), sum(1 for _ in batches)
    return count * batch_size / (time.perf_counter() - began)


def measure(config: LoaderConfig, name: str) -> list[str]:
    """Rows of the report for one recipe."""
    recipe = RECIPES[name]
    size, batch = recipe.model.img_size, recipe.batch_size
    learnt = batch / sum(stage.seconds for stage in profile(recipe, rounds=20).values())
    pool = DrawnImages(20_000 if size <= 64 else 2_000, size)
    sampler = StepSampler(range(len(pool)), batch, config.steps, seed=0)
    files = config.files if size <= 64 else 8192
    with TemporaryDirectory() as folder:
        fill(Path(folder), pool, files)
        began = time.perf_counter()
        images, _ = load_images(replace(recipe, data=Path(folder)))
        start = time.perf_counter() - began
        some = StepSampler(range(min(len(images), batch * config.steps)), batch, config.steps, seed=0)
        rates = {
            f"{files} .npy files, first time": rate(prefetch(images, some, config.threads), batch),
            f"{files} .npy files, afterwards": rate(prefetch(images, some, config.threads), batch),
        }
    rates["pool of drawings"] = rate(prefetch(pool, sampler, config.threads), batch)
    return [
        f"| {name}, {size} px | {what} | {f'{start:.2f} s' if 'files' in what else ''} | {images_a_second:.0f} | "
        f"{learnt:.1f} | {images_a_second / learnt:.1f} |"
        for what, images_a_second in rates.items()
    ]


def main(config: LoaderConfig) -> None:
    """Measure, and write `loader.md`."""
    torch.manual_seed(0)
    lines = [
        EXPLANATION.format(steps=config.steps),
        "",
        "| recipe | images from | start | loaded a second | learnt a second | times as fast |",
        "|---|---|---|---|---|---|",
        *(row for name in config.recipes for row in measure(config, name)),
    ]
    write_report(config.out / "loader.md", "Does training wait for its images?", lines)


if __name__ == "__main__":
    main(tyro.cli(LoaderConfig))
