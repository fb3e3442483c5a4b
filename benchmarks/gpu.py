"""How much of a GPU does training use? `python benchmarks/gpu.py`, part of `make gpu` (extra `bench` for all peers).

Forward, loss, backward and AdamW's step in bf16, 75% of the patches hidden, beside other libraries. The report is
written anew after each row, so that a run which is broken off loses nothing. Without a GPU the report says that nothing
was measured; `--device cpu` tries the way there.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from common import RESULTS, now, write_report
from peers import make_peer
from speed import Step, WholeStep, matmul_peak, step_flops
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from maelib.masking import block_mask, random_mask
from maelib.model import CONFIGS

KINDS = ("maelib", "maelib, compiled", "Hugging Face", "lightly")
EXPLANATION = """\
Images a second, medians of {rounds} steps after 3 others, with the batch, of those tried ({batches}), at which the
uncompiled model is fastest. TFLOP/s: the products of forward and backward; the share is of what a plain bf16 product
of {side} x {side} reaches on the same card. Peak: memory of the card. "compiled" is `maelib train --compile`; lightly
is built from timm's blocks. Rows that the time did not reach are missing."""
# Words in the names of kernels, and what such a kernel does. The first that occurs counts.
KERNELS = {
    "attention": ("flash", "fmha", "attention", "sdp"),
    "matrix products": ("gemm", "cutlass", "nvjet", "cublas", "wgrad", "dgrad", "conv", "mm_"),
    "optimizer": ("multi_tensor", "foreach", "adam"),
    "fused by the compiler": ("triton",),
    "copies": ("memcpy", "memset", "copy"),
}
T4 = {"FLOP": 65e12, "byte": 320e9}  # a second, in fp16: NVIDIA's datasheet of the T4
ESTIMATE = """\
Not measured but estimated, for the card of a free Colab session, which has no bf16. An image of the whole step of
`facade_base` in fp16, perceptual loss included, takes {flops:.0f} GFLOP, and moves {moved:.2f} GB if every operation
reads and writes its tensors once. At the {peak:.0f} TFLOP/s and {rate:.0f} GB/s of the datasheet that is
{compute:.1f} ms and {traffic:.1f} ms. The longer of the two allows {images:.0f} images a second; expect less."""


@dataclass(frozen=True)
class GpuConfig:
    """Time bf16 training steps on a GPU."""

    minutes: float = 3.0
    """no new row is begun after this time"""
    device: str = "cuda" if torch.cuda.is_available() else ""
    """where to compute; by default a GPU, or nowhere"""
    batches: tuple[int, ...] = (128, 256, 512)
    """images a step to choose from"""
    rounds: int = 7
    """steps of each kind"""
    models: tuple[str, ...] = ("vit_large", "facade_base", "vit_base", "vit_huge")
    """named configurations; the first is looked into with the profiler"""
    kinds: tuple[str, ...] = KINDS
    """libraries to compare"""
    side: int = 8192
    """of the matrices that give the peak"""
    out: Path = RESULTS
    """folder of the report"""


def make_step(config: GpuConfig, name: str, kind: str, batch: int) -> tuple[Step, list[Tensor]]:
    """A step on random images, and masks for it."""
    shape = CONFIGS[name]
    images = torch.rand(batch, 3, shape.img_size, shape.img_size, device=config.device)
    generators = (torch.Generator().manual_seed(i) for i in range(config.rounds))
    masks = [random_mask(batch, shape.grid_size, 0.75, generator).to(config.device) for generator in generators]
    return Step(make_peer(kind, shape), torch.bfloat16, images), masks


def seconds(step: Step, masks: list[Tensor]) -> float:
    """Median time of a step."""
    for mask in (masks * 3)[:3]:  # compiles, and settles the clocks
        step(mask)
    times = []
    for mask in masks:
        began = now(mask.device)
        step(mask)
        times.append(now(mask.device) - began)
    return statistics.median(times)


