"""Several processes learn what one would, each with all of the model or a share, and end well when one dies."""

import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from unwedged import draw_unwedged

from maelib.data.images import Images, StepSampler
from maelib.losses import ReconstructionLoss
from maelib.model import MAEConfig, MaskedAutoencoder
from maelib.training import train
from maelib.training.log import read_log
from maelib.training.recipes import TrainConfig
from maelib.training.validation import Validation
from maelib.weights.checkpoint import load_tensors

SMALL = MAEConfig(img_size=32, embed_dim=32, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1,
                  decoder_num_heads=1)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Facades of 32 px, a third with black triangles, so that hidden patches are not equally many everywhere."""
    path = tmp_path_factory.mktemp("facades")
    y, x = np.mgrid[:32, :32]
    for i, image in enumerate(draw_unwedged(33, 32)):
        if i % 3 == 0:
            image[x - y > 8 + i % 5] = 0
        np.save(path / f"{i:02d}.npy", image)
    return path


@pytest.fixture
def config(folder, tmp_path) -> TrainConfig:
    return TrainConfig(
        out=tmp_path / "one", model=SMALL, data=folder, steps=50, batch_size=8, eval_every=1, precision="float32",
        optimizer="adamw", lr=1e-3, mse_weight=0.6, perceptual_weight=0.01, vgg="random", vgg_layers=("relu1_1",),
        val_share=0.2, mask_ratio=(0.2, 0.8),
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def words(config: TrainConfig, **more: object) -> list[str]:
    """The command line's options for what `config` has that the defaults have not."""
    options = {name: getattr(config, name) for name in TrainConfig.__dataclass_fields__ if name != "augment"}
    model = options.pop("model")
    options |= {name: getattr(model, name) for name in ("img_size", "embed_dim", "depth", "num_heads")}
    options |= {name: getattr(model, name) for name in vars(model) if name.startswith("decoder")}
    line = []
    for name, value in (options | more).items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            line += [flag] if value else []
        elif value is not None:
            line += [flag, *map(str, value if isinstance(value, tuple) else (value,))]
    return line


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc-per-node", "2", "--master-port"],
    "accelerate launch": ["accelerate.commands.launch", "--cpu", "--num_processes", "2", "--main_process_port"],
}


