"""Checkpoints: whole or not there, self-describing, and no code in them."""

import json
import pickle
import random
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from maelib import files
from maelib.files import write_atomic
from maelib.masking import random_mask
from maelib.model import MAEConfig, MaskedAutoencoder
from maelib.patches import unpatchify
from maelib.weights.checkpoint import CheckpointError, load_model, load_tensors, save_model, save_tensors, start_from

SMALL = MAEConfig(img_size=16, embed_dim=16, depth=1, num_heads=1, decoder_embed_dim=16, decoder_depth=1,
                  decoder_num_heads=1)  # fmt: skip


@pytest.fixture
def saved(tmp_path):
    model = MaskedAutoencoder(SMALL).eval()
    save_model(tmp_path / "model.safetensors", model, {"step": 7})
    return model, tmp_path / "model.safetensors"


def test_a_checkpoint_needs_nothing_else_to_predict_the_same_to_the_bit(saved):
    model, path = saved
    images, mask = torch.rand(2, 3, 16, 16), random_mask(2, (2, 2), 0.5)
    again = load_model(path)
    assert again.config == SMALL
    assert not again.training
    assert torch.equal(again(images, mask), model(images, mask))


def test_tensors_of_any_kind_and_their_description_come_back(tmp_path):
    tensors = {"a": torch.arange(6).reshape(2, 3).T, "b": torch.tensor(1.5, dtype=torch.bfloat16)}
    save_tensors(tmp_path / "x.safetensors", tensors, {"step": 3, "names": ["ä", "b"]})
    read, about = load_tensors(tmp_path / "x.safetensors")
    assert about == {"step": 3, "names": ["ä", "b"]}
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_a_crash_while_writing_leaves_the_previous_file_and_no_debris(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    write_atomic(path, b"whole")

    def power_cut(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(files.os, "fsync", power_cut)
    with pytest.raises(OSError, match="no space left"):
        write_atomic(path, b"half")
    assert path.read_bytes() == b"whole"
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_a_truncated_file_is_refused(saved, keep):
    path = saved[1]
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(CheckpointError, match="is no whole safetensors file"):
        load_model(path)


def test_no_turned_bit_goes_unnoticed(saved):
    model, path = saved
    data, rng = path.read_bytes(), random.Random(0)
    header = 8 + int.from_bytes(data[:8], "little")
    for bit in rng.sample(range(8 * header), 150) + rng.sample(range(8 * header, 8 * len(data)), 50):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        try:
            read = load_model(path)
        except CheckpointError:
            continue
        assert bit < 8 * header  # such as a space, or the name of the checksum: what is read is what was written
        assert read.config == model.config
        assert all(torch.equal(a, b) for a, b in zip(read.parameters(), model.parameters(), strict=True))


def test_files_from_before_there_were_checksums_are_read(saved):
    model, path = saved
    save_file(dict(model.state_dict()), path, {"maelib": json.dumps({"model": asdict(SMALL)})})
    assert load_model(path).config == SMALL


def test_a_pickle_is_refused_and_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    (tmp_path / "model.pth").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="is no whole safetensors file"):
        load_model(tmp_path / "model.pth")
    assert not (tmp_path / "exploded").exists()


def test_other_files_are_refused_with_the_reason(tmp_path, saved):
    with pytest.raises(FileNotFoundError, match=r"checkpoint .*none.safetensors does not exist; train one"):
        load_model(tmp_path / "none.safetensors")
    save_file({"w": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="holds no maelib configuration"):
        load_model(tmp_path / "other.safetensors")
    save_tensors(tmp_path / "old.safetensors", {"w": torch.zeros(1)}, {"model": {"embed_dim": 3, "colour": 1}})
    with pytest.raises(CheckpointError, match=r"differing entries: .*'colour'"):
        load_model(tmp_path / "old.safetensors")
    tensors, about = load_tensors(saved[1])
    tensors.pop("mask_token")
    save_tensors(tmp_path / "part.safetensors", tensors, about)
    with pytest.raises(CheckpointError, match=r"does not hold the weights it describes.*mask_token"):
        load_model(tmp_path / "part.safetensors")


def test_a_configuration_that_cannot_be_is_refused(saved, tmp_path):
    tensors, about = load_tensors(saved[1])
    about["model"]["img_size"] = 17
    save_tensors(tmp_path / "bad.safetensors", tensors, json.loads(json.dumps(about)))
    with pytest.raises(ValueError, match="img_size 17 is not a multiple of patch_size 8"):
        load_model(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_a_model_of_another_size_starts_with_the_same_weights_and_its_own_grid(tmp_path, positions):
    config = replace(SMALL, img_size=64, positions=positions)
    source, target = MaskedAutoencoder(config).eval(), MaskedAutoencoder(replace(config, img_size=96)).eval()
    save_model(tmp_path / "source.safetensors", source, {})
    start_from(target, tmp_path / "source.safetensors")
    images, mask = torch.rand(2, 3, 96, 96), random_mask(2, (12, 12), 0.5)
    if positions == "learned":  # the source resamples its positions at every call, the target once and for all
        torch.testing.assert_close(target(images, mask), source(images, mask))
    assert torch.equal(target.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)
    fresh = MaskedAutoencoder(replace(config, img_size=96))
    assert (positions == "sincos") == torch.equal(target.pos_embed, fresh.pos_embed)


def test_a_model_of_the_same_size_starts_with_the_same_positions(saved):
    """Those of published weights were resampled for it, and are no longer the fixed ones of their grid."""
    source, path = saved
    source.pos_embed.data += 1
    save_model(path, source, {})
    target = MaskedAutoencoder(SMALL)
    start_from(target, path)
    assert torch.equal(target.pos_embed, source.pos_embed)


def test_a_model_of_coarser_patches_starts_as_one_that_sees_means_and_repeats_itself(tmp_path):
    config = replace(SMALL, img_size=32, patch_size=8)
    source, target = MaskedAutoencoder(config).eval(), MaskedAutoencoder(replace(config, img_size=64, patch_size=16))
    save_model(tmp_path / "source.safetensors", source, {})
    start_from(target.eval(), tmp_path / "source.safetensors")
    images, mask = torch.rand(2, 3, 64, 64), random_mask(2, (4, 4), 0.5)
    coarse = unpatchify(source(F.avg_pool2d(images, 2), mask), 8, (4, 4))
    expected = coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(unpatchify(target(images, mask), 16, (4, 4)), expected)


def test_a_model_of_finer_patches_starts_as_one_that_sees_the_picture_enlarged(tmp_path):
    config = replace(SMALL, img_size=64, patch_size=16)
    source, target = MaskedAutoencoder(config).eval(), MaskedAutoencoder(replace(config, img_size=32, patch_size=8))
    save_model(tmp_path / "source.safetensors", source, {})
    start_from(target.eval(), tmp_path / "source.safetensors")
    images, mask = torch.rand(2, 3, 32, 32), random_mask(2, (4, 4), 0.5)
    large = source(images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3), mask)
    torch.testing.assert_close(
        unpatchify(target(images, mask), 8, (4, 4)), F.avg_pool2d(unpatchify(large, 16, (4, 4)), 2)
    )


def test_a_model_of_another_shape_does_not_start_from_a_checkpoint(saved):
    with pytest.raises(CheckpointError, match="embed_dim 16 there, 32 here; make them the same"):
        start_from(MaskedAutoencoder(replace(SMALL, embed_dim=32)), saved[1])
