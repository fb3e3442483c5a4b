"""Does training pay? Hole PSNR, SSIM and sharpness of a model beside classical inpainting, one command a row.

    python benchmarks/quality.py drawn
    python benchmarks/quality.py mixed64 --train FOLDER --photos FOLDER

trains what `ROWS` says for the row, from nothing, then scores it on 256 drawn facades that no training draws and on the
photos of `--photos`. `--checkpoint FILE` scores that model instead. Report, training log and figure (drawn facades
only) go to benchmarks/results/; times are of the machine the report names.
"""

import os
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
import tyro
from common import DRAWN, RESULTS, cpu_seconds, image_sets, machine, save_small, shown

from maelib.data.augment import Augment
from maelib.data.images import MAX_DISTANCE, TEST_SEEDS, FolderImages, difference_hash
from maelib.repair.classical import BASELINES
from maelib.repair.evaluate import evaluate, evaluation_figure, evaluation_table, model_method
from maelib.training.recipes import RECIPES, TrainConfig
from maelib.training.train import train
from maelib.weights.checkpoint import bundled_checkpoint, load_model


class Row(NamedTuple):
    """A line of the table: what is trained, and which folders it takes."""

    about: str
    config: TrainConfig | None = None  # None: nothing is trained, the bundled model is scored
    train: bool = False  # learns from the photos of --train as well
    photos: bool = False  # means nothing unless scored on the photos of --photos
    after: str | None = None  # starts from the weights of this row, which is trained first


TINY, SMALL = RECIPES["facade_tiny"], RECIPES["facade_small"]
MIXED = {"batch_size": 64, "log_mse": True, "drawn": 10_000, "val_share": 0.05, "augment": Augment(scale=(0.75, 1.0))}
ROWS: dict[str, Row] = {
    "drawn": Row("the bundled model"),
    "tiny": Row("the default recipe, what `maelib train` does", TINY),
    "drawings64": Row(
        "64 px, under an hour on drawings alone",
        replace(SMALL, model=replace(SMALL.model, img_size=64), drawn=40_000, border_fill=False),
        photos=True,
    ),
    "mixed64": Row(
        "64 px, ten minutes on photos and drawings", replace(TINY, steps=3400, **MIXED), train=True, photos=True
    ),
    "tuned64": Row(
        "64 px, drawings64's model tuned for under ten minutes on photos and drawings",
        replace(SMALL, model=replace(SMALL.model, img_size=64), steps=1000, lr=2e-3, **MIXED | {"drawn": 5000}),
        train=True,
        photos=True,
        after="drawings64",
    ),
    "photos128": Row(
        "128 px, drawings64's model tuned on photos and drawings, under an hour in all",
        replace(
            SMALL,
            model=replace(SMALL.model, img_size=128, patch_size=16),
            steps=1000,
            lr=2e-3,
            **MIXED | {"drawn": 5000},
        ),
        train=True,
        photos=True,
        after="drawings64",
    ),
}


@dataclass(frozen=True)
class QualityConfig:
    """Train one row's model and score it beside classical inpainting."""

    row: tyro.conf.Positional[Literal[tuple(ROWS)]]
    """which row"""
    train: Path | None = None
    """folder of real photos to learn from"""
    photos: Path | None = None
    """folder of other real photos to score on"""
    checkpoint: Path | None = None
    """score this model instead of training one"""
    steps: int | None = None
    """train fewer steps than the row says"""
    keep: Path | None = None
    """folder to leave the run in; a broken-off one goes on with `maelib train --resume --out` that folder"""
    count: int = len(TEST_SEEDS)
    """drawn facades to score on"""
    out: Path = RESULTS
    """folder for report, log and figure"""

    def __post_init__(self) -> None:
        row, trains = ROWS[self.row], self.trains
        used = {"steps": trains, "keep": trains, "train": trains and row.train}
        for name, is_used in used.items():
            if not is_used and getattr(self, name) is not None:
                raise ValueError(f"--{name} {getattr(self, name)} changes nothing about row {self.row}; leave it out")
        if used["train"] and self.train is None:
            raise ValueError(f"row {self.row} learns from photos; add --train FOLDER, or --checkpoint FILE")
        if row.photos and self.photos is None:
            raise ValueError(f"row {self.row} is scored on real photos; add --photos FOLDER")
        for name in ("train", "photos"):
            folder = getattr(self, name)
            if folder is not None and not folder.is_dir():
                raise FileNotFoundError(f"--{name} {folder} is no folder; give one with photos")
        if self.train is not None and self.train.resolve() == self.photos.resolve():
            raise ValueError(f"--train and --photos are both {self.train}; score on photos of another folder")

    @property
    def trains(self) -> bool:
        """Whether a model is trained first."""
        return ROWS[self.row].config is not None and self.checkpoint is None


