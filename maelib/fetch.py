"""`maelib fetch`: what does not come with the library, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from maelib.cmp import BASE_URL, cmp_photos, fetch_cmp


def _fetch_cmp(folder: Path, source: str | None) -> str:
    fetch_cmp(folder, source or BASE_URL)
    return (
        f"{len(cmp_photos(folder))} photos in {folder}; train with: maelib train --data {folder}\n"
        "For research; cite R. Tyleček and R. Šára, Spatial Pattern Templates for Recognition of Objects with Regular "
        "Structure, GCPR 2013."
    )


# Name -> what fetches it into a folder (from the official address or a copy) and returns what to tell; what it is.
FETCHES: dict[str, tuple[Callable[[Path, str | None], str], str]] = {
    "cmp": (_fetch_cmp, "the CMP Facade Database, 606 photos of facades with label maps"),
}


@dataclass(frozen=True)
class FetchConfig:
    """Download what does not come with the library; a download that broke off goes on."""

    what: Positional[str]
    """cmp: the CMP Facade Database, 606 photos of facades with label maps"""
    out: Path | None = None
    """folder; by default the one of that name in data/photos"""
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
    return FETCHES[config.what][0](config.out or Path("data/photos") / config.what, config.source)
