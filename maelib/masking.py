"""Which patches to hide.

Every strategy returns a mask `(B, N)` of bools on the CPU, True = hidden, drawn with the generator it is given. Those
with a ratio hide exactly `round(mask_ratio * N)` patches in every row; only `square_mask`, kept to compare, does not.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from maelib.patches import grid_size as patch_grid

MaskFunction = Callable[[int, tuple[int, int], float, Generator | None], Tensor]


def hidden_count(grid_size: tuple[int, int], mask_ratio: float) -> int:
    """How many patches of the grid `mask_ratio` hides: `round(mask_ratio * N)`.

    Raises
    ------
    ValueError
        When that leaves no patch hidden, or none visible.
    """
    total = grid_size[0] * grid_size[1]
    count = round(mask_ratio * total) if 0 < mask_ratio < 1 else 0
    if not 0 < count < total:
        raise ValueError(
            f"mask_ratio {mask_ratio} of {total} patches hides none or all; "
            f"use a ratio between {1 / total:.3g} and {1 - 1 / total:.3g}"
        )
    return count


def _hide_lowest(scores: Tensor, count: int) -> Tensor:
    """Hide the `count` patches with the lowest of `scores` `(B, ...)`; returns `(B, N)`."""
    scores = scores.flatten(1)
    ids = scores.argsort(dim=1, stable=True)[:, :count]  # (B, N) -> (B, count)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, ids, True)


def _rand(*shape: int, generator: Generator | None) -> Tensor:
    """Uniform numbers in [0, 1), drawn where the generator lives, handed over on the CPU."""
    return torch.rand(shape, generator=generator, device=generator.device if generator else None).cpu()


def _below(limit: int, *shape: int, generator: Generator | None) -> Tensor:
    """Whole numbers from 0, below `limit`, likewise."""
    return torch.randint(limit, shape, generator=generator, device=generator.device if generator else None).cpu()


def _randint(low: Tensor, high: Tensor, generator: Generator | None) -> Tensor:
    """Whole numbers, uniform between `low` and `high`, both included and both `(B,)`."""
    uniform = _rand(*low.shape, generator=generator)
    return low + (uniform * (high - low + 1)).long().clamp(max=high - low)


def random_mask(
    batch_size: int, grid_size: tuple[int, int], mask_ratio: float, generator: Generator | None = None
) -> Tensor:
    """Hide patches drawn uniformly without replacement (He et al. 2022, section 3). Returns `(B, N)`."""
    count = hidden_count(grid_size, mask_ratio)
    return _hide_lowest(_rand(batch_size, *grid_size, generator=generator), count)


def _place(side: Tensor, limit: Tensor, generator: Generator | None) -> Tensor:
    """First line `(B,)` of a block of `side` lines among `limit`, thrown with an overhang and pushed back inside."""
    overhang = (2 * side + 2) // 3
    return _randint(-overhang, limit - side + overhang, generator).clamp(min=0).minimum(limit - side)


def _block_ranks(batch_size: int, grid_size: tuple[int, int], count: int, generator: Generator | None) -> Tensor:
    """Order `(B, rows, cols)` in which a block of `count` patches fills up; -1 outside, below `count` inside.

    The block is filled line by line, so that only its last line can be partial. Its aspect ratio is log-uniform
    in [1/3, 3]; `_place` lets corners be hidden as often as they need.
    """
    rows, cols = (torch.full((batch_size,), side) for side in grid_size)
    upright, flip_rows, flip_cols = _rand(3, batch_size, generator=generator) < 0.5
    longest, most = torch.where(upright, rows, cols), torch.where(upright, cols, rows)
    aspect = 3 ** (2 * _rand(batch_size, generator=generator) - 1)
    length = (count * aspect).sqrt().round().long()  # patches in a full line
    length = length.clamp(min=1).maximum(-(-count // most)).minimum(longest).clamp(max=count)
    lines = -(-count // length)
    height, width = torch.where(upright, length, lines), torch.where(upright, lines, length)
    r = torch.arange(grid_size[0]) - _place(height, rows, generator)[:, None]  # (B, rows), 0 in the first row
    c = torch.arange(grid_size[1]) - _place(width, cols, generator)[:, None]
    height, width = height[:, None], width[:, None]
    inside = ((r >= 0) & (r < height))[:, :, None] & ((c >= 0) & (c < width))[:, None]
    r = torch.where(flip_rows[:, None], height - 1 - r, r)[:, :, None]  # (B, rows, 1)
    c = torch.where(flip_cols[:, None], width - 1 - c, c)[:, None]  # (B, 1, cols)
    rank = torch.where(upright[:, None, None], c * height[..., None] + r, r * width[..., None] + c)
    return torch.where(inside & (rank < count), rank, -1)


def block_mask(
    batch_size: int, grid_size: tuple[int, int], mask_ratio: float, generator: Generator | None = None
) -> Tensor:
    """Hide one block: a rectangle with at most one partial row or column, anywhere. Returns `(B, N)`."""
    count = hidden_count(grid_size, mask_ratio)
    return (_block_ranks(batch_size, grid_size, count, generator) >= 0).flatten(1)


def multi_block_mask(
    batch_size: int,
    grid_size: tuple[int, int],
    mask_ratio: float,
    generator: Generator | None = None,
    blocks: int = 4,
) -> Tensor:
    """Hide the union of blocks, each about `1 / blocks` of the hidden share. Returns `(B, N)`.

    Blocks overlap, so more than `blocks` of them are thrown; the first that make up the count are hidden,
    the last of them as far as needed (after Bao et al. 2022, algorithm 1, with an exact count).
    """
    count = hidden_count(grid_size, mask_ratio)
    size, throws = max(1, round(count / blocks)), 4 * blocks
    ranks = _block_ranks(batch_size * throws, grid_size, size, generator)
    ranks = ranks.reshape(batch_size, throws, -1)  # (B * T, rows, cols) -> (B, T, N)
    order = torch.arange(throws)[:, None] * size + ranks
    order = torch.where(ranks >= 0, order, throws * size).amin(dim=1)  # (B, N): the first block to cover it
    return _hide_lowest(order + _rand(*order.shape, generator=generator), count)


def grid_mask(
    batch_size: int, grid_size: tuple[int, int], mask_ratio: float, generator: Generator | None = None
) -> Tensor:
    """Hide a regular pattern with a random phase: at 0.5 a chequerboard, at 0.75 three of each 2 x 2.

    Ordered dithering (Bayer 1973) makes the pattern for any ratio; ties are broken at random. Returns `(B, N)`.
    """
    count = hidden_count(grid_size, mask_ratio)
    bayer = torch.tensor([[0, 2], [3, 1]])
    bayer = (4 * bayer.repeat(2, 2) + bayer.repeat_interleave(2, 0).repeat_interleave(2, 1)).float()  # (4, 4)
    phase = _below(4, 2, batch_size, 1, generator=generator)
    r, c = ((torch.arange(side) + shift) % 4 for side, shift in zip(grid_size, phase, strict=True))
    scores = bayer[r[:, :, None], c[:, None]]  # (B, rows, cols)
    return _hide_lowest(scores + _rand(*scores.shape, generator=generator), count)


def square_mask(
    batch_size: int, grid_size: tuple[int, int], mask_ratio: float, generator: Generator | None = None
) -> Tensor:
    """Hide one square of side `int(sqrt(N * mask_ratio))`, uniformly inside: the practice this course corrects.

    It hides less than asked and always the centre; kept for comparison. Returns `(B, N)`.
    """
    rows, cols = grid_size
    hidden_count(grid_size, mask_ratio)  # refuses a ratio that hides none or all
    side = min(int((rows * cols * mask_ratio) ** 0.5), rows, cols)
    top = _below(rows - side + 1, batch_size, 1, generator=generator)
    left = _below(cols - side + 1, batch_size, 1, generator=generator)
    r, c = torch.arange(rows) - top, torch.arange(cols) - left
    return (((r >= 0) & (r < side))[:, :, None] & ((c >= 0) & (c < side))[:, None]).flatten(1)


def mixed_mask(
    batch_size: int, grid_size: tuple[int, int], mask_ratio: float, generator: Generator | None = None
) -> Tensor:
    """Draw each row's strategy among random, block and multi-block: one model for every kind of hole."""
    kinds = [f(batch_size, grid_size, mask_ratio, generator) for f in (random_mask, block_mask, multi_block_mask)]
    choice = _below(len(kinds), batch_size, generator=generator)
    return torch.stack(kinds)[choice, torch.arange(batch_size)]  # (3, B, N) -> (B, N)