def train_row(config: QualityConfig, row: Row, out: Path, cache: Path) -> tuple[Path, str]:
    """Train a row with an empty cache of drawings; returns the checkpoint and a line on what it took."""
    first, before = train_row(config, ROWS[row.after], out / row.after, cache) if row.after else (None, "")
    recipe = replace(row.config, out=out, init=first, data=config.train if row.train else None)
    recipe = replace(recipe, steps=min(config.steps or recipe.steps, recipe.steps))
    wall, (own, children) = time.perf_counter(), cpu_seconds()
    with patch.dict(os.environ, MAELIB_CACHE=str(cache)):
        checkpoint = train(recipe)
    wall, own, children = time.perf_counter() - wall, cpu_seconds()[0] - own, cpu_seconds()[1] - children
    story = f"{before} " if before else ""
    story += (
        f"Trained {recipe.steps} steps of {recipe.batch_size} = {recipe.steps * recipe.batch_size} images in "
        f"{wall:.0f} s: {own + children:.0f} CPU-seconds, {children:.0f} of them by the processes that draw."
    )
    if row.train:
        size = recipe.model.img_size
        folders = [FolderImages(folder, size) for folder in (config.train, config.photos)]
        learnt, scored = (difference_hash(torch.stack([images[i] for i in range(len(images))])) for images in folders)
        distance = np.unpackbits(scored[:, None] ^ learnt, axis=2).sum(axis=2)  # (scored, learnt)
        twice = (distance.min(axis=1) <= MAX_DISTANCE).sum()
        story += f" Learnt from {len(learnt)} photos, {recipe.val_share:.0%} kept for validation"
        story += f"; {twice} of the {len(scored)} scored have a near-duplicate among them."
    return checkpoint, story


def main(config: QualityConfig) -> None:
    """Train if asked, score, report."""
    row = ROWS[config.row]
    checkpoint = config.checkpoint or bundled_checkpoint()
    shape = row.config.model if config.trains else load_model(checkpoint).config
    if row.config is not None and shape != row.config.model:
        raise ValueError(f"{checkpoint} is not of the shape that row {config.row} trains; use a model of this row")
    sets = image_sets(shape.img_size, config.photos, config.count)  # before training, so that a bad photo costs nothing
    config.out.mkdir(parents=True, exist_ok=True)
    report, log, figure = (config.out / f"{config.row}.{suffix}" for suffix in ("md", "csv", "png"))
    story = f"Scored `{shown(checkpoint)}`, trained beforehand."
    with tempfile.TemporaryDirectory() as folder:
        if config.trains:
            checkpoint, story = train_row(config, row, config.keep or Path(folder) / "run", Path(folder) / "cache")
        model = load_model(checkpoint)
        if checkpoint.with_name("log.csv").is_file():
            shutil.copyfile(checkpoint.with_name("log.csv"), log)
    methods = {**BASELINES, "model": model_method(model)}
    lines = [f"# {config.row}: {row.about}", "", story, "", f"Machine: {machine()}.", ""]
    for name, images in sets.items():
        scores = evaluate(methods, images, shape.patch_size)
        lines += [f"## {name}: {len(images)} of {shape.img_size} px, patches of {shape.patch_size} px", ""]
        lines += [evaluation_table(scores), ""]
        if name == DRAWN:  # real photos never get into the figure
            save_small(evaluation_figure(methods, scores, images, shape.patch_size), figure)
    lines.append(f"![Drawn facades: truth, hole, the two best baselines, the model's repair.]({figure.name})")
    report.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    try:
        main(tyro.cli(QualityConfig, description=__doc__))
    except (ValueError, OSError) as error:
        raise SystemExit(f"quality.py: {error}") from error
