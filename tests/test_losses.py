"""Losses, against loops by hand and torch's own."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from maelib.losses import ReconstructionLoss, masked_log_mse, masked_mse, perceptual_loss, target_patches
from maelib.masking import keep_out, mask_to_pixels, random_mask
from maelib.metrics import hole_psnr
from maelib.model import CONFIGS, PIXEL_MEAN, PIXEL_STD
from maelib.patches import patchify, unpatchify

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
        (lambda: ReconstructionLoss(TINY, 0.6, 0.4), "perceptual_weight 0.4 needs features .* --perceptual-weight 0"),
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
        loss(prediction, images.masked_fill(hole, fill), keep_out(mask, void), void)["loss"] for fill in (0.0, 1.0)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, loss(prediction, images, mask)["loss"])
