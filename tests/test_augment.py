"""Augmentation: no black corners, values in range, seeded, and separate for every image."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maelib.data.augment import Augment, hue_turns, to_float


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 45), st.floats(0.1, 1), st.integers(0, 99))
def test_the_crop_lies_inside_the_image_and_no_corner_is_black(rotation, smallest, seed):
    """White stays white, and ramps keep one slope: nothing comes in from outside, and no border value is repeated.

    Two ramps at right angles and equally steep remain so: the crop is turned, and neither sheared nor stretched.
    """
    images = torch.full((8, 3, 64, 64), 255, dtype=torch.uint8)
    images[:, 1:] = 4 * torch.stack(torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij"))
    out, _ = Augment(rotation=rotation, scale=(smallest, 1.0), jitter=0, flip=0)(images, 64, seeded(seed))
    torch.testing.assert_close(out[:, 0], torch.ones(8, 64, 64))
    slopes = [out[:, 1:].diff(dim=dim) for dim in (2, 3)]
    assert all(slope.std(dim=(2, 3)).max() < 2e-3 for slope in slopes)
    down, across = torch.stack([slope.mean(dim=(2, 3)) for slope in slopes], dim=2).unbind(1)  # (8, 2) each
    torch.testing.assert_close(across, torch.stack([-down[:, 1], down[:, 0]], dim=1), rtol=0, atol=1e-3)


def test_flip_alone_mirrors_some_and_keeps_the_rest():
    images = torch.randint(256, (64, 3, 8, 8), dtype=torch.uint8, generator=seeded())
    out, _ = Augment(scale=(1.0, 1.0), jitter=0)(images, 8, seeded())
    same = (out == to_float(images)).flatten(1).all(dim=1)
    mirrored = (out == to_float(images).flip(3)).flatten(1).all(dim=1)
    assert (same ^ mirrored).all()
    assert 16 < mirrored.sum() < 48


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 45), st.floats(0.3, 1), st.integers(0, 99), st.sampled_from([24, 17]))
def test_alpha_moves_with_the_colours(rotation, smallest, seed, size):
    """Where a picture is white exactly where it is transparent, no valid pixel has any white in it."""
    transparent = torch.rand(8, 1, 24, 24, generator=seeded(seed)) < 0.1
    colours = transparent.expand(8, 3, 24, 24).to(torch.uint8) * 255
    augment = Augment(rotation=rotation, scale=(smallest, 1.0), jitter=0)
    moved, valid = augment(torch.cat([colours, 255 - colours[:, :1]], dim=1), size, seeded(seed))
    assert valid.shape == (8, size, size)
    assert moved[:, 0][valid].max() < 0.002
    assert moved[:, 0][~valid].min() > 0
    plain, everywhere = augment(colours, size, seeded(seed))  # without alpha: the same pictures, valid everywhere
    assert torch.equal(plain, moved)
    assert everywhere.all()


def test_a_third_of_a_turn_of_the_hue_makes_red_green_and_leaves_greys_alone():
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.4, 0.4, 0.4]])
    turned = torch.einsum("bdc,nc->bnd", hue_turns(torch.tensor([1 / 3, 0.0, 0.1])), colours)
    torch.testing.assert_close(turned[0], colours[[1, 2, 0, 3]])
    torch.testing.assert_close(turned[1], colours)
    torch.testing.assert_close(turned[2, 3], colours[3])
    torch.testing.assert_close(turned[2].norm(dim=1), colours.norm(dim=1))  # a rotation


def test_hue_changes_colours_of_each_image_and_not_its_mean_brightness():
    images = torch.full((16, 3, 4, 4), 100, dtype=torch.uint8)
    images[:, 0] = 140
    out, _ = Augment(flip=0, jitter=0, hue=0.1)(images, 4, seeded())
    torch.testing.assert_close(out.mean(dim=1), to_float(images).mean(dim=1))
    assert len(out[:, :, 0, 0].unique(dim=0)) == 16


def test_jitter_changes_colours_of_each_image_and_keeps_them_in_range():
    images = torch.randint(256, (16, 3, 8, 8), dtype=torch.uint8, generator=seeded())
    out, _ = Augment(flip=0, jitter=0.5)(images, 8, seeded())
    assert out.aminmax() == (0, 1)  # clipped, and the values reach either end
    changes = (out - to_float(images)).mean(dim=(1, 2, 3))
    assert changes.std() > 0.05


def test_the_generator_decides_and_a_part_of_its_numbers_serves_a_part_of_the_batch():
    images = torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8, generator=seeded())
    augment = Augment(rotation=10, scale=(0.7, 1), jitter=0.2, hue=0.1)
    drawn = augment.draw(6, seeded(1))
    part, _ = augment.apply(images[2:5], 16, {name: numbers[:, 2:5] for name, numbers in drawn.items()})
    whole, other = (augment(images, 16, seeded(seed))[0] for seed in (1, 2))
    torch.testing.assert_close(part, whole[2:5])
    assert not torch.equal(whole, other)


def test_bad_ranges_are_named_with_their_cure():
    with pytest.raises(ValueError, match=r"scale \(0.9, 0.5\).* smallest <= largest"):
        Augment(scale=(0.9, 0.5))
    with pytest.raises(ValueError, match=r"rotation 90.0.*0 to 45"):
        Augment(rotation=90.0)