def start(launcher: str, config: TrainConfig, **more: object) -> subprocess.Popen:
    command = [sys.executable, "-m", *LAUNCHERS[launcher], str(free_port()), "-m", "maelib", "train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(
        [*command, *words(config, **more)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_lose_what_one_loses(config, tmp_path, launcher):
    two = replace(config, out=tmp_path / "two")
    run = start(launcher, two)
    one = load_tensors(train.train(config))[0]
    said = run.communicate()[0]
    assert run.returncode == 0, said[-3000:]
    rows, others = (read_log(c.out / "log.csv") for c in (config, two))
    assert len(rows) == len(others) == 50
    for row, other in zip(rows, others, strict=True):
        assert other == {name: pytest.approx(value, rel=1e-5, abs=1e-5) for name, value in row.items()}
    weights = load_tensors(two.out / "model.safetensors")[0]
    torch.testing.assert_close(weights, one, rtol=1e-3, atol=1e-4)
    assert said.count("trained ") <= 2
    assert {path.name for path in two.out.iterdir()} == {path.name for path in config.out.iterdir()}


def test_a_process_without_an_image_to_validate_on_leaves_pictures_to_the_main_one(config, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed; pip install maelib[wandb]")
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(config.out.parent))  # nobody has logged in there
    run = start("torchrun", replace(config, steps=2, val_images=1, track="wandb"))
    said = run.communicate()[0]
    assert run.returncode == 0, said[-3000:]
    (tracked,) = (config.out / "wandb").glob("offline-run-*")  # by one process only
    assert any(tracked.glob("files/media/images/*.png"))


NOTEBOOK = """
import json, pickle, sys
from pathlib import Path

import matplotlib.pyplot, torchvision.transforms.v2, torch.distributed.fsdp  # once, before processes are forked
import torch
from accelerate import notebook_launcher

from maelib.training.devices import make_accelerator, prepare_model
from maelib.model import MaskedAutoencoder
from maelib.training.optim import make_optimizers
from maelib.training.train import train


def weigh(config):  # numbers that this process holds, of the weights and of the optimiser's averages
    accelerator = make_accelerator(config)
    model = prepare_model(MaskedAutoencoder(config.model), accelerator, config)
    (optimizer,) = make_optimizers(model, "adamw", 1e-3, 0.0)
    size, count = config.model.img_size, config.model.grid_size[0] * config.model.grid_size[1]
    model(torch.rand(2, 3, size, size), torch.arange(count).expand(2, -1) % 2 == 0).square().mean().backward()
    optimizer.step()
    averages = [state["exp_avg"] for state in optimizer.state.values()]
    held = [sum(x.to_local().numel() for x in tensors) for tensors in (list(model.parameters()), averages)]
    (config.out.parent / f"held-{accelerator.process_index}.json").write_text(json.dumps(held))


folder, *ports = sys.argv[1:]
jobs = pickle.loads((Path(folder) / "jobs").read_bytes())
for (job, config), port in zip(jobs, ports, strict=True):
    try:
        notebook_launcher({"train": train, "weigh": weigh}[job], (config,), num_processes=2, use_port=port)
    except Exception as error:
        print(error)
"""


def notebook(folder: Path, *jobs: tuple[str, TrainConfig]) -> str:
    """Do each job in two processes that accelerate's notebook launcher starts; returns what was printed."""
    (folder / "jobs").write_bytes(pickle.dumps(jobs))
    command = [sys.executable, "-c", NOTEBOOK, str(folder), *(str(free_port()) for _ in jobs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert run.returncode == 0, run.stdout[-3000:]
    return run.stdout


def cut_back(run: Path, to: Path) -> None:
    """A copy of a run as it was at the checkpoint before its last."""
    shutil.copytree(run, to)
    os.replace(to / "state-1.safetensors", to / "state.safetensors")


def test_processes_that_share_a_model_learn_what_one_learns_and_go_on_where_it_stopped(config, tmp_path):
    model = replace(SMALL, embed_dim=36, num_heads=3, class_token=True, rotary=False)
    config = replace(config, model=model, steps=20, eval_every=10)
    shared, taken, few = (replace(config, shard=True, out=tmp_path / name) for name in ("shared", "taken", "few"))
    train.train(config)
    cut_back(config.out, taken.out)
    few = replace(few, val_images=1)
    jobs = ("train", shared), ("train", replace(taken, resume=True, accumulate=2)), ("weigh", shared), ("train", few)
    said = notebook(tmp_path, *jobs)
    assert "1 validation image(s) are fewer than the 2 processes that share the model" in said

    back = replace(config, out=tmp_path / "back", resume=True)
    cut_back(shared.out, back.out)
    train.train(back)
    rows, one = read_log(config.out / "log.csv"), load_tensors(config.out / "state.safetensors")[0]
    for other in (shared, taken, back):
        assert read_log(other.out / "log.csv") == [
            {name: pytest.approx(value, rel=1e-5, abs=1e-5) for name, value in row.items()} for row in rows
        ]
        state = load_tensors(other.out / "state.safetensors")[0]
        torch.testing.assert_close(state, one, rtol=1e-3, atol=1e-4)
    assert {path.name for path in shared.out.iterdir()} == {path.name for path in config.out.iterdir()}

    held = [json.loads((tmp_path / f"held-{rank}.json").read_text()) for rank in range(2)]
    parameters = MaskedAutoencoder(model).parameters()
    total = np.array([[p.numel(), p.numel() * p.requires_grad] for p in parameters]).sum(axis=0)
    assert (np.sum(held, axis=0) == total).all()
    assert (np.max(held, axis=0) < 0.52 * total).all()  # what has one row, such as a token, is the first one's


def test_processes_that_share_a_validation_call_the_model_equally_often():
    images, model = torch.rand(65, 3, 32, 32), MaskedAutoencoder(SMALL)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    parts = [Validation(images, SMALL, "mixed", 0.5, part=slice(rank, None, 2)) for rank in range(2)]
    counts = []
    for part in parts:
        calls.clear()
        part(model, ReconstructionLoss(SMALL))
        counts.append(len(calls))
    assert counts == [8, 8]  # 33 and 32 images, at most 32 at a time, four times


def test_the_fsdp_of_the_launcher_is_refused_with_its_cure(config, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as --use_fsdp does
    with pytest.raises(ValueError, match=r"--use_fsdp.*launch without it.*--shard"):
        train.train(config)


@pytest.mark.parametrize("all_patches", [False, True])
def test_parts_without_anything_to_hide_count_only_where_the_whole_batch_has_nothing_else(
    config, tmp_path, monkeypatch, all_patches
):
    def batch(images: Images, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        void = torch.tensor([next(blank) for _ in indices])
        return images.__getitems__(indices), void[:, None, None].expand(-1, 32, 32)

    monkeypatch.setattr(Images, "batch", batch)
    config = replace(config, steps=2, perceptual_weight=0.0, all_patches=all_patches, val_share=0.1)
    for one in (config, replace(config, accumulate=4, out=tmp_path / "parts")):
        blank = iter([False] * 3 + [True] * 2 + [False] * 4 + [True] * 2 + [True] * 8)  # validation, mixed, all void
        train.train(one)
    rows, others = (read_log(path / "log.csv") for path in (config.out, tmp_path / "parts"))
    assert others == [{name: pytest.approx(value, rel=1e-5) for name, value in row.items()} for row in rows]


def test_accumulated_passes_learn_what_a_large_batch_learns(config, tmp_path):
    whole = load_tensors(train.train(replace(config, steps=6)))[0]
    parts = load_tensors(train.train(replace(config, steps=6, accumulate=4, out=tmp_path / "parts")))[0]
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    rows, others = (read_log(path / "log.csv") for path in (config.out, tmp_path / "parts"))
    for row, other in zip(rows, others, strict=True):
        assert other == {name: pytest.approx(value, rel=1e-4) for name, value in row.items()}


def test_the_parts_of_a_batch_are_all_of_it_and_each_image_comes_once():
    whole = list(StepSampler(range(24), 8, 6, seed=3))
    parts = [list(StepSampler(range(24), 8, 6, 3, part=part)) for part in (slice(0, 4), slice(4, 8))]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole
    assert sorted(i for batch in whole[:3] for i in batch) == list(range(24))


def test_a_batch_that_cannot_be_shared_is_named_with_its_cure(config):
    with pytest.raises(ValueError, match=r"batch_size 8 cannot be shared by 1 process\(es\) with accumulate 3.*of 3"):
        train.train(replace(config, accumulate=3))


def test_a_process_that_dies_ends_the_run_with_a_good_checkpoint(config, tmp_path):
    long = replace(config, steps=5000, eval_every=5, out=tmp_path / "long")
    run = start("torchrun", long)
    while not (long.out / "state.safetensors").exists():
        assert run.poll() is None, run.communicate()[0][-3000:]
        time.sleep(0.1)
    children = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    said = run.communicate(timeout=120)[0]
    assert run.returncode != 0
    assert "SIGKILL" in said
    _, about = load_tensors(long.out / "state.safetensors")
    assert about["step"] % 5 == 0
    resumed = train.train(replace(long, resume=True, steps=about["step"] + 1))
    assert load_tensors(resumed)[1]["step"] == about["step"] + 1
