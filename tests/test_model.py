"""The masked autoencoder against what masking promises; `test_weights.py` compares it with other libraries' models."""

from dataclasses import replace

import pytest
import torch
from tiny import TINY

from maelib.masking import MASKS, mask_to_pixels, random_mask
from maelib.model import CONFIGS, MaskedAutoencoder, attend
from maelib.patches import patchify
from maelib.transfer.compare import random_weights

SMALL = replace(TINY, depth=2, decoder_embed_dim=24, decoder_num_heads=2)
KINDS = {
    "sincos": replace(SMALL, rotary=False),
    "rotary": SMALL,
    "learned": replace(SMALL, positions="learned"),
    "class token": replace(SMALL, class_token=True),
    "normalised": replace(SMALL, norm_pix=True, class_token=True),
}


def images_and_mask(batch: int = 3, size: tuple[int, int] = (32, 32)):
    """Images, a mask that hides half of their patches, and the pixels that it hides, for all three channels."""
    generator, grid = torch.Generator().manual_seed(0), (size[0] // 8, size[1] // 8)
    images = torch.rand(batch, 3, *size, generator=generator)
    mask = random_mask(batch, grid, 0.5, generator)
    return images, mask, mask_to_pixels(mask, 8, grid)[:, None].expand_as(images)


@pytest.fixture(params=KINDS)
def model(request):
    return random_weights(KINDS[request.param], 0)


def test_the_content_of_hidden_patches_reaches_neither_prediction_nor_repair(model):
    images, mask, hole = images_and_mask()
    noise = torch.where(hole, torch.rand_like(images), images)
    assert torch.equal(model(images, mask), model(noise, mask))
    assert torch.equal(model.reconstruct(images, mask)[hole], model.reconstruct(noise, mask)[hole])


def test_every_visible_patch_reaches_the_prediction_and_gradients_reach_every_parameter(model):
    images, mask, _ = images_and_mask(batch=1)
    model(images.requires_grad_(), mask)[0, mask[0]].square().sum().backward()
    touched = patchify(images.grad, 8)[0].abs().sum(dim=1) > 0
    assert torch.equal(touched, ~mask[0])
    idle = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not idle


def test_rows_with_different_counts_are_as_if_alone(model):
    images = images_and_mask()[0]
    mask = torch.stack([MASKS["random"](1, (4, 4), ratio)[0] for ratio in (0.1, 0.5, 0.9)])
    alone = [model(images[i : i + 1], mask[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(model(images, mask), torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_rotary_positions_alone_tell_offsets_and_nothing_else():
    model = random_weights(SMALL, 0)
    model.pos_embed.data.zero_()
    model.decoder_pos_embed.data.zero_()
    images, mask = torch.rand(1, 3, 32, 32), torch.ones(4, 4, dtype=torch.bool)
    mask[0, :2] = False  # two neighbours stay visible
    seen, predicted = model.encode(images, mask.reshape(1, 16)), model(images, mask.reshape(1, 16))
    moved = model.encode(images.roll((8, 16), (2, 3)), mask.roll((1, 2), (0, 1)).reshape(1, 16))
    torch.testing.assert_close(moved, seen, atol=1e-5, rtol=1e-4)
    swapped = images.clone()
    swapped[..., :8, :16] = images[..., :8, :16].roll(8, -1)
    assert not torch.allclose(model.encode(swapped, mask.reshape(1, 16))[:, [1, 0]], seen, atol=1e-3)
    assert torch.cdist(predicted[0, 2:], predicted[0, 2:]).fill_diagonal_(1).min() > 1e-4  # hidden ones differ


def test_bf16_attention_by_hand_equals_the_fused_one():
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 9, 8, generator=generator)
    valid = torch.rand(2, 9, generator=generator) < 0.7
    valid[:, 0] = True
    for mask in (None, valid):
        ours = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask).float()
        torch.testing.assert_close(ours, attend(q, k, v, mask), atol=0.03, rtol=0.03)  # bf16 keeps 8 bits


@pytest.mark.parametrize("kind", ["sincos", "rotary", "none"])
def test_a_mirrored_problem_has_the_mirrored_answer_only_without_positions(kind):
    model = random_weights(KINDS["sincos" if kind == "none" else kind], 0)
    if kind == "none":
        model.pos_embed.zero_(), model.decoder_pos_embed.zero_()
    _, mask, _ = images_and_mask(batch=1)
    columns = torch.rand(1, 3, 32, 4, 1).expand(-1, -1, -1, -1, 8).flatten(3)  # patches that are their own mirror image
    answer = model(columns, mask).reshape(4, 4, -1)
    mirrored = model(columns.flip(3), mask.reshape(1, 4, 4).flip(2).flatten(1)).reshape(4, 4, -1).flip(1)
    assert torch.allclose(answer, mirrored, atol=1e-5) == (kind == "none")


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (64, 24), (16, 16)])
def test_a_repair_of_any_size_keeps_what_is_visible_and_lies_in_range(model, size):
    images, mask, hole = images_and_mask(size=size)
    repaired = model.reconstruct(images, mask)
    assert torch.equal(repaired[~hole], images[~hole])
    assert not torch.equal(repaired[hole], images[hole])
    assert repaired.min() >= 0
    assert repaired.max() <= 1


def test_the_originals_model_learns_14_7_million_weights():
    with torch.device("meta"):
        model = MaskedAutoencoder(CONFIGS["facade_base"])
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == pytest.approx(14.7e6, rel=0.004)
