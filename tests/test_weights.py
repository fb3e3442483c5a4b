"""Checkpoints, ours and published ones: what fits goes in to the bit, and the rest is refused with its reason.

The other libraries are the oracles: the same weights, images and mask must give the same numbers.
"""

import argparse
import json
import random
import warnings
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from fuzz_targets import Bomb
from safetensors.torch import load_file, save_file
from tiny import same
from torch import nn

from maelib.cli import main
from maelib.losses import ReconstructionLoss
from maelib.masking import random_mask
from maelib.model import CONFIGS, MAEConfig, MaskedAutoencoder
from maelib.patches import unpatchify
from maelib.training.recipes import RECIPES
from maelib.transfer.compare import random_weights
from maelib.weights.checkpoint import CheckpointError, load_model, load_tensors, save_model, save_tensors, start_from
from maelib.weights.published import OFFICIAL, our_names

FACADE = MAEConfig(img_size=16, embed_dim=16, depth=1, num_heads=1, decoder_embed_dim=16, decoder_depth=1,
                   decoder_num_heads=1)  # fmt: skip
VIT = MAEConfig(img_size=32, embed_dim=32, depth=2, num_heads=4, decoder_embed_dim=24, decoder_depth=3,
                decoder_num_heads=2, class_token=True, rotary=False, norm_pix=True)  # fmt: skip
CLOSE = {"atol": 1e-4, "rtol": 1e-4}  # float32, up to 12 blocks whose sums run in another order


@pytest.fixture(autouse=True)
def _vit_small(monkeypatch):
    """A configuration as small as those of the published files are large."""
    monkeypatch.setitem(CONFIGS, "vit_small", VIT)


def build(config: MAEConfig, seed: int = 0) -> MaskedAutoencoder:
    """A model in which no weight is left at a value that it shares with others, such as the biases' 0."""
    model, generator = random_weights(config, seed), torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


def saved(weights, path, **options):
    torch.save(weights, path, **options)
    return path


# ------------------------------------------------------------------------------------------------- our checkpoints


