"""The metrics against naive loops and scikit-image, and what must not move them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maelib.metrics import hole_psnr, hole_sharpness, hole_ssim

each_metric = pytest.mark.parametrize("metric", [hole_psnr, hole_ssim, hole_sharpness])


def example(seed, height=20, width=16, share=0.4):
    generator = torch.Generator().manual_seed(seed)
    target, prediction = torch.rand(2, 2, 3, height, width, generator=generator)
    hole = torch.rand(2, height, width, generator=generator) < share
    hole[:, height // 2, width // 2 : width // 2 + 2] = True  # never empty, and two hidden neighbours
    return prediction, target, hole


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.floats(0, 1))
def test_psnr_and_sharpness_equal_loops_over_hidden_pixels_and_neighbours(seed, share):
    prediction, target, hole = example(seed, height=7, width=5, share=share)

    def energy(image, hidden):
        pairs = [((y, x), after) for y, x in hidden for after in ((y + 1, x), (y, x + 1)) if after in hidden]
        return sum(float(image[c, *a] - image[c, *b]) ** 2 for a, b in pairs for c in range(3))

    psnr, sharpness = hole_psnr(prediction, target, hole), hole_sharpness(prediction, target, hole)
    for i in range(2):
        hidden = [tuple(place) for place in hole[i].nonzero().tolist()]
        errors = [float(prediction[i, c, y, x] - target[i, c, y, x]) ** 2 for y, x in hidden for c in range(3)]
        # float32 sums against Python's floats
        assert psnr[i].item() == pytest.approx(-10 * math.log10(sum(errors) / len(errors)), abs=1e-4)
        ratio = energy(prediction[i], hidden) / energy(target[i], hidden)
        assert sharpness[i].item() == pytest.approx(ratio, rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_ssim_equals_scikit_image(seed):
    skimage = pytest.importorskip("skimage.metrics")
    prediction, target, hole = example(seed, height=40, width=33)
    # The two libraries continue an image differently beyond its border, which the window reaches from 5 px away.
    hole[:, :5], hole[:, -5:], hole[:, :, :5], hole[:, :, -5:] = False, False, False, False
    options = {"full": True, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    expected = []
    for image, truth, hidden in zip(prediction.double(), target.double(), hole, strict=True):
        pair = (x.permute(1, 2, 0).numpy() for x in (torch.where(hidden, image, truth), truth))
        _, ssim_map = skimage.structural_similarity(*pair, channel_axis=-1, **options)
        expected.append(torch.from_numpy(ssim_map)[hidden].mean())
    # torchmetrics computes variances as E[x^2] - E[x]^2 in float32
    torch.testing.assert_close(hole_ssim(prediction, target, hole), torch.stack(expected).float(), atol=2e-5, rtol=0)


@each_metric
def test_compositing_spoiling_visible_pixels_and_clamping_change_nothing(metric):
    prediction, target, hole = example(0)
    expected = metric(prediction, target, hole)
    for visible in (target, torch.zeros(())):
        assert torch.equal(metric(torch.where(hole[:, None], prediction, visible), target, hole), expected)
    stretched = prediction * 1.8 - 0.4
    assert torch.equal(metric(stretched, target, hole), metric(stretched.clamp(0, 1), target, hole))


def test_known_repairs_have_known_values():
    _, target, hole = example(2)
    assert hole_psnr(target, target, hole).isinf().all()
    flat = torch.full_like(target, 0.5)
    torch.testing.assert_close(hole_psnr(flat + 0.1, flat, hole), torch.full((2,), 20.0))  # an error of a tenth


@each_metric
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p, t, h: (p[:, :, 1:], t, h), r"prediction \(2, 3, 19, 16\) and target \(2, 3, 20, 16\)"),
        (lambda p, t, h: (p[0], t[0], h), r"\(3, 20, 16\); pass float \(B, C, H, W\)"),
        (lambda p, t, h: (p[:0], t[:0], h[:0]), r"pass float \(B, C, H, W\)"),
        (lambda p, t, h: (p.byte(), t.byte(), h), r"torch.uint8 .* images.float\(\) / 255"),
        (lambda p, t, h: (p, t, h[:, 1:]), r"hole is torch.bool \(2, 19, 16\).*\(2, 20, 16\)"),
        (lambda p, t, h: (p, t, h.float()), r"hole is torch.float32"),
        (lambda p, t, h: (p, t, h & torch.tensor([True, False])[:, None, None]), r"empty in rows \[1\]"),
        (lambda p, t, h: (p * 255, t, h), "prediction range from .* far outside"),
        (lambda p, t, h: (p, t * math.nan, h), "target range from nan to nan"),
    ],
)
def test_bad_arguments_are_named(metric, spoil, message):
    with pytest.raises(ValueError, match=message):
        metric(*spoil(*example(3)))
