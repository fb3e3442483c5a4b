"""The library's readers of files, what each promises of bad ones, and inputs to begin with."""

import argparse
import io
import itertools
import json
import pickle
import re
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image, ImageCms
from safetensors.torch import save

from maelib.data.photos import PHOTO_SUFFIXES, Photo, PhotoError, open_photo, read_mask, write_photo
from maelib.model import CONFIGS, MAEConfig, MaskedAutoencoder
from maelib.perceptual import vgg19
from maelib.training import resume as runs
from maelib.training.recipes import TrainConfig
from maelib.weights.checkpoint import CheckpointError, load_model, load_tensors, save_tensors, start_from

Strategy = st.SearchStrategy[bytes]
SIZE = (12, 16)  # of photos and masks, height and width
SMALL = MAEConfig(16, 8, 8, 1, 1, 8, 1, 1)
STANDARD = replace(SMALL, class_token=True, rotary=False)  # as other libraries can hold
VGG_SHAPES = {"features.0.weight": (64, 3, 3, 3), "features.0.bias": (64,)}


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Attributes
    ----------
    read : takes the path of a file.
    promised : the only errors that a bad file may cause, each naming the file.
    file : name of that file, whose suffix and company decide how it is read.
    seeds : good files and nasty ones, to mutate.
    inputs : what hypothesis draws.
    beside : other files in the folder.
    """

    read: Callable[[Path], object]
    promised: tuple[type[Exception], ...]
    file: str
    seeds: tuple[bytes, ...]
    inputs: Strategy
    beside: Mapping[str, bytes] = field(default_factory=dict)


class Bomb:
    """What a pickle must never get to run."""

    def __reduce__(self) -> tuple:
        return exec, ("import os",)


def written(write: Callable[[Path], object], name: str) -> bytes:
    """The bytes that `write` puts into the file `name`."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, name))
        return Path(folder, name).read_bytes()


def in_buffer(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------ any kind of file

SIZES = st.integers(-2, 40) | st.sampled_from([2**16, 12_001, 2**31 - 1, 2**32, 2**62, 2**63, 10**20])
EDIT = st.tuples(st.sampled_from(["cut", "set", "insert", "copy"]), st.floats(0, 1), st.binary(min_size=1, max_size=8))


def _edited(data: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    for what, place, new in edits:
        at = int(place * len(data))
        head, tail = data[:at], data[at:]
        data = {"cut": head, "set": head + new + tail[len(new) :], "insert": head + new + tail}.get(
            what, head + data[at // 2 : at] + tail
        )
    return data


def edited(seeds: tuple[bytes, ...]) -> Strategy:
    """Seeds with pieces cut off, overwritten, inserted and repeated."""
    return st.builds(_edited, st.sampled_from(seeds), st.lists(EDIT, min_size=1, max_size=4))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | SIZES | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def altered(draw: st.DrawFn, told: Mapping[str, Any]) -> dict[str, Any]:
    """A description in which some entries are anything, missing, or unheard of."""
    told = dict(told)
    for name in draw(st.lists(st.sampled_from(sorted(told)), min_size=1, max_size=3)):
        if told.get(name) and isinstance(told[name], dict) and draw(st.booleans()):
            told[name] = draw(altered(told[name]))
        elif draw(st.integers(0, 9)):
            told[name] = draw(JSON)
        else:
            told.pop(name, None)
    return told | ({draw(st.text(max_size=5)): draw(JSON)} if draw(st.integers(0, 9)) == 0 else {})


def _nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


# ---------------------------------------------------------------------------------------------------------- photos


def _npy(version: int, header: str, payload: bytes) -> bytes:
    text = header.encode("utf-8", "replace") + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + payload


NPY_TYPES = st.sampled_from(
    ["|u1", "<f4", ">f8", "<f2", "|b1", "|O", "<c8", "<M8[s]", "<U3", "|V5", "<i8", "|S2", "<f16", "u1,f4"]
)
NPY = st.builds(
    lambda version, kind, order, shape, payload, extra: _npy(
        version, f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}, {extra}}}", payload
    ),
    st.sampled_from([1, 1, 2, 3, 9]),
    NPY_TYPES.map(repr) | st.sampled_from(["[('a', '|u1')]", "[('a', '|O')]", "('|u1', (3,))", "None", "()"]),
    st.sampled_from(["True", "False", "None", "2"]),
    st.lists(SIZES | st.sampled_from([1, 3, 4]), max_size=5).map(lambda sides: f"({''.join(f'{s}, ' for s in sides)})"),
    st.binary(max_size=400) | st.integers(0, 600).map(bytes),
    st.sampled_from(["", "", "", "'more': 1", "(", "9" * 5000]),
)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(sides: tuple[int, int], kinds: bytes, chunks: list[tuple[bytes, bytes]], pixels: bytes) -> bytes:
    head = struct.pack(">II", *(side % 2**32 for side in sides)) + kinds
    body = b"".join(_chunk(kind, data) for kind, data in chunks)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", head)
        + body
        + _chunk(b"IDAT", zlib.compress(pixels))
        + _chunk(b"IEND", b"")
    )


