"""Exercises of notebook 00: masks, pasting, hole PSNR."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from maelib.course.exercises.exercise import Exercise
from maelib.metrics import hole_psnr


def _masks() -> list[tuple[Tensor]]:
    """A batch of masks `(B, N)` whose rows hide different shares, none of them a half."""
    return [(torch.arange(8) < torch.tensor([[1], [2], [6]]),)]


def _repairs() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Three pictures `(B, C, H, W)`, predictions that are wrong everywhere, a hole `(B, H, W)` in each."""
    generator = Generator().manual_seed(0)
    images, predictions = torch.rand(2, 3, 3, 4, 6, generator=generator)
    hole = torch.zeros(3, 4, 6, dtype=torch.bool)
    hole[0, :2], hole[1, 1:3, 2:], hole[2, :, :1] = True, True, True
    return [(images, predictions, hole)]


def _squared_error(images: Tensor, predictions: Tensor, hole: Tensor) -> Tensor:
    """Mean squared error in the hole, `(B,)`."""
    error = ((images - predictions) ** 2).mean(dim=1)  # (B, C, H, W) -> (B, H, W)
    return (error * hole).sum(dim=(1, 2)) / hole.sum(dim=(1, 2))


def _psnr_with(factor: float, log: Callable[[Tensor], Tensor] = torch.log10) -> Callable[..., Tensor]:
    return lambda images, predictions, hole: factor * log(_squared_error(images, predictions, hole))


EXERCISES = {
    "00.1": Exercise(
        cases=_masks,
        solution=lambda mask: mask.float().mean(dim=1),
        praise="A mask turned into numbers averages to the share of patches that it hides.",
        mistakes=(
            (lambda mask: 1 - mask.float().mean(dim=1), "These are the visible shares: True means hidden."),
            (lambda mask: mask.sum(dim=1), "These are counts: divide by the number of patches, mask.shape[1]."),
            (lambda mask: mask.float().mean(), "This is one share for the whole batch: dim=1 gives one for each row."),
            (lambda mask: mask.float().mean(dim=0), "This averages over the batch: patches run along dim=1."),
            (lambda mask: mask.mean(dim=1), "Bools have no mean: turn them into numbers first, mask.float()."),
        ),
    ),
    "00.2": Exercise(
        cases=_repairs,
        solution=lambda images, predictions, hole: torch.where(hole[:, None], predictions, images),
        praise="Only the hole has changed: this is what model.reconstruct returns.",
        mistakes=(
            (
                lambda images, predictions, hole: torch.where(hole[:, None], images, predictions),
                "Prediction and picture are swapped: the prediction belongs where hole is True, the picture elsewhere.",
            ),
            (
                lambda images, predictions, hole: torch.where(hole, predictions, images),
                "The holes are matched with colours, not with pictures: write hole[:, None], of shape (B, 1, H, W).",
            ),
            (
                lambda images, predictions, hole: predictions,
                "This is the prediction alone: around the hole, the picture's own pixels must stay.",
            ),
            (
                lambda images, predictions, hole: images * ~hole[:, None],
                "The hole is cut out but not filled: add the prediction where hole is True.",
            ),
        ),
    ),
    "00.3": Exercise(
        cases=_repairs,
        solution=lambda images, predictions, hole: hole_psnr(predictions, images, hole),
        praise="The same decibels as maelib.metrics.hole_psnr.",
        mistakes=(
            (
                lambda images, predictions, hole: -10 * ((predictions - images) ** 2).mean(dim=(1, 2, 3)).log10(),
                "Pixels outside the hole count here too: multiply the squared error by hole[:, None].",
            ),
            (
                lambda images, predictions, hole: (
                    -10 * ((predictions - images) ** 2 * hole[:, None]).mean(dim=(1, 2, 3)).log10()
                ),
                "The hole's error is averaged over the whole picture: divide by the number of hidden values alone.",
            ),
            (
                lambda images, predictions, hole: (
                    -10 * ((predictions - images) ** 2)[hole[:, None].expand_as(images)].mean().log10()
                ),
                "This is one number for the whole batch: keep dim 0, so that each picture has its own.",
            ),
            (
                lambda images, predictions, hole: (
                    (-10 * ((predictions - images) ** 2).log10() * hole[:, None]).mean(dim=1).sum(dim=(1, 2))
                    / hole.sum(dim=(1, 2))
                ),
                "Decibels are averaged here: average the squared error first, then take the logarithm.",
            ),
            (_psnr_with(10), "The sign is reversed: a small error means many decibels."),
            (_psnr_with(-10, torch.log), "This is the natural logarithm: decibels are made with log10."),
            (_psnr_with(-20), "A squared error takes the factor 10; 20 belongs to its square root."),
            (
                _psnr_with(-10, lambda error: (3 * error).log10()),
                "The errors of three colours are added up, but each pixel is counted once: average over the colours.",
            ),
        ),
    ),
}
