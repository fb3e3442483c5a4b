"""Files of weights that others publish: where the authors' lie, and how any is read without running code in it.

What a file is shows in what it holds, not in its name.
"""

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from maelib.config_io import read_json
from maelib.weights.checkpoint import CheckpointError
from maelib.weights.layouts import Weights, from_hugging_face

_MOST_REPEATED = 2**28  # bytes
_HOST = "https://dl.fbaipublicfiles.com/mae"


@dataclass(frozen=True)
class Official:
    """A checkpoint that He et al. 2022 publish (facebookresearch/mae; licence CC-BY-NC 4.0: not for commercial use)."""

    url: str
    """where it lies"""
    config: str
    """which of our configurations it fits"""
    norm_pix: bool | None
    """whether it predicts normalised pixels; None: it is an encoder alone"""
    md5: str = ""
    """first digits of its checksum, where the authors state them"""


# Which of them predict normalised pixels: the authors in issues 8 and 12 of facebookresearch/mae, and in PRETRAIN.md.
OFFICIAL: dict[str, Official] = {
    f"mae_{name}": Official(f"{_HOST}/{name.split('_')[0]}/mae_{name}.pth", re.search("vit_[a-z]+", name)[0], *about)
    for name, *about in (
        ("pretrain_vit_base", None, "8cad7c"),
        ("pretrain_vit_large", None, "b8b06e"),
        ("pretrain_vit_huge", None, "9bdbb0"),
        ("pretrain_vit_base_full", True),
        ("pretrain_vit_large_full", True),
        ("pretrain_vit_huge_full", True),
        ("visualize_vit_base", False),
        ("visualize_vit_large", False),
        ("visualize_vit_huge", False),
        ("visualize_vit_large_ganloss", False),  # sharper: a discriminator helped to train it
    )
}


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"  # after the length of the header, its JSON


def written_by_maelib(path: Path) -> bool:
    """Whether a file is a checkpoint of this library, as far as one can see: `checkpoint` refuses damaged ones."""
    if not path.is_file() or not _is_safetensors(path):
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return "maelib" in (file.metadata() or {})
    except SafetensorError:
        return True


def _read_pickle(path: Path) -> Any:
    """What `torch.save` wrote, as long as that is data.

    Archives are mapped into memory, so that the optimiser's state in a file of the authors' training costs nothing.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the authors' training script adds its options
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # damaged files fail in any way
        named = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if named:
            raise CheckpointError(
                f"{path} holds more than weights ({named[1]}), and reading that could run its code, so it is refused; "
                "ask whoever made it for the state dict alone, best as safetensors"
            ) from error
        reason = "not in torch's format" if isinstance(error, pickle.UnpicklingError) else str(error).split(". ")[0]
        raise CheckpointError(
            f"{path} is no whole file of weights ({reason or 'it ends too early'}); fetch it again, or check the path"
        ) from error


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor lies in memory number by number; one that repeats a few may claim any size."""
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_nested:
        return False
    return tensor.nbytes <= max(tensor.untyped_storage().nbytes(), _MOST_REPEATED)


def _read_norm_pix(path: Path) -> bool | None:
    """What Hugging Face's `config.json` says of normalised pixels; transformers leaves out what is its default."""
    try:
        told = read_json(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path} is {error}; fetch it again, or take it away") from error
    norm_pix = told.get("norm_pix_loss") if isinstance(told, dict) else told
    if not isinstance(norm_pix, bool | None):
        raise CheckpointError(f"{path} says no true or false for norm_pix_loss; fetch it again, or take it away")
    return norm_pix


def read_weights(path: Path) -> tuple[Weights, bool | None]:
    """Weights of a file under our names, and whether they predict normalised pixels, None where nothing tells.

    Reads what `torch.save` wrote (a state dict, alone or under `model` or `state_dict`) and safetensors, in the
    authors', timm's and Hugging Face's layout; prefixes of DataParallel and `torch.compile` are taken off.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    CheckpointError
        When the file is damaged, holds no weights, or holds code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; check the path")
    if _is_safetensors(path):
        try:
            with safe_open(path, framework="pt") as file:
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (SafetensorError, KeyError) as error:  # KeyError: a type of numbers that torch has not
            raise CheckpointError(f"{path} is no whole safetensors file ({error}); fetch it again") from error
    else:
        found = _read_pickle(path)
    norm_pix = OFFICIAL[path.stem].norm_pix if path.stem in OFFICIAL else None
    if isinstance(found, Mapping):
        told = getattr(found.get("args"), "norm_pix_loss", None)
        norm_pix = told if isinstance(told, bool) else norm_pix
        found = next((found[key] for key in ("model", "state_dict") if isinstance(found.get(key), Mapping)), found)
    entries = found.items() if isinstance(found, Mapping) else ()
    weights = {name: tensor for name, tensor in entries if isinstance(name, str) and isinstance(tensor, Tensor)}
    if not weights:
        raise CheckpointError(f"{path} holds no named weights but a {type(found).__name__}; save a state dict instead")
    for name, tensor in weights.items():
        if not _is_plain(tensor):
            raise CheckpointError(
                f"{path}: {name} is no plain array of numbers (sparse, quantised, repeated, or without its data); "
                "save `tensor.dequantize().to_dense().cpu().clone()` instead"
            )
    for prefix in ("_orig_mod.", "module."):
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    if any(name.startswith("vit.") for name in weights):
        try:
            weights = from_hugging_face(weights)
        except RuntimeError as error:
            raise CheckpointError(f"{path} holds queries, keys and values that do not fit: {error}") from error
        beside = path.with_name("config.json")
        norm_pix = _read_norm_pix(beside) if beside.is_file() else norm_pix
    return weights, norm_pix
