"""Several processes learn what one learns, whoever launches them, and end well when one dies."""

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from tiny import tiny_run, weights_of

from maelib.training.log import read_log
from maelib.training.recipes import TrainConfig
from maelib.training.train import train
from maelib.weights import load_tensors

TORCHRUN = "torch.distributed.run --nproc-per-node 2 --master-port"
ACCELERATE = "accelerate.commands.launch --num_processes {} --main_process_port"


@pytest.fixture
def config(facades, tmp_path):
    return tiny_run(
        facades, tmp_path / "one", steps=50, batch_size=8, eval_every=1, optimizer="adamw", lr=1e-3, mse_weight=0.6,
        perceptual_weight=0.01, vgg="random", vgg_layers=("relu1_1",), mask_ratio=(0.2, 0.8),
    )  # fmt: skip


def words(config: TrainConfig) -> list[str]:
    """The command line of a configuration whose own entries are numbers, words and paths."""
    line, default = [], TrainConfig()
    usual = vars(default) | vars(default.model)
    for name, value in (vars(config) | vars(config.model)).items():
        if name != "model" and value != usual[name]:
            line += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
    return line


def start(*command: str) -> subprocess.Popen:
    """Python at work as in a terminal: no variable of these tests reaches it but the number of threads."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE")}
    own |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *command], env=own, **pipes)


def free_port() -> str:
    """A port for each launch, so that tests run side by side."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def launch(launcher: str, config: TrainConfig, *options: str) -> subprocess.Popen:
    return start("-m", *launcher.split(), free_port(), *options, "-m", "maelib", "train", *words(config))


def wait(run: subprocess.Popen) -> str:
    """What a launcher that succeeds has printed."""
    said = run.communicate(timeout=300)[0]
    assert run.returncode == 0, said[-3000:]
    return said


def assert_alike(two: TrainConfig, one: TrainConfig) -> None:
    rows, others = (read_log(run.out / "log.csv") for run in (one, two))
    assert len(rows) == len(others) == one.steps
    for row, other in zip(rows, others, strict=True):
        assert other == {name: pytest.approx(value, rel=1e-5, abs=1e-5) for name, value in row.items()}
    weights, expected = (weights_of(run.out / "model.safetensors") for run in (two, one))
    torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-4)
    assert {path.name for path in two.out.iterdir()} == {path.name for path in one.out.iterdir()}


def test_two_processes_learn_what_one_learns(config, tmp_path):
    two, three = (replace(config, out=tmp_path / name) for name in ("two", "three"))
    runs = launch(TORCHRUN, two), launch(ACCELERATE.format(2), three)
    train(config)
    for run, other in zip(runs, (two, three), strict=True):
        assert wait(run).count("trained ") == 1
        assert_alike(other, config)


def test_a_notebooks_processes_learn_what_one_learns(config, tmp_path):
    config = replace(config, steps=6, accumulate=2)
    two = replace(config, out=tmp_path / "two")
    script = tmp_path / "cell.py"
    script.write_text(
        "from pathlib import PosixPath, WindowsPath\n"
        "from accelerate import notebook_launcher\n"
        "from maelib.training.recipes import Augment, MAEConfig, TrainConfig\n"
        "from maelib.training.train import train\n"
        f"notebook_launcher(train, ({two!r},), num_processes=2, use_port='{free_port()}')\n"
    )
    wait(start(str(script)))
    train(config)
    assert_alike(two, config)


def test_accumulated_passes_learn_what_a_large_batch_learns(config, tmp_path):
    config = replace(config, steps=6)
    parts = replace(config, accumulate=4, out=tmp_path / "parts")
    train(config)
    train(parts)
    assert_alike(parts, config)


def test_a_launchers_precision_and_compiler_are_followed(config, tmp_path):
    config = replace(config, steps=2, precision="auto", perceptual_weight=0.0)
    wait(launch(ACCELERATE.format(1), config, "--mixed_precision", "bf16", "--dynamo_backend", "eager"))
    plain = train(replace(config, out=tmp_path / "plain", precision="bf16"))
    weights = weights_of(config.out / "model.safetensors")
    torch.testing.assert_close(weights, weights_of(plain), rtol=1e-3, atol=1e-4)  # their names included


def test_a_precision_that_overrides_the_launchers_says_so(config, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.warns(UserWarning, match="--precision float32 overrides the launcher's bf16"):
        train(replace(config, steps=1))


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_sharding_by_the_launcher_is_refused(config, monkeypatch, name):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")  # as --use_fsdp and --use_deepspeed do
    with pytest.raises(ValueError, match=f"asks for {name}, which maelib does not support; launch without it"):
        train(config)


def test_a_batch_that_cannot_be_divided_names_the_cure(config):
    with pytest.raises(ValueError, match="batch_size 8 cannot be divided into 3 parts; use a multiple of 3"):
        train(replace(config, accumulate=3))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL is Unix's")
def test_a_process_that_dies_ends_the_run_with_a_good_checkpoint(config, tmp_path):
    long = replace(config, steps=5000, eval_every=5, out=tmp_path / "long")
    run = launch(TORCHRUN, long)
    while not (long.out / "state.safetensors").exists():
        assert run.poll() is None, run.communicate(timeout=60)[0][-3000:]
        time.sleep(0.1)
    psutil.Process(run.pid).children()[-1].kill()
    said = run.communicate(timeout=120)[0]
    assert run.returncode != 0
    assert "SIGKILL" in said
    step = load_tensors(long.out / "state.safetensors")[1]["step"]
    assert step % 5 == 0
    assert load_tensors(train(replace(long, resume=True, steps=step + 1)))[1]["step"] == step + 1
