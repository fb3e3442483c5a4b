"""Published weights into our models and back: the authors' checkpoints, timm's and Hugging Face's files."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from maelib.files import write_atomic
from maelib.model import CONFIGS, MaskedAutoencoder
from maelib.patches import interpolate_positions
from maelib.weights import checkpoint
from maelib.weights.checkpoint import CheckpointError
from maelib.weights.layouts import Weights, check_standard, hugging_face_config, is_decoder, to_hugging_face
from maelib.weights.reading import read_weights, written_by_maelib

_CLASSIFIER = ("head.", "fc_norm.")  # what fine-tuning for classes adds


def _is_classifier(weights: Weights) -> bool:
    return any(name.startswith(_CLASSIFIER) for name in weights)


def _expected(model: MaskedAutoencoder, weights: Weights) -> Weights:
    """The model's own tensors but those a usable file may lack: the decoder, and a norm that a classifier moved."""
    lacking = () if any(map(is_decoder, weights)) else tuple(filter(is_decoder, model.state_dict()))
    if _is_classifier(weights) and "norm.weight" not in weights:
        lacking += ("norm.weight", "norm.bias")
    return {name: tensor for name, tensor in model.state_dict().items() if name not in lacking}


def _side(positions: Tensor) -> int:
    """Side of the square grid that positions `(1, 1 + N, D)` are of, 0 if there is none."""
    count = positions.shape[1] - 1 if positions.ndim == 3 else 0
    side = math.isqrt(max(count, 0))
    return side if side**2 == count else 0


def _same_but_for_grid(a: Tensor, b: Tensor) -> bool:
    return min(_side(a), _side(b)) > 0 and a.shape[::2] == b.shape[::2]


def _mismatches(model: MaskedAutoencoder, weights: Weights) -> list[str]:
    """What keeps `weights` from being those of the `model`; positions may be of another square grid."""
    expected, problems = _expected(model, weights), []
    for name, tensor in expected.items():
        theirs = weights.get(name)
        if theirs is None:
            problems.append(f"{name} is missing")
        elif theirs.shape != tensor.shape and not (name.endswith("pos_embed") and _same_but_for_grid(theirs, tensor)):
            problems.append(f"{name} has shape {tuple(theirs.shape)}, expected {tuple(tensor.shape)}")
    odd = [name for name in weights if name not in expected and not name.startswith(_CLASSIFIER)]
    return problems + [f"{name} is not in the model" for name in odd]


def _shown(weights: Weights) -> dict[str, int | bool]:
    """What weights show of the model that they are of, in the words of `MAEConfig`."""
    shown: dict[str, int | bool] = {"class_token": "cls_token" in weights}
    for prefix, name in (("", "patch_embed.proj.weight"), ("decoder_", "decoder_embed.weight")):
        if name in weights and weights[name].ndim:
            blocks = [name for name in weights if name.startswith(f"{prefix}blocks.") and name.endswith("norm1.weight")]
            shown |= {f"{prefix}embed_dim": len(weights[name]), f"{prefix}depth": len(blocks)}
    return shown | {"patch_size": weights["patch_embed.proj.weight"].shape[-1]} if "embed_dim" in shown else {}


def _recognise(weights: Weights) -> str | None:
    """Name of our configuration that these weights are of, as far as they show it."""
    shown = _shown(weights).items()
    fitting = [name for name, config in CONFIGS.items() if all(getattr(config, key) == value for key, value in shown)]
    return fitting[0] if shown and fitting else None


def _check(model: MaskedAutoencoder, weights: Weights, norm_pix: bool | None, path: Path) -> None:
    """Refuse weights that do not fit, with the first mismatch and its likely cause."""
    problems, known = _mismatches(model, weights), _recognise(weights)
    if problems:
        if known and any(getattr(model.config, key) != value for key, value in _shown(weights).items()):
            cause = f"it holds a {known}, so use that configuration (maelib train --recipe {known})"
        elif not weights.keys() & model.state_dict().keys():
            cause = f"it holds no masked autoencoder but {next(iter(weights))} and the like"
        elif all(problem.endswith("is missing") for problem in problems):
            cause = "a part was left out when it was saved"
        else:
            cause = f"it fits none of maelib's configurations ({', '.join(CONFIGS)}), so give a model of its shape"
        raise CheckpointError(f"{path} does not fit the model: {problems[0]} (mismatches: {len(problems)}); {cause}")
    told = {"norm_pix": norm_pix}
    if known:
        told |= {name: getattr(CONFIGS[known], name) for name in ("num_heads", "decoder_num_heads", "rotary")}
    if not any(map(is_decoder, weights)):
        told["norm_pix"] = told["decoder_num_heads"] = None
    told = {name: value for name, value in told.items() if value is not None}
    ours = {name: getattr(model.config, name) for name in told}
    differing = [f"{name} {told[name]} there, {ours[name]} here" for name in told if told[name] != ours[name]]
    if differing:  # in what shapes do not show
        raise CheckpointError(f"{path} holds another kind of model: {'; '.join(differing)}; make them the same")