MASKS: dict[str, MaskFunction] = {
    "random": random_mask,
    "block": block_mask,
    "multi_block": multi_block_mask,
    "grid": grid_mask,
    "square": square_mask,
    "mixed": mixed_mask,
}


def mask_from_pixels(hole: Tensor, patch_size: int) -> Tensor:
    """Hide every patch that the pixel mask `hole` `(B, H, W)`, True = hidden, touches. Returns `(B, N)` bool."""
    patch_grid(hole.shape[1:], patch_size)
    return F.max_pool2d(hole[:, None].float(), patch_size).flatten(1).bool()  # (B, 1, H, W) -> (B, N)


def exclude_patches(mask: Tensor, void: Tensor) -> Tensor:
    """Hide no patch of `void` `(B, N)`, such as those that `mask_from_pixels` gives for wedges. Returns `(B, N)` bool.

    A row of `mask` `(B, N)` that would hide nothing then hides the middle one of its other patches; a row that is all
    void hides nothing.
    """
    kept, free = mask & ~void, ~void
    middle = free & (free.cumsum(dim=1) == (free.sum(dim=1, keepdim=True) + 1) // 2)
    return torch.where(kept.any(dim=1, keepdim=True), kept, middle)


def mask_to_pixels(mask: Tensor, patch_size: int, grid_size: tuple[int, int]) -> Tensor:
    """Spread a patch mask `(B, N)` over its pixels. Returns `(B, H, W)` bool."""
    hole = mask.reshape(-1, *grid_size)  # (B, N) -> (B, rows, cols)
    return hole.repeat_interleave(patch_size, 1).repeat_interleave(patch_size, 2)


def split_ids(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Order that brings a row's visible patches to the front, and the order that undoes it.

    Returns
    -------
    ids_keep : Tensor
        `(B, K)`, K the largest number of visible patches in a row; shorter rows go on with hidden ones.
    ids_restore : Tensor
        `(B, N)`, where each patch has gone.

    Raises
    ------
    ValueError
        When a row hides every patch: there is nothing to see.
    """
    ids = mask.int().argsort(dim=1, stable=True)  # (B, N)
    kept = int((~mask).sum(dim=1).max())
    if mask.all(dim=1).any():
        row = int(mask.all(dim=1).nonzero()[0])
        raise ValueError(f"row {row} of the mask hides all {mask.shape[1]} patches; leave at least 1 visible")
    return ids[:, :kept], ids.argsort(dim=1)
