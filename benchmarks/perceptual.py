"""What the perceptual loss costs, and what makes it cheap: `python benchmarks/perceptual.py`.

CPU-seconds of one training step of `facade_base`: forward, loss, backward. The kinds take turns, so that whatever else
the machine does meets them all; the table gives medians.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from common import RESULTS, machine
from torch import Tensor

from maelib.losses import ReconstructionLoss
from maelib.masking import block_mask
from maelib.model import CONFIGS, MaskedAutoencoder
from maelib.perceptual import LAYERS, VGG19, vgg19
from maelib.repair.evaluate import drawn_test_images


@dataclass(frozen=True)
class PerceptualConfig:
    """Measure the cost of the perceptual loss."""

    batch_size: int = 2
    """images a step"""
    rounds: int = 7
    """steps of each kind"""
    vgg: str = "normalised"
    """VGG19 weights; the times do not depend on them"""
    out: Path = RESULTS
    """folder of the report"""


def one_network_a_layer(weights: str) -> Callable[[Tensor], list[Tensor]]:
    """The plain way: for each layer the network runs again from its beginning."""
    networks = [vgg19(weights, (layer,)) for layer in LAYERS]
    return lambda images: [network(images)[0] for network in networks]


def whole(features: VGG19) -> Callable[[Tensor], list[Tensor]]:
    """The same features without the attributes that let the loss crop."""
    return lambda images: features(images)


def kinds(weights: str) -> dict[str, ReconstructionLoss]:
    """Losses by the names that the table gives them."""
    config, exact, short = CONFIGS["facade_base"], vgg19(weights), vgg19(weights, dtype=torch.bfloat16)
    blend = {
        "+ perceptual, the network anew for each layer": one_network_a_layer(weights),
        "+ perceptual, one pass": whole(exact),
        "+ perceptual, one pass, around the hole": exact,
        "+ perceptual, one pass, around the hole, bf16": short,
    }
    losses = {name: ReconstructionLoss(config, 0.6, 0.4, features) for name, features in blend.items()}
    return {"squared error alone": ReconstructionLoss(config)} | losses


def measure(config: PerceptualConfig) -> dict[str, list[float]]:
    """CPU-seconds of every step of each kind; a first step of each is not counted."""
    torch.manual_seed(0)
    model, losses = MaskedAutoencoder(CONFIGS["facade_base"]), kinds(config.vgg)
    images = drawn_test_images(224, config.batch_size)
    seconds: dict[str, list[float]] = {name: [] for name in losses}
    for i in range(config.rounds + 1):
        mask = block_mask(len(images), (14, 14), 0.5, torch.Generator().manual_seed(i))
        for name, loss in losses.items():
            began = time.process_time()
            loss(model(images, mask), images, mask)["loss"].backward()
            seconds[name].append(time.process_time() - began)
            model.zero_grad()
    return {name: times[1:] for name, times in seconds.items()}


def main(config: PerceptualConfig) -> None:
    """Measure, and write `perceptual.md`."""
    medians = {name: statistics.median(times) for name, times in measure(config).items()}
    base = medians["squared error alone"]
    rows = [f"| {name} | {t:.2f} | {t / base:.2f} | {(t - base) / base:.2f} |" for name, t in medians.items()]
    lines = [
        "# What the perceptual loss costs",
        "",
        f"`python benchmarks/perceptual.py`. Machine: {machine()}; {torch.get_num_threads()} thread(s).",
        f"One step of facade_base in float32, {config.batch_size} images of 224 px, one 50% block hidden; medians of "
        f"{config.rounds} steps, the kinds taking turns. VGG19 up to {LAYERS[-1]}; targets without gradient.",
        "",
        "| loss | CPU-seconds a step | step, over squared error alone | loss alone, in such steps |",
        "|---|---|---|---|",
        *rows,
        "",
    ]
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "perceptual.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(PerceptualConfig))
