"""Does a perceptual loss make repairs sharper, and what does it cost? `python benchmarks/sharpness.py --photos FOLDER`.

The bundled model, which squared error trained, is trained on with each loss of `LOSSES` for the same steps on the same
images, drawings and the photos of `--train` by halves, then scored on held-out drawings and on the photos of
`--photos`. The feature distance is that of two layers of VGG19 that no loss here compares.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from common import DRAWN, RESULTS, cpu_seconds, image_sets, save_small, write_report
from torch import Tensor
from tqdm import tqdm

from maelib.data.augment import Augment
from maelib.data.images import TEST_SEEDS
from maelib.losses import perceptual_loss
from maelib.metrics import hole_psnr, hole_sharpness, hole_ssim
from maelib.perceptual import VGG19, vgg19
from maelib.plots import mask_overlay, show_images
from maelib.repair.evaluate import HOLES, PSNR_CAP, evaluation_holes, model_method
from maelib.training.recipes import RECIPES, TrainConfig
from maelib.training.train import train
from maelib.weights.checkpoint import bundled_checkpoint, load_model

JUDGES = ("relu2_2", "relu4_1")
FLAT = ("relu1_1", "relu2_1")
LOSSES: dict[str, dict] = {
    "squared error alone": {},
    "0.6 + 0.4, the original's blend": {"mse_weight": 0.6, "perceptual_weight": 0.4},
    "perceptual alone": {"mse_weight": 0.0, "perceptual_weight": 1.0},
    "1 + 0.005: both pull alike": {"perceptual_weight": 0.005},
    "1 + 0.008, windows of 4": {"perceptual_weight": 0.008, "vgg_window": 4, "vgg_layers": FLAT},
}


@dataclass(frozen=True)
class SharpnessConfig:
    """Train on with each loss, score each."""

    train: Path | None = None
    """folder of real photos to learn from, half of the images seen; without one, drawings alone"""
    photos: Path | None = None
    """folder of other real photos to score on"""
    losses: tuple[Literal[tuple(LOSSES)], ...] = tuple(LOSSES)
    """which losses"""
    steps: int = 200
    """steps of 32 images"""
    size: int = 64
    """side of the images in pixels"""
    count: int = len(TEST_SEEDS)
    """drawn facades to score on"""
    vgg: str = "normalised"
    """VGG19 weights of losses and judges"""
    out: Path = RESULTS
    """folder of the report"""


def recipe(config: SharpnessConfig, loss: str, out: Path) -> TrainConfig:
    """How the bundled model is trained on with one of `LOSSES`."""
    shape = replace(load_model(bundled_checkpoint()).config, img_size=config.size)
    return replace(
        RECIPES["facade_medium"],
        **{"log_mse": False, "vgg": config.vgg, **LOSSES[loss]},
        out=out,
        model=shape,
        init=bundled_checkpoint(),
        data=config.train,
        drawn=5000,
        val_share=0.05,
        augment=Augment(scale=(0.75, 1.0)),
        steps=config.steps,
        batch_size=32,
        lr=2e-3,
        eval_every=config.steps,
        val_images=32,
    )


@torch.no_grad()
def feature_distances(repaired: Tensor, images: Tensor, hole: Tensor, judge: VGG19) -> list[float]:
    """Mean squared difference inside the hole in each of the judge's layers."""
    distances = []
    for some in zip(repaired.split(32), images.split(32), hole.split(32), strict=True):
        each = [perceptual_loss(*some, lambda x, k=k: judge(x)[k : k + 1]) for k in range(len(judge.layers))]
        distances.append(torch.stack(each) * len(some[0]))
    return (torch.stack(distances).sum(dim=0) / len(images)).tolist()


def score(checkpoint: Path, images: Tensor, judge: VGG19) -> list[str]:
    """A cell for each kind of hole: PSNR, SSIM, sharpness, and the distances in the judge's layers."""
    model = load_model(checkpoint)
    cells = []
    for kind in HOLES:
        hole = evaluation_holes(kind, images, model.config.patch_size)
        parts = zip(images.split(64), hole.split(64), strict=True)
        repaired = torch.cat([model_method(model)(*part) for part in parts])
        psnr, ssim, sharpness = (f(repaired, images, hole) for f in (hole_psnr, hole_ssim, hole_sharpness))
        sharpness = sharpness[sharpness.isfinite()].mean().item()
        distances = feature_distances(repaired, images, hole, judge)
        numbers = [f"{psnr.clamp(max=PSNR_CAP).mean():.2f}", f"{ssim.mean():.3f}", f"{sharpness:.2f}"]
        cells.append(" / ".join(numbers + [f"{distance:.2f}" for distance in distances]))
    return cells


def pictures(checkpoint: Path, images: Tensor) -> Tensor:
    """The first four images, a block of 50% repaired in each."""
    model = load_model(checkpoint)
    return model_method(model)(images, evaluation_holes("block 50%", images, model.config.patch_size))[:4]


def main(config: SharpnessConfig) -> None:
    """Train and score, then write `sharpness.md`."""
    judge = vgg19(config.vgg, JUDGES)
    sets = image_sets(config.size, config.photos, config.count)
    heads = ["loss", *HOLES, "CPU-seconds a step"]
    tables: dict[str, list[list[str]]] = {name: [] for name in sets}
    hole = evaluation_holes("block 50%", sets[DRAWN], load_model(bundled_checkpoint()).config.patch_size)
    columns = {"truth": sets[DRAWN][:4], "hole": mask_overlay(sets[DRAWN], hole)[:4]}
    for loss in tqdm(config.losses, "losses"):
        with tempfile.TemporaryDirectory() as folder:
            began, _ = cpu_seconds()
            checkpoint = train(recipe(config, loss, Path(folder) / "run"))
            cost = (cpu_seconds()[0] - began) / config.steps
            columns[loss.replace(", ", ",\n")] = pictures(checkpoint, sets[DRAWN])
            for name, images in sets.items():
                tables[name].append([loss, *score(checkpoint, images, judge), f"{cost:.2f}"])
    learnt = "photos and drawings by halves" if config.train else "drawings alone"
    lines = [
        "",
        f"The bundled model, trained on for {config.steps} steps of 32 images of {config.size} px, {learnt}, one seed.",
        f"A loss's numbers are the weights of squared error and perceptual loss; VGG19's weights are `{config.vgg}`.",
        "Cost: all that training does, data and one validation included.",
        "",
        f"Cells: PSNR dB / SSIM / sharpness in the hole (1 is the truth's) / distance in {' / in '.join(JUDGES)}.",
        "",
    ]
    for name, rows in tables.items():
        lines += [f"## {name}: {len(sets[name])}", "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    lines += ["![Drawn facades, a block of 50% repaired by the model of each loss.](sharpness.png)"]
    config.out.mkdir(parents=True, exist_ok=True)
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    save_small(show_images(rows, list(columns), height=1.6), config.out / "sharpness.png")
    write_report(config.out / "sharpness.md", "What a perceptual loss buys", lines)


if __name__ == "__main__":
    main(tyro.cli(SharpnessConfig))
