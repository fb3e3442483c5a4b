"""Checkpoints: one safetensors file that holds the weights and says what model they are of.

A file needs nothing else to be used, runs no code when read, and is replaced in one step, so that a crash while
writing leaves the previous one. It carries a checksum: a bit that turned on the disk is noticed, not trained on.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from maelib.config_io import from_json, read_json
from maelib.files import data_folder, write_atomic
from maelib.model import MAEConfig, MaskedAutoencoder


class CheckpointError(ValueError):
    """A file is not a checkpoint of this library, or not a whole one."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write named tensors and a JSON-able description to one safetensors file, with their checksum, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    told = json.dumps(dict(about))
    write_atomic(path, save(tensors, metadata={"maelib": told, "sha256": _checksum(tensors, told)}))


def _checksum(tensors: Mapping[str, Tensor], told: str) -> str:
    """SHA-256 of the description and of each tensor's name, type, shape and bytes, in the order of their names."""
    digest = hashlib.sha256(told.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote: tensors and description.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    CheckpointError
        When the file is no safetensors file, is cut short, was not written by maelib, or is not what was written.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist; train one with `maelib train`, or check the path")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, KeyError) as error:  # KeyError: a type of numbers that torch has not
        raise CheckpointError(
            f"{path} is no whole safetensors file ({error}); fetch or train it again, or use an earlier checkpoint"
        ) from error
    told = metadata.get("maelib")
    if told is None:
        raise CheckpointError(f"{path} holds no maelib configuration; it was written by other software")
    if metadata.get("sha256", checksum := _checksum(tensors, told)) != checksum:
        raise CheckpointError(f"{path} is damaged: its checksum does not match; fetch it again or use an earlier one")
    try:
        about = read_json(told)
    except ValueError as error:
        raise CheckpointError(f"{path} describes itself in {error}; fetch it again or use an earlier one") from error
    if not isinstance(about, dict):
        raise CheckpointError(f"{path} describes itself as a {type(about).__name__}; fetch it again or train it anew")
    return tensors, about


def save_model(path: Path, model: MaskedAutoencoder, about: Mapping[str, Any]) -> None:
    """Write a model's weights and configuration, with whatever else `about` tells of them (JSON-able)."""
    save_tensors(path, model.state_dict(), {"model": asdict(model.config), **about})


def load_model(path: Path) -> MaskedAutoencoder:
    """Read a model from a checkpoint, in evaluation mode, on the CPU.

    Raises
    ------
    FileNotFoundError, CheckpointError
        As `load_tensors`; also when configuration and weights do not fit this library.
    """
    tensors, about = load_tensors(path)
    if "losses" in about:
        raise CheckpointError(f"{path} is what a run resumes from; use model.safetensors or best.safetensors beside it")
    config = about.get("model")
    known = {field.name for field in fields(MAEConfig)}
    if not isinstance(config, dict) or set(config) != known:
        odd = sorted(set(config) ^ known) if isinstance(config, dict) else sorted(known)
        raise CheckpointError(f"{path} describes another kind of model (differing entries: {odd}); train it again")
    try:
        config = from_json(MAEConfig, config, "model")
    except ValueError as error:
        raise CheckpointError(f"{path} describes a model that cannot be: {error}") from error
    try:
        if config.depth + config.decoder_depth > len(tensors):
            raise RuntimeError(f"{config.depth} + {config.decoder_depth} blocks in {len(tensors)} tensors")
        with torch.device("meta"):  # a description may claim any size: memory only for one that fits the file
            MaskedAutoencoder(config).load_state_dict(tensors, assign=True)
        model = MaskedAutoencoder(config)
        model.load_state_dict(tensors)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not hold the weights it describes: {reason}") from error
    return model.eval()


def _resample_patches(weights: dict[str, Tensor], new: int) -> None:
    """Let first and last layer work on patches of `new` pixels a side (after Beyer et al. 2023, section 3.4), in place.

    A model for patches of 8 px becomes one of 16 that sees the mean of each 2 x 2 pixels and predicts them alike.
    """

    def resample(kernels: Tensor) -> Tensor:
        return F.interpolate(kernels, size=(new, new), mode="nearest-exact" if new > old else "area")

    embed = weights["patch_embed.proj.weight"]
    old = embed.shape[-1]
    weights["patch_embed.proj.weight"] = resample(embed) * (old / new) ** 2
    for name in ("decoder_pred.weight", "decoder_pred.bias"):
        maps = weights[name].reshape(old, old, -1).permute(2, 0, 1)[None]  # (p * p * 3, D) -> (1, 3 * D, p, p)
        weights[name] = resample(maps)[0].permute(1, 2, 0).reshape(3 * new**2, *weights[name].shape[1:])


def start_from(model: MaskedAutoencoder, path: Path) -> None:
    """Give `model` the weights of a checkpoint of the same shape; only their sizes of image and patch may differ.

    Patches of another size are resampled. On another grid, fixed positions stay the model's own and learned ones are
    resampled too.

    Raises
    ------
    FileNotFoundError, CheckpointError
        As `load_model`; also when the shapes differ.
    """
    source = load_model(path)
    ours, theirs = asdict(model.config), asdict(source.config)
    theirs |= {name: ours[name] for name in ("img_size", "patch_size")}
    differing = [f"{name} {theirs[name]} there, {ours[name]} here" for name in ours if ours[name] != theirs[name]]
    if differing:
        raise CheckpointError(f"{path} holds a model of another shape: {'; '.join(differing)}; make them the same")
    weights = source.state_dict()
    if source.config.patch_size != model.config.patch_size:
        _resample_patches(weights, model.config.patch_size)
    for name in ("pos_embed", "decoder_pos_embed"):
        if model.config.positions == "learned":
            weights[name] = source.resampled_positions(name, model.config.grid_size)
        elif source.config.grid_size != model.config.grid_size:
            weights.pop(name)
    model.load_state_dict(weights, strict=False)


def bundled_checkpoint() -> Path:
    """Path of the small model that comes with the library, trained on drawn facades alone."""
    return data_folder() / "checkpoints" / "facade_small.safetensors"
