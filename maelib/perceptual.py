"""VGG19's feature maps: what a perceptual loss compares.

Padding is by reflection everywhere: a picture ends in more of itself, not in the black frame that zeros are.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from maelib.downloads import DownloadError
from maelib.patches import PIXEL_MEAN, PIXEL_STD
from maelib.perceptual_weights import CONVS, POSITIONS, SHORT, WEIGHTS, fetch_vgg19, weights_file

LAYERS = ("relu1_1", "relu2_1", "relu3_1")
WIDTHS = (64, 128, 256, 512, 512)  # channels of a block's convolutions


class VGG19(nn.Module):
    """Frozen VGG19 (Simonyan and Zisserman 2015, configuration E) as far as the deepest layer asked for.

    Images `(B, 3, H, W)` in [0, 1], normalised inside, give one map `(B, C', H', W')` for each of `layers`, all from
    one pass. Gradients reach the images and never the weights. Parameter names are torchvision's.

    Parameters
    ----------
    layers : sequence of str
        Such as 'relu2_1': after the ReLU of the second block's first convolution.
    note : str
        What logs and figures are to say of the weights; empty for trained ones.

    Attributes
    ----------
    stride : int
        Pixels between neighbours in the deepest map.
    margin : int
        How far beyond its own `stride` pixels a place in that map sees, in pixels, rounded up to a multiple of them.

    Raises
    ------
    ValueError
        When there is no such layer.
    """

    def __init__(self, layers: Sequence[str] = LAYERS, note: str = "") -> None:
        super().__init__()
        known = [f"relu{conv}" for conv in CONVS]
        for layer in layers:
            if layer not in known:
                raise ValueError(f"layer {layer!r} is not in VGG19; use some of {', '.join(known)}")
        if not layers:
            raise ValueError("layers is empty; name at least 1, such as 'relu1_1'")
        self.layers, self.note, self.stride, self.margin = tuple(layers), note, 1, 0
        self.convs = 1 + max(known.index(layer) for layer in layers)
        self.features, channels = nn.Sequential(), 3
        for conv in CONVS[: self.convs]:
            if conv.endswith("_1") and channels > 3:
                self.features.append(nn.MaxPool2d(2))
                self.stride *= 2
            width = WIDTHS[int(conv[0]) - 1]
            self.features.append(nn.Conv2d(channels, width, 3, padding=1, padding_mode="reflect"))
            self.features.append(nn.ReLU(inplace=True))
            channels, self.margin = width, self.margin + self.stride
        self.margin = -(-self.margin // self.stride) * self.stride
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD)[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 2 * self.stride:
            raise ValueError(
                f"images are of shape {tuple(images.shape)}, and VGG19 up to conv{CONVS[self.convs - 1]} needs "
                f"(B, 3, H, W) with sides of {2 * self.stride} px or more; enlarge them or use earlier layers"
            )
        x = (images - self.mean) / self.std
        x = x.to(self.features[0].weight.dtype, memory_format=torch.channels_last)
        wanted = {POSITIONS[CONVS.index(layer.removeprefix("relu"))] + 1: layer for layer in self.layers}
        maps = {}
        for i, module in enumerate(self.features):
            x = module(x)
            if i in wanted:
                maps[wanted[i]] = x
        return [maps[layer] for layer in self.layers]


def vgg19(
    weights: str = "normalised",
    layers: Sequence[str] = LAYERS,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> VGG19:
    """A frozen `VGG19`; fetches its weights where they are not in the cache yet.

    Parameters
    ----------
    weights : str
        'normalised' or 'imagenet' (see `maelib.perceptual_weights`); 'random', drawn with `seed`; or the path of a
        .safetensors or .pth file in torchvision's layout.
    dtype : torch.dtype
        Of its arithmetic and its maps; torch.bfloat16 is the faster one where
        `maelib.training.devices.native_bf16` holds, and has the range of float32.

    Raises
    ------
    DownloadError
        When the weights are not here and cannot be fetched; the message names the ways out.
    ValueError, FileNotFoundError
        When layers or a file do not exist, or the file holds other weights.
    """
    with torch.random.fork_rng(devices=[]):  # layers draw weights, which are replaced below
        model = VGG19(layers, note=" (random VGG19)" if weights == "random" else "")
    if weights == "random":
        _draw(model, seed)
    else:
        _load(model, _path(weights, model.convs))
    return model.to(dtype, memory_format=torch.channels_last)


def _draw(model: VGG19, seed: int) -> None:
    """Weights that keep the maps' scale from layer to layer (He et al. 2015, equation 10)."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(module.bias)


def _path(weights: str, convs: int) -> Path:
    """The file of these weights, fetched if need be."""
    if weights not in WEIGHTS:
        if not Path(weights).is_file():
            known = ", ".join(map(repr, (*WEIGHTS, "random")))
            raise FileNotFoundError(
                f"VGG19 weights {weights!r} are neither a file nor one of {known}; use one of these"
            )
        return Path(weights)
    here = weights_file(weights, convs)
    if here is not None:
        return here
    try:
        return fetch_vgg19(weights, all_layers=convs > SHORT)
    except DownloadError as error:
        other = next(name for name in WEIGHTS if name != weights)
        raise DownloadError(
            f"VGG19's weights {weights!r} are not here and cannot be fetched: {error}. Ways out: `maelib fetch vgg19` "
            f"where there is a network; {other!r}; the path of a file of yours; 'random', which is another loss; "
            "or no perceptual term (on the command line: --vgg, --perceptual-weight 0)"
        ) from error


def _load(model: VGG19, path: Path) -> None:
    """Read the convolutions that `model` has; a file may hold more."""
    try:
        held = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        model.load_state_dict({name: held[name] for name in model.state_dict()})
    except Exception as error:  # damaged files fail in any way
        reason = " ".join(str(error).split())[:150]
        raise ValueError(
            f"{path} does not hold VGG19 up to conv{CONVS[model.convs - 1]} in torchvision's layout ({reason}); "
            "fetch it again, or use another file"
        ) from error
