"""Patch grids and positions, against naive loops and timm."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import resample_abs_pos_embed

from maelib.patches import interpolate_positions, patchify, rotary_angles, rotate, sincos_positions, unpatchify

SIDES = st.integers(1, 5)


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
    assert positions.shape == (6, 8)
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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: patchify(torch.rand(1, 3, 32, 225), 16), "img_size 225 .* patch_size 16; use 224 or 240"),
        (lambda: patchify(torch.rand(1, 3, 32, 8), 16), "img_size 8 .* patch_size 16; use 16"),
        (lambda: patchify(torch.rand(1, 3, 32, 32), 0), "patch_size 0 is below 1"),
        (lambda: patchify(torch.rand(3, 8, 8), 4), r"\(3, 8, 8\), expected \(B, C, H, W\)"),
        (lambda: unpatchify(torch.rand(1, 5, 12), 2, (2, 3)), "5 patches do not fill a grid of 2 x 3 = 6"),
        (lambda: unpatchify(torch.rand(1, 6, 13), 2, (2, 3)), "13 values does not hold 2 x 2 pixels"),
        (lambda: sincos_positions((2, 2), 6), "dim 6 .* use 8"),
        (lambda: rotary_angles((2, 2), 10), "head_dim 10 is not a multiple of 4"),
    ],
)
def test_bad_input_is_named_with_its_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()
