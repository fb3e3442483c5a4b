"""Killed at any moment and resumed, a run ends as one that nobody killed."""

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from tiny import same, tiny_run

from maelib.training.train import train
from maelib.weights import load_tensors

EVERY, STEPS = 3, 30
IMPORTS = ["maelib.training.train", "accelerate", "matplotlib.pyplot", "torch._dynamo", "torchvision", "tqdm", "tyro"]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL and forks are Unix's")


def go_on(folder: Path, out: Path, steps: int, death: int | None) -> None:
    """Start the run in `out`, or go on with it; die of SIGKILL in place of its renaming number `death` of a file."""
    renamings, rename = itertools.count(1), os.replace

    def fatal(old: Path, new: Path) -> None:
        if next(renamings) == death:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(old, new)

    os.replace = fatal
    train(tiny_run(folder, out, steps=steps, eval_every=EVERY, resume=any(out.glob("state*.safetensors"))))


def start(folder: Path, out: Path, steps: int = STEPS, death: int | None = None) -> BaseProcess:
    """A process at work on the run in `out`: a fork of one that has imported everything, which is what takes long."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    process = context.Process(target=go_on, args=(folder, out, steps, death))
    process.start()
    return process


def finish(folder: Path, out: Path, steps: int = STEPS) -> None:
    run = start(folder, out, steps)
    run.join()
    assert run.exitcode == 0


def assert_same(out: Path, whole: Path) -> None:
    """Weights, their metadata and the log are alike to the bit, and no half-written file is left."""
    for name in ("model", "best"):
        (tensors, metadata), (expected, known) = (load_tensors(path / f"{name}.safetensors") for path in (out, whole))
        assert metadata == known
        assert same(tensors, expected)
    assert (out / "log.csv").read_text() == (whole / "log.csv").read_text()
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.fixture(scope="module")
def whole(facades: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that nobody killed, and its seconds."""
    out = tmp_path_factory.mktemp("whole")
    finish(facades, out / "short", EVERY)  # the first process waits for the imports
    began = time.monotonic()
    finish(facades, out / "run")
    return out / "run", time.monotonic() - began


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_as_if_nobody_had(facades, whole, tmp_path, kills) -> None:
    out, rng, killed, ended = tmp_path / "run", random.Random(kills), 0, 0
    while killed < kills or not ended:
        run = start(facades, out)
        if killed < kills:
            run.join(rng.uniform(0, whole[1]))
            run.kill()
        run.join()
        assert run.exitcode in (0, -signal.SIGKILL)
        if (out / "model.safetensors").exists():
            load_tensors(out / "model.safetensors")  # whole, whenever the run was killed
        if run.exitcode:
            killed += 1
        else:  # before its moment came: the next run begins anew
            assert_same(out, whole[0])
            shutil.rmtree(out)
            ended += 1


def test_a_run_killed_at_any_write_of_its_last_checkpoint_ends_as_if_nobody_had(facades, whole, tmp_path) -> None:
    cut, short = set(), whole[0].with_name("short")
    for death in itertools.count(1):
        out = tmp_path / str(death)
        run = start(facades, out, EVERY, death)
        run.join()
        if run.exitcode == 0:
            break
        assert run.exitcode == -signal.SIGKILL
        cut |= {path.name.split(".")[1] for path in out.glob(".*.partial")}
        finish(facades, out, EVERY)
        assert_same(out, short)
    assert cut == {"log", "config", "new", "best", "model"}  # each was killed while half of it was there
