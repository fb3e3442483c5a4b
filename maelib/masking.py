"""Which patches to hide.

Every strategy draws a mask `(B, N)` of bools, True = hidden, on the CPU, from the generator that it is given. It hides
exactly `round(mask_ratio * N)` patches in every row. Only `square_mask`, which is kept for comparison, hides fewer.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from maelib.patches import grid_size as patch_grid

Grid = tuple[int, int]  # rows and columns of patches
MaskFunction = Callable[[int, Grid, float, Generator | None], Tensor]


def hidden_count(grid_size: tuple[int, int], mask_ratio: float) -> int:
    """Count the patches of the grid that `mask_ratio` hides: `round(mask_ratio * N)`.

    Raises
    ------
    ValueError
        If no patch would be hidden, or no patch would stay visible.
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
    """Hide the `count` patches of each row that have the lowest `scores` `(B, ...)`. Returns `(B, N)`."""
    scores = scores.flatten(1)
    ids = scores.argsort(dim=1, stable=True)[:, :count]  # (B, N) -> (B, count)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, ids, True)


def random_mask(batch_size: int, grid_size: Grid, mask_ratio: float, generator: Generator | None = None) -> Tensor:
    """Hide patches drawn uniformly without replacement (He et al. 2022, section 3). Returns `(B, N)`."""
    count = hidden_count(grid_size, mask_ratio)
    return _hide_lowest(torch.rand(batch_size, *grid_size, generator=generator), count)


def _place(side: Tensor, limit: Tensor, generator: Generator | None) -> Tensor:
    """Draw the first line `(B, 1)` of a block that is `side` lines long on a grid of `limit` lines.

    The block may stick out over the border and is then pushed back inside, so that corners are hidden often enough.
    """
    overhang = (2 * side + 2) // 3
    room = limit - side + 2 * overhang
    first = (torch.rand(*side.shape, generator=generator) * (room + 1)).long().minimum(room) - overhang
    return first.clamp(min=0).minimum(limit - side)


