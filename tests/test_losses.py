"""Losses, against loops by hand, torch's own functions, and the pass over whole images."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from maelib.losses import ReconstructionLoss, masked_log_mse, masked_mse, perceptual_loss, target_patches
from maelib.masking import block_mask, mask_to_pixels, multi_block_mask, random_mask
from maelib.metrics import hole_psnr
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
    images = batch[0]
    target = target_patches(images, 8, norm_pix=True)
    patch = images[1, :, 8:16, 16:24].permute(1, 2, 0)  # row 1, column 2 of the grid
    patch = (patch - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)
    torch.testing.assert_close(target[1, 10], ((patch - patch.mean()) / (patch.var() + 1e-6).sqrt()).flatten())


def test_the_perfect_prediction_costs_nothing(batch):
    images, _, mask = batch
    loss = ReconstructionLoss(TINY, 0.6, 0.4, blur_and_edges)(patchify(images, 8), images, mask)
    assert {name: float(value) for name, value in loss.items()} == {"loss": 0, "mse": 0, "perceptual": 0}
    normalised = ReconstructionLoss(replace(TINY, norm_pix=True))
    assert normalised(target_patches(images, 8, True), images, mask)["loss"] == 0


def test_the_blend_is_the_weighted_sum_of_its_terms_which_say_if_features_are_random(batch):
    images, prediction, mask = batch
    for features, name in ((blur_and_edges, "perceptual"), (vgg19("random", ["relu1_1"]), "perceptual (random VGG19)")):
        loss = ReconstructionLoss(TINY, 0.6, 0.4, features)
        terms = loss(prediction, images, mask)
        assert list(terms) == loss.names == ["loss", "mse", name]
        torch.testing.assert_close(terms["loss"], 0.6 * terms["mse"] + 0.4 * terms[name])
        assert terms[name] > 0


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


NORMALISED = replace(TINY, norm_pix=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: masked_mse(torch.zeros(1, 4, 3), torch.zeros(1, 4, 12), None), r"prediction \(1, 4, 3\) and target"),
        (lambda: masked_mse(*torch.zeros(2, 1, 4, 3), torch.zeros(1, 4, dtype=torch.bool)), "hides no patch"),
        (lambda: ReconstructionLoss(TINY, -1.0), "mse_weight -1.0"),
        (lambda: ReconstructionLoss(TINY, 0.0, 0.0), "one of them above 0"),
        (lambda: ReconstructionLoss(TINY, math.nan), "mse_weight nan"),
        (lambda: ReconstructionLoss(TINY, 0.6, 0.4, blur_and_edges, log_mse=True), "perceptual_weight 0.4 .*log_mse"),
        (lambda: ReconstructionLoss(TINY, 0.6, 0.4), "perceptual_weight 0.4 need features"),
        (lambda: ReconstructionLoss(NORMALISED, 0.6, 0.4, blur_and_edges), "norm_pix predicts none"),
    ],
)
def test_bad_input_is_named_with_its_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ------------------------------------------------------------------------------- VGG19, around the hole and elsewhere


# Two orders of summing agree to 12 digits in float64. Random weights, too, see every border.
EXACT = vgg19("random", dtype=torch.float64)
PAIR = torch.rand(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)  # guesses, truths


def some_patches(*rows):
    mask = torch.zeros(len(rows), 64, dtype=torch.bool)
    for i, patches in enumerate(rows):
        mask[i, list(patches)] = True
    return mask


SEEDED = torch.Generator().manual_seed(5)
HOLES = {
    "one block": block_mask(3, (8, 8), 0.2, SEEDED),
    "several blocks": multi_block_mask(3, (8, 8), 0.15, SEEDED),
    "one patch": some_patches([27], [28], [35]),
    "at the border": some_patches([0], [7, 8], [63]),
    "scattered": random_mask(3, (8, 8), 0.3, SEEDED),
    "sizes mixed, one of none": some_patches([26, 27], range(64), []),
}
HOLES = {name: mask_to_pixels(mask, 8, (8, 8)) for name, mask in HOLES.items()}


def value_and_gradient(pair, hole, features, window=1):
    predicted, images = pair[0].clone().requires_grad_(), pair[1]
    value = perceptual_loss(predicted.where(hole[:, None], images), images, hole, features, window)
    return value, torch.autograd.grad(value, predicted)[0]


@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("name", HOLES)
def test_the_crop_around_the_hole_gives_the_value_and_gradient_of_the_whole_image(name, window):
    cropped, fast = value_and_gradient(PAIR, HOLES[name], EXACT, window)
    whole, slow = value_and_gradient(PAIR, HOLES[name], lambda x: EXACT(x), window)  # says nothing of a margin
    torch.testing.assert_close(cropped, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9 * slow.abs().max().item())
    assert (slow.abs().sum(dim=1) > 0).equal(HOLES[name])


def test_neither_the_truth_nor_a_weight_gets_a_gradient():
    predicted, images = (x.clone().requires_grad_() for x in PAIR)
    perceptual_loss(predicted, images, HOLES["one block"], EXACT).backward()
    assert predicted.grad.abs().sum() > 0
    assert images.grad is None
    assert all(p.grad is None for p in EXACT.parameters())


@pytest.mark.parametrize(("size", "patch"), [(84, 14), (90, 10)])  # a patch, and an image, off the stride of 4
def test_the_crop_is_right_for_patches_and_images_off_the_stride(size, patch):
    pair = torch.rand(2, 1, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = size // patch
    hole = mask_to_pixels(torch.arange(rows * rows)[None] == rows + 1, patch, (rows, rows))
    whole = perceptual_loss(*pair, hole, lambda x: EXACT(x))
    torch.testing.assert_close(perceptual_loss(*pair, hole, EXACT), whole, rtol=1e-12, atol=0)


def test_the_margin_is_as_small_as_can_be_and_the_crop_no_larger(monkeypatch):
    sizes = []
    handle = EXACT.register_forward_pre_hook(lambda module, args: sizes.append(tuple(args[0].shape)))
    right = perceptual_loss(*PAIR, HOLES["one patch"], EXACT)
    handle.remove()
    assert sizes == [(3, 3, 32, 32)] * 2  # 8 px and 12 on each side; predictions and truths
    monkeypatch.setattr(EXACT, "margin", EXACT.margin - EXACT.stride)
    assert abs(perceptual_loss(*PAIR, HOLES["one patch"], EXACT) / right - 1) > 1e-6


def test_bf16_features_give_nearly_the_same_loss_and_direction_in_float32():
    hole, short = HOLES["one block"], vgg19("random", dtype=torch.bfloat16)
    value, gradient = value_and_gradient(PAIR.float(), hole, short)
    expected, direction = value_and_gradient(PAIR, hole, EXACT)
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
