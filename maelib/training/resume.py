"""What a training run leaves behind, how it continues from there, and how it is asked to stop."""

import json
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from maelib.files import from_json, read_json, write_atomic
from maelib.training.recipes import TrainConfig, plain
from maelib.weights.checkpoint import CheckpointError, load_tensors, save_tensors

STATES = ("state.safetensors", "state-1.safetensors")  # what resuming needs, the newer first
# What may change on resuming.
FREE = {"out", "resume", "steps", "eval_every", "val_images", "track", "accumulate", "compile"}


def save_run(
    config: TrainConfig,
    model: nn.Module,
    optimizers: list,
    scaler: GradScaler | None,
    step: int,
    losses: list,
    best: bool,
) -> None:
    """Write what resuming needs, the model, and, when it is the `best` so far, the model once more as that.

    Keeps the last two states. Each file is written whole or not at all. `losses` are those of the steps that no log row
    holds yet, each `[loss, term, ...]`.

    Raises
    ------
    OSError
        When a file cannot be written; the last checkpoint stays whole.
    """
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        for j, entry in optimizer.state_dict()["state"].items():
            state |= {f"{i}.{j}.{name}": torch.as_tensor(value) for name, value in entry.items()}
    metadata = {"model": asdict(config.model), "step": step}
    newer, older = (config.out / name for name in STATES)
    try:
        new = config.out / "new.safetensors"
        save_tensors(new, state, {"step": step, "losses": losses, "scaler": scaler.state_dict() if scaler else {}})
        for name in ("best", "model") if best else ("model",):
            save_tensors(config.out / f"{name}.safetensors", model.state_dict(), metadata)
        if newer.exists():
            os.replace(newer, older)
        os.replace(new, newer)  # last: a run that resumes from this step never writes the models of that step again
    except OSError as error:
        fault = f"{config.out}: cannot write the checkpoint of step {step} ({error})"
        raise OSError(f"{fault}. {last_good(config)} Make room, then resume (--resume)") from error


def last_good(config: TrainConfig) -> str:
    """A sentence for errors: which checkpoint a run has, and what to do with it."""
    try:
        step = last_state(config.out)[2]["step"]
    except CheckpointError:
        return f"There is no checkpoint yet: start anew with a lower learning rate (now {config.lr})."
    cure = f"start from it with a lower learning rate (now {config.lr}): --init {config.out / 'model.safetensors'}"
    return f"The last good checkpoint is of step {step}: {cure} and another --out."


def last_state(run: Path) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """The newest whole state of a run, its tensors and its metadata. Warns of a damaged one.

    Raises
    ------
    CheckpointError
        When there is none.
    """
    for path in (run / name for name in STATES):
        try:
            return path, *load_tensors(path)
        except FileNotFoundError:
            continue
        except CheckpointError as error:
            warnings.warn(f"{error}; trying the state before it", stacklevel=2)
    cure = "start anew with another --out, if possible from its model.safetensors (--init)"
    raise CheckpointError(f"{run} holds no whole {STATES[0]} to resume from; {cure}")


def load_run(
    config: TrainConfig, model: nn.Module, optimizers: list, scaler: GradScaler | None
) -> tuple[int, list[list[float]]]:
    """Restore a run from its last whole state; return its step and the losses that no log row holds.

    Raises
    ------
    CheckpointError
        When there is no whole state, it belongs to another run or version, or the run is beyond `config.steps`.
    """
    path, state, metadata = last_state(config.out)
    try:
        model.load_state_dict({name: state.pop(f"model.{name}") for name in model.state_dict()})
        for i, optimizer in enumerate(optimizers):
            entries: dict[int, dict[str, Tensor]] = {}
            for key, tensor in state.items():
                owner, parameter, name = key.split(".", 2)
                if int(owner) == i:
                    entries.setdefault(int(parameter), {})[name] = tensor
            optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
        if scaler:
            scaler.load_state_dict(metadata["scaler"])
        step = from_json(int, metadata["step"], "step")
        losses = from_json(tuple[tuple[float, ...], ...], metadata["losses"], "losses")
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        cure = "start anew with another --out"
        raise CheckpointError(f"{path} is the state of another run or version ({error}); {cure}") from error
    if step > config.steps:
        raise CheckpointError(f"{path} is already at step {step}, beyond steps {config.steps}; ask for more steps")
    return step, [list(values) for values in losses]


def read_config(run: Path) -> TrainConfig:
    """The configuration that the run in the folder `run` was started with.

    Raises
    ------
    FileNotFoundError
        When there is no such run.
    ValueError
        When the file is damaged or was written by another version.
    """
    path = Path(run) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; start a run there before resuming it")
    try:
        return from_json(TrainConfig, read_json(path.read_bytes()), "the configuration")
    except ValueError as error:
        raise ValueError(f"{path} is damaged or of another version: {error}; restore it or start anew") from error


def check_same_run(config: TrainConfig) -> None:
    """Refuse to overwrite a run, or to resume one with other settings; its length and housekeeping may change."""
    if not config.resume:
        if any((config.out / name).exists() for name in STATES):
            raise FileExistsError(f"{config.out} already holds a run; resume it (--resume) or choose another --out")
        return
    now, then = plain(config), plain(read_config(config.out))
    changed = [f"{name} {then[name]} -> {now[name]}" for name in now if name not in FREE and now[name] != then[name]]
    if changed:
        cure = f"resume with the same, or start anew with --init {config.out / 'model.safetensors'} and another --out"
        raise ValueError(f"{config.out} was trained with other settings: {'; '.join(changed)}; {cure}")


def write_config(config: TrainConfig) -> None:
    """Write a run's config.json, and delete what a run left half-written when it was killed."""
    for partial in config.out.glob(".*.partial"):
        partial.unlink()
    write_atomic(config.out / "config.json", json.dumps(plain(config), indent=2).encode())


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that the current step is finished before the run stops.

    A second Ctrl-C stops at once. Outside the main thread signals cannot be caught, and nothing changes.
    """
    event = threading.Event()

    def request(number: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    caught = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    previous = {number: signal.signal(number, request) for number in caught}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
