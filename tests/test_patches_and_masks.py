"""Patches and positions, against naive loops and timm; masks: exact shares, coverage, shapes and indices."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from timm.layers import resample_abs_pos_embed

from maelib.masking import MASKS, block_mask, exclude_patches, mask_from_pixels, mask_to_pixels, split_ids
from maelib.patches import interpolate_positions, patchify, rotary_angles, rotate, sincos_positions, unpatchify

EXACT = [name for name in MASKS if name != "square"]
SIDES = st.integers(1, 5)
GRIDS = st.tuples(st.integers(1, 16), st.integers(1, 16))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------------------------------- patches and positions


@given(SIDES, SIDES, st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))
def test_unpatchify_undoes_patchify(rows, cols, size, channels, batch):
    images = torch.rand(batch, channels, rows * size, cols * size)
    patches = patchify(images, size)
    assert patches.shape == (batch, rows * cols, size * size * channels)
    assert torch.equal(unpatchify(patches, size, (rows, cols)), images)


def test_patchify_equals_a_naive_loop():
    images = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    for b, patches in enumerate(patchify(images, 2)):
        for n, patch in enumerate(patches):
            row, col = divmod(n, 3)
            expected = [images[b, c, 2 * row + i, 2 * col + j] for i in range(2) for j in range(2) for c in range(3)]
            assert patch.tolist() == [int(x) for x in expected]


def test_sincos_positions_hold_column_then_row_as_sines_and_cosines():
    positions = sincos_positions((2, 3), 8)
    row, col = 1.0, 2.0
    expected = [f(x * w) for x in (col, row) for f in (torch.sin, torch.cos) for w in torch.tensor([1.0, 0.01])]
    torch.testing.assert_close(positions[5], torch.stack(expected))


@pytest.mark.parametrize("new", [(8, 6), (8, 12), (16, 6), (3, 5)])
def test_positions_are_interpolated_as_timm_does(new):
    positions = torch.randn(48, 16, generator=torch.Generator().manual_seed(0))
    theirs = resample_abs_pos_embed(positions[None], new, old_size=(8, 6), num_prefix_tokens=0)[0]
    torch.testing.assert_close(interpolate_positions(positions, (8, 6), new), theirs)


@given(st.integers(-4, 4), st.integers(-4, 4))
def test_rotary_attention_depends_on_the_offset_alone(down, right):
    """The product of a rotated query and key is the same wherever a pair with this offset stands."""
    query, key = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    angles = rotary_angles((7, 7), 16)[None]
    queries, keys = (rotate(x.expand(1, 1, 49, 16), angles).reshape(7, 7, 16) for x in (query, key))
    places = [(r, c) for r in range(7) for c in range(7) if 0 <= r + down < 7 and 0 <= c + right < 7]
    products = torch.stack([queries[r, c] @ keys[r + down, c + right] for r, c in places])
    assert len(products) >= 9
    torch.testing.assert_close(products, products[:1].expand_as(products), atol=1e-4, rtol=1e-4)  # float32 sines


def test_rotation_tells_offsets_apart_and_keeps_lengths():
    query, key = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    rotated = rotate(key.expand(1, 1, 49, 16), rotary_angles((7, 7), 16)[None])[0, 0]
    products = rotated @ query  # a query in the corner, keys everywhere
    assert len(products.mul(1e4).round().unique()) > 40
    torch.testing.assert_close(rotated.norm(dim=-1), key.norm().expand(49))


# ---------------------------------------------------------------------------------------------- masks


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


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_several_blocks_hide_no_stray_patches(ratio):
    mask = MASKS["multi_block"](256, (14, 14), ratio, seeded()).reshape(256, 1, 14, 14).float()
    cross = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]])[None, None].float()
    alone = mask.bool() & (F.conv2d(mask, cross, padding=1) == 0)
    assert alone.sum(dim=(1, 2, 3)).max() <= 1  # the last block may have one patch left to hide


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
    wanted = mask & ~invalid
    some = wanted.any(dim=1)
    assert torch.equal(kept[some], wanted[some])
    assert torch.equal(kept[~some].sum(dim=1), (~invalid)[~some].any(dim=1).long())
