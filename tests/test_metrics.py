"""The metrics against naive loops and scikit-image, and what must not move them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maelib.metrics import hole_psnr, hole_sharpness, hole_ssim

METRICS = [hole_psnr, hole_ssim, hole_sharpness]


def example(seed, batch=2, height=20, width=16, share=0.4):
    generator = torch.Generator().manual_seed(seed)
    target, prediction = torch.rand(2, batch, 3, height, width, generator=generator)
    hole = torch.rand(batch, height, width, generator=generator) < share
    hole[:, height // 2, width // 2 : width // 2 + 2] = True  # never empty, and two hidden neighbours
    return prediction, target, hole


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.floats(0, 1))
def test_psnr_equals_a_loop_over_hidden_pixels(seed, share):
    prediction, target, hole = example(seed, height=7, width=5, share=share)
    for i, value in enumerate(hole_psnr(prediction, target, hole)):
        errors = [
            float(prediction[i, c, y, x] - target[i, c, y, x]) ** 2
            for y, x in hole[i].nonzero().tolist()
            for c in range(3)
        ]
        # float32 sums against Python's floats
        assert value.item() == pytest.approx(-10 * math.log10(sum(errors) / len(errors)), abs=1e-4)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_sharpness_equals_a_loop_over_hidden_neighbours(seed):
    prediction, target, hole = example(seed, height=6, width=7)

    def energy(image, hidden):
        total = 0.0
        for y, x in hidden.nonzero().tolist():
            for y2, x2 in ((y + 1, x), (y, x + 1)):
                if y2 < hidden.shape[0] and x2 < hidden.shape[1] and hidden[y2, x2]:
                    total += ((image[:, y2, x2] - image[:, y, x]) ** 2).sum().item()
        return total

    for i, value in enumerate(hole_sharpness(prediction, target, hole)):
        assert value.item() == pytest.approx(energy(prediction[i], hole[i]) / energy(target[i], hole[i]), rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_ssim_equals_scikit_image(seed):
    skimage = pytest.importorskip("skimage.metrics")
    prediction, target, hole = example(seed, height=40, width=33)
    # The two libraries continue an image differently beyond its border, which the window reaches from 5 px away.
    hole[:, :5], hole[:, -5:], hole[:, :, :5], hole[:, :, -5:] = False, False, False, False
    expected = []
    for image, truth, hidden in zip(prediction, target, hole, strict=True):
        composite = torch.where(hidden, image, truth).permute(1, 2, 0).double().numpy()
        _, ssim_map = skimage.structural_similarity(
            composite,
            truth.permute(1, 2, 0).double().numpy(),
            channel_axis=-1,
            full=True,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
        )
        expected.append(torch.from_numpy(ssim_map)[hidden].mean())
    # torchmetrics computes variances as E[x^2] - E[x]^2 in float32
    torch.testing.assert_close(hole_ssim(prediction, target, hole), torch.stack(expected).float(), atol=2e-5, rtol=0)


@pytest.mark.parametrize("metric", METRICS)
def test_compositing_or_spoiling_the_visible_pixels_changes_nothing(metric):
    prediction, target, hole = example(0)
    composite = torch.where(hole[:, None], prediction, target)
    spoilt = torch.where(hole[:, None], prediction, torch.zeros(()))
    expected = metric(prediction, target, hole)
    assert torch.equal(metric(composite, target, hole), expected)
    assert torch.equal(metric(spoilt, target, hole), expected)


@pytest.mark.parametrize("metric", METRICS)
def test_values_are_clamped_and_images_do_not_influence_one_another(metric):
    prediction, target, hole = example(1, batch=3)
    stretched = prediction * 1.8 - 0.4
    expected = metric(stretched.clamp(0, 1), target, hole)
    assert torch.equal(metric(stretched, target, hole), expected)
    alone = [metric(stretched[i : i + 1], target[i : i + 1], hole[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), expected)


def test_a_perfect_repair_has_the_best_values_and_a_flat_one_no_sharpness():
    _, target, hole = example(2)
    assert hole_psnr(target, target, hole).isinf().all()
    torch.testing.assert_close(hole_ssim(target, target, hole), torch.ones(2))
    torch.testing.assert_close(hole_sharpness(target, target, hole), torch.ones(2))
    assert hole_sharpness(torch.full_like(target, 0.5), target, hole).eq(0).all()


def test_an_error_of_a_tenth_is_20_decibels():
    target, hole = torch.full((1, 3, 8, 8), 0.5), torch.ones(1, 8, 8, dtype=torch.bool)
    assert hole_psnr(target + 0.1, target, hole).item() == pytest.approx(20, abs=1e-4)


def wrong_hole_row(hole):
    hole = hole.clone()
    hole[1] = False
    return hole


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p, t, h: (p[:, :, 1:], t, h), r"prediction has shape \(2, 3, 19, 16\) but target \(2, 3, 20, 16\)"),
        (lambda p, t, h: (p[0], t[0], h), r"shape \(3, 20, 16\); pass float \(B, C, H, W\)"),
        (lambda p, t, h: (p[:0], t[:0], h[:0]), r"pass float \(B, C, H, W\)"),
        (lambda p, t, h: ((p * 255).byte(), (t * 255).byte(), h), r"torch.uint8 .* images.float\(\) / 255"),
        (lambda p, t, h: (p, t, h[:, 1:]), r"hole is torch.bool of shape \(2, 19, 16\).*\(2, 20, 16\)"),
        (lambda p, t, h: (p, t, h.float()), r"hole is torch.float32"),
        (lambda p, t, h: (p, t, wrong_hole_row(h)), r"the hole is empty in rows \[1\]"),
        (lambda p, t, h: (p * 255, t, h), "prediction range from .* far outside"),
        (lambda p, t, h: (p, t - 5, h), "target range from -5"),
        (lambda p, t, h: (p * math.nan, t, h), "prediction range from nan to nan"),
    ],
    ids=["shapes", "no batch", "empty batch", "uint8", "hole shape", "hole type", "no hole", "0..255", "low", "nan"],
)
def test_bad_arguments_are_named(metric, spoil, message):
    with pytest.raises(ValueError, match=message):
        metric(*spoil(*example(3)))


def test_ssim_names_the_smallest_image_it_takes():
    with pytest.raises(ValueError, match=r"\(5, 16\) px are too small for SSIM; use 6 px"):
        hole_ssim(*example(4, height=5))
