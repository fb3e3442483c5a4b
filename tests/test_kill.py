"""Killed at any moment and resumed, a run ends with the weights of a run that nobody killed."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from maelib.checkpoint import load_tensors
from maelib.facades import draw_images

SMALL = {"img-size": 32, "embed-dim": 32, "num-heads": 2, "depth": 1, "decoder-embed-dim": 16, "decoder-num-heads": 1}
STEPS = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("facades")
    for i, image in enumerate(draw_images(range(16), 32)):
        np.save(path / f"{i:02d}.npy", image)
    return path


def start(folder: Path, out: Path) -> subprocess.Popen:
    """Start a run in `out`, or go on with the one that is there."""
    resume = ["--resume"] if (out / "state.safetensors").exists() else []
    options = {"out": out, "data": folder, "steps": STEPS, "batch-size": 4, "eval-every": 3, **SMALL}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "maelib", "train", *words, *resume]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(run: subprocess.Popen) -> None:
    _, errors = run.communicate()
    assert run.returncode == 0, errors.decode()[-2000:]


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(start(folder, out))
    return load_tensors(out / "model.safetensors")[0]


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_run_resumes_to_the_same_weights_to_the_bit(
    folder: Path, whole: dict[str, torch.Tensor], tmp_path: Path, kills: int
) -> None:
    out, rng = tmp_path / "run", random.Random(kills)
    log = out / "log.csv"
    for _ in range(kills):
        before = log.stat().st_mtime_ns if log.exists() else 0
        run = start(folder, out)
        while run.poll() is None and not (log.exists() and log.stat().st_mtime_ns > before):
            time.sleep(0.02)  # until the run opens its log: the first step is near
        time.sleep(rng.uniform(0, 1.5))
        run.send_signal(signal.SIGKILL)
        run.communicate()
        if (out / "model.safetensors").exists():
            load_tensors(out / "model.safetensors")  # whole, whenever the run was killed
    finish(start(folder, out))
    tensors = load_tensors(out / "model.safetensors")[0]
    assert all(torch.equal(tensors[name], tensor) for name, tensor in whole.items())