def _block_ranks(batch_size: int, grid_size: Grid, count: int, generator: Generator | None) -> Tensor:
    """Number the `count` patches of one block in the order in which it is filled: `(B, rows, cols)`, -1 outside.

    The block is filled line by line, so only its last line can be partial. Its aspect ratio is log-uniform in
    [1/3, 3]. Lines run along the columns in an upright block, along the rows otherwise, and are filled from either end.
    """
    rows, cols = (torch.full((batch_size, 1), side) for side in grid_size)
    upright, flip_rows, flip_cols = torch.rand(3, batch_size, 1, generator=generator) < 0.5
    longest, most = torch.where(upright, rows, cols), torch.where(upright, cols, rows)
    aspect = 3 ** (2 * torch.rand(batch_size, 1, generator=generator) - 1)
    length = (count * aspect).sqrt().round().long()  # patches in a full line
    length = length.clamp(min=1).maximum(-(-count // most)).minimum(longest).clamp(max=count)
    lines = -(-count // length)
    height, width = torch.where(upright, length, lines), torch.where(upright, lines, length)
    r = torch.arange(grid_size[0]) - _place(height, rows, generator)  # (B, rows), 0 in the first row of the block
    c = torch.arange(grid_size[1]) - _place(width, cols, generator)  # (B, cols)
    inside = ((r >= 0) & (r < height))[:, :, None] & ((c >= 0) & (c < width))[:, None]
    r = torch.where(flip_rows, height - 1 - r, r)[:, :, None]  # (B, rows, 1)
    c = torch.where(flip_cols, width - 1 - c, c)[:, None]  # (B, 1, cols)
    rank = torch.where(upright[..., None], c * height[..., None] + r, r * width[..., None] + c)
    return torch.where(inside & (rank < count), rank, -1)


def block_mask(batch_size: int, grid_size: Grid, mask_ratio: float, generator: Generator | None = None) -> Tensor:
    """Hide one block, a rectangle with at most one partial row or column, anywhere. Returns `(B, N)`."""
    count = hidden_count(grid_size, mask_ratio)
    return (_block_ranks(batch_size, grid_size, count, generator) >= 0).flatten(1)


def multi_block_mask(
    batch_size: int, grid_size: Grid, mask_ratio: float, generator: Generator | None = None, blocks: int = 4
) -> Tensor:
    """Hide the union of several blocks, each about `1 / blocks` of what is to be hidden. Returns `(B, N)`.

    Blocks overlap, so more than `blocks` of them are drawn. They are hidden one after another until the count is
    reached, and the last one may stay partial. This is algorithm 1 of Bao et al. 2022 with an exact count.
    """
    count = hidden_count(grid_size, mask_ratio)
    size, throws = max(1, round(count / blocks)), 4 * blocks
    ranks = _block_ranks(batch_size * throws, grid_size, size, generator).reshape(batch_size, throws, -1)  # (B, T, N)
    order = torch.arange(throws)[:, None] * size + ranks
    order = torch.where(ranks >= 0, order, throws * size).amin(dim=1)  # (B, T, N) -> (B, N)
    return _hide_lowest(order + torch.rand(*order.shape, generator=generator), count)


def grid_mask(batch_size: int, grid_size: Grid, mask_ratio: float, generator: Generator | None = None) -> Tensor:
    """Hide a regular pattern with a random phase. Returns `(B, N)`.

    A ratio of 0.5 gives a chequerboard, and 0.75 hides three patches of each 2 x 2. Ordered dithering (Bayer 1973)
    makes the pattern for any ratio. Ties are broken at random.
    """
    count = hidden_count(grid_size, mask_ratio)
    bayer = torch.tensor([[0, 2], [3, 1]])
    bayer = (4 * bayer.repeat(2, 2) + bayer.repeat_interleave(2, 0).repeat_interleave(2, 1)).float()  # (4, 4)
    phase = torch.randint(4, (2, batch_size, 1), generator=generator)
    r, c = ((torch.arange(side) + shift) % 4 for side, shift in zip(grid_size, phase, strict=True))
    scores = bayer[r[:, :, None], c[:, None]]  # (B, rows, cols)
    return _hide_lowest(scores + torch.rand(*scores.shape, generator=generator), count)


def square_mask(batch_size: int, grid_size: Grid, mask_ratio: float, generator: Generator | None = None) -> Tensor:
    """Hide one square of side `int(sqrt(N * mask_ratio))`, placed uniformly inside the grid. Returns `(B, N)`.

    This is the practice that the course corrects: the square hides less than was asked for, and always the centre.
    """
    rows, cols = grid_size
    hidden_count(grid_size, mask_ratio)  # refuses a ratio that hides none or all
    side = min(int((rows * cols * mask_ratio) ** 0.5), rows, cols)
    top, left = (torch.randint(limit - side + 1, (batch_size, 1), generator=generator) for limit in grid_size)
    r, c = torch.arange(rows) - top, torch.arange(cols) - left
    return (((r >= 0) & (r < side))[:, :, None] & ((c >= 0) & (c < side))[:, None]).flatten(1)


def mixed_mask(batch_size: int, grid_size: Grid, mask_ratio: float, generator: Generator | None = None) -> Tensor:
    """Draw the strategy of each row: random, block or multi-block. One model then learns every kind of hole."""
    kinds = [f(batch_size, grid_size, mask_ratio, generator) for f in (random_mask, block_mask, multi_block_mask)]
    choice = torch.randint(len(kinds), (batch_size,), generator=generator)
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
    """Hide every patch with a hidden pixel in `hole` `(B, H, W)` bool, True = hidden. Returns `(B, N)` bool."""
    patch_grid(hole.shape[1:], patch_size)
    return F.max_pool2d(hole[:, None].float(), patch_size).flatten(1).bool()  # (B, 1, H, W) -> (B, N)


def exclude_patches(mask: Tensor, invalid: Tensor) -> Tensor:
    """Take the `invalid` patches, such as those that show border fill, out of a mask. All are `(B, N)` bool.

    If no patch of a row would stay hidden, the middle one of its valid patches is hidden instead. A row without valid
    patches hides nothing.
    """
    kept, free = mask & ~invalid, ~invalid
    middle = free & (free.cumsum(dim=1) == (free.sum(dim=1, keepdim=True) + 1) // 2)
    return torch.where(kept.any(dim=1, keepdim=True), kept, middle)


def mask_to_pixels(mask: Tensor, patch_size: int, grid_size: tuple[int, int]) -> Tensor:
    """Spread a patch mask `(B, N)` over the pixels of its patches. Returns `(B, H, W)` bool."""
    hole = mask.reshape(-1, *grid_size)  # (B, N) -> (B, rows, cols)
    return hole.repeat_interleave(patch_size, 1).repeat_interleave(patch_size, 2)


def hole_boxes(hole: Tensor, margin: int, stride: int) -> Tensor:
    """Find the smallest box around the hole of each image, wider by `margin` pixels where the image has them.

    Parameters
    ----------
    hole : Tensor
        `(B, H, W)` bool, True = hidden.
    margin, stride : int
        Pixels. The sides of a box lie on multiples of `stride`, which divides `margin`. If it does not divide a side
        of the image, the box has all of that side.

    Returns
    -------
    Tensor
        `(B, 4)` top, bottom, left, right, the ends excluded. All are 0 where nothing is hidden.
    """
    boxes = []
    for along, side in ((hole.any(dim=2), hole.shape[1]), (hole.any(dim=1), hole.shape[2])):  # (B, H), (B, W)
        first = along.int().argmax(dim=1) // stride * stride - margin
        last = -((along.flip(1).int().argmax(dim=1) - side) // stride) * stride + margin
        boxes += [first.clamp(min=0), last.clamp(max=side)] if side % stride == 0 else [first * 0, first * 0 + side]
    return torch.stack(boxes, dim=1) * hole.flatten(1).any(dim=1, keepdim=True)


def split_ids(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sort the patches of each row of a mask `(B, N)`, visible ones first, and return how to undo the sorting.

    Returns
    -------
    ids_keep : Tensor
        `(B, K)`, the patches that stay. K is the largest number of visible patches in a row. A row with fewer visible
        patches is filled up with hidden ones.
    ids_restore : Tensor
        `(B, N)`, the place of each patch in the sorted row.

    Raises
    ------
    ValueError
        If a row hides every patch.
    """
    ids = mask.int().argsort(dim=1, stable=True)  # (B, N)
    kept = int((~mask).sum(dim=1).max())
    if mask.all(dim=1).any():
        row = int(mask.all(dim=1).nonzero()[0])
        raise ValueError(f"row {row} of the mask hides all {mask.shape[1]} patches; leave at least 1 visible")
    return ids[:, :kept], ids.argsort(dim=1)
