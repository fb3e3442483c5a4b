"""Published files: what fits goes in to the bit, and what does not is refused with its reason."""

import argparse
import io
import os
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_layouts import SMALL, build

from maelib.cli import main
from maelib.facades import draw_images
from maelib.masking import random_mask
from maelib.model import CONFIGS, MaskedAutoencoder
from maelib.patches import interpolate_positions
from maelib.training import train
from maelib.training.recipes import RECIPES, TrainConfig
from maelib.weights.checkpoint import CheckpointError, save_model
from maelib.weights.layouts import is_decoder, to_timm
from maelib.weights.published import load_model, save_official, start_from
from maelib.weights.reading import OFFICIAL, read_weights

VITS = ("vit_base", "vit_large", "vit_huge")


def official_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of `mae_visualize_{name}.pth`, from the paper and the authors' code, by hand."""
    dim, depth, patch = {"vit_base": (768, 12, 16), "vit_large": (1024, 24, 16), "vit_huge": (1280, 32, 14)}[name]
    count = 1 + (224 // patch) ** 2
    shapes = {
        "cls_token": (1, 1, dim), "pos_embed": (1, count, dim), "mask_token": (1, 1, 512),
        "decoder_pos_embed": (1, count, 512), "patch_embed.proj.weight": (dim, 3, patch, patch),
        "patch_embed.proj.bias": (dim,), "decoder_embed.weight": (512, dim), "decoder_embed.bias": (512,),
        "decoder_pred.weight": (patch * patch * 3, 512), "decoder_pred.bias": (patch * patch * 3,),
    }  # fmt: skip
    for norm, width in (("norm", dim), ("decoder_norm", 512)):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for blocks, number, width in (("blocks", depth, dim), ("decoder_blocks", 8, 512)):
        for i in range(number):
            for part, out, into in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
                shapes[f"{blocks}.{i}.{part}.weight"] = (out * width, into * width)
                shapes[f"{blocks}.{i}.{part}.bias"] = (out * width,)
            for part in ("norm1", "norm2"):
                shapes |= {f"{blocks}.{i}.{part}.weight": (width,), f"{blocks}.{i}.{part}.bias": (width,)}
    return shapes


def official_file(path, name, encoder=False):
    """A file of an official one's names and shapes in a few kilobytes: each tensor repeats one number."""
    shapes = official_shapes(name).items()
    weights = {key: torch.full((1,) * len(shape), 0.01).expand(shape) for key, shape in shapes}
    torch.save({"model": to_timm(weights) if encoder else weights}, path)
    assert path.stat().st_size < 1e6
    return path


def on_meta(config):
    with torch.device("meta"):
        return MaskedAutoencoder(config)


def same(model, weights):
    own = model.state_dict()
    return own.keys() == weights.keys() and all(torch.equal(own[name], weights[name]) for name in own)


@pytest.mark.parametrize("name", VITS)
def test_our_configurations_are_the_official_ones_key_for_key(name):
    ours = {key: tuple(tensor.shape) for key, tensor in on_meta(CONFIGS[name]).state_dict().items()}
    assert ours == official_shapes(name)


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
@pytest.mark.parametrize("name", VITS)
def test_an_official_file_fills_its_configuration_and_no_other(name, tmp_path):
    path = official_file(tmp_path / f"mae_visualize_{name}.pth", name)
    assert start_from(on_meta(replace(CONFIGS[name], norm_pix=False)), path) == []
    other = "vit_large" if name == "vit_base" else "vit_base"
    message = rf"cls_token has shape .*, expected .* \(mismatches: \d+\); it holds a {name}, .* --recipe {name}\)"
    with pytest.raises(CheckpointError, match=message):
        start_from(on_meta(CONFIGS[other]), path)
    encoder = official_file(tmp_path / f"mae_pretrain_{name}.pth", name, encoder=True)
    (note,) = start_from(on_meta(CONFIGS[name]), encoder)  # predicts nothing: any kind of pixels
    assert note == f"{encoder} holds an encoder alone: the decoder starts from random weights"


def test_a_file_alone_makes_the_model_that_it_is_of(tmp_path):
    model, notes = load_model(official_file(tmp_path / "mae_visualize_vit_base.pth", "vit_base"))
    assert (model.config, notes, model.training) == (replace(CONFIGS["vit_base"], norm_pix=False), [], False)
    assert all((tensor == torch.tensor(0.01)).all() for tensor in model.state_dict().values())
    save_model(tmp_path / "ours.safetensors", build(SMALL), {})
    model, notes = load_model(tmp_path / "ours.safetensors")
    assert same(model, build(SMALL).state_dict())
    assert notes == []


@pytest.mark.parametrize("form", ["official", "bare", "old", "safetensors", "DataParallel", "compiled", "training"])
def test_every_form_of_the_file_goes_in_to_the_bit(form, tmp_path):
    source, target, path = build(SMALL), build(SMALL, seed=1), tmp_path / "weights"
    weights = source.state_dict()
    if form == "official":
        save_official(path, source)
    elif form == "bare":
        torch.save(weights, path)
    elif form == "old":  # of torch before 1.6
        torch.save({"model": weights}, path, _use_new_zipfile_serialization=False)
    elif form == "safetensors":
        save_file(weights, path)
    elif form == "DataParallel":
        torch.save({"state_dict": torch.nn.DataParallel(source).state_dict()}, path)
    elif form == "compiled":
        torch.save({"model": {f"_orig_mod.{name}": tensor for name, tensor in weights.items()}}, path)
    else:  # what main_pretrain.py of the authors leaves behind
        optimizer = torch.optim.AdamW(source.parameters())
        options = argparse.Namespace(norm_pix_loss=True, model="mae_vit_base_patch16")
        torch.save({"model": weights, "optimizer": optimizer.state_dict(), "epoch": 9, "args": options}, path)
    assert start_from(target, path) == []
    assert same(target, weights)


def test_what_we_save_is_an_official_file(tmp_path):
    source = build(SMALL)
    save_official(tmp_path / "ours.pth", source)
    read = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert read.keys() == {"model"}
    assert same(source, read["model"])
    with pytest.raises(ValueError, match="rotary True and class_token False have no counterpart"):
        save_official(tmp_path / "facade.pth", MaskedAutoencoder(CONFIGS["facade_tiny"]))


def test_an_encoder_alone_leaves_the_decoder_as_it_was(tmp_path):
    source, target = build(SMALL), build(SMALL, seed=1)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items() if is_decoder(name)}
    assert {"mask_token", "decoder_pos_embed", "decoder_pred.weight"} < before.keys()
    torch.save({"model": to_timm(source.state_dict())}, tmp_path / "encoder.pth")
    (note,) = start_from(target, tmp_path / "encoder.pth")
    assert "holds an encoder alone: the decoder starts from random weights" in note
    assert same(target, to_timm(source.state_dict()) | before)


