"""Trackers: a run offline, without account or network, holds what a notebook shows."""

import json
import struct
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import fill_folder, same, tiny_run

from maelib.training.log import read_log, start_tracker
from maelib.training.train import train
from maelib.weights import load_tensors

wandb = pytest.importorskip("wandb", reason="wandb is not installed; pip install maelib[wandb]")


def read_wandb(path: Path) -> tuple[dict, list[dict]]:
    """Configuration and rows of a run's file: records in 32 KiB blocks, cut into pieces (as LevelDB's logs)."""
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
            settings = [*record.run.config.update, *record.config.update]
            config |= {item.key: json.loads(item.value_json) for item in settings}
            rows.append({"/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item})
    return config, rows


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A run of somebody who has not logged in."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tiny_run(
        fill_folder(tmp_path / "facades", 12), tmp_path / "run", steps=4, eval_every=2, mse_weight=0.6,
        perceptual_weight=0.4, vgg="random", vgg_layers=("relu1_1",), track="wandb",
    )  # fmt: skip


def test_an_offline_run_holds_settings_terms_learning_rate_and_pictures_and_changes_nothing(config):
    train(config)
    (run,) = (config.out / "wandb").glob("offline-run-*")
    (file,) = run.glob("*.wandb")
    logged = read_log(config.out / "log.csv")
    for _ in range(60):  # another process writes the file, and may be behind
        settings, rows = read_wandb(file)
        if any(row.get("step") == 4 for row in rows):
            break
        time.sleep(0.5)
    assert settings["model"]["embed_dim"] == 32
    assert settings["perceptual_weight"] == 0.4
    for row in logged:
        (tracked,) = (other for other in rows if other.get("step") == row["step"])
        assert {name: tracked[name] for name in row} == pytest.approx(row)
    assert {"lr", "train_mse", "val_mse"} <= logged[0].keys()
    pictures = {path.name.split("_")[0] for path in (run / "files" / "media" / "images").glob("*.png")}
    assert pictures == {"original", "masked", "prediction", "repaired"}
    plain = train(replace(config, out=config.out.with_name("plain"), track=None))
    assert same(*(load_tensors(path)[0] for path in (config.out / "model.safetensors", plain)))


def test_a_resumed_run_continues_its_first_record(config):
    train(config)
    train(replace(config, steps=6, resume=True))
    runs = {path.name.rpartition("-")[2] for path in (config.out / "wandb").glob("offline-run-*")}
    assert len(runs) == 1


def test_a_tracker_without_its_package_is_named_with_the_cure(config):
    accelerator = SimpleNamespace(log_with=[])  # what accelerate makes of a package that is missing
    with pytest.raises(ImportError, match="track 'wandb' needs its package; pip install wandb, or omit --track"):
        start_tracker(accelerator, config)
