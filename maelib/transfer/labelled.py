"""Small sets of labelled images: the styles of drawn facades, their windows and doors, and CIFAR-10."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import default_collate

from maelib.data.images import TEST_SEEDS
from maelib.facades import LABELS, STYLES, draw_facade
from maelib.masking import mask_from_pixels
from maelib.model import MAEConfig

# Facades that nothing is pre-trained on and nothing is tested on, 10,000 for each of 100 seeds.
LABEL_SEEDS = range(898_000_000, 899_000_000)
PATCH_CLASSES = ("other", "window", "door")
PATCH_SHARE = 0.25  # share of a patch that a window or door must cover to give the patch its class
IGNORED = -100  # the target that counts in no loss and in no score; PyTorch's own choice

Pairs = Iterator[tuple[Tensor, Any]]


class Labelled(NamedTuple):
    """Images `(N, 3, H, W)` uint8 with int64 targets: `(N,)`, or `(N, patches)` with `IGNORED` for some patches."""

    images: Tensor
    targets: Tensor


@dataclass(frozen=True)
class DataSet:
    """A task for a linear head.

    Attributes
    ----------
    classes : number of classes.
    metric : name of the score.
    score : computes the score in [0, 1] from a confusion matrix.
    pairs : `pairs(seed, model, folder)` yields images `(3, H, W)` uint8 with their targets: images to train on,
        different ones for each seed, or images to test on where the seed is None.
    balanced : whether each class gets equally many of the training images.
    """

    classes: int
    metric: str
    score: Callable[[Tensor], float]
    pairs: Callable[[int | None, MAEConfig, Path], Pairs]
    balanced: bool = True

    def few(self, labels: int, seed: int, model: MAEConfig, folder: Path) -> Labelled:
        """Return `labels` images to train on, drawn at the size of `model` or read from `folder`."""
        pairs = self.pairs(seed, model, folder)
        picked = pick_balanced(pairs, labels, self.classes) if self.balanced else list(islice(pairs, labels))
        return Labelled(*default_collate(picked))

    def test(self, count: int, model: MAEConfig, folder: Path) -> Labelled:
        """Return up to `count` images to test on, which no seed trains on."""
        return Labelled(*default_collate(list(islice(self.pairs(None, model, folder), count))))


def pick_balanced(items: Iterable[tuple[Any, int]], labels: int, classes: int) -> list[tuple[Any, int]]:
    """Pick the first `labels` pairs (item, class) in which every class occurs equally often, give or take one.

    Raises
    ------
    ValueError
        When there are fewer labels than classes, or too few items of a class.
    """
    if labels < classes:
        raise ValueError(f"labels {labels} cannot show each of {classes} classes; use {classes} or more")
    wanted = np.full(classes, labels // classes) + (np.arange(classes) < labels % classes)
    found, picked = np.zeros(classes, int), []
    for item, label in items:
        if found[label] < wanted[label]:
            picked.append((item, label))
            if len(picked) == labels:
                return picked
        found[label] += 1
    raise ValueError(f"labels {labels} are more than there are; use {classes * found.min()} or fewer")


def patch_targets(labels: np.ndarray, patch_size: int) -> Tensor:
    """Turn label maps `(N, H, W)` of drawn facades into targets `(N, patches)` int64, positions in `PATCH_CLASSES`.

    A patch is a door where doors cover at least a quarter of it, otherwise a window where windows do. A patch that
    touches void is `IGNORED`, because nobody can say what stood there.
    """
    maps = torch.from_numpy(labels)[:, None]
    window, door = (
        F.avg_pool2d((maps == LABELS.index(name)).float(), patch_size).flatten(1) >= PATCH_SHARE
        for name in PATCH_CLASSES[1:]
    )
    targets = torch.where(door, 2, window.long())
    return targets.masked_fill(mask_from_pixels(maps[:, 0] == LABELS.index("void"), patch_size), IGNORED)


def _drawn(per_patch: bool, seed: int | None, model: MAEConfig, folder: Path) -> Pairs:
    """Yield the `pairs` of drawn facades with the style or with the classes of the patches, drawn one by one."""
    seeds = TEST_SEEDS if seed is None else LABEL_SEEDS[seed * 10_000 : (seed + 1) * 10_000]
    for facade in (draw_facade(i, model.img_size) for i in seeds):
        image = torch.from_numpy(facade.image).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
        target = patch_targets(facade.labels[None], model.patch_size)[0] if per_patch else STYLES.index(facade.style)
        yield image, target


def _cifar10(seed: int | None, model: MAEConfig, folder: Path) -> Pairs:
    """Yield the `pairs` of CIFAR-10 at the size of `model`; the data are downloaded if they are missing."""
    from torchvision.datasets import CIFAR10
    from torchvision.transforms.functional import pil_to_tensor

    size = model.img_size, model.img_size
    try:
        data = CIFAR10(folder, train=seed is not None, download=True)
    except (OSError, RuntimeError) as error:
        cure = "put cifar-10-python.tar.gz there or use --folder"
        raise FileNotFoundError(f"CIFAR-10 cannot be downloaded to {folder} ({error}); {cure}") from error
    order = range(len(data)) if seed is None else np.random.default_rng(seed).permutation(len(data))
    yield from ((pil_to_tensor(data[i][0].resize(size)), data[i][1]) for i in order)


def mean_accuracy(confusion: Tensor) -> float:
    """Mean over classes of the share of right answers, from counts `(true, predicted)`; guessing reaches 1 / C."""
    return (confusion.diag() / confusion.sum(dim=1)).nanmean().item()


def mean_iou(confusion: Tensor) -> float:
    """Mean over classes of intersection over union, from counts `(true, predicted)`."""
    right = confusion.diag()
    return (right / (confusion.sum(dim=0) + confusion.sum(dim=1) - right)).nanmean().item()


DATA_SETS = {
    "style": DataSet(len(STYLES), "mean accuracy of the classes", mean_accuracy, partial(_drawn, False)),
    "segmentation": DataSet(3, "mean intersection over union", mean_iou, partial(_drawn, True), balanced=False),
    "cifar10": DataSet(10, "mean accuracy of the classes", mean_accuracy, _cifar10),
}
