"""Masks: exact shares, coverage, shapes, and the bookkeeping of indices."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from maelib.masking import MASKS, block_mask, exclude_patches, hole_boxes, mask_from_pixels, mask_to_pixels, split_ids

EXACT = [name for name in MASKS if name != "square"]
GRIDS = st.tuples(st.integers(1, 16), st.integers(1, 16))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(EXACT), GRIDS, st.floats(0.02, 0.98), st.integers(0, 99))
def test_every_strategy_hides_exactly_the_requested_share(name, grid, ratio, seed):
    total = grid[0] * grid[1]
    assume(0 < round(ratio * total) < total)
    mask = MASKS[name](5, grid, ratio, seeded(seed))
    assert mask.shape == (5, total)
    assert mask.dtype == torch.bool
    assert mask.sum(dim=1).tolist() == [round(ratio * total)] * 5


@pytest.mark.parametrize("grid", [(8, 8), (14, 14), (16, 16), (6, 12), (12, 5)])
@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.4, 0.5])
@pytest.mark.parametrize("name", EXACT)
def test_no_patch_is_hidden_too_seldom_or_nearly_always(name, grid, ratio):
    frequency = MASKS[name](4000, grid, ratio, seeded()).float().mean(dim=0)
    assert frequency.min() >= 0.3 * ratio
    assert frequency.max() <= 0.9


@settings(max_examples=100, deadline=None)
@given(GRIDS, st.floats(0.05, 0.95), st.integers(0, 999))
def test_a_block_is_a_rectangle_but_for_one_row_or_column(grid, ratio, seed):
    assume(0 < round(ratio * grid[0] * grid[1]) < grid[0] * grid[1])
    block = block_mask(1, grid, ratio, seeded(seed)).reshape(grid)
    rows, cols = block.any(dim=1).nonzero().flatten(), block.any(dim=0).nonzero().flatten()
    box = block[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1]
    partial_rows, partial_cols = int((~box.all(dim=1)).sum()), int((~box.all(dim=0)).sum())
    assert min(partial_rows, partial_cols) <= 1
    if partial_rows == 1:  # that one row lies at an edge and is filled from one end
        row = (~box.all(dim=1)).nonzero().item()
        assert row in (0, len(box) - 1)
        assert int(box[row].int().diff().abs().sum()) <= 1


def test_grid_mask_at_a_half_is_a_chequerboard_and_at_three_quarters_keeps_one_of_four():
    half = MASKS["grid"](1, (8, 8), 0.5, seeded()).reshape(8, 8)
    assert (half[:, 1:] != half[:, :-1]).all()
    assert (half[1:] != half[:-1]).all()
    visible = ~MASKS["grid"](1, (8, 8), 0.75, seeded()).reshape(8, 8)
    assert (visible.reshape(4, 2, 4, 2).sum(dim=(1, 3)) == 1).all()


def test_the_square_hides_less_than_asked_and_always_the_centre():
    mask = MASKS["square"](500, (14, 14), 0.5, seeded()).reshape(500, 14, 14)
    assert mask.sum(dim=(1, 2)).unique().tolist() == [81]  # 9 x 9 of 196 = 41.3 %
    assert mask[:, 5:9, 5:9].all()
    assert mask[:, 0, 0].float().mean() < 0.1


@pytest.mark.parametrize("name", MASKS)
def test_the_generator_decides_and_the_global_one_is_left_alone(name):
    state = torch.get_rng_state()
    first, again, other = (MASKS[name](4, (8, 8), 0.4, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@given(st.integers(0, 15), st.integers(0, 23), st.sampled_from([1, 2, 4, 8]))
def test_a_pixel_hides_the_patch_it_lies_in_and_no_other(row, col, size):
    hole = torch.zeros(1, 16, 24, dtype=torch.bool)
    hole[0, row, col] = True
    mask = mask_from_pixels(hole, size)
    assert mask.nonzero().tolist() == [[0, row // size * (24 // size) + col // size]]
    back = mask_to_pixels(mask, size, (16 // size, 24 // size))
    assert int(back.sum()) == size * size
    assert back[0, row, col]


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(2, 30), st.integers(0, 99))
def test_split_ids_keeps_the_order_and_can_be_undone(batch, total, seed):
    mask = torch.rand(batch, total, generator=seeded(seed)) < 0.5
    mask[:, 0] = False
    ids_keep, ids_restore = split_ids(mask)
    assert ids_keep.shape[1] == (~mask).sum(dim=1).max()
    for row, keep in zip(mask, ids_keep, strict=True):
        visible = (~row).nonzero().flatten()
        assert keep[: len(visible)].tolist() == visible.tolist()
    shuffled = mask.gather(1, mask.int().argsort(dim=1, stable=True))
    assert torch.equal(shuffled.gather(1, ids_restore), mask)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(EXACT), st.integers(2, 9), st.floats(0, 1), st.integers(0, 99))
def test_invalid_patches_are_never_hidden_and_every_row_hides_what_else_it_can(name, side, share, seed):
    generator = seeded(seed)
    mask = MASKS[name](6, (side, side), 0.5, generator)
    invalid = torch.rand(6, side * side, generator=generator) < share
    kept = exclude_patches(mask, invalid)
    assert not (kept & invalid).any()
    for row, wanted, valid in zip(kept, mask & ~invalid, ~invalid, strict=True):
        if wanted.any():
            assert torch.equal(row, wanted)
        else:
            assert row.sum() == min(1, int(valid.sum()))


@settings(deadline=None)
@given(st.integers(0, 999), st.sampled_from([1, 4, 8]), st.integers(0, 3), st.sampled_from([(32, 48), (30, 41)]))
def test_a_box_reaches_its_margin_or_the_border_and_no_further(seed, stride, margins, size):
    hole = torch.rand(5, *size, generator=seeded(seed)) < 0.002
    hole[0] = False
    for found, image in zip(hole_boxes(hole, margins * stride, stride).tolist(), hole, strict=True):
        expected = []
        for at, side in zip(image.nonzero().T.tolist(), size, strict=True) if image.any() else ():
            places = [i // stride for i in at]  # of a grid whose places are `stride` pixels wide
            first, last = (min(places) - margins) * stride, (max(places) + 1 + margins) * stride
            expected += [max(first, 0), min(last, side)] if side % stride == 0 else [0, side]
        assert found == (expected or [0, 0, 0, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: block_mask(1, (2, 2), 1.0), "mask_ratio 1.0 of 4 patches hides none or all; use .* between 0.25"),
        (lambda: block_mask(1, (2, 2), float("nan")), "mask_ratio nan"),
        (lambda: MASKS["square"](1, (8, 8), -0.5), "mask_ratio -0.5"),
        (lambda: MASKS["grid"](1, (1, 1), 0.5), "mask_ratio 0.5 of 1 patches"),
        (lambda: mask_from_pixels(torch.ones(1, 9, 8, dtype=torch.bool), 8), "img_size 9 is not a multiple"),
        (lambda: split_ids(torch.tensor([[False, True], [True, True]])), "row 1 of the mask hides all 2 patches"),
    ],
)
def test_bad_input_is_named_with_its_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()