def _fill(model: MaskedAutoencoder, weights: Weights, norm_pix: bool | None, path: Path) -> list[str]:
    """Copy `weights` into the `model`, as `start_from` says."""
    _check(model, weights, norm_pix, path)
    notes, config = [], model.config
    if _is_classifier(weights):
        new = " and the final norm starts anew" if "norm.weight" not in weights else ""
        notes.append(f"{path} holds a classifier: its head is left out{new}")
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(_CLASSIFIER)}
    if not any(map(is_decoder, weights)):
        notes.append(f"{path} holds an encoder alone: the decoder starts from random weights")
    for name in ("pos_embed", "decoder_pos_embed"):
        if name in weights and weights[name].shape != getattr(model, name).shape:
            old, new = (_side(weights[name]),) * 2, config.grid_size
            token, patches = weights[name][0].float().tensor_split([1])  # (1 + N, D) -> (1, D), (N, D)
            weights = weights | {name: torch.cat([token, interpolate_positions(patches, old, new)])[None]}
            notes.append(f"{name} was resampled from {old[0]} x {old[1]} patches to {new[0]} x {new[1]}")
    model.load_state_dict(weights, strict=False)  # nothing is missing but what the notes say
    return notes


def start_from(model: MaskedAutoencoder, path: Path) -> list[str]:
    """Give `model` the weights of a file: one of ours (see `checkpoint.start_from`) or one that `read_weights` reads.

    An encoder alone leaves the decoder as it is. The head of a classifier is left out. Positions of another grid are
    resampled, as the authors do for fine-tuning at 448 px.

    Returns
    -------
    list of str
        What of the model or of the file was left out, one sentence each, to be shown to whoever chose the file.

    Raises
    ------
    FileNotFoundError, CheckpointError
        As `read_weights`; also when file and model do not fit, with the first mismatch and its likely cause.
    """
    path = Path(path)
    if written_by_maelib(path):
        checkpoint.start_from(model, path)
        return []
    return _fill(model, *read_weights(path), path)


def load_model(path: Path, seed: int = 0) -> tuple[MaskedAutoencoder, list[str]]:
    """Read a file into the model it is of, in evaluation mode, and tell what was left out, as `start_from` does.

    For a file that maelib did not write, that is the one of our configurations that it fills; `seed` draws what it
    lacks, and where nothing says whether it predicts normalised pixels, plain ones are assumed. Raises as `start_from`.
    """
    if written_by_maelib(Path(path)):
        return checkpoint.load_model(path), []
    weights, norm_pix = read_weights(Path(path))
    config = replace(CONFIGS[_recognise(weights) or "vit_base"], norm_pix=bool(norm_pix))
    with torch.device("meta"):  # refuses what does not fit before a model of gigabytes is drawn
        _check(MaskedAutoencoder(config), weights, norm_pix, Path(path))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MaskedAutoencoder(config)
    return model.eval(), _fill(model, weights, norm_pix, Path(path))


def save_official(path: Path, model: MaskedAutoencoder) -> None:
    """Write a model as the authors do: `torch.save` of a dict whose `model` is the state dict.

    Raises
    ------
    ValueError
        When the model has rotary positions or no class token, which the authors' code does not know.
    """
    check_standard(model.config)
    buffer = io.BytesIO()
    torch.save({"model": {name: tensor.cpu() for name, tensor in model.state_dict().items()}}, buffer)
    write_atomic(Path(path), buffer.getvalue())


def save_hugging_face(folder: Path, model: MaskedAutoencoder) -> None:
    """Write the folder from which `ViTMAEForPreTraining.from_pretrained` reads a model. Raises as `save_official`."""
    config = json.dumps(hugging_face_config(model.config), indent=2)
    weights = {name: tensor.cpu().contiguous() for name, tensor in to_hugging_face(model.state_dict()).items()}
    write_atomic(Path(folder) / "model.safetensors", save(weights, metadata={"format": "pt"}))
    write_atomic(Path(folder) / "config.json", config.encode())
