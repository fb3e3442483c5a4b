"""Losses and metrics, against loops by hand, torch's and scikit-image's functions, and the pass over whole images."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from maelib.losses import ReconstructionLoss, masked_log_mse, masked_mse, perceptual_loss, target_patches
from maelib.masking import block_mask, mask_to_pixels, multi_block_mask, random_mask
from maelib.metrics import hole_psnr, hole_sharpness, hole_ssim
from maelib.model import CONFIGS
from maelib.patches import PIXEL_MEAN, PIXEL_STD, patchify, unpatchify
from maelib.perceptual import vgg19

TINY = CONFIGS["facade_tiny"]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 64, 64, generator=generator)
    mask = torch.cat([random_mask(1, (8, 8), ratio, generator) for ratio in (0.25, 0.5, 0.75, 0.6)])
    return images, torch.rand(4, 64, 192, generator=generator), mask


def blur_and_edges(images):
    """Features that anybody can check: means and horizontal differences over 4 x 4 pixels."""
    return [F.avg_pool2d(images, 4), F.avg_pool2d(images.diff(dim=3, prepend=images[..., :1]), 4)]


def test_masked_mse_equals_a_loop_over_hidden_patches(batch):
    images, prediction, mask = batch
    target = patchify(images, 8)
    errors = torch.stack([F.mse_loss(prediction[b, n], target[b, n]) for b, n in mask.nonzero()])
    torch.testing.assert_close(masked_mse(prediction, target, mask), errors.mean())
    torch.testing.assert_close(masked_mse(prediction, target, mask, count=200), errors.sum() / 200)
    torch.testing.assert_close(masked_mse(prediction, target, None), F.mse_loss(prediction, target))


def test_the_logarithmic_loss_is_the_mean_psnr_of_the_holes(batch):
    images, prediction, mask = batch
    repaired, hole = unpatchify(prediction, 8, (8, 8)), mask_to_pixels(mask, 8, (8, 8))
    psnr = hole_psnr(repaired, images, hole).mean()  # errors of about 0.17, which the floor of 0.001 hardly moves
    loss = ReconstructionLoss(TINY, log_mse=True)(prediction, images, mask)
    torch.testing.assert_close(loss["loss"], -math.log(10) / 10 * psnr, atol=0.01, rtol=0)
    assert loss["mse"] == masked_mse(prediction, patchify(images, 8), mask)
    more = [torch.cat([x, x[:1]]) for x in (prediction, patchify(images, 8))]  # and an image of which nothing is hidden
    torch.testing.assert_close(masked_log_mse(*more, torch.cat([mask, mask[:1] & False])), loss["loss"])
    faint = masked_log_mse(prediction / 10, patchify(images, 8) / 10, mask) - loss["loss"]
    assert -math.log(100) < faint < -math.log(100) + 0.6  # all errors a hundredth, and then the floor


def test_a_normalised_target_is_the_standardised_patch(batch):
    images, _, mask = batch
    target = target_patches(images, 8, norm_pix=True)
    assert ReconstructionLoss(replace(TINY, norm_pix=True))(target, images, mask)["loss"] == 0
    patch = images[1, :, 8:16, 16:24].permute(1, 2, 0)  # row 1, column 2 of the grid
    patch = (patch - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)
    torch.testing.assert_close(target[1, 10], ((patch - patch.mean()) / (patch.var() + 1e-6).sqrt()).flatten())


def test_the_blend_is_the_weighted_sum_of_its_terms_which_say_if_features_are_random(batch):
    images, prediction, mask = batch
    hole = mask_to_pixels(mask, 8, (8, 8))
    repaired = unpatchify(prediction, 8, (8, 8)).where(hole[:, None], images)
    for features, name in ((blur_and_edges, "perceptual"), (vgg19("random", ["relu1_1"]), "perceptual (random VGG19)")):
        loss = ReconstructionLoss(TINY, 0.6, 0.4, features)
        terms = loss(prediction, images, mask)
        assert list(terms) == loss.names == ["loss", "mse", name]
        torch.testing.assert_close(terms["loss"], 0.6 * terms["mse"] + 0.4 * terms[name])
        assert terms[name] == perceptual_loss(repaired, images, hole, features) > 0


PARTED = {
    "squared error": {},
    "logarithm": {"log_mse": True},
    "features": {"perceptual_weight": 1.0, "features": blur_and_edges},
    "VGG19": {"perceptual_weight": 1.0, "features": vgg19("random", ["relu2_1"])},
    "neighbourhoods": {"perceptual_weight": 1.0, "features": vgg19("random", ["relu2_1"]), "window": 3},
}


@pytest.mark.parametrize("name", PARTED)
def test_with_one_count_the_mean_over_the_parts_of_a_batch_is_the_loss_of_the_batch(batch, name):
    images, prediction, mask = batch
    mask[3] = False  # a part may hide nothing at all
    loss = ReconstructionLoss(TINY, **PARTED[name])
    whole = loss(prediction, images, mask, count=4 * 40)
    parts = [loss(*(x[i : i + 1] for x in (prediction, images, mask)), count=40) for i in range(4)]
    for term in loss.names:
        torch.testing.assert_close(torch.stack([part[term] for part in parts]).mean(), whole[term])
    if "window" not in PARTED[name]:  # neighbourhoods at the border of the image weigh less than their places
        plain, counted = loss(prediction, images, mask), loss(prediction, images, mask, count=mask.sum())
        factor = 3 / 4 if name == "logarithm" else 1  # with a count, all four images count
        torch.testing.assert_close(counted["loss"], factor * plain["loss"])


# ------------------------------------------------------------------------------- VGG19, around the hole and elsewhere


# Two orders of summing agree to 12 digits in float64. Random weights, too, see every border.
EXACT = vgg19("random", dtype=torch.float64)
SEEDED = torch.Generator().manual_seed(5)


def hide(*rows, size=8, grid=(8, 8)):
    """Holes `(B, H, W)` of some patches of each image."""
    mask = torch.zeros(len(rows), grid[0] * grid[1], dtype=torch.bool)
    for i, patches in enumerate(rows):
        mask[i, list(patches)] = True
    return mask_to_pixels(mask, size, grid)


HOLES = {
    "one block": mask_to_pixels(block_mask(3, (8, 8), 0.2, SEEDED), 8, (8, 8)),
    "several blocks": mask_to_pixels(multi_block_mask(3, (8, 8), 0.15, SEEDED), 8, (8, 8)),
    "scattered": mask_to_pixels(random_mask(3, (8, 8), 0.3, SEEDED), 8, (8, 8)),
    "one patch or none": hide([30], [31], [39], [], grid=(8, 9)),
    "at the border": hide([0], [7, 8], [63]),
    "sizes mixed": hide([26, 27], range(64)),
    "more than a batch of crops": hide(*[[12]] * 9, grid=(5, 5)),
    "a patch off the stride of 4": hide([7], size=14, grid=(6, 6)),
    "a wide image off the stride of 4": hide([10], size=10, grid=(6, 9)),
}


def guesses_and_truths(hole):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(2, len(hole), 3, *hole.shape[1:], generator=generator, dtype=torch.float64)


def value_and_gradient(predicted, images, hole, features, window=1):
    predicted = predicted.clone().requires_grad_()
    value = perceptual_loss(predicted.where(hole[:, None], images), images, hole, features, window)
    return value, torch.autograd.grad(value, predicted)[0]


@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("name", HOLES)
def test_the_crop_around_the_hole_gives_the_value_and_gradient_of_the_whole_image(name, window):
    case = *guesses_and_truths(HOLES[name]), HOLES[name]
    cropped, fast = value_and_gradient(*case, EXACT, window)
    whole, slow = value_and_gradient(*case, lambda x: EXACT(x), window)  # says nothing of a margin
    torch.testing.assert_close(cropped, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9 * slow.abs().max().item())
    assert (slow.abs().sum(dim=1) > 0).equal(HOLES[name])


def test_neither_the_truth_nor_a_weight_gets_a_gradient():
    predicted, images = (x.clone().requires_grad_() for x in guesses_and_truths(HOLES["one block"]))
    perceptual_loss(predicted, images, HOLES["one block"], EXACT).backward()
    assert predicted.grad.abs().sum() > 0
    assert images.grad is None
    assert all(p.grad is None for p in EXACT.parameters())


@pytest.mark.parametrize(("name", "batches"), [("one patch or none", [3]), ("more than a batch of crops", [8, 1])])
def test_crops_are_as_small_and_as_few_at_once_as_they_should_be(name, batches):
    sizes = []
    handle = EXACT.register_forward_pre_hook(lambda module, args: sizes.append(tuple(args[0].shape)))
    perceptual_loss(*guesses_and_truths(HOLES[name]), HOLES[name], EXACT)
    handle.remove()
    # 8 px of hole and 12 on each side; truths, then predictions
    assert sizes == [(number, 3, 32, 32) for number in batches for _ in range(2)]


def test_bf16_features_give_nearly_the_same_loss_and_direction_in_float32():
    hole, short = HOLES["one block"], vgg19("random", dtype=torch.bfloat16)
    pair = guesses_and_truths(hole)
    value, gradient = value_and_gradient(*pair.float(), hole, short)
    expected, direction = value_and_gradient(*pair, hole, EXACT)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=0.02)  # a bf16 number is right to 0.4%
    assert F.cosine_similarity(gradient.flatten().double(), direction.flatten(), dim=0) > 0.98


def test_windows_hold_root_mean_squares_of_the_hole_alone():
    predicted, images = torch.rand(2, 1, 2, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    hole = torch.zeros(1, 4, 5, dtype=torch.bool)
    hole[0, 1:3, 1:4] = True
    total = places = 0
    for window in ((0, slice(top, top + 2), slice(left, left + 2)) for top in range(3) for left in range(4)):
        inside = hole[window]
        if inside.any():
            shown = (x[0, :, *window[1:]][:, inside] for x in (predicted, images))
            a, b = ((x.square().mean(dim=1) + 1e-4).sqrt() for x in shown)
            total, places = total + (a - b).square().mean() * inside.sum(), places + inside.sum()
    torch.testing.assert_close(perceptual_loss(predicted, images, hole, lambda x: [x], 2), total / places)


# ----------------------------------------------------------------------------------------------------------- metrics


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


@pytest.mark.parametrize("metric", [hole_psnr, hole_ssim, hole_sharpness])
def test_compositing_spoiling_visible_pixels_and_clamping_change_nothing(metric):
    prediction, target, hole = example(0)
    expected = metric(prediction, target, hole)
    for visible in (target, torch.zeros(())):
        assert torch.equal(metric(torch.where(hole[:, None], prediction, visible), target, hole), expected)
    stretched = prediction * 1.8 - 0.4
    assert torch.equal(metric(stretched, target, hole), metric(stretched.clamp(0, 1), target, hole))


def test_a_perfect_repair_has_an_infinite_psnr():
    _, target, hole = example(2)
    assert hole_psnr(target, target, hole).isinf().all()
