"""Data sets with labels, few of them on purpose: styles of facades, their windows and doors, CIFAR-10."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maelib.data.images import TEST_SEEDS
from maelib.facades import LABELS, STYLES, Facade, draw_facade
from maelib.masking import mask_from_pixels
from maelib.model import MAEConfig

LABEL_SEEDS = range(898_000_000, 899_000_000)  # facades to label, apart from those that anything is pre-trained on
ROOM = 10_000  # of these for each of 100 seeds
MOST_DRAWN = 3_000  # labels a seed, so that its room holds enough of the rarest style
PATCH_SHARE = 0.25  # of a patch that a window or door fills where the patch counts as one
IGNORED = -100  # the target that no loss and no score counts; PyTorch's own choice

Item = TypeVar("Item")


class Labelled(NamedTuple):
    """Images `(N, 3, H, W)` uint8 and their classes, `(N,)` int64, or `(N, patches)` with `IGNORED` in places."""

    images: Tensor
    targets: Tensor


def pick_balanced(items: Iterable[tuple[Item, int]], labels: int, classes: int) -> list[tuple[Item, int]]:
    """The first `labels` of the items, each with its class, that hold every class equally often, give or take one.

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
    """Classes of patches, positions in `PATCH_CLASSES`, from label maps `(N, H, W)` as `maelib.facades` draws them.

    A patch is a door where at least a quarter of it is, else a window likewise, else something other. One that void
    touches is `IGNORED`: nobody can say what stood there. Returns `(N, patches)` int64, row by row.
    """
    maps = torch.from_numpy(labels)[:, None]
    window, door = (
        F.avg_pool2d((maps == LABELS.index(name)).float(), patch_size).flatten(1) >= PATCH_SHARE
        for name in PATCH_CLASSES[1:]
    )
    targets = torch.where(door, 2, window.long())
    return targets.masked_fill(mask_from_pixels(maps[:, 0] == LABELS.index("void"), patch_size), IGNORED)


def _room(labels: int, seed: int) -> range:
    """Seeds of the facades that a data set's `seed` may draw."""
    if labels > MOST_DRAWN:
        raise ValueError(f"labels {labels} are more than the {MOST_DRAWN} facades kept for that; use fewer")
    start = LABEL_SEEDS[seed * ROOM]
    return range(start, start + ROOM)


def _images(facades: Iterable[Facade]) -> Tensor:
    return torch.from_numpy(np.stack([facade.image for facade in facades])).permute(0, 3, 1, 2)  # -> (N, 3, H, W)


def _styles(facades: list[Facade]) -> Labelled:
    return Labelled(_images(facades), torch.tensor([STYLES.index(facade.style) for facade in facades]))


def _few_styles(labels: int, seed: int, model: MAEConfig, folder: Path) -> Labelled:
    drawn = (draw_facade(i, model.img_size) for i in _room(labels, seed))
    picked = pick_balanced(((facade, STYLES.index(facade.style)) for facade in drawn), labels, len(STYLES))
    return _styles([facade for facade, _ in picked])


def _test_styles(count: int, model: MAEConfig, folder: Path) -> Labelled:
    return _styles([draw_facade(seed, model.img_size) for seed in TEST_SEEDS[:count]])


def _segmented(seeds: Iterable[int], model: MAEConfig) -> Labelled:
    facades = [draw_facade(seed, model.img_size) for seed in seeds]
    return Labelled(_images(facades), patch_targets(np.stack([facade.labels for facade in facades]), model.patch_size))


def _few_segmented(labels: int, seed: int, model: MAEConfig, folder: Path) -> Labelled:
    return _segmented(_room(labels, seed)[:labels], model)


def _test_segmented(count: int, model: MAEConfig, folder: Path) -> Labelled:
    return _segmented(TEST_SEEDS[:count], model)


@lru_cache(maxsize=2)
def _cifar10(folder: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """All images `(N, 32, 32, 3)` uint8 and classes `(N,)` of a part of CIFAR-10, downloaded where they are missing."""
    from torchvision.datasets import CIFAR10

    try:
        data = CIFAR10(folder, train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"CIFAR-10 is not in {folder} and cannot be downloaded ({error}); put cifar-10-python.tar.gz there, "
            "or give the folder that holds it with --folder"
        ) from error
    return data.data, np.asarray(data.targets)


def _few_cifar10(labels: int, seed: int, model: MAEConfig, folder: Path) -> Labelled:
    images, classes = _cifar10(folder, True)
    order = np.random.default_rng(seed).permutation(len(images))
    picked = pick_balanced(zip(order, classes[order], strict=True), labels, len(CIFAR_CLASSES))
    chosen = np.array([index for index, _ in picked])
    return Labelled(torch.from_numpy(images[chosen]).permute(0, 3, 1, 2), torch.from_numpy(classes[chosen]).long())


def _test_cifar10(count: int, model: MAEConfig, folder: Path) -> Labelled:
    images, classes = (array[:count] for array in _cifar10(folder, False))
    return Labelled(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(classes).long())


def mean_accuracy(confusion: Tensor) -> float:
    """Share of right answers, each class counting the same; from counts `(true, predicted)`. Guessing gets 1 / C."""
    return (confusion.diag() / confusion.sum(dim=1)).nanmean().item()


def mean_iou(confusion: Tensor) -> float:
    """Intersection over union, each class counting the same; from counts `(true, predicted)`."""
    right = confusion.diag()
    return (right / (confusion.sum(dim=0) + confusion.sum(dim=1) - right)).nanmean().item()


@dataclass(frozen=True)
class DataSet:
    """What a head can be trained for.

    Attributes
    ----------
    about : what is to be told from what.
    classes : their names; targets are positions in it.
    metric : name of the score.
    score : makes it of a confusion matrix.
    few : `few(labels, seed, model, folder)`: that many images with labels, others for another seed.
    test : `test(count, model, folder)`: at most so many images that no seed gives to train on.
    """

    about: str
    classes: tuple[str, ...]
    metric: str
    score: Callable[[Tensor], float]
    few: Callable[[int, int, MAEConfig, Path], Labelled]
    test: Callable[[int, MAEConfig, Path], Labelled]


PATCH_CLASSES = ("other", "window", "door")
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DATA_SETS: dict[str, DataSet] = {
    "style": DataSet(
        "the style of a drawn facade", STYLES, "mean accuracy of the classes", mean_accuracy, _few_styles, _test_styles
    ),
    "segmentation": DataSet(
        "window, door or other, for each patch of a drawn facade",
        PATCH_CLASSES, "mean intersection over union", mean_iou, _few_segmented, _test_segmented,
    ),
    "cifar10": DataSet(
        "ten kinds of animals and vehicles, on photos of 32 px",
        CIFAR_CLASSES, "mean accuracy of the classes", mean_accuracy, _few_cifar10, _test_cifar10,
    ),
}  # fmt: skip
