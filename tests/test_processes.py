"""Several processes learn what one learns, whoever launches them, and end well when one dies."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_cli import DOCS
from tiny import fill_folder, tiny_run

from maelib.training.log import read_log
from maelib.training.recipes import TrainConfig
from maelib.training.train import train
from maelib.weights import load_tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A third with black corners, so that patches that are hidden are not equally many everywhere."""
    return fill_folder(tmp_path_factory.mktemp("facades"), 33, corners=True)


@pytest.fixture
def config(folder, tmp_path):
    return tiny_run(
        folder, tmp_path / "one", steps=50, batch_size=8, eval_every=1, optimizer="adamw", lr=1e-3, mse_weight=0.6,
        perceptual_weight=0.01, vgg="random", vgg_layers=("relu1_1",), mask_ratio=(0.2, 0.8),
    )  # fmt: skip


def words(config: TrainConfig) -> list[str]:
    """The command line of a configuration, but for its augmentation."""
    options = {**vars(config), **vars(config.model)}
    line = []
    for name, value in options.items():
        if name in ("augment", "model") or value is None:
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            line.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            line += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    return line


def launch(command: list[str], **environment: str) -> subprocess.Popen:
    """A launcher at work as in a terminal: no variable of these tests reaches it but the number of threads."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE")}
    return subprocess.Popen(
        [sys.executable, *command],
        env={**own, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1]), **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def free_port() -> str:
    """A port for each launch, so that tests run side by side."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def torchrun(config: TrainConfig) -> subprocess.Popen:
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    return launch([*command, "-m", "maelib", "train", *words(config)])


def accelerate_launch(config: TrainConfig, *options: str) -> subprocess.Popen:
    command = ["-m", "accelerate.commands.launch", "--main_process_port", free_port(), *options]
    return launch([*command, "-m", "maelib", "train", *words(config)])


def wait(run: subprocess.Popen) -> str:
    """What a launcher that succeeds has printed."""
    said = run.communicate(timeout=300)[0]
    assert run.returncode == 0, said[-3000:]
    return said


def test_the_launchers_here_are_those_of_the_readme():
    assert "torchrun --nproc-per-node 2 -m maelib train" in DOCS
    assert "accelerate launch --num_processes 2 -m maelib train" in DOCS
    assert "notebook_launcher(train, (TrainConfig(" in DOCS


def assert_alike(two: TrainConfig, one: TrainConfig) -> None:
    rows, others = (read_log(run.out / "log.csv") for run in (one, two))
    assert len(rows) == len(others) == one.steps
    for row, other in zip(rows, others, strict=True):
        assert other == {name: pytest.approx(value, rel=1e-5, abs=1e-5) for name, value in row.items()}
    weights, expected = (load_tensors(run.out / "model.safetensors")[0] for run in (two, one))
    torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-4)
    assert {path.name for path in two.out.iterdir()} == {path.name for path in one.out.iterdir()}


def test_two_processes_learn_what_one_learns(config, tmp_path):
    two, three = (replace(config, out=tmp_path / name) for name in ("two", "three"))
    runs = torchrun(two), accelerate_launch(three, "--num_processes", "2")
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
    wait(launch([str(script)]))
    train(config)
    assert_alike(two, config)


def test_accumulated_passes_learn_what_a_large_batch_learns(config, tmp_path):
    one = replace(config, steps=6)
    train(one)
    parts = replace(one, accumulate=4, out=tmp_path / "parts")
    train(parts)
    assert_alike(parts, one)


def test_a_launchers_precision_and_compiler_are_followed(config, tmp_path):
    config = replace(config, steps=2, precision="auto", perceptual_weight=0.0)
    wait(accelerate_launch(config, "--num_processes", "1", "--mixed_precision", "bf16", "--dynamo_backend", "eager"))
    plain = replace(config, out=tmp_path / "plain", precision="bf16")
    train(plain)
    weights, expected = (load_tensors(run.out / "model.safetensors")[0] for run in (config, plain))
    torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-4)  # their names included


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
    run = torchrun(long)
    while not (long.out / "state.safetensors").exists():
        assert run.poll() is None, run.communicate(timeout=60)[0][-3000:]
        time.sleep(0.1)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    if not children.exists():
        run.kill()
        pytest.skip("there is no /proc to find the processes in")
    os.kill(int(children.read_text().split()[-1]), signal.SIGKILL)
    said = run.communicate(timeout=120)[0]
    assert run.returncode != 0
    assert "SIGKILL" in said
    step = load_tensors(long.out / "state.safetensors")[1]["step"]
    assert step % 5 == 0
    assert load_tensors(train(replace(long, resume=True, steps=step + 1)))[1]["step"] == step + 1
