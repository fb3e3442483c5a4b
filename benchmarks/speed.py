"""How fast is a training step, beside other libraries'? `python benchmarks/speed.py` (needs the extra `bench`).

Forward, loss, backward and AdamW's step of `facade_base`, 16 images a step. The kinds take turns, so that whatever else
the machine does meets them all; the tables give medians. Peak memory is that of a process of its own for each kind.
"""

import re
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch
import tyro
from common import RESULTS, now, write_report
from peers import PEERS, PlainStep, make_peer, versions
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from maelib.losses import ReconstructionLoss
from maelib.masking import block_mask
from maelib.model import CONFIGS, MAEConfig, MaskedAutoencoder
from maelib.perceptual import vgg19
from maelib.repair.evaluate import drawn_test_images

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
EXPLANATION = """\
Squared error over hidden patches only, by each library's own loss. Wall: images a second. CPU: images a CPU-second,
which other work on the machine disturbs least; the ratio is of these. GFLOP/s: the products of forward and backward,
over wall time; in brackets the share of what a plain matrix product of 2048 x 2048 reaches here. Peak: what a process
of its own holds that takes two steps, Python, torch and compiler included. "compiled" is `maelib train --compile`."""
WHOLE = """\
The complete step of the recipe: 0.6 squared error + 0.4 perceptual loss, half of the patches hidden. "As it began" is
the custom MAE's step in float32: a square block, VGG19 run on whole images and from its beginning for every layer."""


@dataclass(frozen=True)
class SpeedConfig:
    """Time training steps of maelib and of its peers."""

    batch_size: int = 16
    """images a step"""
    rounds: int = 7
    """steps of each kind; a first one of each is not counted"""
    ratios: tuple[float, ...] = (0.5, 0.75)
    """shares of patches to hide"""
    peers: tuple[str, ...] = (*PEERS, "maelib, compiled")
    """libraries to compare, maelib first"""
    vgg: str = "normalised"
    """VGG19 weights; the times do not depend on them"""
    shape: MAEConfig = CONFIGS["facade_base"]
    """shape of the model"""
    out: Path = RESULTS
    """folder of the report"""