CHUNKS = b"PLTE tRNS iCCP gAMA eXIf acTL fcTL zTXt iTXt pHYs cHRM"
PNG = st.builds(
    _png,
    st.tuples(SIZES, SIZES),
    st.builds(
        lambda depth, colour, rest: bytes([depth, colour, *rest]),
        st.sampled_from([1, 2, 4, 8, 16, 0, 32]), st.sampled_from([0, 2, 3, 4, 6, 7]),
        st.sampled_from([(0, 0, 0), (0, 0, 1), (1, 1, 2)]),
    ),
    st.lists(
        st.tuples(
            st.sampled_from(CHUNKS.split()),
            st.binary(max_size=40) | st.binary(max_size=20).map(lambda data: b"a\0\0" + zlib.compress(data)),
        ),
        max_size=3,
    ),
    st.binary(max_size=200) | st.integers(0, 5000).map(bytes),
)  # fmt: skip


def _tiff(order: str, entries: list[tuple[int, int, int, int]], following: int, rest: bytes) -> bytes:
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    tags = b"".join(
        struct.pack(f"{order}HHII", tag, kind, count % 2**32, value % 2**32) for tag, kind, count, value in entries
    )
    return head + struct.pack(f"{order}H", len(entries)) + tags + struct.pack(f"{order}I", following) + rest


TIFF_TAGS = [256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 330, 338, 339, 34675]
TIFF = st.builds(
    _tiff,
    st.sampled_from("<>"),
    st.lists(st.tuples(st.sampled_from(TIFF_TAGS), st.integers(0, 13), SIZES, SIZES), max_size=14).map(
        lambda more: [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8), *more]
    ),
    st.sampled_from([0, 0, 8, 9, 2**31]),
    st.binary(max_size=200),
)
BMP = st.builds(
    lambda width, height, planes, bits, kind, offset, rest: b"BM" + struct.pack(
        "<IHHIIiiHHIIiiII", 99, 0, 0, offset, 40, *((side + 2**31) % 2**32 - 2**31 for side in (width, height)),
        planes, bits, kind, 0, 1, 1, 0, 0,
    ) + rest,
    SIZES, SIZES, st.integers(0, 3), st.sampled_from([0, 1, 4, 8, 16, 24, 32, 33]), st.integers(0, 6),
    st.sampled_from([54, 0, 10, 1078, 2**31]), st.binary(max_size=200),
)  # fmt: skip
PNM = st.builds(
    lambda kind, sides, most, rest: b"P%s %d %d %d\n" % (kind, *sides, most) + rest,
    st.sampled_from(b"1 2 3 4 5 6 7 f F".split()), st.tuples(SIZES, SIZES), SIZES, st.binary(max_size=200),
)  # fmt: skip


