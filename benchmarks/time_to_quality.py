"""How good after one, three and five minutes? `python benchmarks/time_to_quality.py` (needs the extra `bench`)

trains maelib's model and its peers' in one shape, by one loop, on the same drawn facades, and scores the holes of
facades that nobody trained on. Time is CPU time of training alone, so that other work on the machine matters little.
"""

import copy
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import matplotlib
import torch
import tyro
from common import RESULTS, save_small, write_report
from peers import PEERS, versions
from torch import Generator, Tensor, nn

from maelib.data.augment import Augment
from maelib.data.images import DrawnImages, StepSampler, prefetch
from maelib.losses import masked_mse, target_patches
from maelib.masking import MASKS, mask_from_pixels, mask_to_pixels
from maelib.metrics import hole_psnr
from maelib.model import CONFIGS, MAEConfig
from maelib.patches import unpatchify
from maelib.repair.evaluate import HOLES, drawn_test_images, evaluation_holes
from maelib.training.launch import native_bf16
from maelib.training.optim import make_optimizers

BATCH = 32  # images
EXPLANATION = """\
One shape (facade_tiny: 64 px, 3 + 3 blocks, 128 wide), one loop: batches of {batch} from {drawn} drawn facades,
mirrored and cropped, mixed masks of 25 to 75%, all rows of a batch hiding equally many patches; squared error over
hidden patches; AdamW, rate {lr:g}, the same decay. A minute is {cores} x 60 CPU-seconds of training on one thread,
images and masks included; all models are at work at a time, so that whatever slows one slows all. Each point ends its
own decay: the rate is constant, and from four fifths of the minutes on a copy goes on with a rate that falls to
nothing. Hole PSNR in dB on {count} facades that nobody trained on; one seed, differences under 0.15 dB are ties."""


@dataclass(frozen=True)
class TimeConfig:
    """Compare models by what they reach in a given time."""

    minutes: tuple[float, ...] = (1.0, 3.0, 5.0)
    """when to score, ascending"""
    cores: int = 2
    """CPU-minutes that a minute stands for"""
    peers: tuple[str, ...] = tuple(PEERS)
    """models to train; "maelib, its recipe" is ours with the optimiser and the rate that `maelib train` uses (Muon)"""
    shape: MAEConfig = CONFIGS["facade_tiny"]
    """shape of all of them"""
    lr: float = 2e-3
    """AdamW's constant rate, for all"""
    drawn: int = 20_000
    """facades to train on"""
    count: int = 256
    """facades to score"""
    seed: int = 0
    """of weights, order, masks and augmentation"""
    out: Path = RESULTS
    """folder of the report"""


class Learner:
    """A model that learns for a given CPU time, and can be copied to go on at a falling rate."""

    def __init__(self, name: str, config: TimeConfig) -> None:
        torch.manual_seed(config.seed)
        self.config, self.model = config, PEERS[name.removesuffix(", its recipe")](config.shape)
        optimizer, lr = ("muon", 4e-3) if name.endswith("its recipe") else ("adamw", config.lr)
        self.optimizers = make_optimizers(self.model, optimizer, lr, 0.01)
        self.lr, self.spent, self.step = lr, 0.0, 0
        self.pool, self.augment = DrawnImages(config.drawn, config.shape.img_size), Augment()

    def copy(self) -> "Learner":
        """A learner that goes on from here by itself."""
        twin = copy.copy(self)
        twin.model, twin.optimizers = copy.deepcopy((self.model, self.optimizers))
        return twin

    def learn(self, until: float, rate: Callable[[float], float]) -> None:
        """Train until so many CPU-seconds are spent, at `rate(spent)` of the highest learning rate."""
        sampler = StepSampler(range(len(self.pool)), BATCH, 10**6, self.config.seed, self.step)
        batches = prefetch(self.pool, sampler, threads=1)
        began, before = time.process_time(), self.spent
        while self.spent < until:
            share = rate(self.spent)
            for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
                group["lr"] = self.lr * share
            self._step(next(batches)[1])
            self.spent = before + time.process_time() - began
        batches.close()

    def _step(self, pixels: Tensor) -> None:
        generator = Generator().manual_seed(self.config.seed * 1_000_003 + self.step)
        images, _ = self.augment(pixels, self.config.shape.img_size, generator)
        ratio = 0.25 + 0.5 * torch.rand((), generator=generator).item()
        mask = MASKS["mixed"](len(images), self.config.shape.grid_size, ratio, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=native_bf16(torch.device("cpu"))):
            prediction = self.model(images, mask)
        masked_mse(prediction.float(), target_patches(images, self.config.shape.patch_size), mask).backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1


