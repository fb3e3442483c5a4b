"""A linear head on the encoder of a masked autoencoder: fitted on frozen features, or trained together with it.

The head sees the encoder's tokens: their mean, where an image has a class, or each of them, where a patch has one.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from maelib.data.augment import Augment, to_float
from maelib.data.images import StepSampler
from maelib.model import MaskedAutoencoder
from maelib.training.devices import native_bf16
from maelib.training.optim import lr_scale, make_optimizers
from maelib.transfer.labelled import IGNORED, Labelled

BATCH_SIZE = 64  # where nothing is trained


class Classifier(nn.Module):
    """An encoder with a linear head: images `(B, 3, H, W)` in [0, 1] to scores `(B, C)`, or `(B, N, C)` per patch.

    Images of another size than the encoder was trained at are resampled to it.
    """

    def __init__(self, encoder: MaskedAutoencoder, classes: int, per_patch: bool) -> None:
        super().__init__()
        self.encoder, self.per_patch = encoder, per_patch
        device = encoder.mask_token.device
        self.head = nn.utils.skip_init(nn.Linear, encoder.config.embed_dim, classes, device=device)  # draws nothing
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def features(self, images: Tensor) -> Tensor:
        """What the head sees: the mean of the patches' tokens `(B, D)`, or all of them `(B, N, D)`."""
        size, extra = self.encoder.config.img_size, int(self.encoder.config.class_token)
        if images.shape[2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        tokens = self.encoder.encode(images)[:, extra:]  # (B, [1 +] N, D) -> (B, N, D)
        return tokens if self.per_patch else tokens.mean(dim=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    @torch.no_grad()
    def in_batches(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Results, on the CPU, of `self` or `self.features` for uint8 images `(N, 3, H, W)`, however many."""
        device = self.head.weight.device
        return torch.cat([function(to_float(some.to(device))).cpu() for some in images.split(BATCH_SIZE)])


def probe(model: MaskedAutoencoder, few: Labelled, classes: int, penalty: float = 0.01) -> Classifier:
    """Fit a linear head on what a frozen encoder makes of a few labelled images: the best head, the same at every call.

    Features are standardised, as by the batch normalisation without weights of He et al. 2022, appendix A.1. Then
    logistic regression is solved in full, by L-BFGS; `penalty`, above 0, is the weight of half the head's squared
    weights beside the mean cross-entropy. The head that is returned has the standardisation in its own weights.
    """
    classifier = Classifier(model, classes, few.targets.ndim == 2).eval()
    features = classifier.in_batches(classifier.features, few.images).double().flatten(0, -2)  # (N, [n,] D) -> (M, D)
    targets = few.targets.flatten()  # (N, [n]) -> (M,)
    features, targets = features[targets != IGNORED], targets[targets != IGNORED]
    mean, deviation = features.mean(dim=0), features.std(dim=0, correction=0).clamp(min=1e-6)
    features = (features - mean) / deviation
    weight = torch.zeros(classes, features.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=300, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(features @ weight.T + bias, targets) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    with torch.no_grad():
        classifier.head.weight.copy_(weight / deviation)
        classifier.head.bias.copy_(bias - weight @ (mean / deviation))
    return classifier


@dataclass(frozen=True)
class Finetuning:
    """How encoder and head are trained together."""

    steps: int = 60
    """optimiser steps"""
    batch_size: int = 16
    """images a step"""
    optimizer: Literal["muon", "adamw"] = "muon"
    """muon: Muon for the blocks' matrices, AdamW for the rest; adamw: AdamW for all"""
    lr: float = 3e-3
    """highest learning rate, reached at the end of the warm-up"""
    weight_decay: float = 0.05
    """for matrices only"""
    warmup: float = 0.1
    """share of the steps over which the rate rises"""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "lr"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} {getattr(self, name)} is not positive; use more than 0")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup {self.warmup} is no share of the steps; use 0 to below 1, such as 0.1")


def finetune(model: MaskedAutoencoder, few: Labelled, classes: int, how: Finetuning, seed: int) -> Classifier:
    """Train a copy of the encoder, and a linear head on it, on a few labelled images.

    `seed` decides their order and augmentation: colour jitter, and flips unless patches have classes, which a flip
    would part from theirs.
    """
    per_patch = few.targets.ndim == 2
    classifier = Classifier(copy.deepcopy(model), classes, per_patch).train()
    device, size = classifier.head.weight.device, model.config.img_size
    augment = Augment(flip=0) if per_patch else Augment()
    optimizers = make_optimizers(classifier, how.optimizer, how.lr, how.weight_decay)
    for step, batch in enumerate(StepSampler(range(len(few.images)), how.batch_size, how.steps, seed)):
        images = augment(few.images[batch].to(device), size, Generator().manual_seed(seed * 1_000_003 + step))
        with torch.autocast(device.type, torch.bfloat16, enabled=native_bf16(device)):
            scores = classifier(images).float().flatten(0, -2)  # (B, [N,] C) -> (M, C)
        targets = few.targets[batch].flatten().to(device)  # (B, [N]) -> (M,)
        if (targets != IGNORED).any():  # a mean over nothing is NaN
            F.cross_entropy(scores, targets, ignore_index=IGNORED).backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = how.lr * lr_scale(step, how.steps, how.warmup)
            optimizer.step()
            optimizer.zero_grad()
    return classifier.eval()


def confusion(classifier: Classifier, labelled: Labelled) -> Tensor:
    """How often each class is taken for each, counts `(true, predicted)`; `IGNORED` targets do not count."""
    classes, targets = classifier.head.out_features, labelled.targets.flatten()
    predicted = classifier.in_batches(classifier, labelled.images).argmax(dim=-1).flatten()
    pairs = (targets * classes + predicted)[targets != IGNORED]
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)
