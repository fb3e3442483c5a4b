"""Rectangles around holes, so that what happens inside a hole is computed there alone."""

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 8  # images at a time: enough to keep a device busy, few enough to fit


def hole_boxes(hole: Tensor, margin: int, stride: int) -> Tensor:
    """The smallest box around each image's hole, and `margin` pixels more wherever the image has them.

    Parameters
    ----------
    hole : Tensor
        `(B, H, W)` bool, True = hidden.
    margin, stride : int
        Pixels. Sides fall on multiples of `stride`, which divides `margin`; where it does not divide the image's
        sides, the box is the image.

    Returns
    -------
    Tensor
        `(B, 4)` top, bottom, left, right, the ends excluded; all 0 where nothing is hidden.
    """
    boxes = []
    for along, side in ((hole.any(dim=2), hole.shape[1]), (hole.any(dim=1), hole.shape[2])):  # (B, H), (B, W)
        first = along.int().argmax(dim=1) // stride * stride
        last = side - along.flip(1).int().argmax(dim=1)
        first, last = (first - margin).clamp(min=0), (-(-last // stride) * stride + margin).clamp(max=side)
        boxes += [first, last] if side % stride == 0 else [first * 0, first * 0 + side]
    return torch.stack(boxes, dim=1) * hole.flatten(1).any(dim=1, keepdim=True)


def cut_holes(hole: Tensor, margin: int, stride: int, *images: Tensor) -> Iterator[list[Tensor]]:
    """Crops of `images` and of `hole` itself around the holes, equally large ones in one batch.

    Takes `images` `(B, C, H, W)` each, and `hole`, `margin` and `stride` as `hole_boxes` does; yields lists of batches
    `(b, C, h, w)` and, last, their holes `(b, h, w)`. Images without a hole are left out.
    """
    groups: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for i, (top, bottom, left, right) in enumerate(hole_boxes(hole, margin, stride).tolist()):
        if bottom:
            groups.setdefault((bottom - top, right - left), []).append((i, top, left))
    rows = [x.unbind() for x in (*images, hole)]  # once: the gradient of an index is as large as the batch
    for (height, width), places in groups.items():
        for start in range(0, len(places), CHUNK):
            cut = places[start : start + CHUNK]
            yield [torch.stack([x[i][..., t : t + height, le : le + width] for i, t, le in cut]) for x in rows]