def test_a_classifiers_head_is_left_out_with_a_note(tmp_path):
    """As timm keeps it, and as the authors do: they move the final norm behind the pooling and train it anew."""
    source, target = build(SMALL), build(SMALL, seed=1)
    encoder = to_timm(source.state_dict())
    head = {"head.weight": torch.zeros(1000, 32), "head.bias": torch.zeros(1000)}
    torch.save(encoder | head, tmp_path / "timm.pth")
    notes = start_from(target, tmp_path / "timm.pth")
    assert notes[0].endswith("timm.pth holds a classifier: its head is left out")
    assert len(notes) == 2
    assert torch.equal(target.norm.weight, source.norm.weight)

    target = build(SMALL, seed=1)
    norm = target.norm.weight.clone()
    moved = {name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: t for name, t in encoder.items()}
    torch.save({"model": moved | head}, tmp_path / "mae_finetuned_vit.pth")
    notes = start_from(target, tmp_path / "mae_finetuned_vit.pth")
    assert notes[0].endswith("holds a classifier: its head is left out and the final norm starts anew")
    assert torch.equal(target.norm.weight, norm)
    assert torch.equal(target.blocks[1].mlp.fc2.weight, source.blocks[1].mlp.fc2.weight)


def test_positions_of_another_grid_are_resampled_with_a_note(tmp_path):
    source, target = build(SMALL), build(replace(SMALL, img_size=48))
    save_official(tmp_path / "small.pth", source)
    notes = start_from(target, tmp_path / "small.pth")
    assert notes == [f"{name} was resampled from 4 x 4 patches to 6 x 6" for name in ("pos_embed", "decoder_pos_embed")]
    expected = interpolate_positions(source.pos_embed[0, 1:], (4, 4), (6, 6))
    torch.testing.assert_close(target.pos_embed[0], torch.cat([source.pos_embed[0, :1], expected]))
    images, mask = torch.rand(2, 3, 48, 48), random_mask(2, (6, 6), 0.5)
    torch.testing.assert_close(target(images, mask), source(images, mask))
    save_model(tmp_path / "large.safetensors", target, {})
    again = build(replace(SMALL, img_size=48), seed=1)
    assert start_from(again, tmp_path / "large.safetensors") == []
    assert same(again, target.state_dict())  # the resampled positions, not fresh ones


