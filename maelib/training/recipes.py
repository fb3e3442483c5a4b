"""What decides a training run, and the runs that have a name."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from maelib.data.augment import Augment
from maelib.masking import hidden_count
from maelib.model import CONFIGS, MAEConfig
from maelib.perceptual import LAYERS


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run. The defaults train `facade_tiny` in a few minutes on two cores."""

    out: Path = Path("runs/facade_tiny")
    """folder of the run: model.safetensors (the last) and best.safetensors, state.safetensors to resume from, log.csv,
    config.json, curves and repairs as PNG"""
    model: MAEConfig = CONFIGS["facade_tiny"]
    """shape of the model"""
    init: Path | None = None
    """weights to start from instead of random ones: a checkpoint of the same shape, any size of image and patch, or
    for --recipe vit_base, vit_large or vit_huge a published file: the MAE authors' .pth, timm's, Hugging Face's"""
    data: Path | None = None
    """folder of .npy arrays and photos to learn from; without one, drawn facades are used. Of more than 4096 files each
    is read when it is needed, and bad ones are left out and listed"""
    drawn: int | None = None
    """facades to draw into the training pool; by default 20000 without a folder, 0 with one"""
    data_share: float = 0.5
    """where a folder and drawings are mixed, the folder's share of the images seen"""
    val_share: float = 0.2
    """share of the folder's files kept for validation"""
    skip_bad: bool = False
    """list bad files and leave them out instead of stopping at the first"""
    wedges: bool = True
    """look for the flat wedges that rectification leaves and keep them out of masks and losses"""
    augment: Augment = field(default_factory=Augment)
    """random changes of the training images"""
    steps: int = 3500
    """optimiser steps"""
    batch_size: int = 32
    """images a step, over all processes"""
    accumulate: int = 1
    """forward passes that a process makes of its images of a step, so that a large batch fits into a small memory"""
    shard: bool = False
    """let each of several processes hold a share of weights and optimiser state instead of all (FSDP2): slower, but a
    large model then fits"""
    compile: bool = False
    """compile the transformer blocks before the first step (torch.compile): faster on a GPU, after a minute or so of
    waiting; needs a C++ compiler on a CPU"""
    mask: Literal["random", "block", "multi_block", "grid", "square", "mixed"] = "mixed"
    """which patches to hide"""
    mask_ratio: tuple[float, float] = (0.25, 0.75)
    """share of patches to hide, drawn anew for each step between these two"""
    mse_weight: float = 1.0
    """weight of the masked squared error"""
    perceptual_weight: float = 0.0
    """weight of the perceptual loss"""
    vgg: str = "normalised"
    """VGG19 weights of the perceptual loss: normalised, imagenet, random, or a file in torchvision's layout"""
    vgg_layers: tuple[str, ...] = LAYERS
    """maps that it compares"""
    vgg_window: int = 1
    """compare how strong a map is over windows of so many places, not place by place: 4 makes repairs sharper"""
    all_patches: bool = False
    """count visible patches in the squared error as well"""
    log_mse: bool = False
    """minimise the logarithm of each image's squared error, so that faint facades count as much as strong ones"""
    optimizer: Literal["muon", "adamw"] = "muon"
    """muon: Muon for the blocks' matrices, AdamW for the rest; adamw: AdamW for all"""
    lr: float = 4e-3
    """highest learning rate, reached at the end of the warm-up"""
    weight_decay: float = 0.01
    """for matrices only: norms, biases, tokens and positions are never decayed"""
    warmup: float = 0.05
    """share of the steps over which the rate rises"""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """auto: bf16 where the device computes it natively"""
    seed: int = 0
    """of weights, order, masks and augmentation"""
    eval_every: int = 500
    """steps between validations, log rows and checkpoints"""
    keep: int = 2
    """last checkpoints to keep for resuming, beside the model that was best in validation"""
    on_nan: Literal["stop", "skip"] = "stop"
    """when the loss is infinite or no number: stop and name the images, or leave the step out"""
    val_images: int = 128
    """most images to validate on"""
    track: str | None = None
    """tracker to report to beside log.csv: wandb (offline unless logged in), or another that accelerate knows"""
    resume: bool = False
    """go on from the run's last checkpoint"""
    changed: bool = False
    """resume although other settings than length, validation and tracker are not those that the run was started with"""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every", "val_images", "lr", "vgg_window", "accumulate", "keep"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} {getattr(self, name)} is not positive; use more than 0")
        if not 0 < self.data_share < 1:
            raise ValueError(
                f"data_share {self.data_share} mixes nothing; use a share above 0 and below 1, such as 0.5"
            )
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup {self.warmup} is no share of the steps; use 0 to below 1, such as 0.05")
        if not self.mask_ratio[0] <= self.mask_ratio[1]:
            raise ValueError(f"mask_ratio {self.mask_ratio} runs backwards; put the lower ratio first")
        for ratio in self.mask_ratio:
            hidden_count(self.model.grid_size, ratio)


RECIPES: dict[str, TrainConfig] = {
    "facade_tiny": TrainConfig(),
    "facade_small": TrainConfig(
        out=Path("runs/facade_small"), model=CONFIGS["facade_small"], steps=6000, batch_size=64, log_mse=True
    ),
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
} | {
    name: TrainConfig(
        out=Path(f"runs/{name}"),
        model=replace(CONFIGS[name], norm_pix=False),  # a repair needs pixels, as mae_visualize_*.pth predict them
        steps=5000,
        optimizer="adamw",
        lr=1e-4,
        weight_decay=0.05,
        eval_every=250,
        shard=name == "vit_huge",
    )
    for name in ("vit_base", "vit_large", "vit_huge")
}
