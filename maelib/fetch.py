"""`maelib fetch`: what does not come with the library, by name."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tyro.conf import Positional

from maelib.cmp import BASE_URL, cmp_photos, fetch_cmp
from maelib.downloads import DownloadError
from maelib.downloads import fetch as download
from maelib.published import OFFICIAL


def _fetch_cmp(folder: Path, source: str | None) -> str:
    fetch_cmp(folder, source or BASE_URL)
    return (
        f"{len(cmp_photos(folder))} photos in {folder}; train with: maelib train --data {folder}\n"
        "For research; cite R. Tyleček and R. Šára, Spatial Pattern Templates for Recognition of Objects with Regular "
        "Structure, GCPR 2013."
    )


def _fetch_official(name: str, folder: Path, source: str | None) -> str:
    official = OFFICIAL[name]
    path = download(source or official.url, folder / f"{name}.pth")
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


# Name -> what fetches it into a folder (from the official address or a copy) and returns what to tell; what it is.
FETCHES: dict[str, tuple[Callable[[Path, str | None], str], str]] = {
    "cmp": (_fetch_cmp, "the CMP Facade Database, 606 photos of facades with label maps"),
} | {
    name: (partial(_fetch_official, name), f"{official.config} as its authors trained it, on ImageNet")
    for name, official in OFFICIAL.items()
}


@dataclass(frozen=True)
class FetchConfig:
    """Download what does not come with the library; a download that broke off goes on."""

    what: Positional[str]
    """cmp: the CMP Facade Database, 606 photos of facades with label maps; mae_visualize_vit_base, ..._large, ..._huge
    and the others of maelib.published.OFFICIAL: the paper's own weights"""
    out: Path | None = None
    """folder; by default data/photos/cmp for photos and data/checkpoints for weights"""
    source: str | None = None
    """address of a copy, to fetch from instead of the official one"""

    def __post_init__(self) -> None:
        if self.what not in FETCHES:
            known = "; ".join(f"{name}: {about}" for name, (_, about) in FETCHES.items())
            raise ValueError(f"{self.what!r} is nothing that can be fetched; there is {known}")


def fetch(config: FetchConfig) -> str:
    """Do what `maelib fetch` is asked for and return what to tell.

    Raises
    ------
    DownloadError
        When it cannot be had or trusted; what has arrived is kept, and the next call goes on.
    """
    default = Path("data/photos/cmp" if config.what == "cmp" else "data/checkpoints")
    return FETCHES[config.what][0](config.out or default, config.source)
