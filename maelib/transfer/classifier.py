"""A linear head on the encoder of a masked autoencoder, fitted on frozen features or trained with the encoder.

The head sees the encoder's tokens: their mean where an image has one class, each token where each patch has one.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from maelib.data.augment import Augment, to_float
from maelib.data.images import StepSampler
from maelib.model import MaskedAutoencoder
from maelib.training.launch import native_bf16
from maelib.training.optim import lr_scale, make_optimizers
from maelib.transfer.labelled import IGNORED, Labelled


class Classifier(nn.Module):
    """An encoder with a linear head: images `(B, 3, H, W)` in [0, 1] to scores `(B, C)`, or `(B, N, C)` per patch."""

    def __init__(self, encoder: MaskedAutoencoder, classes: int, per_patch: bool) -> None:
        super().__init__()
        self.encoder, self.per_patch = encoder, per_patch
        # skip_init leaves the global random numbers alone
        self.head = nn.utils.skip_init(nn.Linear, encoder.config.embed_dim, classes, device=encoder.mask_token.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def features(self, images: Tensor) -> Tensor:
        """Return the input of the head: the mean of the patches' tokens `(B, D)`, or all of them `(B, N, D)`."""
        tokens = self.encoder.encode(images)[:, int(self.encoder.config.class_token) :]  # (B, [1 +] N, D) -> (B, N, D)
        return tokens if self.per_patch else tokens.mean(dim=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    @torch.no_grad()
    def in_batches(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Apply `self` or `self.features` to uint8 images `(N, 3, H, W)`, 64 at a time; the result is on the CPU."""
        device = self.head.weight.device
        return torch.cat([function(to_float(some.to(device))).cpu() for some in images.split(64)])


def probe(model: MaskedAutoencoder, few: Labelled, classes: int, penalty: float = 0.01) -> Classifier:
    """Fit the best linear head on the features that a frozen encoder makes of a few labelled images.

    Features are standardised, as by the batch normalisation without weights of He et al. 2022, appendix A.1. L-BFGS
    then solves logistic regression to the optimum, so the result is the same at every call. `penalty`, above 0, is
    the weight of half the sum of the head's squared weights beside the mean cross-entropy. The returned head contains
    the standardisation in its weights.
    """
    classifier = Classifier(model, classes, few.targets.ndim == 2).eval()
    features = classifier.in_batches(classifier.features, few.images).double().flatten(0, -2)  # (N, [n,] D) -> (M, D)
    targets = few.targets.flatten()  # (N, [n]) -> (M,)
    features, targets = features[targets != IGNORED], targets[targets != IGNORED]
    mean, deviation = features.mean(dim=0), features.std(dim=0, correction=0).clamp(min=1e-6)
    features = (features - mean) / deviation
    weight, bias = (zeros.detach().cpu().double().requires_grad_() for zeros in classifier.head.parameters())
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


def finetune(
    model: MaskedAutoencoder, few: Labelled, classes: int, steps: int, batch_size: int, lr: float, seed: int
) -> Classifier:
    """Train a copy of the encoder, and a linear head on it, on a few labelled images.

    `lr` is the highest learning rate. `seed` decides the order of the images and their augmentation: colour jitter,
    and flips unless patches have classes, because the targets are not flipped along.

    Raises
    ------
    FloatingPointError
        When the loss is not finite.
    """
    per_patch = few.targets.ndim == 2
    classifier = Classifier(copy.deepcopy(model), classes, per_patch).train()
    device, size = classifier.head.weight.device, model.config.img_size
    augment = Augment(flip=0) if per_patch else Augment()
    optimizers = make_optimizers(classifier, "muon", lr, weight_decay=0.05)
    for step, batch in enumerate(StepSampler(range(len(few.images)), batch_size, steps, seed)):
        images, _ = augment(few.images[batch].to(device), size, Generator().manual_seed(seed * 1_000_003 + step))
        with torch.autocast(device.type, torch.bfloat16, enabled=native_bf16(device)):
            scores = classifier(images).float().flatten(0, -2)  # (B, [N,] C) -> (M, C)
        targets = few.targets[batch].flatten().to(device)  # (B, [N]) -> (M,)
        if (targets != IGNORED).any():  # a mean over nothing is NaN
            F.cross_entropy(scores, targets, ignore_index=IGNORED).backward()
        if not scores.isfinite().all():
            raise FloatingPointError(f"step {step + 1}: the scores are not finite; use a lower lr than {lr:g}")
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * lr_scale(step, steps, warmup=0.1)
            optimizer.step()
            optimizer.zero_grad()
    return classifier.eval()


def confusion(classifier: Classifier, labelled: Labelled) -> Tensor:
    """Count how often each class is taken for each class, `(true, predicted)`; `IGNORED` targets do not count."""
    classes, targets = classifier.head.out_features, labelled.targets.flatten()
    predicted = classifier.in_batches(classifier, labelled.images).argmax(dim=-1).flatten()
    pairs = (targets * classes + predicted)[targets != IGNORED]
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)
