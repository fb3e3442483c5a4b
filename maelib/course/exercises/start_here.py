"""Exercises of notebook 00: masks, pasting, hole PSNR."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from maelib.course.exercises.exercise import Exercise, pairs
from maelib.metrics import hole_psnr


def _masks(generator: Generator) -> list[tuple[Tensor]]:
    """Masks `(B, N)` whose rows hide different shares; one row of seven; one that hides nothing."""
    drawn = [torch.rand(rows, count, generator=generator) < 0.3 for rows, count in ((3, 8), (1, 7))]
    drawn[0][:, 0], drawn[1][0, :2] = True, True
    return [(drawn[0],), (drawn[1],), (torch.zeros(2, 5, dtype=torch.bool),)]


def _repairs(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Pictures `(B, C, H, W)`, predictions that are wrong everywhere, holes `(B, H, W)`; one channel, one row."""
    cases = []
    for shape in ((3, 3, 4, 6), (1, 1, 5, 4), (2, 3, 1, 7)):
        images, predictions = torch.rand(2, *shape, generator=generator)
        hole = torch.rand(shape[0], *shape[2:], generator=generator) < 0.4
        hole[:, 0, :2] = True
        cases.append((images, predictions, hole))
    return cases


def _pastes(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The same with predictions that leave the range from 0 to 1, and with a picture that has no hole."""
    cases = [(images, 3 * predictions - 1, hole) for images, predictions, hole in _repairs(generator)]
    cases[2][2][0] = False
    return cases


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
        mistakes=pairs(
            lambda mask: 1 - mask.float().mean(dim=1),
            "These are the visible shares: True means hidden.",
            lambda mask: mask.sum(dim=1),
            "These are counts: divide by the number of patches, mask.shape[1].",
            lambda mask: mask.float().mean(),
            "This is one share for the whole batch: dim=1 gives one for each row.",
            lambda mask: mask.float().mean(dim=0),
            "This averages over the batch: patches run along dim=1.",
            lambda mask: mask.sum(dim=1) / len(mask),
            "This divides by the number of rows, len(mask): divide by the number of patches, mask.shape[1].",
            lambda mask: mask.sum(dim=1) // mask.shape[1],
            "// rounds down to a whole number: divide with /.",
            lambda mask: mask.mean(dim=1),
            "Bools have no mean: turn them into numbers first, mask.float().",
        ),
    ),
    "00.2": Exercise(
        cases=_pastes,
        solution=lambda images, predictions, hole: torch.where(hole[:, None], predictions, images),
        praise="Only the hole has changed: this is what model.reconstruct returns.",
        mistakes=pairs(
            lambda images, predictions, hole: torch.where(hole[:, None], images, predictions),
            "Prediction and picture are swapped: the prediction belongs where hole is True, the picture elsewhere.",
            lambda images, predictions, hole: torch.where(hole, predictions, images),
            "The holes are matched with colours, not with pictures: write hole[:, None], of shape (B, 1, H, W).",
            lambda images, predictions, hole: predictions,
            "This is the prediction alone: around the hole, the picture's own pixels must stay.",
            lambda images, predictions, hole: images * ~hole[:, None],
            "The hole is cut out but not filled: add the prediction where hole is True.",
            lambda images, predictions, hole: torch.where(hole[:, None], predictions.clamp(0, 1), images),
            "The prediction is clamped to the range from 0 to 1: paste its values as they are.",
            lambda images, predictions, hole: images + predictions * hole[:, None],
            "In the hole, picture and prediction are added up: remove the picture there first.",
        ),
    ),
    "00.3": Exercise(
        cases=_repairs,
        solution=lambda images, predictions, hole: hole_psnr(predictions, images, hole),
        praise="The same decibels as maelib.metrics.hole_psnr.",
        mistakes=pairs(
            lambda images, predictions, hole: -10 * ((predictions - images) ** 2).mean(dim=(1, 2, 3)).log10(),
            "Pixels outside the hole count here too: multiply the squared error by hole[:, None].",
            lambda images, predictions, hole: (
                -10 * ((predictions - images) ** 2 * hole[:, None]).mean(dim=(1, 2, 3)).log10()
            ),
            "The hole's error is averaged over the whole picture: divide by the number of hidden values alone.",
            lambda images, predictions, hole: (
                -10 * ((predictions - images) ** 2)[hole[:, None].expand_as(images)].mean().log10()
            ),
            "This is one number for the whole batch: keep dim 0, so that each picture has its own.",
            lambda images, predictions, hole: (
                (-10 * ((predictions - images) ** 2).log10() * hole[:, None]).mean(dim=1).sum(dim=(1, 2))
                / hole.sum(dim=(1, 2))
            ),
            "Decibels are averaged here: average the squared error first, then take the logarithm.",
            _psnr_with(10),
            "The sign is reversed: a small error means many decibels.",
            _psnr_with(-10, torch.log),
            "This is the natural logarithm: decibels are made with log10.",
            _psnr_with(-20),
            "A squared error takes the factor 10; 20 belongs to its square root.",
            lambda images, predictions, hole: (
                -10 * (images.shape[1] * _squared_error(images, predictions, hole)).log10()
            ),
            "The errors of the colours are added up, but each pixel is counted once: average over the colours.",
            lambda images, predictions, hole: (
                -10 * (_squared_error(images, predictions, hole) / images.shape[1]).log10()
            ),
            "The average over the colours is divided by their number again: divide once.",
            lambda images, predictions, hole: _squared_error(images, predictions, hole),
            "This is the squared error: turn it into decibels, -10 times its log10.",
            lambda images, predictions, hole: hole_psnr(predictions, images, ~hole),
            "This judges the visible pixels: True means hidden.",
        ),
    ),
}