FORMATS = "PNG JPEG TIFF WEBP BMP GIF PPM TGA ICO JPEG2000 AVIF DDS PCX SGI EPS PDF"


def _image_seeds() -> tuple[bytes, ...]:
    """A small picture in every format that Pillow writes, and in the forms that scanners and phones make."""
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    forms: list[tuple[Image.Image, str, dict]] = [
        *((rgb, kind, {}) for kind in FORMATS.split()),
        *((rgb.convert(mode), "PNG", {}) for mode in ("1", "L", "LA", "P", "RGBA", "I;16")),
        *((rgb.convert(mode), "TIFF", {}) for mode in ("CMYK", "LAB", "F", "I")),
        *((rgb, "TIFF", {"compression": name}) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
        (rgb, "PNG", {"icc_profile": profile}),
        (rgb, "JPEG", {"exif": exif}),
        (rgb.convert("CMYK"), "JPEG", {"icc_profile": profile}),
        (rgb.convert("LAB"), "TIFF", {"icc_profile": profile}),
        *((rgb, kind, {"save_all": True, "append_images": [rgb]}) for kind in ("GIF", "TIFF", "MPO", "PNG")),
    ]
    files = [written(partial(write_photo, photo=Photo(np.asarray(rgb))), f"x{suffix}") for suffix in PHOTO_SUFFIXES]
    for image, kind, options in forms:
        with suppress(KeyError, OSError):  # what this build of Pillow cannot write
            files.append(in_buffer(partial(image.save, format=kind, **options)))
    return tuple(files)


NPY_SEEDS = (
    *(
        in_buffer(partial(np.save, arr=np.zeros(shape, kind)))
        for shape, kind in ((SIZE, "u1"), ((*SIZE, 3), "f4"), ((4, *SIZE), ">f8"), ((*SIZE, 3), "f2"), ((), "u1"))
    ),
    in_buffer(partial(np.save, arr=np.full(SIZE, Bomb()), allow_pickle=True)),
    in_buffer(partial(np.savez, a=np.zeros(SIZE, np.uint8))),
    in_buffer(partial(np.savez_compressed, a=np.full(SIZE, Bomb()))),
    pickle.dumps(Bomb()),
)  # fmt: skip
IMAGE_SEEDS = _image_seeds()

# -------------------------------------------------------------------------------------------------------- weights


def _model(config: MAEConfig) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(config)


STATE = _model(STANDARD).state_dict()
TYPES = "F32 F16 BF16 F64 I64 U8 BOOL F8_E4M3 F8_E5M2 F4 F8_E8M0 C64 U16 odd"  # some that torch or safetensors lacks


@st.composite
def lying_safetensors(draw: st.DrawFn, about: str | None = None) -> bytes:
    """A header that says what it likes of the bytes behind it."""
    payload = draw(st.binary(max_size=64) | st.integers(0, 512).map(bytes))
    header: dict[str, Any] = {} if about is None else {"__metadata__": {"maelib": about}}
    for name in draw(st.lists(st.sampled_from([*STATE, "vit.layernorm.bias", "a", ""]), max_size=3, unique=True)):
        start = draw(st.integers(0, len(payload)))
        ends = draw(st.sampled_from([(0, len(payload)), (start, len(payload)), (len(payload), start), (0, 2**63)]))
        shape = draw(st.lists(SIZES, max_size=4) | st.just([len(payload) // 4]) | st.just([len(payload)]))
        header[name] = {"dtype": draw(st.sampled_from(TYPES.split())), "shape": shape, "data_offsets": ends}
    text = (
        json.dumps(header).encode() if draw(st.integers(0, 9)) else draw(st.sampled_from([_nested(9000), b"{}", b"{"]))
    )
    length = len(text) if draw(st.integers(0, 9)) else draw(SIZES) % 2**64
    return struct.pack("<Q", length) + text + payload


def _odd_tensors() -> dict[str, torch.Tensor]:
    """Tensors that are not what weights are."""
    ones = torch.ones(8, 8)
    return {
        "expanded": torch.ones(1, 1, 1).expand(1, 10_001, 8),
        "expanded beyond memory": torch.ones(1, 1, 1).expand(1, 1 + 2**36, 8),
        "sparse": ones.to_sparse(),
        "compressed": ones.to_sparse_csr(),
        "complex": torch.ones(8, dtype=torch.complex64),
        "whole numbers": torch.ones(8, dtype=torch.int64),
        "truths": torch.ones(8, dtype=torch.bool),
        "eight bits": torch.ones(8).to(torch.float8_e4m3fn),
        "nothing": torch.ones(0),
        "a number": torch.tensor(1.0),
        "nowhere": torch.ones(8, device="meta"),
        "quantised": torch.quantize_per_tensor(torch.ones(8), 0.1, 0, torch.qint8),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "not a number": torch.full((8,), torch.nan),
        "no places": torch.ones(1, 0, 8),
        "five axes": torch.ones(1, 1, 1, 1, 8),
    }


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what PyTorch is still about to change
    ODD = _odd_tensors()
TENSORS = st.sampled_from(list(ODD)).map(ODD.get)


@st.composite
def altered_weights(draw: st.DrawFn, state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """A state dict in which some tensors are odd, missing, of another shape, or under another's name."""
    state = dict(state)
    for name in draw(st.lists(st.sampled_from(list(state)), max_size=3, unique=True)):
        tensor = state[name]
        others = [tensor[None], tensor.double(), tensor.flatten(), tensor.flatten()[:1]]
        state[name] = draw(TENSORS | st.sampled_from(others))
    for name in draw(st.lists(st.sampled_from(list(state)), max_size=2)):
        tensor = state.pop(name, None)
        if tensor is not None and draw(st.booleans()):
            state[
                draw(st.sampled_from([*state, "head.weight", "norm.weight", "decoder_x", "blocks.0.attn.qkv.", "é"]))
            ] = tensor
    return state


@st.composite
def saved_weights(draw: st.DrawFn, state: Mapping[str, torch.Tensor]) -> bytes:
    """Altered weights in one of the forms in which `torch.save` has left them, code in some of them."""
    found: Any = draw(altered_weights(state))
    prefix = draw(st.sampled_from(["", "", "module.", "_orig_mod.module."]))
    found = {f"{prefix}{name}": tensor for name, tensor in found.items()}
    around = draw(st.sampled_from(["", "model", "state_dict", "model", "list", "tensor"]))
    if around == "list":
        found = list(found.values())
    elif around == "tensor":
        found = next(iter(found.values()), None)
    elif around:
        args = draw(
            st.sampled_from(
                [argparse.Namespace(norm_pix_loss=x) for x in (True, 1, torch.ones(2), Bomb())] + [3, Bomb()]
            )
        )
        found = {around: found, "args": args}
    try:
        return in_buffer(partial(torch.save, found, _use_new_zipfile_serialization=draw(st.booleans())))
    except (RuntimeError, NotImplementedError):  # some tensors can be written in one of the formats alone
        return pickle.dumps(Bomb())


def _pth_seeds(state: Mapping[str, torch.Tensor]) -> tuple[bytes, ...]:
    forms = [
        state,
        {"model": state, "args": argparse.Namespace(norm_pix_loss=True)},
        {"model": state, "args": Bomb()},
        Bomb(),
    ]
    saved = (
        in_buffer(partial(torch.save, found, _use_new_zipfile_serialization=new))
        for found, new in itertools.product(forms, (True, False))
    )
    return (*saved, *(pickle.dumps(Bomb(), protocol) for protocol in range(6)), save(dict(state)))


def _checkpoint(config: Mapping[str, Any], state: Mapping[str, torch.Tensor], checksum: bool) -> bytes:
    if checksum:
        return written(partial(save_tensors, tensors=state, metadata={"model": config}), "x")
    return save(dict(state), metadata={"maelib": json.dumps({"model": config})})


def _plain_weights(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those that safetensors can hold, each with memory of its own."""
    odd = {"expanded beyond memory", "sparse", "compressed", "nowhere", "quantised", "nested"}
    left_out = [ODD[name] for name in odd]
    return {name: t.clone().contiguous() for name, t in state.items() if not any(t is other for other in left_out)}


OURS = _model(SMALL).state_dict()
CHECKPOINTS = st.builds(
    _checkpoint,
    altered(asdict(SMALL)) | st.just(asdict(SMALL)),
    altered_weights(OURS).map(_plain_weights),
    st.booleans(),
) | lying_safetensors(json.dumps({"model": asdict(SMALL)}))
CHECKPOINT_SEEDS = (
    *(_checkpoint(asdict(SMALL), OURS, checksum) for checksum in (True, False)),
    *(save(dict(OURS), metadata={"maelib": told}) for told in ("", "[]", "{", '{"model": 3}', "[" * 9000)),
    *(_checkpoint(asdict(SMALL) | {name: 2**23}, OURS, True) for name in ("depth", "embed_dim", "img_size")),
    pickle.dumps(Bomb()),
)  # fmt: skip


def _read_published(path: Path) -> None:
    start_from(_model(STANDARD), path)


def _under_hugging_faces_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The standard model's weights as files on the Hugging Face hub name them."""
    blocks = {
        "blocks": "vit.encoder.layer", "decoder_blocks": "decoder.decoder_layers", "norm1": "layernorm_before",
        "norm2": "layernorm_after", "attn.proj": "attention.output.dense", "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }  # fmt: skip
    others = {
        "cls_token": "vit.embeddings.cls_token", "pos_embed": "vit.embeddings.position_embeddings",
        "patch_embed.proj": "vit.embeddings.patch_embeddings.projection", "norm": "vit.layernorm",
    }  # fmt: skip
    theirs = {}
    for name, tensor in state.items():
        if "blocks." in name:
            for ours, there in blocks.items():
                name = re.sub(rf"(^|\.){re.escape(ours)}\.", rf"\1{there}.", name)
            parts = ("query", "key", "value") if ".attn.qkv." in name else ("",)
            for part, third in zip(parts, tensor.chunk(len(parts)), strict=True):
                theirs[name.replace("attn.qkv", f"attention.attention.{part}")] = third.contiguous()
        else:
            module, _, kind = name.rpartition(".")
            theirs[others.get(name) or (f"{others[module]}.{kind}" if module in others else f"decoder.{name}")] = tensor
    return theirs


def _read_recognised(path: Path) -> None:
    with patch.dict(CONFIGS, small=STANDARD):  # those that are published fill hundreds of megabytes
        load_model(path)


PTH_SEEDS = (
    *_pth_seeds(STATE),
    *(
        in_buffer(partial(torch.save, {**STATE, "pos_embed": ODD[name]}))
        for name in ("expanded", "expanded beyond memory")
    ),
)
HUGE = {f"blocks.{i}.norm1.weight": torch.ones(1) for i in range(32)} | {
    "patch_embed.proj.weight": torch.ones(1280, 1, 1, 14)
}
THEIRS = _under_hugging_faces_names(STATE)
VGG = {name: torch.zeros(shape) for name, shape in VGG_SHAPES.items()}

# ----------------------------------------------------------------------------------------------------------- runs


def _run() -> tuple[TrainConfig, MaskedAutoencoder, list[torch.optim.Optimizer]]:
    model = _model(SMALL)
    return TrainConfig(model=SMALL), model, [torch.optim.AdamW(model.parameters())]


def _read_state(path: Path) -> None:
    config, model, optimizers = _run()
    runs.load_run(replace(config, out=path.parent), model, optimizers, None)


def _saved_state() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and description of a run's state after one step."""
    config, model, (optimizer,) = _run()
    sum(parameter.sum() for parameter in model.parameters() if parameter.requires_grad).backward()
    optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        runs.save_run(replace(config, out=Path(folder)), model, [optimizer], None, 1, [[1.0, 1.0]], False)
        return load_tensors(Path(folder, "state.safetensors"))


def _state(tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any], checksum: bool) -> bytes:
    if checksum:
        return written(partial(save_tensors, tensors=tensors, metadata=about), "x")
    return save(dict(tensors), metadata={"maelib": json.dumps(about)})


STATE_TENSORS, STATE_ABOUT = _saved_state()
STATES = st.builds(
    _state,
    altered_weights(STATE_TENSORS).map(_plain_weights),
    altered(STATE_ABOUT) | st.just(STATE_ABOUT),
    st.booleans(),
)
STATE_SEEDS = tuple(_state(STATE_TENSORS, STATE_ABOUT, checksum) for checksum in (True, False))
RUN = runs.plain(TrainConfig())
CONFIGURATIONS = altered(RUN).map(json.dumps).map(str.encode) | JSON.map(json.dumps).map(str.encode)
CONFIGURATION_SEEDS = (
    json.dumps(RUN).encode(),
    *(json.dumps(told).encode() for told in (RUN | {"model": {}}, RUN | {"augment": 1}, {}, [], None)),
    b"", b"\xff", _nested(9000), b"9" * 5000, b'{"steps": 1e999}',
)  # fmt: skip
HF_CONFIG_SEEDS = (b'{"norm_pix_loss": true}', b'{"norm_pix_loss": [1]}', b"[]", b"{", b"\xff", _nested(9000))
HF_CONFIG = altered({"norm_pix_loss": True, "image_size": 16}).map(json.dumps).map(str.encode)


def _target(read: Callable, promised: type[Exception], file: str, seeds: tuple[bytes, ...], *drawn: Strategy) -> Target:
    return Target(read, (promised,), file, seeds, st.one_of(edited(seeds), *drawn))


TARGETS: dict[str, Target] = {
    "npy": _target(open_photo, PhotoError, "photo.npy", NPY_SEEDS, NPY),
    "image": _target(open_photo, PhotoError, "photo.png", IMAGE_SEEDS, PNG, TIFF, BMP, PNM),
    "mask": _target(partial(read_mask, shape=SIZE), PhotoError, "mask.png", IMAGE_SEEDS, PNG),
    "checkpoint": _target(load_model, CheckpointError, "model.safetensors", CHECKPOINT_SEEDS, CHECKPOINTS),
    "published": _target(
        _read_published, CheckpointError, "theirs.pth", PTH_SEEDS, saved_weights(STATE), lying_safetensors()
    ),
    "recognised": _target(
        _read_recognised, CheckpointError, "theirs.pth", (*PTH_SEEDS, save(HUGE)), saved_weights(STATE)
    ),
    "hugging_face": replace(
        _target(
            lambda path: _read_recognised(path.with_name("model.safetensors")), CheckpointError, "config.json",
            HF_CONFIG_SEEDS, HF_CONFIG,
        ),
        beside={"model.safetensors": save(THEIRS)},
    ),
    "hugging_face_weights": _target(
        _read_published, CheckpointError, "model.bin", _pth_seeds(THEIRS), saved_weights(THEIRS)
    ),
    "vgg": _target(
        lambda path: vgg19(str(path), ("relu1_1",)), ValueError, "vgg.pth", _pth_seeds(VGG), saved_weights(VGG)
    ),
    "vgg_safetensors": _target(
        lambda path: vgg19(str(path), ("relu1_1",)), ValueError, "vgg.safetensors", (save(VGG), pickle.dumps(Bomb())),
        altered_weights(VGG).map(_plain_weights).map(save), lying_safetensors(),
    ),
    "state": _target(_read_state, CheckpointError, "state.safetensors", STATE_SEEDS, STATES),
    "configuration": _target(
        lambda path: runs.read_config(path.parent), ValueError, "config.json", CONFIGURATION_SEEDS, CONFIGURATIONS
    ),
}  # fmt: skip
