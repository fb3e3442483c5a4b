"""Folders read while training goes on: the same images as ever, and what becomes of files that cannot be used."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from unwedged import draw_unwedged

from maelib.data import large_folder, sources
from maelib.data.images import read_folder
from maelib.data.large_folder import FileImages
from maelib.data.photos import PhotoError
from maelib.model import MAEConfig
from maelib.training import train
from maelib.training.recipes import TrainConfig
from maelib.weights.checkpoint import load_tensors

SMALL = MAEConfig(img_size=32, embed_dim=32, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1,
                  decoder_num_heads=1)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "facades"
    path.mkdir()
    for i, image in enumerate(draw_unwedged(24, 32)):
        np.save(path / f"{i:02d}.npy", image)
    return path


@pytest.fixture
def images(folder):
    return FileImages(folder, sorted(os.listdir(folder)), 32)


@pytest.fixture
def config(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "LARGE", 10)  # files
    return TrainConfig(
        out=tmp_path / "run", model=SMALL, data=folder, steps=12, batch_size=4, eval_every=6, precision="float32"
    )


def test_images_are_those_that_are_read_at_once(folder, images):
    whole, _ = read_folder(folder, 32)
    order = [3, 17, 0, 3]
    assert images.names == whole.names
    assert torch.equal(images.batch(order)[0], whole.batch(order)[0])
    assert images.batch(order)[1] is None
    assert torch.equal(images[5], whole[5])
    assert torch.equal(images.subset([7, 2])[1], whole[2])
    larger, _ = read_folder(folder, 48)
    assert torch.equal(FileImages(folder, images.names, 48)[5], larger[5])
    assert not images.left_out


def test_wedges_are_known_at_every_reading_and_looked_for_once(folder, images, monkeypatch):
    photo = np.load(folder / "04.npy")
    y, x = np.mgrid[:32, :32]
    photo[x * 2 > 96 - y * 2] = 128
    np.save(folder / "04.npy", photo)
    whole = read_folder(folder, 32)[0].with_wedges(8)
    images = images.with_wedges(8)
    for _ in range(2):
        pixels, voids = images.batch([3, 4])
        assert torch.equal(voids, whole.batch([3, 4])[1])
        assert voids[1].any()
        assert torch.equal(pixels, whole.batch([3, 4])[0])
        monkeypatch.setattr(large_folder, "find_border_fill", lambda photos: np.ones(photos.shape[:3], bool))
    assert images.batch([3])[1] is None


def test_the_next_file_stands_in_for_one_that_cannot_be_used(folder, images):
    images.batch([5])
    (folder / "05.npy").unlink()
    (folder / "06.npy").write_bytes(b"cut short")
    (folder / "23.npy").unlink()
    assert torch.equal(images.batch([5, 23, 1])[0], images.batch([7, 0, 1])[0])
    assert images.left_out.keys() == {"05.npy", "06.npy", "23.npy"}
    assert "05.npy: there is no such file" in images.left_out["05.npy"]


def test_what_is_nothing_but_wedge_is_left_out(folder, images, monkeypatch):
    images = images.with_wedges(8)
    lost = np.load(folder / "02.npy")
    monkeypatch.setattr(large_folder, "find_border_fill", lambda photos: (photos == lost).all(axis=3))
    pixels, voids = images.batch([2])
    assert torch.equal(pixels[0], images[3])
    assert voids is None
    assert "flat wedges touch every patch of 8 px" in images.left_out["02.npy"]


def test_a_folder_that_is_gone_is_said_to_be(folder, images):
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(PhotoError, match=r"13 of 24 files cannot be used, more than half; the last: .*no such file"):
        images.batch([0])


def test_the_parts_of_a_split_share_nothing_and_depend_on_the_seed_alone(images):
    parts = images.split(0.25, 3, 6)
    names = [set(part.names) for part in parts]
    assert (len(names[0]), len(names[1]), names[0] & names[1]) == (18, 6, set())
    assert parts[1].names == images.split(0.25, 3, 6)[1].names != images.split(0.25, 4, 6)[1].names
    assert [len(part) for part in images.split(0.001, 0, 1)] == [23, 1]


def test_a_near_duplicate_of_an_image_to_validate_on_is_not_trained_on(folder, images):
    val = images.split(0.25, 3, 6)[1].names
    photo = np.load(folder / val[0]).astype(int)
    noisy = (photo + np.random.default_rng(0).integers(-3, 4, photo.shape)).clip(0, 255).astype(np.uint8)
    twin = next(name for name in images.names if name not in val)
    np.save(folder / twin, noisy)
    learnt, judged = images.split(0.25, 3, 6)
    assert judged.names == val
    learnt.with_wedges(8).batch(list(range(18)))
    learnt.batch(list(range(18)))
    assert learnt.left_out == {twin: f"{folder / twin}: nearly the same as an image to validate on"}
    assert learnt.with_wedges(8).held_out is learnt.held_out


def test_a_run_on_a_large_folder_reads_no_more_than_it_needs(config, monkeypatch):
    seen = []
    monkeypatch.setattr(large_folder, "read_photo", lambda path: seen.append(path.name) or np.load(path))
    images, val_images, _ = sources.load_images(replace(config, val_images=2))
    assert len(seen) == 2
    assert len(images) + len(val_images) == 24


@pytest.mark.parametrize("most", [2, 20])
def test_a_run_goes_on_without_files_that_vanish_and_says_which(config, monkeypatch, capsys, most):
    monkeypatch.setattr(sources, "MOST_TOLD", most)
    step, learnt_from = train._Run.step, []

    def vanish(run, *args):
        learnt_from.extend(run._names())
        if run.done == 2:
            for name in run.images.names[:4]:
                (config.data / name).unlink()
        return step(run, *args)

    monkeypatch.setattr(train._Run, "step", vanish)
    train.train(replace(config, drawn=8))
    told = (config.out / "left_out.txt").read_text().splitlines()
    errors = capsys.readouterr().err
    assert len(told) == 4
    assert all("there is no such file" in line for line in told)
    assert sum(errors.count(f"left out: {line}") for line in told) == min(most, 4)
    assert errors.count("left out: more files, all listed at the end") == (most < 4)
    assert "4 file(s) were left out" in errors
    assert str(config.out / "left_out.txt") in errors
    assert any("left out, the next one stood in" in name for name in learnt_from)


def test_a_run_that_resumes_adds_to_the_list_and_bad_files_to_validate_on_stand_there_too(config, capsys):
    _, val_images, _ = sources.load_images(config)
    bad, worse = (config.data / name for name in val_images.names[:2])
    whole = bad.read_bytes()
    bad.write_bytes(b"no array")
    train.train(config)
    (first,) = (config.out / "left_out.txt").read_text().splitlines()
    assert str(bad) in first
    assert f"left out: {first}" in capsys.readouterr().err
    bad.write_bytes(whole)
    worse.write_bytes(b"no array")
    train.train(replace(config, resume=True, steps=18))
    told = (config.out / "left_out.txt").read_text().splitlines()
    assert told[0] == first
    assert [str(worse) in line for line in told[1:]] == [True]


def test_what_resembles_the_image_that_stands_in_for_a_wedge_is_left_out(config, monkeypatch):
    _, val_images, _ = sources.load_images(config)
    bad, stand_in = val_images.names[:2]
    np.save(config.data / bad, np.zeros((32, 32, 3), np.uint8))
    monkeypatch.setattr(large_folder, "find_border_fill", lambda images: (images == 0).all(axis=-1))
    images, val_images, _ = sources.load_images(replace(config, val_images=1))
    twin = images.names[0]
    np.save(config.data / twin, np.load(config.data / stand_in))
    val_images.batch([0])
    images.batch([0])
    assert images.left_out.keys() == {twin}


def test_a_run_on_whole_files_leaves_no_list(config):
    train.train(config)
    assert not (config.out / "left_out.txt").exists()


def test_a_run_on_a_large_folder_resumes_to_the_bit(config, monkeypatch):
    train.train(config)
    half, step = replace(config, out=config.out.parent / "half"), train._Run.step
    with monkeypatch.context() as patch:
        patch.setattr(train._Run, "step", lambda run, *args: (step(run, *args)[0], run.done == 5))
        with pytest.raises(KeyboardInterrupt):
            train.train(half)
    train.train(replace(half, resume=True))
    whole, resumed = (load_tensors(run.out / "model.safetensors")[0] for run in (config, half))
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
