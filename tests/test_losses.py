"""Losses, against loops by hand and torch's own."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from maelib.losses import (
    ReconstructionLoss,
    cropped_perceptual_loss,
    masked_log_mse,
    masked_mse,
    perceptual_loss,
    target_patches,
)
from maelib.masking import block_mask, exclude_patches, mask_to_pixels, multi_block_mask, random_mask
from maelib.metrics import hole_psnr
from maelib.model import CONFIGS
from maelib.patches import PIXEL_MEAN, PIXEL_STD, patchify, unpatchify
from maelib.perceptual import vgg19

TINY = CONFIGS["facade_tiny"]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 64, 64, generator=generator)
    mask = torch.cat([random_mask(1, (8, 8), ratio, generator) for ratio in (0.25, 0.5, 0.75)])
    return images, torch.rand(3, 64, 192, generator=generator), mask


def blur_and_edges(images):
    """Features that anybody can check: means and horizontal differences over 4 x 4 pixels."""
    return [F.avg_pool2d(images, 4), F.avg_pool2d(images.diff(dim=3, prepend=images[..., :1]), 4)]


def test_masked_mse_equals_a_loop_over_hidden_patches(batch):
    images, prediction, mask = batch
    target = patchify(images, 8)
    errors = [F.mse_loss(prediction[b, n], target[b, n]) for b, n in mask.nonzero()]
    torch.testing.assert_close(masked_mse(prediction, target, mask), torch.stack(errors).mean())
    torch.testing.assert_close(masked_mse(prediction, target, None), F.mse_loss(prediction, target))


def test_visible_patches_count_only_when_asked(batch):
    images, prediction, mask = batch
    wrong = torch.where(mask[..., None], prediction, prediction + 1)
    hidden, everywhere = ReconstructionLoss(TINY), ReconstructionLoss(TINY, all_patches=True)
    assert torch.equal(hidden(wrong, images, mask)["mse"], hidden(prediction, images, mask)["mse"])
    assert everywhere(wrong, images, mask)["mse"] > everywhere(prediction, images, mask)["mse"] + 0.1


def test_the_logarithmic_loss_is_the_mean_psnr_of_the_holes(batch):
    images, prediction, mask = batch
    repaired, hole = unpatchify(prediction, 8, (8, 8)), mask_to_pixels(mask, 8, (8, 8))
    psnr = hole_psnr(repaired, images, hole).mean()  # errors of about 0.17, which the floor of 0.001 hardly moves
    loss = ReconstructionLoss(TINY, log_mse=True)(prediction, images, mask)
    torch.testing.assert_close(loss["loss"], -math.log(10) / 10 * psnr, atol=0.01, rtol=0)
    assert loss["mse"] == masked_mse(prediction, patchify(images, 8), mask)
    mask = torch.cat([mask, torch.zeros_like(mask[:1])])  # and a picture of which nothing is hidden
    more = [torch.cat([x, x[:1]]) for x in (prediction, patchify(images, 8))]
    torch.testing.assert_close(masked_log_mse(*more, mask), loss["loss"])
    faint = masked_log_mse(prediction / 10, patchify(images, 8) / 10, mask[:3]) - loss["loss"]
    assert -math.log(100) < faint < -math.log(100) + 0.6  # all errors a hundredth, and then the floor


def test_normalised_targets_have_mean_0_and_deviation_1_and_follow_the_paper(batch):
    images = batch[0]
    target = target_patches(images, 8, norm_pix=True)
    torch.testing.assert_close(target.mean(dim=-1), torch.zeros(3, 64), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.std(dim=-1), torch.ones(3, 64), atol=1e-3, rtol=0)
    patch = images[1, :, 8:16, 16:24].permute(1, 2, 0)  # row 1, column 2 of the grid
    patch = (patch - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)
    torch.testing.assert_close(target[1, 10], ((patch - patch.mean()) / (patch.var() + 1e-6).sqrt()).flatten())


def test_the_perfect_prediction_costs_nothing(batch):
    images, _, mask = batch
    loss = ReconstructionLoss(TINY, 0.6, 0.4, blur_and_edges)(patchify(images, 8), images, mask)
    assert {name: float(value) for name, value in loss.items()} == {"loss": 0, "mse": 0, "perceptual": 0}
    normalised = ReconstructionLoss(replace(TINY, norm_pix=True))
    assert normalised(target_patches(images, 8, True), images, mask)["loss"] == 0


def test_the_blend_is_the_weighted_sum_of_its_terms(batch):
    images, prediction, mask = batch
    terms = ReconstructionLoss(TINY, 0.6, 0.4, blur_and_edges)(prediction, images, mask)
    torch.testing.assert_close(terms["loss"], 0.6 * terms["mse"] + 0.4 * terms["perceptual"])
    assert terms["perceptual"] > 0


def test_the_perceptual_term_does_not_grow_with_the_hole():
    """The same error in every hidden pixel costs the same whatever share is hidden."""
    images = torch.zeros(1, 3, 64, 64)
    costs = []
    for ratio in (0.25, 0.5, 0.75):
        hole = mask_to_pixels(random_mask(1, (8, 8), ratio, torch.Generator().manual_seed(0)), 8, (8, 8))
        costs.append(perceptual_loss(0.5 * hole[:, None].float(), images, hole, lambda x: [x]))
    torch.testing.assert_close(torch.stack(costs), torch.full((3,), 0.25))


def test_the_truth_gets_no_gradient_and_visible_predictions_get_none_either(batch):
    images, prediction, mask = batch
    images, prediction = images.clone().requires_grad_(), prediction.requires_grad_()
    ReconstructionLoss(TINY, 0.0, 1.0, blur_and_edges)(prediction, images, mask)["loss"].backward()
    assert (prediction.grad.abs().sum(dim=-1) > 0).equal(mask)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: masked_mse(torch.zeros(1, 4, 3), torch.zeros(1, 4, 12), None), r"prediction \(1, 4, 3\) and target"),
        (lambda: masked_mse(*torch.zeros(2, 1, 4, 3), torch.zeros(1, 4, dtype=torch.bool)), "hides no patch"),
        (lambda: ReconstructionLoss(TINY, -1.0), "mse_weight -1.0"),
        (lambda: ReconstructionLoss(TINY, 0.0, 0.0), "are no blend"),
        (lambda: ReconstructionLoss(TINY, all_patches=True, log_mse=True), "log_mse stands alone.* all_patches True"),
        (
            lambda: ReconstructionLoss(TINY, 0.6, 0.4),
            "perceptual_weight 0.4 needs features .* set perceptual_weight to 0",
        ),
        (lambda: ReconstructionLoss(TINY, 0.6, 0.4, blur_and_edges, window=0), "window 0 is no number of places"),
        (lambda: ReconstructionLoss(replace(TINY, norm_pix=True), 0.6, 0.4, blur_and_edges), "norm_pix predicts none"),
    ],
)
def test_bad_input_is_named_with_its_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("all_patches", [False, True])
def test_what_void_patches_show_never_counts(batch, all_patches):
    images, prediction, mask = batch
    void = torch.zeros_like(mask)
    void[:, :20] = True
    loss = ReconstructionLoss(TINY, all_patches=all_patches)
    hole = mask_to_pixels(void, 8, (8, 8))[:, None]
    first, second = (
        loss(prediction, images.masked_fill(hole, fill), exclude_patches(mask, void), void)["loss"]
        for fill in (0.0, 1.0)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, loss(prediction, images, mask)["loss"])


# ------------------------------------------------------------------------------- VGG19, around the hole and elsewhere


@pytest.fixture(scope="module")
def exact():
    """VGG19 in float64, where two orders of summing agree to 12 digits; random weights see every border as well."""
    return vgg19("random", dtype=torch.float64)


@pytest.fixture(scope="module")
def pair():
    """Predictions and truths `(3, 3, 64, 64)`, float64."""
    return torch.rand(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


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


def value_and_gradient(loss, predicted, images, hole, features, window=1):
    predicted = predicted.clone().requires_grad_()
    value = loss(predicted.where(hole[:, None], images), images, hole, features, window)
    return value, torch.autograd.grad(value, predicted)[0]


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("name", HOLES)
def test_the_crop_around_the_hole_gives_the_value_and_gradient_of_the_whole_map(name, exact, pair, window):
    hole = mask_to_pixels(HOLES[name], 8, (8, 8))
    whole, slow = value_and_gradient(perceptual_loss, *pair, hole, exact, window)
    cropped, fast = value_and_gradient(cropped_perceptual_loss, *pair, hole, exact, window)
    torch.testing.assert_close(cropped, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9 * slow.abs().max().item())
    assert (slow.abs().sum(dim=1) > 0).equal(hole)


def test_patches_off_the_stride_and_images_that_no_stride_divides_are_right_too(exact):
    generator = torch.Generator().manual_seed(0)
    for size, patch in ((84, 14), (90, 10)):
        pair = torch.rand(2, 1, 3, size, size, generator=generator, dtype=torch.float64)
        rows = size // patch
        hole = mask_to_pixels(torch.arange(rows * rows)[None] == rows + 1, patch, (rows, rows))
        whole, cropped = (loss(*pair, hole, exact) for loss in (perceptual_loss, cropped_perceptual_loss))
        torch.testing.assert_close(cropped, whole, rtol=1e-12, atol=0)


def test_a_smaller_margin_would_not_do(exact, pair, monkeypatch):
    hole = mask_to_pixels(HOLES["one patch"], 8, (8, 8))
    whole = perceptual_loss(*pair, hole, exact)
    monkeypatch.setattr(exact, "margin", exact.margin - exact.stride)
    assert abs(cropped_perceptual_loss(*pair, hole, exact) / whole - 1) > 1e-6


def test_features_are_computed_around_the_hole_alone(exact, pair):
    sizes = []
    handle = exact.register_forward_pre_hook(lambda module, args: sizes.append(tuple(args[0].shape)))
    cropped_perceptual_loss(*pair, mask_to_pixels(HOLES["one patch"], 8, (8, 8)), exact)
    handle.remove()
    assert sizes == [(3, 3, 32, 32)] * 2  # 8 px and 12 on each side; predictions and truths


def test_the_weight_of_vgg19_does_not_grow_with_the_hole(exact):
    """One texture wrong everywhere: what a map's whole mean would triple stays the same."""
    images = torch.full((2, 3, 96, 96), 0.5, dtype=torch.float64)
    wrong = images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    costs = []
    for ratio in (0.25, 0.5, 0.75):
        hole = mask_to_pixels(block_mask(2, (12, 12), ratio, torch.Generator().manual_seed(0)), 8, (12, 12))
        costs.append(cropped_perceptual_loss(wrong.where(hole[:, None], images), images, hole, exact).item())
    assert max(costs) / min(costs) < 1.1  # places near the hole's rim see some truth