class Step:
    """A training step of a module whose `loss(images, mask)` is minimised, in one precision."""

    def __init__(self, module: nn.Module, dtype: torch.dtype, images: Tensor) -> None:
        self.module, self.dtype, self.images = module.to(images.device), dtype, images
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)

    def __call__(self, mask: Tensor) -> None:
        with torch.autocast(mask.device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss = self.module.loss(self.images, mask)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class WholeStep(MaskedAutoencoder):
    """Our model with the recipe's blend of losses."""

    def __init__(self, config: MAEConfig, weights: str, dtype: torch.dtype) -> None:
        super().__init__(config)
        self.blend = ReconstructionLoss(config, 0.6, 0.4, vgg19(weights, dtype=dtype))

    def loss(self, images: Tensor, mask: Tensor) -> Tensor:
        prediction = self(images, mask)
        with torch.autocast("cpu", enabled=False):
            return self.blend(prediction.float(), images, mask)["loss"]


def in_turns(kinds: dict[str, Callable[[Tensor], None]], masks: list[Tensor]) -> dict[str, tuple[float, float]]:
    """Median seconds and CPU-seconds of each kind over the masks but the first."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for mask in masks:
        for name, step in kinds.items():
            wall, cpu = now(mask.device), time.process_time()
            step(mask)
            times[name].append((now(mask.device) - wall, time.process_time() - cpu))
    return {name: tuple(statistics.median(x) for x in zip(*all_[1:], strict=True)) for name, all_ in times.items()}


def matmul_peak(dtype: torch.dtype, device: torch.device | str = "cpu", side: int = 2048) -> float:
    """FLOP a second of a square matrix product, the best of 20."""
    a, b = torch.randn(2, side, side, device=device).to(dtype).unbind()
    best = float("inf")
    for _ in range(20):
        began = now(a.device)
        a @ b
        best = min(best, now(a.device) - began)
    return 2 * side**3 / best


def step_flops(step: Step, mask: Tensor) -> int:
    """Floating-point operations of the products in a step's forward and backward pass."""
    with FlopCounterMode(display=False) as counter:
        step(mask)
    return counter.get_total_flops()


def _peak(name: str, config: SpeedConfig, ratio: float, precision: str, queue: SimpleQueue) -> None:
    torch.manual_seed(0)
    images, (mask,) = _data(config, ratio, 1)
    step = make_step(name, config, precision, images)
    for _ in range(2):
        step(mask)
    queue.put(peak_of_this_process())


def peak_of_this_process() -> int:
    """Most bytes held so far. Linux counts in `ru_maxrss` what the process held that started this one, too."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_memory(name: str, config: SpeedConfig, ratio: float, precision: str) -> int:
    """Bytes that a fresh process holds at most while it takes two steps."""
    context = get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_peak, args=(name, config, ratio, precision, queue))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the process that measures {name}'s memory ended with {process.exitcode}")
    return queue.get()


def _data(config: SpeedConfig, ratio: float, count: int) -> tuple[Tensor, list[Tensor]]:
    """Images of a step, and a mask for each of `count` steps."""
    images = drawn_test_images(config.shape.img_size, config.batch_size)
    grid = config.shape.grid_size
    return images, [block_mask(len(images), grid, ratio, torch.Generator().manual_seed(i)) for i in range(count)]


WHOLE_STEPS = {"as it began, float32": "plain", "maelib, float32": "float32", "maelib, bf16": "bf16"}


def make_step(name: str, config: SpeedConfig, precision: str, images: Tensor) -> Step:
    """The step of a peer, or of one of WHOLE_STEPS."""
    if name not in WHOLE_STEPS:
        return Step(make_peer(name, config.shape), DTYPES[precision], images)
    if WHOLE_STEPS[name] == "plain":
        return Step(PlainStep(config.shape, 0.5, config.vgg), torch.float32, images)
    dtype = DTYPES[WHOLE_STEPS[name]]
    return Step(WholeStep(config.shape, config.vgg, dtype), dtype, images)


def model_table(config: SpeedConfig, ratio: float, precision: str) -> list[str]:
    """Rows of one comparison of the models alone."""
    images, masks = _data(config, ratio, config.rounds + 1)
    steps = {name: make_step(name, config, precision, images) for name in config.peers}
    for name in (name for name in steps if name.endswith("compiled")):
        in_turns({name: steps[name]}, masks[:2])  # compiled while nobody waits
    times, peak = in_turns(steps, masks), matmul_peak(DTYPES[precision])
    rows = []
    for name, (wall, cpu) in times.items():
        speed = step_flops(steps[name.removesuffix(", compiled")], masks[0]) / wall
        memory = peak_memory(name, config, ratio, precision)
        rows.append(
            f"| {precision}, {ratio:g} hidden | {name} | {len(images) / wall:.1f} | {len(images) / cpu:.2f} | "
            f"{cpu / times[config.peers[0]][1]:.2f} | {speed / 1e9:.0f} ({speed / peak:.0%}) | {memory / 1e6:.0f} |"
        )
        print(rows[-1], flush=True)
    return rows


def whole_table(config: SpeedConfig) -> list[str]:
    """Rows of the comparison of complete steps."""
    images, masks = _data(config, 0.5, config.rounds + 1)
    times = in_turns({name: make_step(name, config, "", images) for name in WHOLE_STEPS}, masks)
    base = times["as it began, float32"]
    rows = []
    for name, (wall, cpu) in times.items():
        memory = peak_memory(name, config, 0.5, "")
        rows.append(
            f"| {name} | {len(images) / wall:.2f} | {len(images) / cpu:.2f} | {base[0] / wall:.1f} | "
            f"{base[1] / cpu:.1f} | {memory / 1e6:.0f} |"
        )
        print(rows[-1], flush=True)
    return rows


def main(config: SpeedConfig) -> None:
    """Measure, and write `speed.md`."""
    torch.manual_seed(0)
    lines = [
        f"{versions()}. Batch {config.batch_size}, medians of {config.rounds} steps, the kinds taking turns.",
        "",
        "## The model alone",
        "",
        EXPLANATION,
        "",
        "| precision, mask | library | images/s, wall | images/s, CPU | CPU time, of maelib's | GFLOP/s | peak MB |",
        "|---|---|---|---|---|---|---|",
        *(row for precision in DTYPES for ratio in config.ratios for row in model_table(config, ratio, precision)),
        "",
        "## The complete step",
        "",
        WHOLE,
        "",
        "| step | images/s, wall | images/s, CPU | times faster, wall | times faster, CPU | peak MB |",
        "|---|---|---|---|---|---|",
        *whole_table(config),
        "",
        "On a GPU: [gpu.md](gpu.md).",
    ]
    write_report(config.out / "speed.md", "A training step beside other libraries'", lines)


if __name__ == "__main__":
    main(tyro.cli(SpeedConfig))
