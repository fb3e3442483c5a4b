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

from maelib.config_io import from_json, read_json
from maelib.model import MaskedAutoencoder
from maelib.perceptual_weights import WEIGHTS
from maelib.training.recipes import TrainConfig
from maelib.weights import checkpoint


def gather(model: MaskedAutoencoder, optimizers: list, here: bool) -> dict[str, Tensor]:
    """Weights and the optimisers' state by name, on the CPU, if they are wanted `here`.

    Where processes share the model, all of them are to call: what each holds a share of is put together.
    """
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        for j, entry in optimizer.state_dict()["state"].items():
            state |= {f"{i}.{j}.{name}": torch.as_tensor(value) for name, value in entry.items()}
    tensors = {}
    for name, tensor in state.items():
        whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        if here:
            tensors[name] = whole.cpu()
    return tensors


def _as_shared(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's share of a whole tensor, where `like`, of the same shape, is shared out."""
    if not hasattr(like, "full_tensor") or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)  # all have read the file


def save_run(config: TrainConfig, tensors: dict[str, Tensor], step: int, losses: list[Tensor], best: bool) -> None:
    """Write what resuming needs, the model, and, when it is the `best` so far, the model once more as that.

    Takes what `gather` gives. Of what resuming needs, the last `config.keep` are kept; all files are whole at every
    moment.
    """
    about = {"step": step, "losses": [loss.tolist() for loss in losses]}  # losses that no log row holds yet
    new, paths = config.out / "new.safetensors", states(config.out, config.keep)
    checkpoint.save_tensors(new, tensors, about)
    told = {
        name: value for name, value in plain(config).items() if name not in ("out", "init", "data", "resume", "track")
    }  # no paths
    told["vgg"] = config.vgg if config.vgg in (*WEIGHTS, "random") else Path(config.vgg).name
    weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    about = {"model": asdict(config.model), "step": step, "training": told}
    for name in ("best", "model") if best else ("model",):
        checkpoint.save_tensors(config.out / f"{name}.safetensors", weights, about)
    for older, newer in itertools.pairwise(reversed(paths)):
        if newer.exists():
            os.replace(newer, older)
    os.replace(new, paths[0])  # last: a run that resumes from this step never writes that step's models again
    for beyond in set(config.out.glob("state-*.safetensors")) - set(paths):  # fewer are kept than before
        beyond.unlink()


def states(out: Path, keep: int) -> list[Path]:
    """Where a run keeps what resuming needs, the newest first."""
    return [out / "state.safetensors", *(out / f"state-{i}.safetensors" for i in range(1, keep))]


def has_state(config: TrainConfig) -> bool:
    """Whether there is something to resume, or to lose."""
    return any(path.exists() for path in states(config.out, config.keep))


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
    try:
        losses = [torch.tensor(loss, dtype=torch.float32).reshape(-1) for loss in about["losses"]]
        step = from_json(int, about["step"], "step")
        now = model.state_dict()
        model.load_state_dict({name: _as_shared(tensors.pop(f"model.{name}"), x) for name, x in now.items()})
        for i, optimizer in enumerate(optimizers):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            state: dict[int, dict[str, Tensor]] = {}
            for key, tensor in tensors.items():
                owner, parameter, name = key.split(".", 2)
                if int(owner) == i:
                    state.setdefault(int(parameter), {})[name] = _as_shared(tensor, parameters[int(parameter)])
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise checkpoint.CheckpointError(
            f"{config.out} holds a state, {states(config.out, 1)[0].name}, of another run or version ({error}); start "
            "anew with another --out"
        ) from error
    return step, losses, notes


def plain(config: TrainConfig) -> dict:
    """The configuration as JSON holds it."""
    return json.loads(json.dumps(asdict(config), default=str))


def read_config(run: Path) -> TrainConfig:
    """The configuration that the run in the folder `run` was started with.

    Raises
    ------
    FileNotFoundError
        When there is no such run.
    ValueError
        When what it says of itself is damaged, or of another version of this library.
    """
    path = Path(run) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; start a run there before resuming it")
    try:
        return from_json(TrainConfig, read_json(path.read_bytes()), "the configuration")
    except ValueError as error:
        raise ValueError(f"{path} is damaged or not of this version: {error}; restore it or start anew") from error


def check_same_run(config: TrainConfig) -> None:
    """Refuse to resume a run under another configuration; only its length and its housekeeping may change.

    `config.changed` allows the rest as well, but for the model's shape and what the optimisers are.
    """
    free = {"out", "resume", "changed", "steps", "eval_every", "val_images", "track", "keep", "on_nan"}
    free |= {"accumulate", "shard", "compile"}
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
