"""How much of a GPU does training use? `python benchmarks/gpu.py`, beside Hugging Face's model.

Forward, loss, backward and AdamW's step in bf16, 75% of the patches hidden. Without a GPU the report says that nothing
was measured; `--device cpu` tries the way there.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from common import RESULTS, write_report
from peers import make_peer
from speed import Step, in_turns, matmul_peak, step_flops

from maelib.masking import random_mask
from maelib.model import CONFIGS

EXPLANATION = """\
Images a second, medians of {rounds} steps after 3 others, the kinds taking turns. TFLOP/s: the products of forward and
backward; the share is of what a plain bf16 product of 8192 x 8192 reaches on the same card. "compiled" is
`maelib train --compile`."""


@dataclass(frozen=True)
class GpuConfig:
    """Time bf16 training steps on a GPU."""

    device: str = "cuda" if torch.cuda.is_available() else ""
    """where to compute; by default a GPU, or nowhere"""
    batch_size: int = 128
    """images a step"""
    rounds: int = 7
    """steps of each kind"""
    models: tuple[str, ...] = ("facade_base", "vit_base", "vit_large", "vit_huge")
    """named configurations"""
    side: int = 8192
    """of the matrices that give the peak"""
    out: Path = RESULTS
    """folder of the report"""


def measure(config: GpuConfig, name: str, peak: float) -> list[str]:
    """Rows of one configuration."""
    shape = CONFIGS[name]
    images = torch.rand(config.batch_size, 3, shape.img_size, shape.img_size, device=config.device)
    masks = [
        random_mask(len(images), shape.grid_size, 0.75, torch.Generator().manual_seed(i)).to(images.device)
        for i in range(config.rounds + 1)
    ]
    kinds = {
        kind: Step(make_peer(kind, shape), torch.bfloat16, images)
        for kind in ("maelib", "maelib, compiled", "Hugging Face")
    }
    flops = step_flops(kinds["maelib"], masks[0])
    in_turns(kinds, masks[:3])  # compiles, and settles the clocks
    rows = []
    for kind, (wall, _) in in_turns(kinds, masks).items():
        rows.append(
            f"| {name} | {kind} | {len(images) / wall:.0f} | {flops / wall / 1e12:.1f} | {flops / wall / peak:.0%} |"
        )
        print(rows[-1], flush=True)
    return rows


def main(config: GpuConfig) -> None:
    """Measure, and write `gpu.md`."""
    lines = ["", "Not measured: this machine has no GPU that torch can use."]
    if config.device:
        peak = matmul_peak(torch.bfloat16, config.device, config.side)
        lines = [
            EXPLANATION.format(rounds=config.rounds),
            "",
            f"Batch {config.batch_size}; a plain product reaches {peak / 1e12:.1f} TFLOP/s.",
            "",
            "| shape | model | images/s | TFLOP/s | share |",
            "|---|---|---|---|---|",
            *(row for name in config.models for row in measure(config, name, peak)),
        ]
    write_report(config.out / "gpu.md", "Training on a GPU", lines)


if __name__ == "__main__":
    main(tyro.cli(GpuConfig))