def measure(config: GpuConfig, peak: float, end: float, shares: list[str]) -> Iterator[str]:
    """Rows of the table, one a model and kind; `shares` gets the rows of `where_time_goes`."""
    cuda = config.device.startswith("cuda")
    for name in config.models:
        best, flops = None, 0.0
        for kind in config.kinds:
            rates: dict[int, tuple[float, float]] = {}
            for batch in config.batches if best is None else (best,):
                if time.monotonic() > end:
                    return
                with suppress(torch.cuda.OutOfMemoryError):
                    if cuda:
                        torch.cuda.empty_cache()
                        torch.cuda.reset_peak_memory_stats()
                    try:
                        step, masks = make_step(config, name, kind, batch)
                    except ImportError as error:
                        yield f"| {name} | {kind} | not installed: {error.name} | | | | |"
                        break
                    rate = batch / seconds(step, masks)
                    rates[batch] = rate, torch.cuda.max_memory_allocated() / 1e9 if cuda else 0.0
                    if best is None and not flops:
                        flops = step_flops(step, masks[0]) / batch
                    if not shares and kind == KINDS[1]:
                        shares += where_time_goes(config, step, masks[:3])
                step = masks = None  # frees the card's memory
            if rates:
                batch = max(rates, key=lambda batch: rates[batch][0])
                best, (rate, memory) = best or batch, rates[batch]
                speed = f"{rate:.0f} | {rate * flops / 1e12:.3g} | {rate * flops / peak:.0%}"
                yield f"| {name} | {kind} | {batch} | {speed} | {memory:.1f} |"


def where_time_goes(config: GpuConfig, step: Step, masks: list[Tensor]) -> Iterator[str]:
    """Rows that say what the card does during steps, largest share first."""
    cuda = config.device.startswith("cuda")
    activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    spent_name = "self_device_time_total" if cuda else "self_cpu_time_total"
    began = now(masks[0].device)
    with profile(activities=[activity]) as profiler:
        for mask in masks:
            step(mask)
        wall = 1e6 * (now(masks[0].device) - began)
    times = dict.fromkeys([*KERNELS, "everything else"], 0.0)
    for event in profiler.key_averages():
        found = (kind for kind, words in KERNELS.items() if any(word in event.key.lower() for word in words))
        times[next(found, "everything else")] += getattr(event, spent_name)
    times["nothing: waiting for the program"] = max(0.0, wall - sum(times.values()))
    for kind, spent in sorted(times.items(), key=lambda item: -item[1]):
        yield f"| {kind} | {spent / wall:.0%} |"


class Traffic(TorchDispatchMode):
    """Counts the bytes of the tensors that operations read and write; views cost nothing."""

    moved = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
            self.moved += sum(x.nbytes for x in tensors)
        return result


def estimate_t4(batch: int = 2) -> str:
    """How fast a T4 can be at most, from what a step computes and moves, counted on the CPU."""
    shape = CONFIGS["facade_base"]
    images = torch.rand(batch, 3, shape.img_size, shape.img_size)
    mask = block_mask(batch, shape.grid_size, 0.5, torch.Generator().manual_seed(0))
    step = Step(WholeStep(shape, "random", torch.float16), torch.float16, images)
    step.module.blend.features = step.module.blend.features.forward  # of whole images, as on a GPU
    flops = step_flops(step, mask) / batch
    with Traffic() as traffic:
        step(mask)
    moved = traffic.moved / batch
    times = flops / T4["FLOP"], moved / T4["byte"]
    return ESTIMATE.format(
        flops=flops / 1e9,
        moved=moved / 1e9,
        peak=T4["FLOP"] / 1e12,
        rate=T4["byte"] / 1e9,
        compute=1e3 * times[0],
        traffic=1e3 * times[1],
        images=1 / max(times),
    )


def main(config: GpuConfig) -> None:
    """Measure, and write `gpu.md`."""
    t4 = ["", "## A T4", "", estimate_t4()]
    lines: list[str] = []
    shares: list[str] = []

    def write(*more: str) -> None:
        lines.extend(more)
        head = f"What the card does during compiled steps of `{config.models[0]}`, profiled:"
        profiled = ["", head, "", "| | share of the time |", "|---|---|", *shares] if shares else []
        write_report(config.out / "gpu.md", "Training on a GPU", ["", *lines, *profiled, *t4])

    if not config.device:
        write("Not measured: this machine has no GPU that torch can use.")
        return
    end = time.monotonic() + 60 * config.minutes
    peak = matmul_peak(torch.bfloat16, config.device, config.side)
    batches = ", ".join(map(str, config.batches))
    write(
        EXPLANATION.format(rounds=config.rounds, batches=batches, side=config.side),
        "",
        f"A plain product reaches {peak / 1e12:.3g} TFLOP/s.",
        "",
        "| shape | model | batch | images/s | TFLOP/s | share | peak, GB |",
        "|---|---|---|---|---|---|---|",
    )
    for row in measure(config, peak, end, shares):
        write(row)


if __name__ == "__main__":
    main(tyro.cli(GpuConfig))
