"""Where a training step's time and memory go: `maelib profile`, stage by stage, on this machine."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from maelib.masking import MASKS
from maelib.model import MaskedAutoencoder
from maelib.training.devices import batch_parts, compile_blocks, make_accelerator
from maelib.training.optim import make_optimizers
from maelib.training.recipes import TrainConfig
from maelib.training.train import make_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Watch = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Stage:
    """One stage of a step: median seconds, floating-point operations, bytes that it keeps for the backward pass."""

    name: str
    seconds: float
    flops: int
    kept: int


class _Step:
    """A training step of `config` on made-up images, its stages handed to a watch one by one."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.accelerator = config, make_accelerator(config)
        self.device = self.accelerator.device
        with torch.random.fork_rng():
            self.model = MaskedAutoencoder(config.model).to(self.device)
            size = config.model.img_size
            part = batch_parts(config, 1, 0)[0]
            self.images = torch.randint(256, (part.stop - part.start, 3, size, size)).byte()
        if config.compile:
            compile_blocks(self.model)
        self.optimizers = make_optimizers(self.model, config.optimizer, config.lr, config.weight_decay)
        self.loss = make_loss(config, self.accelerator)

    def __call__(self, watch: Watch) -> None:
        config, grid, generator = self.config, self.config.model.grid_size, Generator().manual_seed(0)
        with watch("augmentation and masks"):
            images = config.augment(self.images.to(self.device), config.model.img_size, generator)
            mask = MASKS[config.mask](len(images), grid, sum(config.mask_ratio) / 2, generator).to(self.device)
        with self.accelerator.autocast():
            with watch("encoder"):
                features = self.model.encode(images, mask)
            with watch("decoder"):
                prediction = self.model.decode(features, mask, grid)
        with watch("loss"):
            loss = self.loss(prediction.float(), images, mask)["loss"]
        with watch("backward"):
            loss.backward()
        with watch("optimiser"):
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad()


def profile(config: TrainConfig, rounds: int = 5) -> list[Stage]:
    """Time a step of `config` with `rounds` steps, then count what it computes and keeps with one more each.

    With `config.accumulate` the images are those of one forward pass; in several processes, run it in one. With
    `config.compile` the blocks are timed compiled, and counted as they are written.
    """
    count_attention_on_cpus()
    step, seconds = _Step(config), defaultdict(list)
    flops, kept = defaultdict(int), defaultdict(int)

    @contextmanager
    def clock(name: str) -> Iterator[None]:
        began = now(step.device)
        yield
        seconds[name].append(now(step.device) - began)

    @contextmanager
    def operations(name: str) -> Iterator[None]:
        with FlopCounterMode(display=False) as counter:
            yield
        flops[name] += counter.get_total_flops()

    @contextmanager
    def memory(name: str) -> Iterator[None]:
        seen = {parameter.untyped_storage().data_ptr() for parameter in step.model.parameters()}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                kept[name] += storage.nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            yield

    for watch in (clock, *[clock] * rounds):
        step(watch)
    with torch.compiler.set_stance("force_eager"):  # counters do not see into compiled blocks
        for watch in (operations, memory):
            step(watch)
    return [Stage(name, median(times[1:]), flops[name], kept[name]) for name, times in seconds.items()]


def count_attention_on_cpus() -> None:
    """Have the products in a CPU's fused attention counted as a GPU's are, where torch does not (2.9 does not)."""
    aten = torch.ops.aten
    for name in ("_scaled_dot_product_flash_attention{}", "_scaled_dot_product_flash_attention{}_backward"):
        flop_registry.setdefault(getattr(aten, name.format("_for_cpu")), flop_registry[getattr(aten, name.format(""))])


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was asked for."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
    return time.perf_counter()


def profile_table(stages: list[Stage], images: int) -> str:
    """The stages as a Markdown table, their sum, and the images a second of a step of `images`."""
    whole = Stage("whole step", *(sum(getattr(s, name) for s in stages) for name in ("seconds", "flops", "kept")))
    rows = [
        f"| {s.name} | {1e3 * s.seconds:.1f} | {s.seconds / whole.seconds:.0%} | {s.flops / 1e9:.2f} | "
        f"{s.flops / s.seconds / 1e9:.0f} | {s.kept / 1e6:.0f} |"
        for s in [*stages, whole]
    ]
    head = "| stage | ms | share | GFLOP | GFLOP/s | MB kept for backward |"
    speed = f"{images} images a step, {images / whole.seconds:.1f} images a second"
    return "\n".join([speed, "", head, "|---|---|---|---|---|---|", *rows])


def profile_figure(stages: list[Stage]) -> "Figure":
    """A bar a stage: its time, and the memory it keeps."""
    from matplotlib.figure import Figure

    from maelib.plots import style

    with style():
        figure = Figure(figsize=(7, 0.35 * len(stages) + 0.9), layout="constrained")
        names = [stage.name for stage in stages][::-1]
        for axis, label, values in zip(
            figure.subplots(1, 2, sharey=True),
            ("milliseconds", "MB kept for backward"),
            ([1e3 * s.seconds for s in stages], [s.kept / 1e6 for s in stages]),
            strict=True,
        ):
            axis.barh(names, values[::-1])
            axis.set_xlabel(label)
    return figure
