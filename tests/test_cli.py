"""The command line: what each command writes, and how it ends when something is wrong."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maelib.cli import COMMANDS, main
from maelib.facades import draw_images
from maelib.files import data_folder
from maelib.model import MAEConfig
from maelib.perceptual_weights import weights_file
from maelib.training.log import read_log
from maelib.weights.checkpoint import load_model

DATA = data_folder() / "complete_npy"
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_draw_writes_what_the_generator_draws(tmp_path, capsys):
    main(["draw", "--count", "3", "--size", "48", "--out", str(tmp_path), "--seed", "5"])
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["facade000005.npy", "facade000006.npy", "facade000007.npy"]
    assert np.array_equal(np.stack([np.load(file) for file in files]), draw_images(range(5, 8), 48))
    assert "wrote 3 files" in capsys.readouterr().out


def test_draw_makes_pictures_of_any_shape_with_occluders(tmp_path):
    main(["draw", "--count", "1", "--size", "48", "80", "--format", "png", "--occluders", "--out", str(tmp_path)])
    plain, occluded, occluder = (
        np.asarray(Image.open(tmp_path / f"facade000000{name}.png")) for name in ("", "-occluded", "-occluder")
    )
    assert plain.shape == occluded.shape == (48, 80, 3)
    assert np.array_equal(np.unique(occluder), [0, 255])
    assert np.array_equal(plain[occluder == 0], occluded[occluder == 0])


def test_train_and_reconstruct_from_the_command_line(tmp_path):
    main(["draw", "--count", "6", "--size", "64", "--out", str(tmp_path / "facades")])
    small = ["--embed-dim", "16", "--num-heads", "1", "--depth", "1", "--decoder-embed-dim", "16"]
    small += ["--decoder-num-heads", "1", "--decoder-depth", "1", "--steps", "2", "--batch-size", "2"]
    main(["train", "--data", str(tmp_path / "facades"), "--out", str(tmp_path / "run"), *small])
    photo = draw_images([9], (90, 130))[0]
    mask = np.zeros((90, 130), np.uint8)
    mask[30:60, 40:80] = 255
    Image.fromarray(photo).save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    paths = {name: str(tmp_path / f"{name}.png") for name in ("photo", "mask", "repaired")}
    main(["reconstruct", "--checkpoint", str(tmp_path / "run" / "model.safetensors"), paths["photo"],
          "--mask", paths["mask"], "--out", paths["repaired"]])  # fmt: skip
    repaired = np.asarray(Image.open(paths["repaired"]))
    assert np.array_equal(repaired[mask == 0], photo[mask == 0])
    assert not np.array_equal(repaired, photo)


def test_the_originals_recipe_trains_at_its_own_size_with_its_own_blend(tmp_path):
    weights = "normalised" if weights_file("normalised") else "random"  # either way the blend is trained
    few = ["--steps", "2", "--batch-size", "2", "--val-images", "2", "--eval-every", "1", "--vgg", weights]
    main(["train", "--recipe", "facade_base", "--data", str(DATA), "--out", str(tmp_path), *few])
    model = load_model(tmp_path / "model.safetensors")
    assert (model.config.img_size, model.config.patch_size, model.config.depth) == (224, 16, 12)
    rows, name = read_log(tmp_path / "log.csv"), "perceptual" + (" (random VGG19)" if weights == "random" else "")
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert row["train_loss"] == pytest.approx(0.6 * row["train_mse"] + 0.4 * row[f"train_{name}"], rel=1e-4)
        assert row["grad_mse"] > 0
        assert row[f"grad_{name}"] > 0
        assert row[f"val_{name}"] > 0


def test_the_command_that_stands_for_the_original_sets_what_the_original_sets(monkeypatch):
    seen = []
    monkeypatch.setattr("maelib.training.train.train", seen.append)
    main(re.search(r"^maelib (train --recipe facade_base --data .*)$", README, re.MULTILINE).group(1).split())
    (config,) = seen
    shape = {"img_size": 224, "patch_size": 16, "embed_dim": 256, "depth": 12, "num_heads": 4}
    shape |= {"decoder_embed_dim": 256, "decoder_depth": 6, "decoder_num_heads": 4}
    assert config.model == MAEConfig(**shape, positions="learned", class_token=True, rotary=False)
    assert config.augment == replace(config.augment, flip=0.5, rotation=10, jitter=0.2, hue=0.1)
    assert (config.mask, config.mask_ratio, config.val_share) == ("square", (0.51, 0.51), 0.2)
    assert (config.mse_weight, config.perceptual_weight) == (0.6, 0.4)
    assert config.vgg_layers == ("relu1_1", "relu2_1", "relu3_1")
    assert (config.optimizer, config.lr, config.weight_decay, config.batch_size) == ("adamw", 3e-4, 0.01, 16)
    assert config.warmup == pytest.approx(150 / 700, rel=0.03)


def test_the_table_of_the_originals_settings_names_options_that_exist(capsys):
    table = README.split("<summary>Custom MAE")[1].split("</details>")[0]
    named = set(re.findall(r"(?<=[ `])--[a-z-]+", table))
    assert len(named) >= 20
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert named - {"--recipe"} <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


def test_the_originals_recipe_asks_for_the_features_it_needs(tmp_path, capsys, out_of_reach):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--recipe", "facade_base", "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "no network in this test" in message
    assert all(way in message for way in ("maelib fetch vgg19", "'imagenet'", "'random'", "--perceptual-weight 0"))
    assert not (tmp_path / "run").exists()


def test_fetched_weights_are_named_with_their_place(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MAELIB_CACHE", str(tmp_path))
    (tmp_path / "vgg19-normalised-5.safetensors").touch()
    main(["fetch", "vgg19"])
    told = capsys.readouterr().out
    assert told == f"VGG19, normalised weights: {tmp_path / 'vgg19-normalised-5.safetensors'}\n"


def test_a_fetch_out_of_reach_ends_with_one_line(out_of_reach, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fetch", "vgg19"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "maelib fetch: no network in this test\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"maelib {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["paint"], "maelib: 'paint' is not a command", ""),
        (["draw", "--count", "0", "--out", "{tmp}"], 2, "count 0"),
        (["draw", "--size", "8", "--out", "{tmp}"], 2, "size 8 is outside 32 to 1024 px; use 32"),
        (["draw", "--size", "1", "2", "3", "--out", "{tmp}"], 2, "one or two sides"),
        (["train", "--data", "{tmp}/gone"], 2, "does not exist"),
        (["train", "--img-size", "65"], 2, "img_size 65 is not a multiple of patch_size 8; use 64 or 72"),
        (["probe", "gold"], 2, "'gold' is no data set with labels; there is style: the style of a drawn facade;"),
        (["finetune", "style", "--steps", "0"], 2, "steps 0 is not positive; use more than 0"),
        (["fetch", "gold"], 2, "'gold' is nothing that can be fetched; there is cmp: the CMP"),
        (["fetch", "vgg19", "--out", "{tmp}"], 2, "weights go to the cache; set MAELIB_CACHE"),
        (["fetch", "cmp", "--out", "{tmp}", "--source", "file:///x"], 2, "is no address on the web"),
        (["reconstruct", "{tmp}/gone.png", "--mask", "{tmp}/gone.png", "--out", "{tmp}/out.png"], None, "gone.png"),
    ],
)
def test_mistakes_end_with_one_line_and_a_code(args, code, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([word.format(tmp=tmp_path) for word in args])
    if isinstance(code, str):
        assert str(stop.value.code).startswith(code)
    else:
        assert stop.value.code == code if code else stop.value.code not in (0, None)
    printed = "".join(capsys.readouterr())
    assert message in " ".join(printed.replace("│", " ").split())  # boxed and wrapped where a setting is at fault
    assert "Traceback" not in printed


def test_the_module_runs_as_a_command():
    shown = subprocess.run([sys.executable, "-m", "maelib"], capture_output=True, text=True, check=True)
    assert "usage: maelib COMMAND" in shown.stdout
