"""Weights of other libraries, against those libraries: the same input, the same mask, the same numbers."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from maelib.losses import ReconstructionLoss, masked_mse, target_patches
from maelib.masking import random_mask
from maelib.model import CONFIGS, MAEConfig, MaskedAutoencoder
from maelib.weights.layouts import from_hugging_face, hugging_face_config, to_hugging_face, to_timm
from maelib.weights.published import load_model, save_hugging_face, start_from

SMALL = MAEConfig(img_size=32, embed_dim=32, depth=2, num_heads=4, decoder_embed_dim=24, decoder_depth=3,
                  decoder_num_heads=2, class_token=True, rotary=False, norm_pix=True)  # fmt: skip
CLOSE = {"atol": 1e-4, "rtol": 1e-4}  # float32, up to 20 blocks whose sums run in another order


def build(config: MAEConfig, seed: int = 0) -> MaskedAutoencoder:
    """A model in which no weight is left at a value that it shares with others, such as the biases' 0."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MaskedAutoencoder(config).eval()
        for parameter in model.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
    return model


def batch(config: MAEConfig):
    """Images, the same as other libraries take them, a mask, and the noise from which Hugging Face makes that mask."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, config.img_size, config.img_size, generator=generator)
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    mask = random_mask(2, config.grid_size, 0.75, generator)
    return images, (images - mean) / std, mask, mask + 0.9 * torch.rand(mask.shape, generator=generator)


def hugging_face(config: MAEConfig):
    """Hugging Face's model with weights of its own."""
    transformers = pytest.importorskip("transformers")
    told = hugging_face_config(config)
    told = {name: value for name, value in told.items() if name not in ("architectures", "model_type")}
    with torch.device("meta"):  # drawing 110 million weights its way takes longer than the test
        model = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**told)).eval()
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.to_empty(device="cpu").named_parameters():
        scale = name.endswith("weight") and "norm" in name
        parameter.data.normal_(float(scale), 0.04, generator=generator)
    return model


@pytest.fixture(scope="module")
def base():
    return build(CONFIGS["vit_base"])


@pytest.mark.parametrize("size", ["small", "vit_base"])
def test_predictions_loss_and_gradients_are_those_of_hugging_face(size, request):
    """He et al.'s loss on normalised pixels, forward and backward, from weights that Hugging Face drew."""
    ours = build(SMALL) if size == "small" else request.getfixturevalue("base")
    config, theirs = ours.config, hugging_face(ours.config)
    ours.load_state_dict(from_hugging_face(theirs.state_dict()))
    images, normalised, mask, noise = batch(config)
    answer = theirs(normalised, noise=noise)
    assert torch.equal(answer.mask.bool(), mask)
    prediction = ours(images, mask)
    torch.testing.assert_close(prediction, answer.logits, **CLOSE)
    loss = ReconstructionLoss(config)(prediction, images, mask)["loss"]
    torch.testing.assert_close(loss, answer.loss, **CLOSE)

    answer.loss.backward(), loss.backward()
    # renaming is linear, so it renames gradients too
    expected = from_hugging_face({name: p.grad for name, p in theirs.named_parameters() if p.grad is not None})
    gradients = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).norm() <= 1e-3 * expected[name].norm(), name


def test_plain_pixels_differ_from_hugging_face_in_units_alone():
    """There they are ImageNet-normalised, in prediction and loss; here both are in [0, 1]."""
    config = replace(SMALL, norm_pix=False)
    theirs, ours = hugging_face(config), build(config)
    ours.load_state_dict(from_hugging_face(theirs.state_dict()))
    images, normalised, mask, noise = batch(config)
    answer = theirs(normalised, noise=noise)
    area = config.patch_size**2
    prediction = (ours(images, mask) - ours.pixel_mean.repeat(area)) / ours.pixel_std.repeat(area)
    torch.testing.assert_close(prediction, answer.logits, **CLOSE)
    loss = masked_mse(prediction, target_patches(normalised, config.patch_size), mask)
    torch.testing.assert_close(loss, answer.loss, **CLOSE)


def test_hugging_face_reads_the_folder_we_write_and_predicts_the_same(tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = build(SMALL)
    save_hugging_face(tmp_path, ours)
    theirs, told = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values()), told
    images, normalised, mask, noise = batch(SMALL)
    answer = theirs(normalised, noise=noise)
    torch.testing.assert_close(answer.logits, ours(images, mask), **CLOSE)
    torch.testing.assert_close(answer.loss, ReconstructionLoss(SMALL)(answer.logits, images, mask)["loss"], **CLOSE)


def test_we_read_the_folder_that_hugging_face_writes(tmp_path):
    theirs, ours = hugging_face(SMALL), build(SMALL)
    theirs.save_pretrained(tmp_path)
    assert start_from(ours, tmp_path / "model.safetensors") == []
    images, normalised, mask, noise = batch(SMALL)
    torch.testing.assert_close(ours(images, mask), theirs(normalised, noise=noise).logits, **CLOSE)


