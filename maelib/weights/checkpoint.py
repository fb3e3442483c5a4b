"""Checkpoints: one safetensors file that holds the weights and describes the model they belong to.

A file needs nothing else to be used, runs no code when it is read, and is replaced in one step, so that a crash while
writing leaves the previous one. It carries a checksum, so that a bit that turned on the disk is noticed.
"""

import argparse
import hashlib
import json
import math
import re
import warnings
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from maelib.files import data_folder, from_json, read_json, write_atomic
from maelib.model import CONFIGS, MAEConfig, MaskedAutoencoder
from maelib.weights.published import DECODER, is_decoder, our_names, published_weights


class CheckpointError(ValueError):
    """A file of weights is damaged, holds something else, or does not fit the model."""


def bundled_checkpoint() -> Path:
    """Path of the small model that comes with the library, trained on drawn facades alone."""
    return data_folder() / "checkpoints" / "facade_medium.safetensors"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write named tensors and metadata (JSON-able) with their checksum to one safetensors file, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(dict(metadata))
    write_atomic(path, save(tensors, metadata={"maelib": text, "sha256": _checksum(tensors, text)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata that `save_tensors` wrote.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    CheckpointError
        When the file is damaged, or was written by other software.
    """
    tensors, metadata = _open(Path(path))
    if metadata is None:
        raise CheckpointError(f"{path} was not written by maelib; use a file that was")
    return tensors, metadata


def _open(path: Path) -> tuple[Any, dict[str, Any] | None]:
    """What a file of weights holds, and its metadata if it is ours; runs no code in it. Raises as `load_tensors`.

    Torch's archives are mapped into memory, so that the optimiser's state in the authors' files costs nothing.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist; check the path, or train one with `maelib train`")
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"  # JSON, after its length
    try:
        if not is_safetensors:
            with torch.serialization.safe_globals([argparse.Namespace]):  # the authors' training saves its options
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)), None
        with safe_open(path, framework="pt") as file:
            tensors, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        text = header.get("maelib")
        if text is not None and header.get("sha256", checksum := _checksum(tensors, text)) != checksum:
            raise ValueError("its checksum does not match")
        return tensors, None if text is None else from_json(dict, read_json(text, "its metadata"), "its metadata")
    except Exception as error:  # damaged files fail in any way
        # the first sentence alone: torch's second one advises to run the code
        reason = f"is damaged ({str(error).split('. ')[0]}); download or make it again, or use an earlier one"
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            reason = f"holds more than weights ({code[1]}), which could run code; ask its maker for weights alone"
        raise CheckpointError(f"{path} {reason}") from error


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 of the metadata and of each tensor's name, type, shape and bytes, in the order of their names."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_model(path: Path, model: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write a `MaskedAutoencoder`, its configuration and further `metadata` (JSON-able).

    The model may be compiled or wrapped in DDP: the names in the file are those of the bare model.
    """
    config = next(module.config for module in model.modules() if isinstance(module, MaskedAutoencoder))
    save_tensors(path, our_names(model.state_dict()), {"model": asdict(config), **metadata})


def load_model(path: Path, device: str | torch.device = "cpu", need_decoder: bool = True) -> MaskedAutoencoder:
    """Read a model, in evaluation mode, from our checkpoint or from a published file.

    Reads the authors', timm's and Hugging Face's files, where one of `maelib.model.CONFIGS` has their shape. Where
    nothing tells whether such a model predicts normalised pixels, plain ones are assumed.

    Parameters
    ----------
    need_decoder : bool
        Refuse an encoder alone. When False, its decoder is left random, as for classification.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    CheckpointError
        When the file is damaged, holds code, fits no model, or lacks the decoder that a repair needs.
    """
    weights, config = _read(Path(path))
    if need_decoder and not any(map(is_decoder, weights)):
        raise CheckpointError(
            f"{path} holds an encoder and has no decoder, so it cannot repair; train a decoder with "
            f"`maelib train --init {path}`, or use one of the authors' mae_visualize files (`maelib fetch`)"
        )
    with torch.random.fork_rng(devices=[]):  # the layers draw weights, which are replaced below
        model = MaskedAutoencoder(config)
    model.load_state_dict(weights, strict=False)  # `_read` has compared names and shapes
    return model.to(device).eval()


def start_from(model: MaskedAutoencoder, path: Path) -> None:
    """Give `model` the weights of a file that `load_model` reads, or of an encoder alone.

    File and model must have the same shape, but for the sizes of image and patch: positions and patch kernels are then
    resampled. Warns of that, and of the parts that the file lacks, which keep their random weights.

    Raises
    ------
    FileNotFoundError, CheckpointError
        As `load_model`; also when the shapes differ.
    """
    weights, theirs = _read(Path(path), model.config)
    ours, whole = model.config, any(map(is_decoder, weights))
    free = {"img_size", "patch_size", "positions"}
    if not whole:
        free |= {"norm_pix", "decoder_embed_dim", "decoder_depth", "decoder_num_heads"}
    if differing := _differing(theirs, ours, free):
        known = [name for name, config in CONFIGS.items() if replace(config, norm_pix=theirs.norm_pix) == theirs]
        cure = f"; `maelib train --recipe {known[0]}` has the shape of the file" if known else ""
        raise CheckpointError(f"{path} does not have the model's shape: {differing}; make them equal{cure}")
    if not whole:
        fresh = ", ".join(sorted({name.split(".")[0] for name in model.state_dict().keys() - weights.keys()}))
        warnings.warn(f"{path} holds an encoder alone: {fresh} start from random weights", stacklevel=2)
    if (theirs.img_size, theirs.patch_size) != (ours.img_size, ours.patch_size):
        sizes = f"{theirs.img_size} px in patches of {theirs.patch_size} px"
        warnings.warn(f"{path} was trained on {sizes}; its weights are resampled for the model's", stacklevel=2)
        _resample(weights, theirs.patch_size, ours)
    model.load_state_dict(weights, strict=False)


def _read(path: Path, like: MAEConfig | None = None) -> tuple[dict[str, Tensor], MAEConfig]:
    """The weights of a file under our names, and the configuration that has exactly their shape.

    For a published file, `like` answers what shapes do not show, where none of `CONFIGS` has its shape.
    """
    found, metadata = _open(path)
    try:
        if metadata is None:
            weights, norm_pix = published_weights(path, found)
            sizes = _sizes(weights)
            shape = {name: size for name, size in sizes.items() if name != "img_size"}.items()
            config = next((config for config in CONFIGS.values() if shape <= asdict(config).items()), like)
            if config is None:
                raise ValueError(f"no configuration in {', '.join(CONFIGS)} has its sizes, {sizes}; use `start_from`")
            unknown = (like or MAEConfig()).norm_pix
            config = replace(config, **sizes, norm_pix=unknown if norm_pix is None else norm_pix)
        elif "model" in metadata:
            weights, config = our_names(found), from_json(MAEConfig, metadata["model"], "model")
            if "decoder_embed.weight" not in weights:
                raise ValueError("it lacks the decoder that it describes; make it again")
            if differing := _differing(replace(config, **_sizes(weights)), config):
                raise ValueError(f"its weights do not have the shape that it describes: {differing}; make it again")
        else:
            raise ValueError("a run resumes from it; use model.safetensors or best.safetensors beside it")
        with torch.device("meta"):  # takes no memory: a description in a damaged file may claim any size
            model = MaskedAutoencoder(config)
            optional = () if any(map(is_decoder, weights)) else (*DECODER, "norm.")  # some classifiers move the norm
            lacking = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(optional)}
            model.load_state_dict(lacking | weights, assign=True)
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path} cannot be read as a model: {' '.join(str(error).split())[:400]}") from error
    return weights, config


def _differing(there: MAEConfig, here: MAEConfig, free: Collection[str] = ()) -> str:
    """Entries of two configurations that differ, in words; those that are `free` may."""
    pairs = [(name, getattr(there, name), value) for name, value in asdict(here).items() if name not in free]
    return ", ".join(f"{name} {value} instead of {wanted}" for name, value, wanted in pairs if value != wanted)


def _sizes(weights: Mapping[str, Tensor]) -> dict[str, int | bool]:
    """The entries of `MAEConfig` that the shapes of weights show."""
    embed, positions = weights.get("patch_embed.proj.weight"), weights.get("pos_embed")
    if embed is None or embed.ndim != 4 or positions is None or positions.ndim != 3:
        raise ValueError(f"it lacks patch_embed.proj.weight or pos_embed of an MAE, but holds {[*weights][:2]}")
    token, patch_size = "cls_token" in weights, embed.shape[-1]
    side = math.isqrt(max(0, positions.shape[1] - token))
    sizes = {"img_size": side * patch_size, "patch_size": patch_size, "class_token": token}
    for prefix, layer in (("", embed), ("decoder_", weights.get("decoder_embed.weight"))):
        if layer is not None:
            blocks = {name.split(".")[1] for name in weights if name.startswith(f"{prefix}blocks.")}
            sizes |= {f"{prefix}embed_dim": len(layer), f"{prefix}depth": len(blocks)}
    return sizes


def _resample(weights: dict[str, Tensor], old: int, config: MAEConfig) -> None:
    """Fit positions and first and last layer to the grid and patches of `config`, in place; patches had side `old`.

    The first layer follows L. Beyer et al. 2023, FlexiViT, section 3.4: on enlarged patches it gives what it gave on
    the small ones. The last layer's predictions are resized as pictures.
    """
    from timm.layers import resample_abs_pos_embed, resample_patch_embed

    new, grid, extra = config.patch_size, list(config.grid_size), int(config.class_token)
    for name in weights.keys() & {"pos_embed", "decoder_pos_embed"}:
        weights[name] = resample_abs_pos_embed(weights[name], grid, num_prefix_tokens=extra)
    weights["patch_embed.proj.weight"] = resample_patch_embed(weights["patch_embed.proj.weight"].float(), [new, new])
    for name in weights.keys() & {"decoder_pred.weight", "decoder_pred.bias"}:
        maps = weights[name].float().reshape(old, old, -1).permute(2, 0, 1)[None]  # (p * p * 3, [D]) -> (1, ..., p, p)
        maps = F.interpolate(maps, (new, new), mode="bicubic", antialias=True)[0]
        weights[name] = maps.permute(1, 2, 0).reshape(3 * new**2, *weights[name].shape[1:])
