"""What each baseline promises: exact where a facade repeats as it assumes, and never a change outside the hole."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maelib.masking import block_mask, mask_to_pixels
from maelib.metrics import hole_psnr
from maelib.repair.classical import BASELINES
from maelib.repair.evaluate import drawn_test_images, evaluation_holes

pytest.importorskip("cv2")
pytest.importorskip("skimage")
every_baseline = pytest.mark.parametrize("fill", BASELINES.values(), ids=BASELINES)


def smooth_images(seed, batch=2):
    coarse = torch.rand(batch, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (24, 32), mode="bilinear")


def block_hole(batch, height=24, width=32, seed=0):
    grid = (height // 4, width // 4)
    return mask_to_pixels(block_mask(batch, grid, 0.25, torch.Generator().manual_seed(seed)), 4, grid)


def box_hole(height, width, rows, cols):
    hole = torch.zeros(1, height, width, dtype=torch.bool)
    hole[0, slice(*rows), slice(*cols)] = True
    return hole


@every_baseline
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.sampled_from([0, 0.02, 0.3, 0.9]))
def test_only_the_hole_changes_and_hidden_pixels_do_not_influence_the_repair(fill, seed, share):
    images = smooth_images(seed)
    hole = torch.rand(2, 24, 32, generator=torch.Generator().manual_seed(seed)) < share
    before = images.clone()
    filled = fill(images, hole)
    assert (filled.shape, filled.dtype) == (images.shape, images.dtype)
    assert torch.equal(images, before)
    assert torch.equal(torch.where(hole[:, None], 0, filled), torch.where(hole[:, None], 0, images))
    assert 0 <= filled.min() <= filled.max() <= 1
    spoilt = torch.where(hole[:, None], 1 - images, images)
    assert torch.equal(fill(spoilt, hole), filled)


@every_baseline
def test_an_image_is_filled_alike_alone_and_in_a_batch(fill):
    images, hole = smooth_images(2, batch=3), block_hole(3, seed=5)
    alone = torch.cat([fill(images[i : i + 1], hole[i : i + 1]) for i in range(3)])
    assert torch.equal(fill(images, hole), alone)


@every_baseline
def test_a_flat_image_stays_flat(fill):
    flat = torch.full((1, 3, 24, 32), 0.4)
    # OpenCV works on uint8, and its Telea strays by up to 3 / 255 on flat images (opencv issue 25404)
    torch.testing.assert_close(fill(flat, block_hole(1)), flat, atol=3.5 / 255, rtol=0)


@every_baseline
def test_a_hole_that_leaves_nothing_visible_is_refused(fill):
    images, hole = smooth_images(4), block_hole(2)
    hole[1] = True
    with pytest.raises(ValueError, match=r"the hole covers all of images \[1\]"):
        fill(images, hole)


@pytest.mark.parametrize(("name", "module"), [("telea", "cv2"), ("biharmonic", "skimage.restoration")])
def test_a_missing_optional_package_is_named_with_the_cure(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(ImportError, match=rf"needs {module}; pip install maelib\[course\]"):
        BASELINES[name](smooth_images(5), block_hole(2))


def test_mean_fill_equals_a_loop_over_visible_pixels():
    images, hole = smooth_images(6, batch=1), block_hole(1)
    visible = [images[0, :, y, x] for y in range(24) for x in range(32) if not hole[0, y, x]]
    filled = BASELINES["mean_fill"](images, hole)[0][:, hole[0]]
    torch.testing.assert_close(filled, torch.stack(visible).mean(dim=0)[:, None].expand_as(filled))


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(5, 12), cols=st.integers(5, 12))
def test_copies_repair_a_periodic_image_exactly(seed, rows, cols):
    tile = torch.rand(3, rows, cols, generator=torch.Generator().manual_seed(seed))
    images = tile.repeat(1, 10, 10)[None, :, :40, :48]
    assert torch.equal(BASELINES["translation_copy"](images, box_hole(40, 48, (10, 26), (12, 30))), images)


def test_the_mean_of_copies_averages_away_noise_that_one_copy_keeps():
    generator = torch.Generator().manual_seed(7)
    clean = torch.rand(3, 8, 8, generator=generator).repeat(1, 6, 6)[None]
    noisy = (clean + 0.05 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)
    hole = block_hole(1, 48, 48, seed=1)
    one, six = (BASELINES[name](noisy, hole) for name in ("translation_copy", "mean_of_copies"))
    # noise of a sixth of the variance is 7.8 dB down; clamping and the finite sample take their share
    assert 5 < (hole_psnr(six, clean, hole) - hole_psnr(one, clean, hole)).item() < 9


def test_mirror_repairs_one_half_of_a_symmetric_image_about_any_axis():
    left = torch.rand(1, 3, 24, 14, generator=torch.Generator().manual_seed(8))
    images = torch.cat([left, left.flip(-1)], dim=-1)[..., 4:]  # (1, 3, 24, 24), axis between columns 9 and 10
    assert torch.equal(BASELINES["mirror"](images, box_hole(24, 24, (6, 15), (2, 8))), images)


def test_nearest_patch_copies_whole_patches_from_the_nearest_visible_one():
    images = torch.arange(5.0).repeat_interleave(4).div(4).expand(1, 3, 8, 20).clone()  # five patches wide, two high
    images[:, :, ::2] *= 0.5  # texture, which a pixel's nearest neighbour would not keep
    filled = BASELINES["nearest_patch"](images, box_hole(8, 20, (0, 8), (4, 8)) | box_hole(8, 20, (0, 8), (12, 20)))
    assert torch.equal(filled[..., 12:16], images[..., 8:12])
    assert torch.equal(filled[..., 16:20], images[..., 8:12])
    assert torch.equal(filled[..., 4:8], images[..., 0:4]) or torch.equal(filled[..., 4:8], images[..., 8:12])


def test_nearest_patch_falls_back_to_nearest_pixels_for_a_free_outline():
    images, hole = smooth_images(9, batch=1), box_hole(24, 32, (3, 14), (5, 18))
    filled = BASELINES["nearest_patch"](images, hole)
    visible = (~hole[0]).nonzero()
    for y, x in ((3, 9), (8, 5), (13, 17), (7, 7)):
        distance = ((visible - torch.tensor([y, x])) ** 2).sum(dim=1)
        nearest = visible[distance == distance.min()]  # there can be several
        assert any(torch.equal(filled[0, :, y, x], images[0, :, r, c]) for r, c in nearest.tolist())


def test_shifts_that_tie_are_ranked_alike_whatever_the_last_digit(monkeypatch):
    """A shift and its opposite often fit equally well; a Fourier transform of another CPU must not decide."""
    images, generator, exact = drawn_test_images(32, 8), torch.Generator().manual_seed(0), torch.fft.irfft2
    hole = evaluation_holes("block 25%", images, 8)
    expected = BASELINES["translation_copy"](images, hole)

    def rounded_otherwise(x, size):
        y = exact(x, size)
        return y * (1 + 1e-13 * torch.randn(y.shape, generator=generator, dtype=y.dtype))

    monkeypatch.setattr(torch.fft, "irfft2", rounded_otherwise)
    assert torch.equal(BASELINES["translation_copy"](images, hole), expected)
