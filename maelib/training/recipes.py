"""What decides a training run, and the runs that have a name."""

import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from maelib.data.augment import Augment
from maelib.masking import hidden_count
from maelib.model import CONFIGS, MAEConfig
from maelib.perceptual import LAYERS


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run. The defaults train `facade_tiny` in a few minutes on two cores."""

    out: Path = Path("runs/facade_tiny")
    """folder of the run: model.safetensors (the last) and best.safetensors, two states to resume from, log.csv,
    config.json, curves and repairs as PNG"""
    model: MAEConfig = CONFIGS["facade_tiny"]
    """shape of the model"""
    init: Path | None = None
    """weights to start from instead of random ones: a checkpoint of the same shape, of any image and patch size;
    or, for the recipes vit_base, vit_large and vit_huge, a published file of the MAE authors, timm or Hugging Face"""
    data: Path | None = None
    """folder of .npy arrays and photos to learn from; without one, facades are drawn"""
    drawn: int | None = None
    """number of facades to draw for training; the default is 20000 without a folder, 0 with one"""
    val_share: float = 0.2
    """share of the folder's files kept for validation"""
    skip_bad: bool = False
    """warn of files that cannot be used and leave them out, instead of stopping at the first"""
    border_fill: bool = True
    """look for the flat corners that rectification leaves in photos, and keep them out of masks and losses"""
    augment: Augment = field(default_factory=Augment)
    """random changes of the training images"""
    steps: int = 3500
    """optimiser steps"""
    batch_size: int = 32
    """images a step, over all processes"""
    accumulate: int = 1
    """forward passes into which a process divides its images of a step, so that a large batch fits into memory"""
    compile: bool = False
    """compile the transformer blocks (torch.compile): faster on a GPU, after a minute; a CPU needs a C++ compiler"""
    mask: Literal["random", "block", "multi_block", "grid", "square", "mixed"] = "mixed"
    """which patches to hide"""
    mask_ratio: tuple[float, float] = (0.25, 0.75)
    """lowest and highest share of patches to hide; each step draws its own"""
    mse_weight: float = 1.0
    """weight of the masked squared error"""
    perceptual_weight: float = 0.0
    """weight of the perceptual loss"""
    vgg: str = "normalised"
    """VGG19 weights of the perceptual loss: normalised, imagenet, random, or a file in torchvision's layout"""
    vgg_layers: tuple[str, ...] = LAYERS
    """feature maps that the perceptual loss compares"""
    vgg_window: int = 1
    """compare the strength of a feature over neighbourhoods this wide instead of place by place; 4 sharpens repairs"""
    log_mse: bool = False
    """minimise the logarithm of each image's squared error, so that faint facades count as much as strong ones"""
    optimizer: Literal["muon", "adamw"] = "muon"
    """muon: Muon for the matrices of the blocks, AdamW for the rest; adamw: AdamW for all"""
    lr: float = 4e-3
    """highest learning rate, reached at the end of the warm-up"""
    weight_decay: float = 0.01
    """applied to matrices only: norms, biases, tokens and positions do not decay"""
    warmup: float = 0.05
    """share of the steps over which the learning rate rises"""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the device computes it natively, fp16 with scaled gradients on other GPUs, else float32"""
    seed: int = 0
    """seed of weights, order, masks and augmentation"""
    eval_every: int = 500
    """steps between validations, log rows and checkpoints"""
    val_images: int = 128
    """largest number of images to validate on"""
    track: str | None = None
    """experiment tracker to report to beside log.csv: wandb, offline unless you are logged in"""
    resume: bool = False
    """continue from the run's last checkpoint"""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "eval_every", "val_images", "vgg_window", "lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)} is not positive and finite; use more than 0")
        if not 0 < self.val_share < 1:
            raise ValueError(f"val_share {self.val_share} is not a share; use more than 0 and less than 1, such as 0.2")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup {self.warmup} is not a share of the steps; use 0 to below 1, such as 0.05")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed {self.seed} is out of range; use 0 to {2**32 - 1}")
        if self.track not in (None, "wandb"):
            raise ValueError(f"track {self.track!r} is not known; use wandb")
        if self.data is None and self.drawn == 0:
            raise ValueError("drawn 0 without a data folder leaves nothing to learn from; give one of them")
        for ratio in self.mask_ratio:
            hidden_count(self.model.grid_size, ratio)


def plain(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON holds it."""
    return json.loads(json.dumps(asdict(config), default=str))


RECIPES: dict[str, TrainConfig] = (
    {"facade_tiny": TrainConfig()}
    | {
        name: TrainConfig(out=Path(f"runs/{name}"), model=CONFIGS[name], steps=6000, batch_size=64, log_mse=True)
        for name in ("facade_small", "facade_medium")
    }
    | {
        "facade_base": TrainConfig(
            out=Path("runs/facade_base"),
            model=CONFIGS["facade_base"],
            augment=Augment(rotation=10.0, scale=(0.8, 1.0), jitter=0.2, hue=0.1),
            steps=100_000,
            batch_size=16,
            mask="block",
            mask_ratio=(0.5, 0.5),
            mse_weight=0.6,
            perceptual_weight=0.4,
            optimizer="adamw",
            lr=3e-4,
        ),
    }
    | {
        name: TrainConfig(
            out=Path(f"runs/{name}"),
            model=replace(CONFIGS[name], norm_pix=False),  # a repair needs pixels, as mae_visualize_*.pth predict them
            steps=5000,
            optimizer="adamw",
            lr=1e-4,
            weight_decay=0.05,
            eval_every=250,
        )
        for name in ("vit_base", "vit_large", "vit_huge")
    }
)