def test_a_model_without_class_token_keeps_its_positions(tmp_path):
    config = replace(SMALL, class_token=False)
    torch.save(build(config).state_dict(), tmp_path / "ours.pth")
    target = build(config, seed=1)
    assert start_from(target, tmp_path / "ours.pth") == []
    assert same(target, build(config).state_dict())


def altered(**changes):
    weights = build(SMALL).state_dict() | {name.replace("__", "."): t for name, t in changes.items()}
    return {name: tensor for name, tensor in weights.items() if tensor is not None}


ODD = {
    "missing": (altered(blocks__1__mlp__fc2__bias=None), r"blocks.1.mlp.fc2.bias is missing \(mismatches: 1\); a part"),
    "half a decoder": (altered(mask_token=None), r"mask_token is missing \(mismatches: 1\); a part was left"),
    "unexpected": (altered(blocks__0__ls1__gamma=torch.ones(32)), r"blocks.0.ls1.gamma is not in the model .* it fits"),
    "shape": (altered(norm__bias=torch.ones(8)), r"norm.bias has shape \(8,\), expected \(32,\) .* it fits none of"),
    "positions": (altered(pos_embed=torch.ones(1, 15, 32)), r"pos_embed has shape \(1, 15, 32\), expected \(1, 17"),
    "scalar": (altered(pos_embed=torch.tensor(1.0)), r"pos_embed has shape \(\), expected"),
    "no third": (altered(vit__layers__0__attention__q_proj__bias=torch.ones(32)), "attn.query.bias is not in"),
    "ResNet": ({"conv1.weight": torch.ones(1)}, "it holds no masked autoencoder but conv1.weight and the like"),
    "numbers": ({"epoch": 3}, "holds no named weights but a dict"),
    "list": ([torch.ones(1)], "holds no named weights but a list"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_weights_that_do_not_fit_are_refused_with_the_first_mismatch_and_its_cause(kind, tmp_path):
    found, message = ODD[kind]
    torch.save(found, tmp_path / "odd.pth")
    model = build(SMALL, seed=1)
    with pytest.raises(CheckpointError, match=message):
        start_from(model, tmp_path / "odd.pth")
    assert same(model, build(SMALL, seed=1).state_dict())  # untouched


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 16}, "num_heads 12 there, 16 here; make them the same"),
        ({"decoder_num_heads": 8}, "decoder_num_heads 16 there, 8 here"),
        ({"rotary": True}, "rotary False there, True here"),
        ({"norm_pix": True}, "norm_pix False there, True here"),
    ],
)
def test_what_shapes_do_not_show_is_compared_too(change, message, tmp_path):
    path = official_file(tmp_path / "mae_visualize_vit_base.pth", "vit_base")
    with pytest.raises(CheckpointError, match=message):
        start_from(on_meta(replace(CONFIGS["vit_base"], **{"norm_pix": False} | change)), path)


