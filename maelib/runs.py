"""What a training run leaves behind, how it goes on from there, and how it is asked to stop."""

import itertools
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maelib import checkpoint
from maelib.augment import Augment
from maelib.model import MAEConfig, MaskedAutoencoder
from maelib.recipes import TrainConfig
from maelib.vgg_weights import WEIGHTS


def save_run(
    config: TrainConfig, model: MaskedAutoencoder, optimizers: list, step: int, losses: list[Tensor], best: bool
) -> None:
    """Write what resuming needs, the model, and, when it is the `best` so far, the model once more as that.

    Of what resuming needs, the last `config.keep` are kept; all files are whole at every moment.
    """
    state = {
        f"{i}.{j}.{name}": torch.as_tensor(value)
        for i, optimizer in enumerate(optimizers)
        for j, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }
    about = {"step": step, "losses": [loss.tolist() for loss in losses]}  # losses that no log row holds yet
    new, paths = config.out / "new.safetensors", states(config.out, config.keep)
    checkpoint.save_tensors(new, {**state, **_named(model)}, about)
    told = {
        name: value for name, value in plain(config).items() if name not in ("out", "init", "data", "resume", "track")
    }  # no paths
    told["vgg"] = config.vgg if config.vgg in (*WEIGHTS, "random") else Path(config.vgg).name
    for name in ("best", "model") if best else ("model",):
        checkpoint.save_model(config.out / f"{name}.safetensors", model, {"step": step, "training": told})
    for older, newer in itertools.pairwise(reversed(paths)):
        if newer.exists():
            os.replace(newer, older)
    os.replace(new, paths[0])  # last: a run that resumes from this step never writes that step's models again


def states(out: Path, keep: int) -> list[Path]:
    """Where a run keeps what resuming needs, the newest first."""
    return [out / "state.safetensors", *(out / f"state-{i}.safetensors" for i in range(1, keep))]


def has_state(config: TrainConfig) -> bool:
    """Whether there is something to resume, or to lose."""
    return any(path.exists() for path in states(config.out, config.keep))


def _named(model: MaskedAutoencoder) -> dict[str, Tensor]:
    return {f"model.{name}": tensor for name, tensor in model.state_dict().items()}


def _read_state(config: TrainConfig) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """The newest whole state of a run, and a word on each newer one that is damaged."""
    notes, paths = [], [path for path in states(config.out, config.keep) if path.exists()]
    for path in paths:
        try:
            tensors, about = checkpoint.load_tensors(path)
        except checkpoint.CheckpointError as error:
            notes.append(str(error))
            continue
        return tensors, about, [f"{note}: going on from {path.name}, step {about['step']}" for note in notes]
    raise checkpoint.CheckpointError(
        f"{config.out} holds no whole state to resume from ({'; '.join(notes) or 'none at all'}); start anew with "
        "another --out, from its model.safetensors if that is whole (--init)"
    )


def load_run(config: TrainConfig, model: MaskedAutoencoder, optimizers: list) -> tuple[int, list[Tensor], list[str]]:
    """Put model and optimisers back to the run's last whole checkpoint.

    Returns its step, the terms not yet logged, and what to tell of newer ones that are damaged.
    """
    tensors, about, notes = _read_state(config)
    model.load_state_dict({name: tensors.pop(f"model.{name}") for name in model.state_dict()})
    for i, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            owner, parameter, name = key.split(".", 2)
            if int(owner) == i:
                state.setdefault(int(parameter), {})[name] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return about["step"], [torch.tensor(loss).reshape(-1) for loss in about["losses"]], notes


def plain(config: TrainConfig) -> dict:
    """The configuration as JSON holds it."""
    return json.loads(json.dumps(asdict(config), default=str))


def read_config(run: Path) -> TrainConfig:
    """The configuration that the run in the folder `run` was started with.

    Raises
    ------
    FileNotFoundError
        When there is no such run.
    """
    path = Path(run) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; start a run there before resuming it")
    told = json.loads(path.read_text(encoding="utf-8"))
    model, augment = MAEConfig(**told.pop("model")), told.pop("augment")
    augment = Augment(**augment | {"scale": tuple(augment["scale"])})
    paths = {name: told[name] and Path(told[name]) for name in ("out", "init", "data") if name in told}
    lists = {name: tuple(told[name]) for name in ("mask_ratio", "vgg_layers") if name in told}
    return TrainConfig(**told | paths | lists | {"model": model, "augment": augment})


def check_same_run(config: TrainConfig) -> None:
    """Refuse to resume a run under another configuration; only its length and its housekeeping may change.

    `config.changed` allows the rest as well, but for the model's shape and what the optimisers are.
    """
    free = {"out", "resume", "changed", "steps", "eval_every", "val_images", "track", "keep", "on_nan", "accumulate"}
    now, then = plain(config), plain(read_config(config.out))
    if config.changed:
        free = now.keys() - {"model", "optimizer"}
    changed = [f"{name} {then[name]} -> {now[name]}" for name in now if name not in free and now[name] != then[name]]
    if changed:
        cure = "resume with the same settings" + ("" if config.changed else ", or --changed to mean it")
        raise ValueError(f"{config.out} was trained otherwise: {'; '.join(changed)}; {cure}")


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that a step is finished before the run stops.

    A second Ctrl-C stops at once. Outside the main thread signals cannot be caught, and nothing changes.
    """
    event = threading.Event()

    def request(number: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