@torch.no_grad()
def score(model: nn.Module, config: TimeConfig, images: Tensor) -> dict[str, float]:
    """Mean hole PSNR in dB for each kind of hole."""
    size, grid, scores = config.shape.patch_size, config.shape.grid_size, {}
    model.eval()
    for kind in HOLES:
        mask = mask_from_pixels(evaluation_holes(kind, images, size), size)
        hidden, parts = mask.sum(dim=1), []
        for count in hidden.unique():  # peers need rows that hide equally many; border fill leaves some with fewer
            rows = hidden == count
            hole = mask_to_pixels(mask[rows], size, grid)
            repaired = unpatchify(model(images[rows], mask[rows]), size, grid).clamp(0, 1)
            parts.append(hole_psnr(repaired, images[rows], hole))
        scores[kind] = torch.cat(parts).clamp(max=60).mean().item()
    model.train()
    return scores


def climb(name: str, config: TimeConfig) -> list[tuple[int, dict[str, float]]]:
    """Images seen and scores at each of the minutes, on one thread."""
    torch.set_num_threads(1)
    images = drawn_test_images(config.shape.img_size, config.count)
    Learner(name, config).learn(1e-3, lambda spent: 0.0)  # what is imported or compiled once is so now
    trunk, points, minute = Learner(name, config), [], 60 * config.cores
    warmup = 0.02 * minute * config.minutes[0]
    for end in (minutes * minute for minutes in config.minutes):
        trunk.learn(0.8 * end, lambda spent: min(1.0, (spent + 0.01) / warmup))
        branch = trunk.copy()
        branch.learn(end, partial(_falling, begin=0.8 * end, end=end))
        points.append((branch.step * BATCH, score(branch.model, config, images)))
        told = ", ".join(f"{kind} {psnr:.2f}" for kind, psnr in points[-1][1].items())
        print(f"{name}, {end / minute:g} min: {branch.step * BATCH} images, {told}", flush=True)
    return points


def climb_all(config: TimeConfig) -> dict[str, list[tuple[int, dict[str, float]]]]:
    """Every model's points; all are at work at a time, so that whatever slows one slows all."""
    DrawnImages(config.drawn, config.shape.img_size)  # drawn once, for all
    with ProcessPoolExecutor(len(config.peers), mp_context=get_context("spawn")) as pool:
        return dict(zip(config.peers, pool.map(climb, config.peers, [config] * len(config.peers)), strict=True))


def _falling(spent: float, begin: float, end: float) -> float:
    """1 at `begin`, 0 at `end` and after."""
    return max(0.0, (end - spent) / (end - begin))


def draw(curves: dict[str, list[tuple[int, dict[str, float]]]], minutes: tuple[float, ...], path: Path) -> None:
    """A panel for each kind of hole, a line for each model."""
    from matplotlib.figure import Figure

    from maelib.plots import style

    with style():
        figure = Figure(figsize=(9, 3), layout="constrained")
        for axis, kind in zip(figure.subplots(1, len(HOLES), sharey=True), HOLES, strict=True):
            for name, points in curves.items():
                axis.plot(minutes, [scores[kind] for _, scores in points], "o-", label=name)
            axis.set_title(kind)
            axis.set_xlabel("minutes")
        figure.axes[0].set_ylabel("hole PSNR, dB")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center")
        save_small(figure, path)


def main(config: TimeConfig) -> None:
    """Train, score, and write `time_to_quality.md` and `.png`."""
    matplotlib.use("agg")
    curves = climb_all(config)
    rows = [
        f"| {minutes:g} min | {name} | {points[i][0]} | " + " | ".join(f"{x:.2f}" for x in points[i][1].values()) + " |"
        for i, minutes in enumerate(config.minutes)
        for name, points in curves.items()
    ]
    told = {
        "batch": BATCH,
        "drawn": config.drawn,
        "lr": config.lr,
        "cores": config.cores,
        "count": config.count,
    }
    lines = [
        f"{versions()}.",
        "",
        EXPLANATION.format(**told),
        "",
        "![A panel for each kind of hole, PSNR over minutes, a line for each model.](time_to_quality.png)",
        "",
        f"| after | model | images seen | {' | '.join(HOLES)} |",
        "|---|---|---|" + "---|" * len(HOLES),
        *rows,
    ]
    draw(curves, config.minutes, config.out / "time_to_quality.png")
    write_report(config.out / "time_to_quality.md", "What is reached in a given time", lines)


if __name__ == "__main__":
    main(tyro.cli(TimeConfig))
