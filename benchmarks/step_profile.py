"""Where does the time of a training step go? `python benchmarks/step_profile.py [--recipe facade_base]`

takes steps of a recipe on random images and prints, for each stage, the median time and the floating-point operations
of its matrix products.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from statistics import median
from typing import Literal, NamedTuple

import torch
import tyro
from common import now
from torch import Generator
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from maelib.losses import ReconstructionLoss
from maelib.masking import MASKS
from maelib.model import MaskedAutoencoder
from maelib.perceptual import vgg19
from maelib.training.launch import native_bf16
from maelib.training.optim import make_optimizers
from maelib.training.recipes import RECIPES, TrainConfig


class Stage(NamedTuple):
    """Median seconds and floating-point operations of a stage of a step."""

    seconds: float
    flops: int


def make_step(config: TrainConfig, device: torch.device) -> Callable[[Callable[[str], AbstractContextManager]], None]:
    """Make a training step on random images that opens `watch(name)` around each of its stages."""
    bf16 = config.precision == "bf16" or (config.precision == "auto" and native_bf16(device))
    size, grid, count = config.model.img_size, config.model.grid_size, config.batch_size // config.accumulate
    with torch.random.fork_rng():
        model = MaskedAutoencoder(config.model).to(device)
    weights, features = (config.mse_weight, config.perceptual_weight), None
    if config.perceptual_weight:  # random features take as long as trained ones
        features = vgg19("random", config.vgg_layers, torch.bfloat16 if bf16 else torch.float32).to(device)
    loss = ReconstructionLoss(config.model, *weights, features, log_mse=config.log_mse, window=config.vgg_window)
    optimizers = make_optimizers(model, config.optimizer, config.lr, config.weight_decay)
    generator = Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)

    def step(watch: Callable[[str], AbstractContextManager]) -> None:
        with watch("augmentation and masks"):
            images, _ = config.augment(pixels.to(device), size, generator)
            mask = MASKS[config.mask](count, grid, sum(config.mask_ratio) / 2, generator).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            with watch("encoder"):
                tokens = model.encode(images, mask)
            with watch("decoder"):
                prediction = model.decode(tokens, mask, grid)
        with watch("loss"):
            value = loss(prediction.float(), images, mask)["loss"]
        with watch("backward"):
            value.backward()
        with watch("optimizer"):
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

    return step


def profile(config: TrainConfig, rounds: int = 5) -> dict[str, Stage]:
    """Time `rounds` steps of one forward pass each, after a first step, and count the operations of another step."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    step, seconds, flops = make_step(config, device), defaultdict(list), {}

    @contextmanager
    def clock(name: str) -> Iterator[None]:
        began = now(device)
        yield
        seconds[name].append(now(device) - began)

    @contextmanager
    def operations(name: str) -> Iterator[None]:
        with FlopCounterMode(display=False) as counter:
            yield
        flops[name] = counter.get_total_flops()

    for _ in range(rounds + 1):
        step(clock)
    with sdpa_kernel(SDPBackend.MATH):  # attention as plain products: torch 2.9 does not count a CPU's fused attention
        step(operations)
    return {name: Stage(median(times[1:]), flops[name]) for name, times in seconds.items()}


def profile_table(stages: dict[str, Stage], images: int) -> str:
    """The stages of a step of `images`, and their sum, as a Markdown table."""
    seconds, flops = (sum(column) for column in zip(*stages.values(), strict=True))
    rows = [
        f"| {name} | {1e3 * stage.seconds:.1f} | {stage.seconds / seconds:.0%} | {stage.flops / 1e9:.2f} |"
        for name, stage in (stages | {"whole step": Stage(seconds, flops)}).items()
    ]
    speed = f"{images} images a step, {images / seconds:.1f} images and {flops / seconds / 1e9:.0f} GFLOP a second"
    return "\n".join([speed, "", "| stage | ms | share | GFLOP |", "|---|---|---|---|", *rows])


def main(recipe: Literal[tuple(RECIPES)] = "facade_tiny", batch_size: int | None = None, rounds: int = 5) -> None:
    """Profile the training step of a recipe.

    Parameters
    ----------
    recipe
        recipe to profile
    batch_size
        images a step; by default as many as in the recipe
    rounds
        steps to time
    """
    config = RECIPES[recipe]
    config = replace(config, batch_size=batch_size or config.batch_size)
    print(profile_table(profile(config, rounds), config.batch_size // config.accumulate))


if __name__ == "__main__":
    tyro.cli(main)
