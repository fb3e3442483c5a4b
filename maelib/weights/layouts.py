"""The names that other libraries give to a masked autoencoder's weights.

Ours are those of the authors' code (facebookresearch/mae) and, for the encoder, of timm's `VisionTransformer`. Hugging
Face's `ViTMAEForPreTraining` renames all of them and splits queries, keys and values. Images differ too: all three take
ImageNet-normalised pixels where `MaskedAutoencoder` takes [0, 1] and normalises inside.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from maelib.model import MAEConfig

Weights = dict[str, Tensor]

_HF_PLACES = {
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "blocks": "vit.encoder.layer",
    "norm": "vit.layernorm",
    "mask_token": "decoder.mask_token",
    "decoder_pos_embed": "decoder.decoder_pos_embed",
    "decoder_embed": "decoder.decoder_embed",
    "decoder_blocks": "decoder.decoder_layers",
    "decoder_norm": "decoder.decoder_norm",
    "decoder_pred": "decoder.decoder_pred",
}
_HF_PARTS = {  # of a block
    "norm1": "layernorm_before",
    "attn.query": "attention.attention.query",
    "attn.key": "attention.attention.key",
    "attn.value": "attention.attention.value",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_HF_5 = {  # spellings of transformers 5: in memory, and the decoder in files that it saves
    "vit.layers": "blocks",
    "decoder.decoder_encoder.layer": "decoder_blocks",
    "attention.q_proj": "attn.query",
    "attention.k_proj": "attn.key",
    "attention.v_proj": "attn.value",
    "attention.o_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_IN_BLOCK = re.compile(r"(.+?)\.(\d+)\.(.+)\.(weight|bias)")


def is_decoder(name: str) -> bool:
    """Whether the weight of this (our) name belongs to the decoder, which encoder-only files lack."""
    return name.startswith("decoder_") or name == "mask_token"


def to_timm(weights: Mapping[str, Tensor]) -> Weights:
    """The encoder's weights, which are those of timm's `vit_{base,large,huge}_patch*_224.mae`, name for name.

    Build timm's model with `num_classes=0`. Its final norm is per token, as ours, unless `global_pool="avg"` is asked
    for, which puts an untrained one after the pooling; `fc_norm=False` prevents that.
    """
    return {name: tensor for name, tensor in weights.items() if not is_decoder(name)}


def _rename(name: str, places: Mapping[str, str], parts: Mapping[str, str]) -> str:
    """Another name for a weight by tables for its place and, inside a block, for its part; odd names stay."""
    if found := _IN_BLOCK.fullmatch(name):
        place, index, part, kind = found.groups()
        return f"{places.get(place, place)}.{index}.{parts.get(part, part)}.{kind}"
    module, _, kind = name.rpartition(".")
    return places.get(name) or (f"{places[module]}.{kind}" if module in places else name)


def to_hugging_face(weights: Mapping[str, Tensor]) -> Weights:
    """Our weights under the names of the files on the Hugging Face hub, which every transformers can read."""
    split: Weights = {}
    for name, tensor in weights.items():
        if ".attn.qkv." in name:
            for part, third in zip(
                ("query", "key", "value"), tensor.chunk(3), strict=True
            ):  # (3D, ...) -> 3 x (D, ...)
                split[name.replace("qkv", part)] = third
        else:
            split[name] = tensor
    return {_rename(name, _HF_PLACES, _HF_PARTS): tensor for name, tensor in split.items()}


def from_hugging_face(weights: Mapping[str, Tensor]) -> Weights:
    """Weights of a `ViTMAEForPreTraining`, from a file or `state_dict()`, under our names; unknown names stay."""
    ours_to_theirs = (_HF_PLACES, _HF_PARTS)
    places, parts = ({theirs: ours for ours, theirs in table.items()} | _HF_5 for table in ours_to_theirs)
    ours = {_rename(name, places, parts): tensor for name, tensor in weights.items()}
    for name in [name for name in ours if ".attn.query." in name]:
        thirds = [name.replace("query", part) for part in ("query", "key", "value")]
        if all(third in ours for third in thirds):
            ours[name.replace("query", "qkv")] = torch.cat([ours.pop(third) for third in thirds])  # -> (3D, ...)
    return ours


def check_standard(config: MAEConfig) -> None:
    """Raise `ValueError` for a model that no other library can hold: one with rotary positions or no class token."""
    if config.rotary or not config.class_token:
        raise ValueError(
            f"rotary {config.rotary} and class_token {config.class_token} have no counterpart in other libraries; "
            "only models with rotary False and class_token True can be written for them"
        )


def hugging_face_config(config: MAEConfig) -> dict[str, Any]:
    """What `config.json` says of a model beside its weights.

    The norms' epsilon is the authors' 1e-6; transformers' own default is 1e-12. Raises as `check_standard`.
    """
    check_standard(config)
    return {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "image_size": config.img_size,
        "patch_size": config.patch_size,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": int(config.embed_dim * config.mlp_ratio),
        "decoder_hidden_size": config.decoder_embed_dim,
        "decoder_num_hidden_layers": config.decoder_depth,
        "decoder_num_attention_heads": config.decoder_num_heads,
        "decoder_intermediate_size": int(config.decoder_embed_dim * config.mlp_ratio),
        "layer_norm_eps": 1e-6,
        "norm_pix_loss": config.norm_pix,
        "qkv_bias": True,
        "hidden_act": "gelu",
    }