def test_neither_the_truth_nor_a_weight_gets_a_gradient(exact, pair):
    hole = mask_to_pixels(HOLES["one block"], 8, (8, 8))
    predicted, images = (x.clone().requires_grad_() for x in pair)
    cropped_perceptual_loss(predicted, images, hole, exact).backward()
    assert predicted.grad.abs().sum() > 0
    assert images.grad is None
    assert all(p.grad is None for p in exact.parameters())


def test_bf16_features_give_nearly_the_same_loss_and_direction(pair, exact):
    hole, pair = mask_to_pixels(HOLES["one block"], 8, (8, 8)), pair.float()
    value, gradient = value_and_gradient(cropped_perceptual_loss, *pair, hole, vgg19("random", dtype=torch.bfloat16))
    expected, direction = value_and_gradient(cropped_perceptual_loss, *pair.double(), hole, exact)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=0.02)  # a bf16 number is right to 0.4%
    assert F.cosine_similarity(gradient.flatten().double(), direction.flatten(), dim=0) > 0.98
    same = cropped_perceptual_loss(pair[1], pair[1], hole, vgg19("random", dtype=torch.bfloat16))
    assert same == 0


def test_windows_hold_root_mean_squares_of_the_hole_alone():
    generator = torch.Generator().manual_seed(1)
    predicted, images = torch.rand(2, 1, 2, 4, 5, generator=generator, dtype=torch.float64)
    hole = torch.zeros(1, 4, 5, dtype=torch.bool)
    hole[0, 1:3, 1:4] = True
    total = places = 0
    for top in range(3):
        for left in range(4):
            inside = hole[0, top : top + 2, left : left + 2]
            if inside.any():
                a, b = (
                    (x[0, :, top : top + 2, left : left + 2][:, inside].square().mean(dim=1) + 1e-4).sqrt()
                    for x in (predicted, images)
                )
                total, places = total + (a - b).square().mean() * inside.sum(), places + inside.sum()
    torch.testing.assert_close(perceptual_loss(predicted, images, hole, lambda x: [x], 2), total / places)


def test_a_window_forgives_a_shift_and_punishes_blur_where_places_do_the_opposite():
    stripes = (torch.arange(48) % 8 < 4).double().expand(1, 3, 48, 48)
    shifted, blurred = stripes.roll(2, dims=3), torch.full_like(stripes, 0.5)
    hole = torch.zeros(1, 48, 48, dtype=torch.bool)
    hole[:, 12:36, 12:36] = True

    def cost(predicted, window):
        return perceptual_loss(predicted, stripes, hole, lambda x: [x.diff(dim=3).abs()], window).item()

    assert cost(shifted, 1) > 1.5 * cost(blurred, 1)
    assert cost(shifted, 8) < 0.1 * cost(blurred, 8)


def test_random_features_are_named_in_the_terms(batch):
    images, prediction, mask = batch
    loss = ReconstructionLoss(TINY, 0.6, 0.4, vgg19("random", ("relu1_1",)))
    assert list(loss(prediction, images, mask)) == ["loss", "mse", "perceptual (random VGG19)"]