def test_names_on_the_hub_are_the_ones_we_write():
    """Spelled out, since the transformers at hand may spell them otherwise."""
    names = to_hugging_face(build(SMALL).state_dict()).keys()
    block = [f"{part}.{kind}" for kind in ("weight", "bias") for part in (
        "attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense",
        "intermediate.dense", "output.dense", "layernorm_before", "layernorm_after")]  # fmt: skip
    expected = {f"vit.encoder.layer.{i}.{name}" for i in range(2) for name in block}
    expected |= {f"decoder.decoder_layers.{i}.{name}" for i in range(3) for name in block}
    expected |= {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings", "decoder.mask_token",
                 "decoder.decoder_pos_embed"}  # fmt: skip
    for module in ("vit.embeddings.patch_embeddings.projection", "vit.layernorm", "decoder.decoder_embed",
                   "decoder.decoder_norm", "decoder.decoder_pred"):  # fmt: skip
        expected |= {f"{module}.weight", f"{module}.bias"}
    assert names == expected


def test_there_and_back_changes_nothing():
    weights = build(SMALL).state_dict()
    back = from_hugging_face(to_hugging_face(weights))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)


def features_of_timm(ours, pooling, **options):
    """Features of timm's model with our weights, and what its pooling makes of them."""
    timm = pytest.importorskip("timm")
    with torch.device("meta"):  # all its weights are ours
        theirs = timm.create_model(
            "vit_base_patch16_224", pretrained=False, num_classes=0, global_pool=pooling, fc_norm=False, **options
        ).eval()
    theirs.load_state_dict(to_timm(ours.state_dict()), assign=True)
    normalised = batch(ours.config)[1]
    with torch.no_grad():
        return theirs.forward_features(normalised), theirs(normalised)


def test_timm_computes_the_same_features_at_full_size(base):
    with torch.no_grad():
        features = base.encode(batch(base.config)[0])
    theirs, pooled = features_of_timm(base, "token")
    torch.testing.assert_close(theirs, features, **CLOSE)
    torch.testing.assert_close(pooled, features[:, 0], **CLOSE)


@pytest.mark.parametrize("pooling", ["token", "", "avg"])
def test_timm_pools_our_features(pooling):
    ours = build(SMALL)
    theirs, pooled = features_of_timm(ours, pooling, img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4)
    features = ours.encode(batch(SMALL)[0])
    torch.testing.assert_close(theirs, features, **CLOSE)
    expected = {"token": features[:, 0], "": features, "avg": features[:, 1:].mean(dim=1)}[pooling]
    torch.testing.assert_close(pooled, expected, **CLOSE)


def test_timms_weights_come_in_as_an_encoder(tmp_path):
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(
        "vit_base_patch16_224.mae", pretrained=False, img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4
    ).eval()
    theirs.pos_embed.data.normal_()
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    ours = build(SMALL)
    (note,) = start_from(ours, tmp_path / "timm.pth")
    assert note.endswith("timm.pth holds an encoder alone: the decoder starts from random weights")
    images, normalised, *_ = batch(SMALL)
    torch.testing.assert_close(ours.encode(images), theirs.forward_features(normalised), **CLOSE)


@pytest.mark.parametrize("size", ["base", "large", "huge"])
def test_named_configurations_have_timms_names_and_shapes(size):
    timm = pytest.importorskip("timm")
    patch = 14 if size == "huge" else 16
    with torch.device("meta"):
        theirs = timm.create_model(f"vit_{size}_patch{patch}_224.mae", pretrained=False).state_dict()
        ours = to_timm(MaskedAutoencoder(CONFIGS[f"vit_{size}"]).state_dict())
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in theirs.items()}


@pytest.mark.parametrize("change", [{"rotary": True}, {"class_token": False}])
def test_models_without_counterpart_are_not_written(change, tmp_path):
    model = MaskedAutoencoder(replace(SMALL, **change))
    with pytest.raises(ValueError, match=r"rotary .* class_token .* have no counterpart in other libraries"):
        save_hugging_face(tmp_path, model)
    assert not list(tmp_path.iterdir())


def test_what_hugging_face_says_of_pixels_is_read(tmp_path):
    ours = build(SMALL)
    save_hugging_face(tmp_path, ours)
    assert load_file(tmp_path / "model.safetensors").keys() == to_hugging_face(ours.state_dict()).keys()
    plain = build(replace(SMALL, norm_pix=False))
    with pytest.raises(ValueError, match="norm_pix True there, False here; make them the same"):
        start_from(plain, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="fits none of maelib's configurations"):
        load_model(tmp_path / "model.safetensors")
