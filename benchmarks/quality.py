"""Does training pay? Hole PSNR, SSIM and sharpness of a model beside classical inpainting.

    python benchmarks/quality.py --photos FOLDER

trains the default recipe from nothing (what `maelib train` does), then scores it on 256 drawn facades that no training
draws and, when a folder is given, on its photos. With `--checkpoint FILE` it scores that model instead. The report goes
to benchmarks/results/; times are of the machine it names.
"""

import os
import platform
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from maelib.baselines import BASELINES
from maelib.checkpoint import load_model
from maelib.cmp import read_photos
from maelib.data import drawn_pool
from maelib.evaluate import drawn_test_images, evaluate, evaluation_table, model_method
from maelib.train import RECIPES, train


@dataclass(frozen=True)
class QualityConfig:
    """Score a model beside classical inpainting."""

    photos: Path | None = None
    """folder of real photos to score on as well"""
    checkpoint: Path | None = None
    """model to score; by default the default recipe is trained first"""
    out: Path = Path(__file__).parent / "results" / "quality.md"
    """report to write"""


def machine() -> str:
    """What the times were measured on."""
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} cores ({name}), {device}, torch {torch.__version__}, Python {platform.python_version()}"


def train_default(folder: Path) -> tuple[Path, str]:
    """Train the default recipe with an empty cache; returns the checkpoint and a line on what it took."""
    os.environ["MAELIB_CACHE"] = str(folder / "cache")
    config = replace(RECIPES["facade_tiny"], out=folder / "run")
    start, cpu = time.perf_counter(), time.process_time()
    drawn_pool(20_000, config.model.img_size)
    drawing = time.perf_counter() - start
    checkpoint = train(config)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    images = config.steps * config.batch_size
    return checkpoint, (
        f"`maelib train`: {config.steps} steps of {config.batch_size} = {images} images in {wall:.0f} s, of which "
        f"{drawing:.0f} s drew the pool ({cpu:.0f} CPU-seconds, those of the drawing processes apart)"
    )


def main(config: QualityConfig) -> None:
    """Train if asked, score, report."""
    with tempfile.TemporaryDirectory() as folder:
        if config.checkpoint is None:
            checkpoint, story = train_default(Path(folder))
        else:
            checkpoint, story = config.checkpoint, f"`{config.checkpoint}`, trained beforehand"
        model = load_model(checkpoint)
    size, patch_size = model.config.img_size, model.config.patch_size
    sets = {"Drawn facades, held out": drawn_test_images(size)}
    if config.photos:
        photos, _ = read_photos(config.photos, size)
        sets["Real photos, none like them trained on"] = photos.__getitems__(list(range(len(photos)))).float() / 255
    methods = {**BASELINES, "model": model_method(model)}
    lines = ["# Quality inside the hole", "", story, "", f"Machine: {machine()}."]
    for name, images in sets.items():
        lines += ["", f"## {name}: {len(images)} images of {size} px, patches of {patch_size} px", ""]
        lines.append(evaluation_table(evaluate(methods, images, patch_size, progress=True)))
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(QualityConfig, description=__doc__))
