"""The command line: what each command writes, the lines in docs/, and how a command ends when something is wrong."""

import re
import runpy
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import tyro
from PIL import Image

from maelib.cli import COMMANDS, main
from maelib.facades import draw_images
from maelib.files import data_folder
from maelib.model import MAEConfig
from maelib.training.log import read_log

DOCS = "".join(path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parents[1].glob("docs/*.md")))
LINES = re.findall(r"^(?:accelerate .*|torchrun .*)?\bmaelib (\w.*?)(?: +#.*)?$", DOCS, re.MULTILINE)


def run(line: str) -> None:
    main(line.split())


@pytest.fixture
def configurations(monkeypatch):
    """The configurations that a command line describes, before anything is done with them."""
    seen, parse = [], tyro.cli

    def stop(*args, **options):
        seen.append(parse(*args, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(tyro, "cli", stop)
    return seen


@pytest.mark.parametrize(("kind", "read"), [("npy", np.load), ("png", Image.open)])
def test_draw_writes_what_the_generator_draws(kind, read, tmp_path, capsys):
    main(["draw", "--count", "3", "--size", "48", "--format", kind, "--out", str(tmp_path), "--seed", "5"])
    files = [tmp_path / f"facade00000{seed}.{kind}" for seed in (5, 6, 7)]
    assert np.array_equal(np.stack([read(file) for file in files]), draw_images(range(5, 8), 48))
    assert capsys.readouterr().out == f"wrote 3 files to {tmp_path}\n"


def test_the_originals_recipe_trains_with_its_own_blend_and_its_model_repairs_a_photo(tmp_path, capsys):
    few = "--steps 1 --batch-size 2 --val-images 2 --eval-every 1 --vgg random"
    run(f"train --recipe facade_base --data {data_folder() / 'complete_npy'} --out {tmp_path} {few}")
    (row,) = read_log(tmp_path / "log.csv")
    blend = 0.6 * row["train_mse"] + 0.4 * row["train_perceptual (random VGG19)"]
    assert row["train_loss"] == pytest.approx(blend, rel=1e-4)
    Image.fromarray(draw_images([9], (90, 130))[0]).save(tmp_path / "photo.png")
    words = f"--checkpoint {tmp_path / 'model.safetensors'} --boxes 40 30 80 60 --out {tmp_path / 'repaired.png'}"
    run(f"reconstruct {tmp_path / 'photo.png'} {words}")
    assert Image.open(tmp_path / "repaired.png").size == (130, 90)
    assert "repaired.png" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------------- docs/


def test_the_docs_show_every_command():
    assert {line.split()[0] for line in LINES} == set(COMMANDS)


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_docs_is_understood(line, configurations):
    with pytest.raises(SystemExit, match="130"):
        run(line)
    assert [type(config).__name__ for config in configurations] == [f"{line.split()[0].title()}Config"]


def test_the_command_that_stands_for_the_original_sets_what_the_original_sets(configurations):
    with pytest.raises(SystemExit, match="130"):
        run(next(line for line in LINES if "--mask square" in line))
    (config,) = configurations
    shape = {"img_size": 224, "patch_size": 16, "embed_dim": 256, "depth": 12, "num_heads": 4}
    shape |= {"decoder_embed_dim": 256, "decoder_depth": 6, "decoder_num_heads": 4}
    assert config.model == MAEConfig(**shape, positions="learned", class_token=True, rotary=False)
    assert config.augment == replace(config.augment, flip=0.5, rotation=10, jitter=0.2, hue=0.1)
    wanted = {"mask": "square", "mask_ratio": (0.51, 0.51), "val_share": 0.2, "mse_weight": 0.6, "batch_size": 16}
    wanted |= {"perceptual_weight": 0.4, "vgg_layers": ("relu1_1", "relu2_1", "relu3_1"), "optimizer": "adamw"}
    assert vars(config).items() >= {**wanted, "lr": 3e-4, "weight_decay": 0.01}.items()
    assert config.warmup == pytest.approx(150 / 700, rel=0.03)


# --------------------------------------------------------------------------------------- help, warnings and mistakes


def test_the_module_runs_as_a_command_and_knows_its_version(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["maelib"])
    runpy.run_module("maelib", run_name="__main__")
    shown = capsys.readouterr().out
    assert all(f"  {command} " in shown for command in COMMANDS)
    main(["--version"])
    assert capsys.readouterr().out == f"maelib {version('maelib')}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"maelib {command}" in capsys.readouterr().out


def test_a_warning_is_a_plain_line_beside_the_result(monkeypatch, capsys):
    monkeypatch.setattr("maelib.cli.fetch", lambda _: warnings.warn("a file\nwas left out", stacklevel=2) or "fetched")
    main(["fetch", "cmp"])
    assert capsys.readouterr() == ("fetched\n", "maelib fetch: a file was left out\n")


@pytest.mark.parametrize("error", [ValueError, ConnectionError, ImportError, FloatingPointError])
def test_an_error_ends_with_one_line_and_code_2(error, monkeypatch, capsys):
    monkeypatch.setattr("maelib.cli.fetch", Mock(side_effect=error("no network")))
    with pytest.raises(SystemExit, match="2"):
        main(["fetch", "cmp"])
    assert capsys.readouterr().err == "maelib fetch: no network\n"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["paint"], 2, "maelib paint: there is no such command; use draw, train"),
        (["draw", "--out", ""], 2, 'an argument is empty ("")'),
        (["draw", "--out", "{tmp}/file"], 2, "File exists: '{tmp}/file'"),
        (["draw", "--count", "0", "--out", "{tmp}/new"], 2, "count 0 draws nothing; use 1 or more"),
        (["draw", "--size", "8", "--out", "{tmp}/new"], 2, "is outside 32 to 1024 px; use 32"),
        (["train", "--data", "{tmp}/gone"], 2, "does not exist"),
        (["train", "--recipe", "gold"], 2, "choose from 'facade_tiny'"),
        (["reconstruct", "{tmp}/gone.png", "--mask", "{tmp}/gone.png", "--out", "{tmp}/out.png"], 1, "gone.png"),
        (["ui", "{tmp}/gone.jpg"], 2, "gone.jpg: cannot be opened"),
        (["fetch", "gold"], 2, "'gold' cannot be fetched; use one of cmp, vgg19"),
        (["fetch", "vgg19", "--out", "{tmp}"], 2, "weights go to the cache; set MAELIB_CACHE"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(args, code, message, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        main([word.replace("{tmp}", str(tmp_path)) for word in args])
    assert stop.value.code == code
    printed = " ".join("".join(capsys.readouterr()).replace("│", " ").split())  # tyro puts some messages into boxes
    assert message.replace("{tmp}", str(tmp_path)) in printed
    assert "Traceback" not in printed
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
