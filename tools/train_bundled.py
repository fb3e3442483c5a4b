"""Train the bundled model on a GPU for about so many minutes: `python tools/train_bundled.py MINUTES FOLDER`.

`maelib train --recipe facade_medium` learns from the same facades and masks, but for a model this small the card would
wait for the program. Here drawings, augmentation and masks are the card's, and Muon takes all matrices of a shape at
once. The learning rate follows the clock: a run ends when its time does, and its rate has then fallen to 0. Other
processes go on drawing meanwhile, and what they have drawn is learnt from at once.

FOLDER gets logs and the weights in float16, half the size, several times a stage; reading them gives float32 again. If
it holds weights already, they are trained further with a low rate, `python tools/train_bundled.py 10 FOLDER`; this also
works without a GPU.
"""

import os
import random
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from timm.optim.muon import zeropower_via_newtonschulz
from torch import Generator, Tensor
from torch.optim import AdamW, Optimizer

from maelib.data.augment import Augment
from maelib.data.images import DrawnImages
from maelib.losses import ReconstructionLoss
from maelib.masking import mixed_mask
from maelib.model import MaskedAutoencoder
from maelib.training.log import write_log
from maelib.training.optim import lr_scale, parameter_groups
from maelib.training.recipes import RECIPES
from maelib.training.train import VALIDATION_SEED
from maelib.training.validation import Validation
from maelib.weights import start_from
from maelib.weights.checkpoint import save_model

RECIPE = RECIPES["facade_medium"]
WEIGHTS = "facade_medium.safetensors"
DRAWN = 20_000  # facades in a pool
POOLS, BATCH = (10, 1024) if torch.cuda.is_available() else (1, 128)
REPORTS = 6  # a stage


@dataclass(frozen=True)
class Stage:
    """A part of the training."""

    log: str
    size: int  # of the images, in pixels
    share: float  # of the minutes
    lr: float
    augment: Augment


STAGES = (
    Stage("log64.csv", 64, 0.35, 4e-3, Augment(scale=(0.7, 1.0), jitter=0.3, hue=0.05)),
    Stage("log96.csv", 96, 0.65, 2e-3, Augment(jitter=0.2, hue=0.05)),
)
FURTHER = replace(STAGES[-1], log="further.csv", lr=2.5e-4)


class Muon(Optimizer):
    """What `torch.optim.Muon` does with `adjust_lr_fn="match_rms_adamw"`, to all matrices of one shape at a time."""

    def __init__(self, params: list[Tensor], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        shapes = {p.shape for p in params}
        groups = [{"params": [p for p in params if p.shape == shape]} for shape in shapes]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            params, lr, momentum = group["params"], group["lr"], group["momentum"]
            gradient = torch.stack([p.grad for p in params])
            average = self.state[params[0]].setdefault("average", torch.zeros_like(gradient))
            average.lerp_(gradient, 1 - momentum)
            update = zeropower_via_newtonschulz(gradient.lerp(average, momentum), 5, [(3.4445, -4.775, 2.0315)])
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
            update = update.to(gradient.dtype) * (-0.2 * lr * max(params[0].shape) ** 0.5)
            torch._foreach_add_(params, list(update.unbind()))


def make_optimizers(model: MaskedAutoencoder, weight_decay: float) -> list[Optimizer]:
    """As `maelib.training.optim.make_optimizers`, with fewer and larger operations."""
    groups = parameter_groups(model)
    plain = [{"params": groups["matrices"]}, {"params": groups["rest"], "weight_decay": 0.0}]
    adamw = AdamW(plain, weight_decay=weight_decay, fused=True)
    return [Muon(groups["hidden"], 0.0, weight_decay), adamw]


def draw_pools(size: int, device: str, pools: list[Tensor]) -> None:
    """Draw pool after pool, and put each `(N, size, size, 4)` uint8 on the device."""
    for seed in range(POOLS):
        drawn = DrawnImages(DRAWN, size, seed, workers=max(1, (os.cpu_count() or 1) - 2))
        pools.append(torch.tensor(drawn.pixels).to(device))


def make_step(stage: Stage, model: MaskedAutoencoder, loss_of: ReconstructionLoss, generator: Generator):
    """A function that takes a pool and returns the loss of a batch drawn from it, its gradient computed."""
    device, (low, high) = generator.device, RECIPE.mask_ratio
    shape = model.config

    def step(pool: Tensor) -> Tensor:
        with torch.device(device):
            images = pool[torch.randint(len(pool), (BATCH,), generator=generator)].permute(0, 3, 1, 2)
            images = stage.augment(images, stage.size, generator)[0]
            mask = mixed_mask(BATCH, shape.grid_size, random.uniform(low, high), generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            prediction = model(images, mask)
        loss = loss_of(prediction.float(), images, mask)["loss"]
        loss.backward()
        return loss.detach()

    return step


def run_stage(stage: Stage, seconds: float, pools: list[Tensor], device: str, folder: Path) -> None:
    """Train for so many seconds, from the weights in `folder` if there are any."""
    shape, file = replace(RECIPE.model, img_size=stage.size), folder / WEIGHTS
    config = replace(RECIPE, model=shape, augment=stage.augment)
    model, plain = (MaskedAutoencoder(shape).to(device) for _ in range(2))  # `plain` is validated, without compiling
    if file.is_file():
        start_from(model, file)
    for blocks, dynamic in ((model.blocks, True), (model.decoder_blocks, False)) if device == "cuda" else ():
        for block in blocks:
            block.compile(dynamic=dynamic)  # each step leaves another number of patches visible
    loss_of = ReconstructionLoss(shape, log_mse=True)
    validation = Validation(DrawnImages(config.val_images, stage.size, VALIDATION_SEED), config, torch.device(device))
    step = make_step(stage, model, loss_of, Generator(device).manual_seed(stage.size))
    optimizers, rows, losses, steps, began = make_optimizers(model, config.weight_decay), [], [], 0, time.monotonic()
    while len(rows) < REPORTS:
        share = min(1.0, (time.monotonic() - began) / seconds)
        lr = stage.lr * lr_scale(round(1000 * share), 1000, config.warmup)
        losses.append(step(random.choice(pools)))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad()
        steps += 1
        if share >= (len(rows) + 1) / REPORTS:
            plain.load_state_dict(model.state_dict())
            row = {"step": steps, "lr": lr, "train_loss": torch.stack(losses).mean().item()}
            rows.append(row | validation(plain, loss_of))
            write_log(folder / stage.log, rows)
            save_model(file, plain.half(), {})
            plain.float()
            rate = BATCH * steps / (time.monotonic() - began)
            print(f"{stage.size} px, {len(pools) * DRAWN} facades, {rate:.0f} images/s: {rows[-1]}", flush=True)
            losses = []


def main(minutes: float, folder: Path) -> None:
    """Train all stages, or further."""
    device, began, pools = "cuda" if torch.cuda.is_available() else "cpu", time.monotonic(), []
    stages = [FURTHER] if (folder / WEIGHTS).is_file() else STAGES
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    random.seed(0)
    threading.Thread(target=draw_pools, args=(RECIPE.model.img_size, device, pools), daemon=True).start()
    while not pools:
        time.sleep(0.1)
    for i, stage in enumerate(stages):
        left = 60 * minutes - (time.monotonic() - began)
        run_stage(stage, left * stage.share / sum(other.share for other in stages[i:]), pools, device, folder)


if __name__ == "__main__":
    main(float(sys.argv[1]), Path(sys.argv[2]))
