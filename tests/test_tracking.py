"""Trackers: a run offline, without account or network, holds what the notebook shows."""

import json
import struct
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from accelerate.utils import LoggerType
from unwedged import draw_unwedged

from maelib.model import MAEConfig
from maelib.training.log import read_log, start_tracker
from maelib.training.recipes import TrainConfig
from maelib.training.train import train

SMALL = MAEConfig(img_size=32, embed_dim=16, depth=1, num_heads=1, decoder_embed_dim=16, decoder_depth=1,
                  decoder_num_heads=1)  # fmt: skip


def read_wandb(path: Path) -> tuple[dict, list[dict]]:
    """Configuration and rows of a run's file: records in 32 KiB blocks, cut into pieces (the log format of LevelDB)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole, config, rows = path.read_bytes(), 7, b"", {}, []
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack("<4xHB", data[at : at + 7])
        whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # a record in one piece, or the last piece of one
            record, whole = Record.FromString(whole), b""
            config |= {
                item.key: json.loads(item.value_json) for item in [*record.run.config.update, *record.config.update]
            }
            rows.append({"/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item})
    return config, rows


@pytest.fixture
def config(tmp_path):
    (tmp_path / "facades").mkdir()
    for i, image in enumerate(draw_unwedged(12, 32)):
        np.save(tmp_path / "facades" / f"{i}.npy", image)
    return TrainConfig(
        out=tmp_path / "run", model=SMALL, data=tmp_path / "facades", steps=4, batch_size=4, eval_every=2,
        precision="float32", mse_weight=0.6, perceptual_weight=0.4, vgg="random", vgg_layers=("relu1_1",),
    )  # fmt: skip


def test_an_offline_run_of_wandb_holds_configuration_terms_rate_and_pictures(config, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed; pip install maelib[wandb]")
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(config.out.parent))  # nobody has logged in there
    train(replace(config, track="wandb"))
    (run,) = (config.out / "wandb").glob("offline-run-*")
    (file,) = run.glob("*.wandb")
    told, rows = read_wandb(file)
    for _ in range(60):  # its writer is another process, which may be behind
        if any(row.get("step") == 4 for row in rows):
            break
        time.sleep(0.5)
        told, rows = read_wandb(file)
    assert told["model.embed_dim"] == 16
    assert told["perceptual_weight"] == 0.4
    logged = read_log(config.out / "log.csv")
    for row in logged:
        (same,) = (other for other in rows if other.get("step") == row["step"])
        assert {name: same[name] for name in row} == pytest.approx(row)
    assert {"lr", "train_mse", "train_perceptual", "val_mse", "val_perceptual"} <= {
        name.split(" (")[0] for name in logged[0]
    }
    pictures = {path.name.split("_")[0] for path in (run / "files" / "media" / "images").glob("*.png")}
    assert {name.split(" ")[0] for name in pictures} == {"original", "masked", "prediction", "repaired"}


def test_tracking_changes_nothing_about_the_run(config):
    pytest.importorskip("wandb", reason="wandb is not installed; pip install maelib[wandb]")
    first = train(config).read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        second = train(replace(config, out=config.out.with_name("tracked"), track="wandb"))
    assert read_log(second.with_name("log.csv")) == read_log(config.out / "log.csv")
    assert len(second.read_bytes()) >= len(first)  # the same weights, and the name of the tracker


@pytest.mark.parametrize("tracker", ["wandb", "all"])
def test_files_of_wandb_go_into_the_run(tmp_path, tracker):
    pytest.importorskip("wandb", reason="wandb is not installed; pip install maelib[wandb]")
    started = []
    known = SimpleNamespace(log_with=[LoggerType.WANDB], init_trackers=lambda *told: started.append(told))
    start_tracker(known, tracker, {"lr": 0.1}, tmp_path / "run")
    ((_, config, options),) = started
    assert config == {"lr": 0.1}
    assert options["wandb"]["dir"] == str(tmp_path / "run")


def test_a_tracker_without_its_package_is_named_with_the_cure(tmp_path):
    accelerator = SimpleNamespace(log_with=[], trackers=[])  # what accelerate makes of a package that is not there
    with pytest.raises(ImportError, match="track 'aim' needs its package; pip install aim, or leave --track out"):
        start_tracker(accelerator, "aim", {}, tmp_path)