@pytest.mark.parametrize("wrap", [nn.Identity(), lambda model: torch.compile(nn.DataParallel(torch.compile(model)))])
def test_a_checkpoint_needs_nothing_else_to_predict_the_same_to_the_bit(wrap, tmp_path):
    model, path = build(FACADE), tmp_path / "model.safetensors"
    save_model(path, wrap(model), {"step": 7})
    tensors, metadata = load_tensors(path)
    assert same(model.state_dict(), tensors)
    assert metadata == {"model": asdict(FACADE), "step": 7}
    images, mask = torch.rand(2, 3, 16, 16), random_mask(2, (2, 2), 0.5)
    before = torch.get_rng_state()
    again = load_model(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert again.config == FACADE
    assert not again.training
    assert torch.equal(again(images, mask), model(images, mask))


def test_tensors_of_any_type_and_their_metadata_come_back(tmp_path):
    tensors = {"a": torch.arange(6).reshape(2, 3).T, "b": torch.tensor(1.5, dtype=torch.bfloat16)}
    save_tensors(tmp_path / "x.safetensors", tensors, {"step": 3, "names": ["ä", "b"]})
    read, metadata = load_tensors(tmp_path / "x.safetensors")
    assert metadata == {"step": 3, "names": ["ä", "b"]}
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_no_turned_bit_goes_unnoticed(tmp_path):
    model, path = build(FACADE), tmp_path / "model.safetensors"
    save_model(path, model, {})
    data, rng = path.read_bytes(), random.Random(0)
    header = 8 + int.from_bytes(data[:8], "little")
    for bit in rng.sample(range(8 * header), 150) + rng.sample(range(8 * header, 8 * len(data)), 50):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        with suppress(CheckpointError):
            read = load_model(path)
            assert bit < 8 * header  # such as a space, or the name of the checksum: what is read is what was written
            assert read.config == model.config
            assert same(read.state_dict(), model.state_dict())


def test_checkpoints_without_checksum_or_with_the_names_of_wrappers_are_read(tmp_path):
    weights, path = build(FACADE).state_dict(), tmp_path / "old.safetensors"
    wrapped = {f"_orig_mod.{name}".replace("blocks.0", "blocks.0._orig_mod"): t for name, t in weights.items()}
    save_file(wrapped, path, {"maelib": json.dumps({"model": asdict(FACADE)})})
    assert same(load_model(path).state_dict(), weights)


# ----------------------------------------------------------------------------------------- models of another size


@pytest.mark.parametrize("positions", ["sincos", "learned"])
@pytest.mark.parametrize("config", [FACADE, VIT], ids=["facade", "vit"])
def test_a_model_for_larger_images_starts_with_the_same_predictions(config, positions, tmp_path):
    config = replace(config, positions=positions)
    source, target = build(config), build(replace(config, img_size=48), seed=1)
    save_model(tmp_path / "source.safetensors", source, {})
    with pytest.warns(UserWarning, match=rf"trained on {config.img_size} px in patches of 8 px.*resampled"):
        start_from(target, tmp_path / "source.safetensors")
    images, mask = torch.rand(2, 3, 48, 48), random_mask(2, (6, 6), 0.5)
    torch.testing.assert_close(target(images, mask), source(images, mask))


def test_a_model_of_coarser_patches_sees_and_predicts_enlarged_patches(tmp_path):
    """Each image is one patch here, so that a picture can be enlarged as a whole."""
    source, target = build(replace(FACADE, img_size=8)), build(replace(FACADE, img_size=16, patch_size=16), seed=1)
    save_model(tmp_path / "source.safetensors", source, {})
    with pytest.warns(UserWarning, match="resampled"):
        start_from(target, tmp_path / "source.safetensors")
    enlarged = partial(F.interpolate, scale_factor=2, mode="bicubic", antialias=True)
    images, nothing = torch.rand(4, 3, 8, 8), torch.zeros(4, 1, dtype=torch.bool)
    small, large = source(images, nothing), target(enlarged(images), nothing)
    torch.testing.assert_close(unpatchify(large, 16, (1, 1)), enlarged(unpatchify(small, 8, (1, 1))), **CLOSE)


# ------------------------------------------------------------------------------------------------- published files


@pytest.mark.parametrize("name", ["vit_base", "vit_large", "vit_huge"])
def test_our_configurations_are_the_official_ones_key_for_key(name):
    """The encoder's sizes are those of timm, the decoder's are the defaults of Hugging Face."""
    timm, transformers = pytest.importorskip("timm"), pytest.importorskip("transformers")
    config = CONFIGS[name]
    with torch.device("meta"):
        encoder = timm.create_model(f"{name}_patch{config.patch_size}_224.mae", pretrained=False)
        depth, width, heads = len(encoder.blocks), encoder.embed_dim, encoder.blocks[0].attn.num_heads
        sizes = {"num_hidden_layers": depth, "hidden_size": width, "intermediate_size": 4 * width}
        theirs = transformers.ViTMAEConfig(num_attention_heads=heads, patch_size=config.patch_size, **sizes)
        weights = our_names(transformers.ViTMAEForPreTraining(theirs).state_dict())
        ours = MaskedAutoencoder(config).state_dict()
    assert {key: tensor.shape for key, tensor in ours.items()} == {key: t.shape for key, t in weights.items()}
    assert (config.num_heads, config.decoder_num_heads) == (heads, theirs.decoder_num_attention_heads)
    assert replace(RECIPES[name].model, norm_pix=True) == config
    assert RECIPES[name].model.norm_pix is OFFICIAL[f"mae_visualize_{name}"].norm_pix


PREFIXES = ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.")


@pytest.mark.parametrize("form", ["official", "bare", "old", "safetensors", "training", *PREFIXES])
def test_every_form_of_the_file_goes_in_to_the_bit(form, tmp_path):
    source, target, path = build(VIT), build(VIT, seed=1), tmp_path / "weights"
    weights = source.state_dict()
    found = {"bare": weights}.get(form, {"model": weights})
    if form == "training":  # what main_pretrain.py of the authors leaves behind
        optimizer, options = torch.optim.AdamW(source.parameters()), argparse.Namespace(norm_pix_loss=True)
        found |= {"optimizer": optimizer.state_dict(), "epoch": 9, "args": options}
    if form in PREFIXES:
        found = {"state_dict": {form + name: tensor for name, tensor in weights.items()}}
    if form == "safetensors":
        save_file(weights, path)
    else:  # old: of torch before 1.6
        saved(found, path, _use_new_zipfile_serialization=form != "old")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start_from(target, path)
    assert same(target.state_dict(), weights)
    model = load_model(path)
    assert same(model.state_dict(), weights)
    assert model.config == replace(VIT, norm_pix=form == "training")  # plain pixels where nothing tells


@pytest.mark.parametrize(("head", "fresh"), [({}, "mask_token"), ({"head.bias": torch.zeros(9)}, "mask_token, norm")])
def test_an_encoder_alone_starts_a_training_and_repairs_nothing(head, fresh, tmp_path):
    """In a classifier the authors move the final norm behind the pooling and train it anew."""
    source, target = build(VIT).state_dict(), build(VIT, seed=1)
    found = {name: tensor for name, tensor in source.items() if not name.startswith(("decoder_", "mask_token"))} | head
    if head:
        found |= {f"fc_{name}": found.pop(name) for name in ("norm.weight", "norm.bias")}
    expected = build(VIT, seed=1).state_dict() | {name: found[name] for name in found.keys() & source.keys()}
    path = saved({"model": found}, tmp_path / "encoder.pth")
    with pytest.warns(UserWarning, match=rf"encoder.pth holds an encoder alone: decoder_blocks, .*{fresh} start"):
        start_from(target, path)
    assert same(target.state_dict(), expected)
    with pytest.raises(CheckpointError, match=r"no decoder, so it cannot repair.*train --init .*encoder.pth.*mae_vis"):
        load_model(path)
    assert same(load_model(path, need_decoder=False).blocks.state_dict(), build(VIT).blocks.state_dict())


def altered(config=VIT, **changes):
    weights = build(config).state_dict() | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in weights.items() if tensor is not None}


