"""Exercises of notebook 02: masks from noise, from pixels, from a corner and from a smaller mask; rings."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from maelib.course.exercises.exercise import Exercise


def _noise() -> list[tuple[Tensor, Tensor]]:
    """Noise `(B, N)` and how many patches of each row to hide, `(B,)`."""
    return [(torch.rand(3, 7, generator=Generator().manual_seed(1)), torch.tensor([3, 1, 5]))]


def _ranks(noise: Tensor) -> Tensor:
    """Rank of each patch by its noise within its row, `(B, N)`."""
    return noise.argsort(dim=1).argsort(dim=1)


def _holes() -> list[tuple[Tensor, int]]:
    """Pixel masks `(B, H, W)` that cover patches of 4 wholly, mostly, in one corner only, or at one pixel."""
    hole = torch.zeros(2, 8, 12, dtype=torch.bool)
    hole[0, :4, :4], hole[0, 4:7, 4:8], hole[0, 0, 11] = True, True, True
    hole[1, 3:5, 3:5], hole[1, 6, 10] = True, True
    return [(hole, 4)]


def _pool(pool: Callable[..., Tensor], threshold: float) -> Callable[[Tensor, int], Tensor]:
    return lambda hole, patch_size: pool(hole[:, None].float(), patch_size).flatten(1) > threshold


def _corner(
    grid: tuple[int, int],
    count: int,
    width: int,
    fits: Callable[[int, int], int] = lambda count, width: count,
    from_the_end: bool = True,
) -> Tensor:
    """A block that fills up line by line, from the last patch of the grid or from the first."""
    row, col = torch.arange(grid[0])[:, None], torch.arange(grid[1])
    block = ((col < width) & (row * width + col < fits(count, width))).flatten()
    return block.flip(0) if from_the_end else block


def _part_masks() -> list[tuple[Tensor, Tensor, int]]:
    """Masks `(B, N)` whose rows hide none, some, and `count` of their patches; noise `(B, N)`; the count."""
    mask = torch.tensor([[0, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 0, 0], [1, 1, 0, 0, 1, 0, 1]]).bool()
    generator = Generator().manual_seed(4)
    return [(mask, torch.rand(3, 7, generator=generator), 4), (mask, torch.rand(3, 7, generator=generator), 5)]


def _fill_up(mask: Tensor, noise: Tensor, count: int | Tensor) -> Tensor:
    return _ranks(noise.masked_fill(mask, -1)) < count


def _grids() -> list[tuple[Tensor, tuple[int, int]]]:
    """Masks `(B, N)` of a grid that is not square: a block at the border, two lonely visible patches, a line."""
    mask = torch.zeros(3, 5, 7, dtype=torch.bool)
    mask[0, 0:4, 1:6], mask[1], mask[2, 2] = True, True, True
    mask[1, 0, 0], mask[1, 4, 5] = False, False
    return [(mask.flatten(1), (5, 7))]


def _rings(
    norm: float = torch.inf, to_visible: bool = True, swapped: bool = False, frame: bool = False
) -> Callable[[Tensor, tuple[int, int]], Tensor]:
    """Number the ring `(B, N)` of each patch: rightly, or with one of the usual mistakes.

    A ring is the distance to the nearest visible patch, the larger of its difference in rows and in columns.
    """

    def rings(mask: Tensor, grid: tuple[int, int]) -> Tensor:
        rows, cols = grid[::-1] if swapped else grid
        place = torch.cartesian_prod(torch.arange(rows), torch.arange(cols)).float()  # (N, 2)
        skip = mask if to_visible else ~mask
        far = torch.cdist(place, place, p=norm).expand(len(mask), -1, -1)
        ring = far.masked_fill(skip[:, None], torch.inf).amin(dim=2)
        edge = torch.cat([place + 1, torch.tensor([rows, cols]) - place], dim=1).amin(dim=1)  # rings from the frame
        return ring.minimum(edge) if frame else ring

    return rings


EXERCISES = {
    "02.1": Exercise(
        cases=_noise,
        solution=lambda noise, counts: _ranks(noise) < counts[:, None],
        praise="Each row hides exactly its own number, and each set of patches is equally likely.",
        mistakes=(
            (
                lambda noise, counts: noise.argsort(dim=1) < counts[:, None],
                "argsort lists the patches in order of their noise: apply argsort once more to get each patch's rank.",
            ),
            (
                lambda noise, counts: _ranks(-noise) < counts[:, None],
                "The highest noise is hidden here: hide the lowest.",
            ),
            (lambda noise, counts: _ranks(noise) >= counts[:, None], "This is inverted: True means hidden."),
            (
                lambda noise, counts: _ranks(noise) <= counts[:, None],
                "This hides one patch too many: ranks begin at 0, so exactly `count` ranks are below `count`.",
            ),
            (
                lambda noise, counts: noise < counts[:, None] / noise.shape[1],
                "A threshold hides only about that many patches: rank the noise of each row to be exact.",
            ),
            (
                lambda noise, counts: _ranks(noise) < counts[0],
                "All rows hide as many as the first: compare with counts[:, None], one number for each row.",
            ),
        ),
    ),
    "02.2": Exercise(
        cases=_holes,
        solution=_pool(F.max_pool2d, 0),
        praise="One hidden pixel is enough: the model must not see what stands in front.",
        mistakes=(
            (_pool(F.avg_pool2d, 0.999), "Only patches that are wholly covered are hidden here: one pixel is enough."),
            (_pool(F.avg_pool2d, 0.499), "Half a patch must be covered here: one pixel is enough."),
            (
                lambda hole, patch_size: hole[:, patch_size // 2 :: patch_size, patch_size // 2 :: patch_size].flatten(
                    1
                ),
                "This looks at one pixel of each patch: look at all of them.",
            ),
            (
                lambda hole, patch_size: hole[:, ::patch_size, ::patch_size].flatten(1),
                "This looks at the first pixel of each patch: look at all of them.",
            ),
            (
                lambda hole, patch_size: hole.reshape(len(hole), -1, patch_size**2).any(dim=2),
                "reshape alone cuts strips, not patches: split both axes first, as in notebook 01.",
            ),
            (
                lambda hole, patch_size: F.max_pool2d(hole[:, None].float(), patch_size)[:, 0].bool(),
                "The grid is right: flatten its rows and columns into (B, N).",
            ),
        ),
    ),
    "02.3": Exercise(
        cases=lambda: [((5, 6), 8, 3), ((4, 7), 12, 5), ((3, 3), 3, 3), ((6, 4), 3, 4)],
        solution=_corner,
        praise="A rectangle with one partial line hides any count exactly.",
        mistakes=(
            (
                lambda grid, count, width: _corner(grid, count, width, lambda count, width: -(-count // width) * width),
                "The last line is filled up: stop at count, even in the middle of a line.",
            ),
            (
                lambda grid, count, width: _corner(grid, count, width, lambda count, width: count // width * width),
                "The partial line is missing: the block must hold exactly count patches.",
            ),
            (
                lambda grid, count, width: _corner(grid, count, width, from_the_end=False),
                "The block begins at the first patch of the grid: begin at the last, bottom right.",
            ),
            (
                lambda grid, count, width: (
                    _corner(grid, count, width, from_the_end=False)
                    .reshape(grid)
                    .flip(0)
                    .roll(grid[1] - width, 1)
                    .flatten()
                ),
                "The partial line starts at the left of the block here: fill each line leftwards, from the right.",
            ),
            (
                lambda grid, count, width: torch.arange(grid[0] * grid[1]) >= grid[0] * grid[1] - count,
                "The last count patches run over the whole width: a line of the block is width patches long.",
            ),
            (
                lambda grid, count, width: _corner(grid, count, width).reshape(grid),
                "The block is right: flatten it to (N,).",
            ),
        ),
    ),
    "02.4": Exercise(
        cases=_part_masks,
        solution=_fill_up,
        praise="Every row hides the same number now, so the visible tokens of a batch stack.",
        mistakes=(
            (
                lambda mask, noise, count: _ranks(noise) < count,
                "Some patches of the mask have become visible: rank those first, for example with a noise of -1.",
            ),
            (
                lambda mask, noise, count: mask | (_ranks(noise) < count - mask.sum(dim=1, keepdim=True)),
                "Some of the lowest noise was on patches that are hidden already: rank only the visible ones.",
            ),
            (
                lambda mask, noise, count: _fill_up(mask, noise, count + mask.sum(dim=1, keepdim=True)),
                "`count` patches were added: those that the mask hides already count too.",
            ),
            (
                lambda mask, noise, count: mask | (_ranks(noise) < count),
                "This hides more than `count`: first see how many the mask hides already.",
            ),
            (
                lambda mask, noise, count: _ranks((-noise).masked_fill(mask, -2)) < count,
                "The highest noise is hidden here: hide the lowest.",
            ),
            (lambda mask, noise, count: ~_fill_up(mask, noise, count), "This is inverted: True means hidden."),
            (
                lambda mask, noise, count: _fill_up(mask, noise, count + 1),
                "This hides one patch too many: ranks begin at 0, so exactly `count` ranks are below `count`.",
            ),
        ),
    ),
    "02.5": Exercise(
        cases=_grids,
        solution=_rings(),
        praise="A hole filled from its border inwards fills ring after ring; the last has the least to go by.",
        mistakes=(
            (_rings(norm=1), "Patches that touch at a corner are neighbours too: there are eight around a patch."),
            (_rings(norm=2), "These are straight-line distances: count rings; a corner neighbour is one ring away."),
            (_rings(frame=True), "Nothing is visible outside the picture: your padding must not start a ring."),
            (_rings(to_visible=False), "These rings begin at hidden patches: begin at the visible ones."),
            (_rings(swapped=True), "Rows and columns are swapped: row and column of patch i are divmod(i, cols)."),
            (lambda mask, grid: _rings()(mask, grid) + 1, "Visible patches are ring 0, the first hidden ones ring 1."),
            (
                lambda mask, grid: _rings()(mask, grid).clamp(max=1),
                "This is one ring only: continue until every hidden patch has its number.",
            ),
            (
                lambda mask, grid: _rings()(mask, grid).reshape(-1, *grid),
                "The rings are right: flatten rows and columns into (B, N).",
            ),
        ),
    ),
}
