"""The command line, `maelib draw | train | evaluate | reconstruct ...`, generated from the configurations.

Each option is a field of a dataclass and its help is that field's documentation; nothing is typed twice.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from maelib.training.recipes import TrainConfig


@dataclass(frozen=True)
class DrawConfig:
    """Draw facades into a folder."""

    out: Path
    """folder to write to"""
    count: int = 64
    """how many"""
    size: tuple[int, ...] = (224,)
    """side in pixels, or height and width"""
    seed: int = 0
    """seed of the first; the next has the next"""
    format: Literal["npy", "png"] = "npy"
    """npy: uint8 (H, W, 3) arrays; png: pictures"""
    occluders: bool = False
    """also write each facade with trees, cars or scaffolding in front, and where they are"""


def draw(config: DrawConfig) -> list[Path]:
    """Write what `maelib draw` is asked for and return the files, the plain facades first."""
    import numpy as np
    from PIL import Image
    from tqdm import tqdm

    from maelib.facades import draw_facade

    if config.count < 1 or not 1 <= len(config.size) <= 2:
        raise ValueError(f"count {config.count}, size {config.size}: use a count of 1 or more, and one or two sides")
    size = config.size[0] if len(config.size) == 1 else config.size
    config.out.mkdir(parents=True, exist_ok=True)
    plain, others = [], []
    for seed in tqdm(range(config.seed, config.seed + config.count), "drawing", unit="img"):
        facade = draw_facade(seed, size, occluders=config.occluders)
        pictures = {"": facade.image}
        if config.occluders:
            pictures |= {"-occluded": facade.occluded, "-occluder": facade.occluder.astype(np.uint8) * 255}
        for name, picture in pictures.items():
            path = config.out / f"facade{seed:06d}{name}.{config.format}"
            np.save(path, picture) if config.format == "npy" else Image.fromarray(picture).save(path)
            (others if name else plain).append(path)
    return plain + others


def _parse(config_type: type, command: str, args: Sequence[str], **default: Any) -> Any:
    """One configuration from the words of the command line; nested fields go without prefix."""
    import tyro

    return tyro.cli(config_type, prog=f"maelib {command}", args=args, config=(tyro.conf.OmitArgPrefixes,), **default)


def _draw(args: list[str]) -> None:
    config = _parse(DrawConfig, "draw", args)
    files = draw(config)
    print(f"wrote {len(files)} files to {config.out}")


def _recipe(command: str, args: list[str]) -> "TrainConfig":
    """A training's configuration: a recipe, or the run that goes on, and the options beside it."""
    from maelib.training.recipes import RECIPES, TrainConfig
    from maelib.training.resume import read_config

    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--recipe", choices=RECIPES, default="facade_tiny")
    choice, args = chooser.parse_known_args(args)
    default = RECIPES[choice.recipe]
    if "--resume" in args:  # a run goes on as it was started
        chooser.add_argument("--out", type=Path, default=default.out)
        out = chooser.parse_known_args(args)[0].out
        default = replace(read_config(out), out=out)
    return _parse(TrainConfig, f"{command} [--recipe {{{','.join(RECIPES)}}}]", args, default=default)


def _train(args: list[str]) -> None:
    from maelib.training.train import train

    print(f"trained {train(_recipe('train', args))}")


def _profile(args: list[str]) -> None:
    from maelib.profile import profile, profile_figure, profile_table

    config = _recipe("profile", args)
    stages = profile(config)
    config.out.mkdir(parents=True, exist_ok=True)
    profile_figure(stages).savefig(config.out / "profile.png")
    print(profile_table(stages, config.batch_size // config.accumulate))
    print(f"\nfigure: {config.out / 'profile.png'}")


def _evaluate(args: list[str]) -> None:
    from maelib.repair.evaluate import EvaluateConfig, run

    print(run(_parse(EvaluateConfig, "evaluate", args)))


def _reconstruct(args: list[str]) -> None:
    from maelib.repair.files import ReconstructConfig, reconstruct

    results = reconstruct(_parse(ReconstructConfig, "reconstruct", args))
    for result in results:
        print(result)
    if any(result.error for result in results):
        raise SystemExit(1)


def _compare(command: str, args: list[str]) -> None:
    from maelib.transfer.compare import FinetuneConfig, ProbeConfig, compare, table

    result = compare(_parse(ProbeConfig if command == "probe" else FinetuneConfig, command, args))
    print("\n".join([*result.notes, table([result])]))


def _fetch(args: list[str]) -> None:
    from maelib.fetch import FetchConfig, fetch

    print(fetch(_parse(FetchConfig, "fetch", args)))


COMMANDS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "draw": (_draw, "draw facades into a folder"),
    "train": (_train, "train a model, on drawn facades or on yours"),
    "profile": (_profile, "show where the time and memory of a training's step go"),
    "evaluate": (_evaluate, "compare a model with classical inpainting, inside the hole"),
    "probe": (partial(_compare, "probe"), "fit a linear head on frozen features, where labels are few"),
    "finetune": (partial(_compare, "finetune"), "train encoder and head, where labels are few"),
    "fetch": (_fetch, "download photos of facades, or weights that others trained"),
    "reconstruct": (_reconstruct, "repair a photo, or a folder of them"),
}


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; mistakes in its input end with one line that says what to change, and exit code 2."""
    args = list(sys.argv[1:] if args is None else args)
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items())
    usage = f"usage: maelib COMMAND [options]\n\n{listing}\n\nmaelib COMMAND --help lists a command's options"
    if not args or args[0] in ("-h", "--help"):
        print(usage)
        return
    if args[0] not in COMMANDS:
        raise SystemExit(f"maelib: {args[0]!r} is not a command\n\n{usage}")
    try:
        COMMANDS[args[0]][0](args[1:])
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"maelib {args[0]}: {error}", file=sys.stderr)
        raise SystemExit(2) from error