def described(**changes):
    return {"model": asdict(FACADE) | changes}


ODD = {
    "missing": (altered(blocks__1__mlp__fc2__bias=None), "Missing.*blocks.1.mlp.fc2.bias"),
    "unexpected": (altered(blocks__0__ls1__gamma=torch.ones(32)), "Unexpected.*blocks.0.ls1.gamma"),
    "shape": (altered(norm__bias=torch.ones(8)), r"norm.bias.*\[8\].*\[32\]"),
    "positions": (altered(pos_embed=torch.ones(1, 15, 32)), r"pos_embed.*15, 32"),
    "scalar": (altered(pos_embed=torch.tensor(1.0)), "pos_embed"),
    "no third": (altered(vit__layers__0__attention__q_proj__bias=torch.ones(32)), "Unexpected.*attn.q.bias"),
    "ResNet": ({"conv1.weight": torch.ones(1)}, r"lacks patch_embed.*but holds \['conv1.weight'\]"),
    "numbers": ({"epoch": 3}, "dict without named weights.*state dict"),
    "sparse": (altered(pos_embed=torch.ones(1, 17, 32).to_sparse()), "pos_embed is sparse"),
    "no data": (altered(pos_embed=torch.ones(1, 17, 32, device="meta")), "pos_embed is sparse.* or without data"),
    "8.8 TB": (altered(pos_embed=torch.ones(1, 1, 1).expand(1, 1 + 2**36, 32)), "pos_embed is .*expanded"),
    "state": (altered(FACADE), "a run resumes from it; use model.safetensors", {"step": 3, "losses": []}),
    "unknown": (altered(FACADE), "colour", described(colour=1)),
    "img_size": (altered(FACADE), "img_size 17 is not a multiple of patch_size 8", described(img_size=17)),
    "depth": (altered(FACADE), f"depth 1 instead of {2**23}", described(depth=2**23)),
    "mlp_ratio": (altered(FACADE), "size mismatch for blocks.0.mlp.fc1.weight", described(mlp_ratio=1e9)),
    "no token": (altered(FACADE, mask_token=None), "mask_token", described()),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_weights_that_do_not_fit_are_refused_with_the_name_at_fault(kind, tmp_path):
    found, words, *metadata = ODD[kind]
    path, model = tmp_path / "odd.pth", build(VIT, seed=1)
    save_tensors(path, found, *metadata) if metadata else saved(found, path)
    with pytest.raises(CheckpointError, match=f"odd.pth cannot be read as a model: .*{words}"):
        start_from(model, path)
    assert same(model.state_dict(), build(VIT, seed=1).state_dict())  # untouched


@pytest.mark.parametrize(
    "change",
    [{"num_heads": 8}, {"decoder_num_heads": 4}, {"rotary": True}, {"norm_pix": False}, {"embed_dim": 64}, {"depth": 1}]
)  # fmt: skip
def test_a_model_of_another_shape_does_not_start_from_a_file(change, tmp_path):
    """The number of heads, rotary positions and kind of pixels do not show in the shapes of published weights."""
    (name, value), theirs = *change.items(), build(VIT)
    paths = [tmp_path / "ours", saved({"model": theirs.state_dict()}, tmp_path / "mae_pretrain_vit_base_full.pth")]
    save_model(paths[0], theirs, {})
    for path in paths:
        words = f"{path}.*{name} {getattr(VIT, name)} instead of {value}; make them equal.*--recipe vit_small"
        with pytest.raises(CheckpointError, match=words):
            start_from(build(replace(VIT, **change)), path)


def test_a_model_of_no_known_shape_is_filled_but_not_made(tmp_path):
    config = replace(FACADE, embed_dim=8, decoder_embed_dim=8)
    path = saved(build(config).state_dict(), tmp_path / "other.pth")
    target = build(config, seed=1)
    start_from(target, path)
    assert same(target.state_dict(), build(config).state_dict())
    with pytest.raises(CheckpointError, match=r"no configuration in facade_tiny, .*'embed_dim': 8.*start_from"):
        load_model(path)


# ------------------------------------------------------------------------------------------- damaged and hostile files


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("found", [{"model": {}, "x": Bomb()}, nn.Linear(2, 2)], ids=type)
def test_a_file_with_code_in_it_is_refused_and_the_code_is_named(found, new, tmp_path):
    """That the code never runs is seen by the audit of `test_fuzz.py`, whose files hold it too."""
    path = saved(found, tmp_path / "weights.pth", _use_new_zipfile_serialization=new)
    code = r"(exec|\w+\.exec|torch\.nn\.modules\.linear\.Linear)"
    with pytest.raises(CheckpointError, match=rf"weights.pth holds more than weights \({code}\).*ask its maker"):
        load_model(path)


@pytest.mark.parametrize("form", ["new", "old", "ours", "a page", "noise", "half a zip"])
def test_what_is_cut_short_or_of_another_kind_is_refused(form, tmp_path):
    path, others = tmp_path / "cut", {"a page": b"<!DOCTYPE html>", "noise": random.Random(0).randbytes(4096)}
    if form == "ours":
        save_model(path, build(FACADE), {})
    elif form in ("new", "old"):
        saved({"model": build(VIT).state_dict()}, path, _use_new_zipfile_serialization=form == "new")
    else:
        path.write_bytes(others.get(form, b"PK\x03\x04" * 99))
    data = path.read_bytes()
    for keep in (0, 4, 50, len(data) // 2, len(data) * 999 // 1000):
        path.write_bytes(data[:keep])
        with pytest.raises(CheckpointError, match=r"cut is damaged .*again"):
            load_model(path)


def test_files_that_are_missing_or_not_ours_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone.pth does not exist; check the path"):
        start_from(build(VIT), tmp_path / "gone.pth")
    save_file({"w": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other.safetensors was not written by maelib"):
        load_tensors(tmp_path / "other.safetensors")


# -------------------------------------------------------------------------------------------------- other libraries


def batch(config: MAEConfig):
    """Images, the same as other libraries take them, a mask, and the noise from which Hugging Face makes that mask."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, config.img_size, config.img_size, generator=generator)
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    mask = random_mask(2, config.grid_size, 0.75, generator)
    return images, (images - mean) / std, mask, mask + 0.9 * torch.rand(mask.shape, generator=generator)


def hugging_face(kind: str = "ViTMAEForPreTraining", norm_pix: bool = True):
    """A model of Hugging Face in the shape of `VIT`, with weights of its own."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        decoder_hidden_size=24, decoder_num_hidden_layers=3, decoder_num_attention_heads=2,
        decoder_intermediate_size=96, layer_norm_eps=1e-6, norm_pix_loss=norm_pix, mask_ratio=0.75,
    )  # fmt: skip
    model, generator = getattr(transformers, kind)(config).eval(), torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        parameter.data.normal_(float(name.endswith("weight") and "norm" in name), 0.04, generator=generator)
    return model


def written(model, form: str, folder):
    """A file of the model's weights, under the names of the hub or those that it has in memory."""
    model.save_pretrained(folder)
    if form == "hub, safetensors":
        return folder / "model.safetensors"
    weights = load_file(folder / "model.safetensors") if form == "hub, bin" else model.state_dict()
    return saved(weights, folder / "pytorch_model.bin")


FORMS = ("hub, safetensors", "hub, bin", "memory, bin")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("norm_pix", [True, False])
def test_predictions_and_loss_are_those_of_hugging_face(form, norm_pix, tmp_path):
    theirs = hugging_face(norm_pix=norm_pix)
    ours = load_model(written(theirs, form, tmp_path))
    assert ours.config == replace(VIT, norm_pix=norm_pix)
    images, normalised, mask, noise = batch(VIT)
    answer = theirs(normalised, noise=noise)
    assert torch.equal(answer.mask.bool(), mask)
    prediction = ours(images, mask)
    if not norm_pix:  # theirs are ImageNet-normalised, ours in [0, 1]
        prediction = (prediction - ours.pixel_mean.repeat(64)) / ours.pixel_std.repeat(64)
    torch.testing.assert_close(prediction, answer.logits, **CLOSE)
    if norm_pix:
        loss = ReconstructionLoss(ours.config)(prediction, images, mask)["loss"]
        torch.testing.assert_close(loss, answer.loss, **CLOSE)


@pytest.mark.parametrize("form", FORMS)
def test_the_encoder_of_hugging_face_alone_computes_the_same_features(form, tmp_path):
    theirs, target = hugging_face("ViTMAEModel"), build(VIT)
    path = written(theirs, form, tmp_path)
    with pytest.warns(UserWarning, match="holds an encoder alone"):
        start_from(target, path)
    images, normalised, mask, noise = batch(VIT)
    answer = theirs(normalised, noise=noise)
    torch.testing.assert_close(target.encode(images, mask)[:, 0], answer.last_hidden_state[:, 0], **CLOSE)


def test_kind_of_pixels_that_hugging_face_describes_must_be_the_models(tmp_path):
    path = written(hugging_face(), "hub, bin", tmp_path)
    with pytest.raises(CheckpointError, match="norm_pix True instead of False"):
        start_from(build(replace(VIT, norm_pix=False)), path)
    (tmp_path / "config.json").write_text('{"norm_pix_loss": "yes"}')
    with pytest.raises(CheckpointError, match=r"norm_pix_loss in .*config.json is 'yes', expected bool"):
        load_model(path)


def test_an_encoder_of_timm_computes_the_same_features(tmp_path):
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(
        "vit_base_patch16_224.mae", pretrained=False, img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4
    ).eval()  # fmt: skip
    for parameter in theirs.parameters():
        parameter.data.normal_(std=0.3)  # large enough for every part to show
    ours = load_model(saved(theirs.state_dict(), tmp_path / "timm.pth"), need_decoder=False)
    images, normalised, *_ = batch(VIT)
    torch.testing.assert_close(ours.encode(images), theirs.forward_features(normalised), **CLOSE)


# ------------------------------------------------------------------------------------------------- the authors' files


def test_official_weights_are_fetched_under_their_name_with_their_licence(server, tmp_path, capsys, monkeypatch):
    name, path = "mae_visualize_vit_base", tmp_path / "mae_visualize_vit_base.pth"
    server.files[f"/{name}"] = b"weights"
    monkeypatch.setitem(OFFICIAL, name, replace(OFFICIAL[name], url=f"{server.url}/{name}"))
    main(["fetch", name, "--out", str(tmp_path)])
    assert path.read_bytes() == b"weights"
    said = capsys.readouterr().out
    assert "CC-BY-NC" in said
    assert f"--recipe vit_base --init {path}" in said
