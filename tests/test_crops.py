"""Boxes around holes: they hold what they must, and are no larger."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maelib.crops import CHUNK, cut_holes, hole_boxes


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1, 2, 4, 8]), st.integers(0, 3), st.sampled_from([(32, 48), (30, 41)]))
def test_a_box_reaches_its_margin_or_the_border_and_no_further(seed, stride, margins, size):
    generator, margin = torch.Generator().manual_seed(seed), margins * stride
    hole = torch.zeros(4, *size, dtype=torch.bool)
    corners = torch.randint(0, 30, (4, 2, 2), generator=generator)
    for i, places in enumerate(corners[:3].tolist()):  # the last image has no hole
        for y, x in places:
            hole[i, y : y + 3, x : x + 5] = True
    boxes = hole_boxes(hole, margin, stride).tolist()
    assert boxes[3] == [0, 0, 0, 0]
    for i, box in enumerate(boxes[:3]):
        where = hole[i].nonzero()
        for side, begin, end, at in ((size[0], *box[:2], where[:, 0]), (size[1], *box[2:], where[:, 1])):
            first, last = at.min().item(), at.max().item() + 1
            if side % stride:
                assert (begin, end) == (0, side)
                continue
            assert begin % stride == end % stride == 0
            assert 0 <= begin <= max(0, first - margin) < begin + stride or begin == 0
            assert end - stride < min(side, last + margin) <= end <= side


def test_crops_are_cut_where_their_holes_are_and_equal_sizes_together():
    hole = torch.zeros(20, 32, 32, dtype=torch.bool)
    for i in range(0, 20, 2):  # every second image
        hole[i, 8:16, 8 : 16 + 8 * (i % 4 == 0)] = True
    images = torch.arange(20.0)[:, None, None, None] + torch.rand(20, 3, 32, 32) / 2
    seen = []
    for crop, holes in cut_holes(hole, 4, 4, images):
        assert len(crop) <= CHUNK
        assert holes.flatten(1).any(dim=1).all()
        for one in crop:
            i = int(one.min())
            seen.append(i)
            assert torch.equal(one, images[i, :, 4:20, 4 : 20 + 8 * (i % 4 == 0)])
    assert sorted(seen) == list(range(0, 20, 2))