class Bomb:
    """Runs a command when a careless reader unpickles it."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("form", ["new", "old", "pickle", "module"])
def test_a_file_with_code_in_it_is_refused_and_never_run(form, tmp_path):
    path, bomb = tmp_path / "weights.pth", Bomb(f"touch {tmp_path / 'exploded'}")
    if form == "pickle":
        path.write_bytes(pickle.dumps({"model": bomb}, protocol=2))
    elif form == "module":
        torch.save(torch.nn.Linear(2, 2), path)
    else:
        torch.save({"model": {}, "x": bomb}, path, _use_new_zipfile_serialization=form == "new")
    culprit = "torch.nn.modules.linear.Linear" if form == "module" else r"\w+.system"
    with pytest.raises(CheckpointError, match=rf"holds more than weights \({culprit}\), .* so it is refused; ask"):
        read_weights(path)
    assert not (tmp_path / "exploded").exists()
    if form == "pickle":  # the bomb is live
        pickle.loads(path.read_bytes())
        assert (tmp_path / "exploded").exists()


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("keep", [0, 3, 50, 0.5, 0.999])
def test_a_truncated_file_is_refused(keep, old, tmp_path):
    buffer = io.BytesIO()
    torch.save({"model": build(SMALL).state_dict()}, buffer, _use_new_zipfile_serialization=not old)
    data = buffer.getvalue()
    (tmp_path / "cut.pth").write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(CheckpointError, match=r"cut.pth is no whole file of weights \(.+\); fetch it again"):
        read_weights(tmp_path / "cut.pth")


def test_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone.pth does not exist; check the path"):
        start_from(build(SMALL), tmp_path / "gone.pth")
    for content in (b"<!DOCTYPE html><title>Not found</title>", os.urandom(4096), b"PK\x03\x04" * 99):
        (tmp_path / "page.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match="is no whole file of weights"):
            read_weights(tmp_path / "page.pth")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("photo.jpg", "")
    with pytest.raises(CheckpointError, match="is no whole file of weights"):
        read_weights(tmp_path / "photos.zip")
    save_file(build(SMALL).state_dict(), tmp_path / "cut.safetensors")
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match="is no whole safetensors file"):
        start_from(build(SMALL), tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    "odd",
    [
        torch.ones(1, 1, 1).expand(1, 1 + 2**36, 32),  # 8.8 TB of a square grid, out of four bytes
        torch.ones(1, 17, 32).to_sparse(),
        torch.ones(1, 17, 32, device="meta"),
    ],
    ids=["repeated", "sparse", "without data"],
)
def test_what_is_no_plain_array_of_numbers_is_refused(odd, tmp_path):
    torch.save({**MaskedAutoencoder(SMALL).state_dict(), "pos_embed": odd}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"odd.pth: pos_embed is no plain array of numbers"):
        start_from(MaskedAutoencoder(SMALL), tmp_path / "odd.pth")


def test_the_table_of_official_files_is_consistent():
    assert len(OFFICIAL) == 10
    for name, official in OFFICIAL.items():
        kind = "visualize" if "visualize" in name else "pretrain"
        assert official.url == f"https://dl.fbaipublicfiles.com/mae/{kind}/{name}.pth"
        assert official.config in VITS
        assert official.config in name
        whole = {"visualize": False, "pretrain": True if name.endswith("_full") else None}
        assert official.norm_pix is whole[kind]


def test_training_starts_from_an_official_file(tmp_path, capfd):
    for i, image in enumerate(draw_images(range(5), 32)):
        np.save(tmp_path / f"{i}.npy", image)
    source = build(SMALL)
    torch.save({"model": to_timm(source.state_dict())}, tmp_path / "mae_pretrain_vit_small.pth")
    config = TrainConfig(
        out=tmp_path / "run", model=SMALL, init=tmp_path / "mae_pretrain_vit_small.pth", data=tmp_path, steps=1,
        batch_size=2, lr=1e-9, optimizer="adamw", precision="float32",
    )  # fmt: skip
    trained, notes = load_model(train.train(config))
    assert notes == []
    for name, tensor in to_timm(source.state_dict()).items():
        torch.testing.assert_close(trained.state_dict()[name], tensor, atol=1e-7, rtol=0)
    assert "holds an encoder alone: the decoder starts from random weights" in capfd.readouterr().err
    with pytest.raises(CheckpointError, match=r"cls_token has shape \(1, 1, 32\), expected \(1, 1, 16\)"):
        train.train(replace(config, out=tmp_path / "other", model=replace(SMALL, embed_dim=16)))


@pytest.mark.parametrize("name", VITS)
def test_recipes_take_the_checkpoints_that_predict_pixels(name):
    assert replace(RECIPES[name].model, norm_pix=True) == CONFIGS[name]
    assert RECIPES[name].model.norm_pix is OFFICIAL[f"mae_visualize_{name}"].norm_pix


def test_the_command_line_says_which_recipe_an_official_file_needs(tmp_path, capsys):
    path = official_file(tmp_path / "mae_visualize_vit_large.pth", "vit_large")
    with pytest.raises(SystemExit) as stop:
        main(["train", "--init", str(path), "--out", str(tmp_path / "run"), "--drawn", "8"])
    assert stop.value.code == 2
    assert (
        "it holds a vit_large, so use that configuration (maelib train --recipe vit_large)" in capsys.readouterr().err
    )
