"""The masked autoencoder, against timm and against what masking promises."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from maelib.masking import MASKS, mixed_mask, random_mask
from maelib.model import CONFIGS, Block, MAEConfig, MaskedAutoencoder, attend
from maelib.patches import patchify

SMALL = MAEConfig(img_size=32, embed_dim=32, depth=2, num_heads=2, decoder_embed_dim=24, decoder_depth=1,
                  decoder_num_heads=2)  # fmt: skip
KINDS = {
    "sincos": replace(SMALL, rotary=False),
    "rotary": SMALL,
    "learned": replace(SMALL, positions="learned"),
    "class token": replace(SMALL, class_token=True),
    "normalised": replace(SMALL, norm_pix=True, class_token=True),
}


def build(config: MAEConfig, seed: int = 0) -> MaskedAutoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MaskedAutoencoder(config).eval()


def images_and_mask(batch: int = 3, size: tuple[int, int] = (32, 32), ratio: float = 0.5, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(batch, 3, *size, generator=generator)
    return images, random_mask(batch, (size[0] // 8, size[1] // 8), ratio, generator)


@pytest.fixture(params=KINDS)
def model(request):
    return build(KINDS[request.param])


def test_our_block_is_timms_block_key_for_key():
    vision_transformer = pytest.importorskip("timm.models.vision_transformer")
    theirs = vision_transformer.Block(48, 3, qkv_bias=True, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6))
    ours = Block(48, 3)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 10, 48)
    torch.testing.assert_close(ours(x), theirs(x))


def test_with_nothing_hidden_the_encoder_is_timms_vision_transformer():
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0
    ).eval()
    ours = build(replace(KINDS["class token"], rotary=False))
    keys = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not keys.unexpected_keys
    assert all(key.startswith(("decoder_", "mask_token")) for key in keys.missing_keys)
    images, _ = images_and_mask()
    normalised = (images - ours.pixel_mean[:, None, None]) / ours.pixel_std[:, None, None]
    torch.testing.assert_close(ours.encode(images), theirs.forward_features(normalised), atol=1e-5, rtol=1e-4)


def test_the_content_of_hidden_patches_never_reaches_the_prediction(model):
    images, mask = images_and_mask()
    hole = mask.reshape(-1, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    noise = torch.where(hole, torch.rand_like(images), images)
    assert torch.equal(model(images, mask), model(noise, mask))
    assert torch.equal(model.reconstruct(images, mask)[hole.expand_as(images)],
                       model.reconstruct(noise, mask)[hole.expand_as(images)])  # fmt: skip


def test_every_visible_patch_reaches_every_prediction(model):
    images, mask = images_and_mask(batch=1)
    images.requires_grad_()
    model(images, mask)[0, mask[0]].square().sum().backward()
    touched = patchify(images.grad, 8)[0].abs().sum(dim=1) > 0
    assert torch.equal(touched, ~mask[0])


def test_gradient_reaches_every_parameter(model):
    images, mask = images_and_mask()
    model(images, mask).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert idle == []


def test_rows_with_different_counts_are_as_if_alone(model):
    images, _ = images_and_mask()
    mask = torch.stack([MASKS["random"](1, (4, 4), ratio)[0] for ratio in (0.1, 0.5, 0.9)])
    together = model(images, mask)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], model(images[i : i + 1], mask[i : i + 1]), atol=1e-5, rtol=1e-4)


def test_bf16_attention_by_hand_equals_the_fused_one():
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 9, 8, generator=generator)
    valid = torch.rand(2, 9, generator=generator) < 0.7
    valid[:, 0] = True
    for mask in (None, valid):
        ours = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask).float()
        torch.testing.assert_close(ours, attend(q, k, v, mask), atol=0.03, rtol=0.03)  # bf16 keeps 8 bits


@pytest.mark.parametrize("kind", ["sincos", "rotary", "none"])
def test_without_positions_a_mirrored_problem_has_the_mirrored_answer_and_with_them_not(kind):
    model = build(KINDS["sincos" if kind == "none" else kind])
    if kind == "none":
        model.pos_embed.zero_(), model.decoder_pos_embed.zero_()
    _, mask = images_and_mask(batch=1)
    columns = torch.rand(1, 3, 32, 4, 1).expand(-1, -1, -1, -1, 8).flatten(3)  # patches that are their own mirror image
    answer = model(columns, mask).reshape(4, 4, -1)
    mirrored = model(columns.flip(3), mask.reshape(1, 4, 4).flip(2).flatten(1)).reshape(4, 4, -1).flip(1)
    assert torch.allclose(answer, mirrored, atol=1e-5) == (kind == "none")


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (64, 24), (16, 16)])
def test_other_sizes_and_shapes_are_taken(model, size):
    images, mask = images_and_mask(size=size)
    repaired = model.reconstruct(images, mask)
    visible = ~mask.reshape(-1, 1, size[0] // 8, size[1] // 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert torch.equal(repaired[visible.expand_as(images)], images[visible.expand_as(images)])
    assert repaired.min() >= 0
    assert repaired.max() <= 1


def test_normalised_predictions_are_restored_without_the_truth():
    """Hidden patches of another brightness do not change the repair: nothing of the answer leaks."""
    model = build(KINDS["normalised"])
    images, mask = images_and_mask()
    hole = mask.reshape(-1, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    darker = torch.where(hole, 0.1 * images, images)
    hole = hole.expand_as(images)
    assert torch.equal(model.reconstruct(images, mask)[hole], model.reconstruct(darker, mask)[hole])


def test_overfitting_one_batch_drives_the_loss_under_a_thousandth():
    model = build(replace(SMALL, embed_dim=64, decoder_embed_dim=48)).train()
    images, mask = images_and_mask(batch=4)
    target = patchify(images, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(400):
        loss = (model(images, mask) - target)[mask].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1e-3


def test_same_seed_same_model_to_the_bit():
    images, mask = images_and_mask()
    assert torch.equal(build(SMALL, 1)(images, mask), build(SMALL, 1)(images, mask))
    assert not torch.equal(build(SMALL, 1)(images, mask), build(SMALL, 2)(images, mask))


@pytest.mark.parametrize(
    ("name", "millions"),  # encoder + decoder of He et al. 2022: ViT-B 86, L 304, H 631 without the decoder
    [("vit_base", 85.8), ("vit_large", 303.3), ("vit_huge", 630.8)],
)
def test_named_configurations_have_the_papers_size(name, millions):
    with torch.device("meta"):
        model = MaskedAutoencoder(CONFIGS[name])
    encoder = sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and "deco" not in n)
    assert abs(encoder / 1e6 - millions) < 0.01 * millions


def test_the_originals_configuration_has_its_size():
    total = sum(p.numel() for p in build(CONFIGS["facade_base"]).parameters() if p.requires_grad)
    assert round(total / 1e6, 1) == 14.7  # 14.8 with its fixed positions


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MAEConfig(img_size=65), "img_size 65 is not a multiple of patch_size 8; use 64 or 72"),
        (lambda: MAEConfig(embed_dim=130), "embed_dim 130 is not a multiple of num_heads 4; use 128"),
        (lambda: MAEConfig(decoder_num_heads=0), "decoder_num_heads 0"),
        (lambda: MAEConfig(positions="rope"), "positions 'rope' is not known; use 'sincos' or 'learned'"),
        (lambda: MAEConfig(embed_dim=40), "embed_dim 40 over 4 heads is 10 a head.* use embed_dim 32, or rotary False"),
        (lambda: MAEConfig(depth=0), "depth 0 is not positive"),
        (
            lambda: build(SMALL)(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), random_mask(1, (4, 4), 0.5)),
            "torch.uint8",
        ),
        (lambda: build(SMALL)(torch.zeros(1, 1, 32, 32), random_mask(1, (4, 4), 0.5)), r"\(B, 3, H, W\)"),
        (lambda: build(SMALL)(torch.zeros(1, 3, 36, 32), random_mask(1, (4, 4), 0.5)), "img_size 36"),
        (
            lambda: build(SMALL)(torch.zeros(1, 3, 32, 32), random_mask(1, (4, 5), 0.5)),
            r"expected bool of shape \(1, 16\)",
        ),
        (lambda: build(SMALL)(torch.zeros(1, 3, 32, 32), random_mask(1, (4, 4), 0.5).float()), "mask is torch.float32"),
        (
            lambda: build(SMALL)(torch.zeros(1, 3, 32, 32), torch.ones(1, 16, dtype=torch.bool)),
            "row 0 of the mask hides",
        ),
        (lambda: build(SMALL)(torch.zeros(2, 3, 32, 32), mixed_mask(1, (4, 4), 0.5)), "mask is torch.bool of shape"),
    ],
)
def test_bad_input_is_named_with_its_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()
