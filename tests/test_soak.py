"""Training for half an hour, with evaluation and pictures: memory, file handles and processes stay what they were.

`MAELIB_SOAK_MINUTES` asks for another duration.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from maelib.training.log import read_log

PROC = Path("/proc")
MINUTES = float(os.environ.get("MAELIB_SOAK_MINUTES", "30"))
EVERY = 50  # steps between evaluations, each with a log row, pictures and a checkpoint
# MB per 1000 steps: the pictures of the 20 evaluations among them would be 1.5 if they were kept. Measured in half an
# hour: 0.5, none of it objects of Python but for a log row of 1 KB an evaluation; fewer arenas of malloc halve it.
MOST_LEAKED = 1.0
SMALL = {"img-size": 32, "embed-dim": 32, "num-heads": 2, "depth": 1, "decoder-embed-dim": 16, "decoder-num-heads": 1}
BLEND = {"mse-weight": 0.6, "perceptual-weight": 0.4, "vgg": "random", "vgg-layers": "relu1_1"}


class Sample(NamedTuple):
    """What a run holds at a step: memory of its own in MB, open files, processes below it and zombies among these."""

    step: int
    memory: float
    handles: int
    processes: int
    zombies: int


def below(pid: int) -> dict[int, str]:
    """State of every process that descends from `pid`, by its number: Z is a zombie."""
    families: dict[int, dict[int, str]] = {}
    for path in PROC.glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it ended meanwhile
            continue
        families.setdefault(int(parent), {})[int(path.parent.name)] = state
    found, waiting = {}, [pid]
    while waiting:
        children = families.get(waiting.pop(), {})
        found |= children
        waiting += children
    return found


def sample(pid: int, log: Path) -> Sample:
    status = dict(line.split(":", 1) for line in (PROC / str(pid) / "status").read_text().splitlines())
    memory = int(status["RssAnon"].split()[0]) / 1e3
    handles, states = len(list((PROC / str(pid) / "fd").iterdir())), list(below(pid).values())
    rows = read_log(log)
    return Sample(rows[-1]["step"] if rows else 0, memory, handles, len(states), states.count("Z"))


@pytest.mark.slow
@pytest.mark.skipif(not (PROC / "self" / "status").is_file(), reason="there is no /proc to look into")
def test_half_an_hour_of_training_leaks_neither_memory_nor_files_nor_processes(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed; pip install maelib[wandb]")
    options = {"out": tmp_path / "run", "drawn": 256, "steps": 1_000_000, "warmup": 0, "batch-size": 8}
    options |= {"eval-every": EVERY, "val-images": 16, "track": "wandb"} | SMALL | BLEND
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    own = {"WANDB_MODE": "offline", "MAELIB_CACHE": str(tmp_path / "cache"), "WANDB_SILENT": "true"}
    with (tmp_path / "told").open("wb") as told:
        run = subprocess.Popen(
            [sys.executable, "-m", "maelib", "train", *words], env={**os.environ, **own}, stdout=told, stderr=told
        )
    samples, end = [], time.monotonic() + 60 * MINUTES
    while run.poll() is None and time.monotonic() < end:
        samples.append(sample(run.pid, tmp_path / "run" / "log.csv"))
        time.sleep(5)
    helpers = below(run.pid)
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=600) == 130, (tmp_path / "told").read_text()[-2000:]

    warm = [each for each in samples[len(samples) // 3 :] if each.step]
    assert len(warm) > 10, "too short to say anything; set MAELIB_SOAK_MINUTES higher"
    steps, memory, handles, processes, zombies = np.array(warm).T
    slope = 1000 * np.polyfit(steps, memory, 1)[0]
    print(
        f"\n{MINUTES:g} min, {steps[-1]:.0f} steps; from step {steps[0]:.0f} on {memory.min():.0f} to "
        f"{memory.max():.0f} MB, {slope:+.3f} MB per 1000 steps; {handles.min():.0f} to {handles.max():.0f} files, "
        f"{processes.min():.0f} to {processes.max():.0f} processes below, at most {zombies.max():.0f} zombies"
    )
    assert slope < MOST_LEAKED
    half = len(warm) // 2
    assert max(handles[half:]) <= max(handles[:half])
    assert max(processes[half:]) <= max(processes[:half])
    assert not zombies[-3:].min()  # one that just ended is none
    for _ in range(60):  # the tracker's own process takes a moment to end
        if not any((PROC / str(pid)).exists() for pid in helpers):
            break
        time.sleep(1)
    assert not [pid for pid in helpers if (PROC / str(pid)).exists()]
