"""Weights that others publish: where those of the paper lie, and how a file is read without running code in it.

Our names are those of the authors' code (facebookresearch/mae) and, for the encoder, of timm's `VisionTransformer`.
Hugging Face renames all of them and splits queries, keys and values. All three take ImageNet-normalised images, where
`MaskedAutoencoder` takes [0, 1] and normalises inside.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maelib.files import from_json, read_json


@dataclass(frozen=True)
class Official:
    """A checkpoint that He et al. 2022 publish (facebookresearch/mae; licence CC-BY-NC 4.0: not for commercial use)."""

    url: str
    """address"""
    config: str
    """name of our configuration that has its shape"""
    norm_pix: bool | None
    """whether it predicts normalised pixels; None for an encoder alone"""


# Which files predict normalised pixels: the authors in issues 8 and 12 of facebookresearch/mae, and in PRETRAIN.md.
OFFICIAL: dict[str, Official] = {
    f"mae_{kind}_vit_{size}{variant}": Official(
        f"https://dl.fbaipublicfiles.com/mae/{kind}/mae_{kind}_vit_{size}{variant}.pth", f"vit_{size}", norm_pix
    )
    for kind, variant, norm_pix, sizes in (
        ("pretrain", "", None, ("base", "large", "huge")),
        ("pretrain", "_full", True, ("base", "large", "huge")),
        ("visualize", "", False, ("base", "large", "huge")),
        ("visualize", "_ganloss", False, ("large",)),  # sharper: a discriminator helped to train it
    )
    for size in sizes
}

DECODER = ("decoder_", "mask_token")  # how our names of the decoder's weights begin
_WRAPPERS = ("module", "_orig_mod", "model")  # DataParallel and DDP, torch.compile, Lightning
_HUGGING_FACE = (  # names of ViTMAEModel and ViTMAEForPreTraining in transformers 4 and 5 -> ours, in this order
    (r"^(vit\.|decoder\.)?(embeddings\.)?", ""),
    (r"^position_embeddings", "pos_embed"),
    (r"^patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^(encoder\.layer|layers)\.", "blocks."),
    (r"^(decoder_layers|decoder_encoder\.layer)\.", "decoder_blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(attention\.)?([qkv])(uery|ey|alue|_proj)\.", r".attn.\2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)


def is_decoder(name: str) -> bool:
    """Whether the weight of this (our) name belongs to the decoder, which an encoder's file lacks."""
    return name.startswith(DECODER)


def our_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under our names, without the prefixes of wrappers; names that are not known stay."""
    ours = {}
    for name, tensor in weights.items():
        name = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        for pattern, replacement in _HUGGING_FACE:
            name = re.sub(pattern, replacement, name)
        ours[name] = tensor
    for query in [name for name in ours if ".attn.q." in name]:
        names = [query.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        if all(name in ours for name in names):
            ours[query.replace(".attn.q.", ".attn.qkv.")] = torch.cat([ours.pop(name) for name in names])  # (3D, ...)
    return ours


def published_weights(path: Path, found: Any) -> tuple[dict[str, Tensor], bool | None]:
    """The weights in what a file holds, under our names, and whether they predict normalised pixels.

    The second value is None where neither the options of the authors' training, nor Hugging Face's `config.json`, nor
    the name of an official file tells it. The head of a classifier is left out.

    Raises
    ------
    ValueError
        When there are no weights, or they are not plain arrays.
    """
    norm_pix = OFFICIAL[path.stem].norm_pix if path.stem in OFFICIAL else None
    if isinstance(found, Mapping):
        option = getattr(found.get("args"), "norm_pix_loss", None)
        norm_pix = option if isinstance(option, bool) else norm_pix
        found = next((found[key] for key in ("model", "state_dict") if isinstance(found.get(key), Mapping)), found)
    entries = found.items() if isinstance(found, Mapping) else ()
    weights = {name: tensor for name, tensor in entries if isinstance(name, str) and isinstance(tensor, Tensor)}
    if not weights:
        raise ValueError(f"it holds a {type(found).__name__} without named weights; save a state dict instead")
    for name, t in weights.items():
        odd = t.layout is not torch.strided or t.is_quantized or t.is_nested or t.device.type != "cpu"
        if odd or t.nbytes > t.untyped_storage().nbytes():  # an expanded tensor may claim any size
            raise ValueError(f"{name} is sparse, quantised, expanded or without data; save it as a plain, dense array")
    beside = path.with_name("config.json")
    if any("embeddings." in name for name in weights) and beside.is_file():
        config = from_json(dict, read_json(beside.read_bytes(), str(beside)), str(beside))
        norm_pix = from_json(bool | None, config.get("norm_pix_loss"), f"norm_pix_loss in {beside}")
    return {name: t for name, t in our_names(weights).items() if not name.startswith(("head.", "fc_norm."))}, norm_pix
