"""Exercises of notebook 01: places, cutting, a linear layer as a convolution, waves, overlapping patches."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from maelib.course.exercises.exercise import Exercise, pairs, whole


def _places(generator: Generator) -> list[tuple[int, tuple[int, int]]]:
    """Numbers of patches and grids, none of them square; one row, one column."""
    grids = ((3, 5), (1, 6), (7, 1), (5, 2), (4, 9))
    return [(whole(generator, rows * cols // 2, rows * cols - 1), (rows, cols)) for rows, cols in grids]


def _pictures(generator: Generator) -> list[tuple]:
    """Pictures `(C, H, W)`, the side of a patch, and the row and column of one patch; one channel; one row."""
    cases = []
    for channels, side, rows, cols in ((3, 4, 3, 4), (1, 3, 4, 5), (2, 5, 1, 3)):
        picture = torch.rand(channels, rows * side, cols * side, generator=generator)
        row = whole(generator, 0, rows - 1)
        cases.append((picture, side, row, (row + whole(generator, 1, cols - 1)) % cols))
    return cases


def _cut(image: Tensor, patch_size: int, row: int, col: int) -> Tensor:
    top, left = row * patch_size, col * patch_size
    return image[:, top : top + patch_size, left : left + patch_size]


def _linear(generator: Generator) -> list[tuple[Tensor, int]]:
    """Weights `(D, p * p * C)` of a linear layer on patches, and the side of a patch; three, one, four channels."""
    return [
        (torch.rand(width, side**2 * channels, generator=generator), side)
        for width, side, channels in ((4, 2, 3), (2, 3, 1), (5, 2, 4))
    ]


def _waves(
    order: Callable[[Tensor, Tensor], Tensor] = lambda sine, cosine: torch.stack([sine, cosine], dim=2).flatten(1),
    slower: float = 1,
    first: int = 0,
    scale: Callable[[int], float] = lambda count: 1,
) -> Callable[[int, int], Tensor]:
    """Make positions `(count, dim)`: the right ones, or with one of the usual mistakes."""

    def positions(count: int, dim: int) -> Tensor:
        omega = 10000 ** -(torch.arange(dim // 2) / (dim // 2) / slower)
        angles = (torch.arange(count) + first)[:, None] * omega * scale(count)  # (count, dim / 2)
        return order(angles.sin(), angles.cos())

    return positions


def _by_columns(exponent: Callable[[Tensor, int], Tensor]) -> Callable[[int, int], Tensor]:
    """Positions `(count, dim)` whose angles differ from column to column, not only from pair to pair."""

    def positions(count: int, dim: int) -> Tensor:
        column = torch.arange(dim)
        angles = torch.arange(count)[:, None] * 10000.0 ** -exponent(column, dim)  # (count, dim)
        return torch.where(column % 2 == 0, angles.sin(), angles.cos())

    return positions


def _overlapping(generator: Generator) -> list[tuple]:
    """Patches `(N, C, p, p)`, stride and grid: lines shared by two patches, one row, a pixel under nine patches."""
    return [
        (torch.rand(rows * cols, channels, side, side, generator=generator) + 0.1, stride, (rows, cols))
        for channels, side, stride, rows, cols in ((2, 4, 3, 2, 3), (1, 3, 2, 1, 4), (3, 3, 1, 4, 3))
    ]


def _merge(
    put: Callable[[Tensor, Tensor], Tensor] = torch.add, by_columns: bool = False, divide: bool = True
) -> Callable[[Tensor, int, tuple[int, int]], Tensor]:
    """Merge patches into one picture `(C, H, W)`: averaged where they overlap, or with one of the usual mistakes."""

    def merge(patches: Tensor, stride: int, grid: tuple[int, int]) -> Tensor:
        (rows, cols), size = grid, patches.shape[-1]
        picture = torch.zeros(patches.shape[1], (rows - 1) * stride + size, (cols - 1) * stride + size)
        count = torch.zeros(picture.shape[1:])
        for i, patch in enumerate(patches):
            row, col = (i % rows, i // rows) if by_columns else divmod(i, cols)
            here = slice(row * stride, row * stride + size), slice(col * stride, col * stride + size)
            picture[:, *here] = put(picture[:, *here], patch)
            count[here] += 1
        return picture / count if divide else picture

    return merge


EXERCISES = {
    "01.1": Exercise(
        cases=_places,
        solution=lambda i, grid: divmod(i, grid[1]),
        praise="Patches are numbered row by row, so the number of columns alone finds the place.",
        mistakes=pairs(
            lambda i, grid: divmod(i, grid[1])[::-1],
            "Row and column are swapped: the row comes first.",
            lambda i, grid: divmod(i, grid[0]),
            "A row holds as many patches as there are columns: divide by grid[1], not by grid[0].",
            lambda i, grid: (i % grid[0], i // grid[0]),
            "This numbers the patches column by column: the numbers grow along a row first.",
            lambda i, grid: (i // grid[1] + 1, i % grid[1] + 1),
            "Rows and columns start at 0, as the numbers of the patches do.",
            lambda i, grid: (i / grid[1], i % grid[1]),
            "The row has a fraction: // divides and rounds down.",
            lambda i, grid: ((i - 1) // grid[1], (i - 1) % grid[1]),
            "Patches are numbered from 0, so do not subtract 1 from i.",
        ),
    ),
    "01.2": Exercise(
        cases=_pictures,
        solution=_cut,
        praise="Two slices: the patch at (row, col) begins at pixel (row * p, col * p).",
        mistakes=pairs(
            lambda image, patch_size, row, col: _cut(image, patch_size, col, row),
            "Row and column are swapped: the second axis of (C, H, W) runs down, the third across.",
            lambda image, patch_size, row, col: image[:, row : row + patch_size, col : col + patch_size],
            "row and col count patches, not pixels: the patch begins at row * patch_size.",
            lambda image, patch_size, row, col: image[:, row * patch_size, col * patch_size],
            "This is one pixel: slice patch_size rows and patch_size columns from there.",
            lambda image, patch_size, row, col: image[:, row * patch_size : patch_size, col * patch_size : patch_size],
            "A slice ends at an index, not after a length: it must stop at (row + 1) * patch_size.",
            lambda image, patch_size, row, col: _cut(image, patch_size, row, col)[:, :-1, :-1],
            "The last row and column are missing: a slice stops before its end, so end at (row + 1) * patch_size.",
            lambda image, patch_size, row, col: _cut(image, patch_size, row - 1, col - 1),
            "Rows and columns of the grid are numbered from 0: patch (0, 0) begins at pixel (0, 0).",
            lambda image, patch_size, row, col: image[
                row * patch_size : (row + 1) * patch_size, col * patch_size : (col + 1) * patch_size
            ],
            "The first axis holds the colours: leave it whole, image[:, ...].",
        ),
    ),
    "01.3": Exercise(
        cases=_linear,
        solution=lambda weight, patch_size: weight.unflatten(1, (patch_size, patch_size, -1)).permute(0, 3, 1, 2),
        praise="A convolution with these weights gives the same tokens as the linear layer.",
        mistakes=pairs(
            lambda weight, patch_size: weight.unflatten(1, (-1, patch_size, patch_size)),
            "patchify orders (row, column, colour): split into (D, p, p, C) first, then move the colour.",
            lambda weight, patch_size: weight.unflatten(1, (patch_size, patch_size, -1)).permute(0, 3, 2, 1),
            "Rows and columns are swapped inside the patch: keep their order when the colour moves.",
            lambda weight, patch_size: weight.unflatten(1, (patch_size, patch_size, -1)),
            "The colour channel is still last: a convolution expects (D, C, p, p).",
            lambda weight, patch_size: weight.unflatten(1, (patch_size, patch_size, -1)).permute(3, 0, 1, 2),
            "The colour channel is first: a convolution expects its output channels first, (D, C, p, p).",
            lambda weight, patch_size: weight.unflatten(1, (patch_size, patch_size, 3)).permute(0, 3, 1, 2),
            "Three channels are written into your answer: let C follow from the shape, or pass -1.",
        ),
    ),
    "01.4": Exercise(
        cases=lambda generator: [(whole(generator, 4, 9), dim) for dim in (8, 2, 16)] + [(1, 4)],
        solution=_waves(),
        praise="Every place gets its own row of sines and cosines, from fast waves to slow ones.",
        mistakes=pairs(
            _waves(lambda sine, cosine: torch.cat([sine, cosine], dim=1)),
            "All sines come first here, as in the library: in this exercise, sine and cosine alternate.",
            _waves(lambda sine, cosine: torch.stack([cosine, sine], dim=2).flatten(1)),
            "The cosine comes first in each pair here: put the sine first.",
            _waves(slower=2),
            "The waves slow down half as fast as they should: there are dim / 2 of them, so divide k by dim / 2.",
            _by_columns(lambda column, dim: column / dim),
            "Sine and cosine of a pair share one angle: column 2k + 1 takes that of column 2k.",
            _by_columns(lambda column, dim: 2 * column / dim),
            "The exponent counts columns: count pairs, so that columns 2k and 2k + 1 both have the angle of k.",
            _waves(first=1),
            "The positions start at 1 here: count from 0.",
            _waves(scale=lambda count: 1 / count),
            "The positions are divided by their number here: use 0, 1, 2, ... as they are.",
            _waves(order=lambda sine, cosine: torch.cat([cosine, sine], dim=1)),
            "All cosines come first here: let sine and cosine alternate, the sine first.",
            lambda count, dim: _waves()(count, dim).T,
            "This is transposed: each position is a row, (count, dim).",
        ),
    ),
    "01.5": Exercise(
        cases=_overlapping,
        solution=_merge(),
        praise="A mean softens the seams between overlapping patches; repair_photo averages shifted repairs too.",
        mistakes=pairs(
            _merge(divide=False),
            "Overlapping patches are added up: count how many cover each pixel, and divide by that.",
            _merge(lambda old, new: new, divide=False),
            "The last patch wins where patches overlap: add them up and divide by how many there are.",
            _merge(lambda old, new: torch.where(old == 0, new, old), divide=False),
            "The first patch wins where patches overlap: add them up and divide by how many there are.",
            _merge(lambda old, new: torch.where(old == 0, new, (old + new) / 2), divide=False),
            "Where four patches meet, averaging pair by pair favours the last one: add first, divide once.",
            _merge(by_columns=True),
            "The patches are placed column by column: row, col = divmod(i, cols).",
            lambda patches, stride, grid: _merge()(patches, patches.shape[-1], grid),
            "The patches are placed side by side, without overlap: each begins stride pixels after the one before.",
            lambda patches, stride, grid: (
                _merge(divide=False)(patches, stride, grid)
                / _merge(divide=False)(torch.ones_like(patches), stride, grid).max()
            ),
            "Every pixel is divided by the same number: count how many patches cover each.",
        ),
    ),
}
