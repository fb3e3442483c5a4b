"""What a run writes down: a CSV log, its curves, pictures of its repairs, and the same for a tracker."""

import csv
import io
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maelib.files import write_atomic
from maelib.masking import mask_to_pixels
from maelib.model import MaskedAutoencoder
from maelib.patches import unpatchify
from maelib.plots import mask_overlay, show_curves, show_images
from maelib.repair.evaluate import HOLES
from maelib.training.recipes import TrainConfig, plain
from maelib.training.validation import Validation

if TYPE_CHECKING:
    from accelerate import Accelerator

# What the columns of a figure have in their names, and the label of its axis.
CURVES = {"loss": "loss", "psnr": "hole PSNR, dB", "mse": "squared error", "perceptual": "perceptual loss"}


def write_log(path: Path, rows: list[dict[str, float]]) -> None:
    """Write the rows of a run's log, one a log interval, as CSV."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, dict.fromkeys(name for row in rows for name in row))  # in the order of first use
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, file.getvalue().encode())


def read_log(path: Path) -> list[dict[str, float]]:
    """Rows of a run's `log.csv`, without empty cells; an empty list when there is no such file.

    Raises
    ------
    ValueError
        When the file holds anything else.
    """
    if not Path(path).is_file():
        return []
    try:
        with Path(path).open(newline="") as file:
            rows = [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]
        return [row | {"step": int(row["step"])} for row in rows]
    except (csv.Error, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged or not the log of a run ({error}); repair it or move it away") from error


@torch.no_grad()
def reconstructions(model: MaskedAutoencoder, validation: Validation, kind: str) -> dict[str, Tensor]:
    """The first six validation images under the `kind` of hole: original, masked, prediction and repair.

    Each is `(6, 3, H, W)` in [0, 1] on the CPU. A model that predicts normalised pixels has no prediction to show.
    """
    images, mask, size = validation.images[:6], validation.masks[kind][:6], model.config.patch_size
    columns = {"original": images, "masked": mask_overlay(images, mask_to_pixels(mask, size, validation.grid))}
    if not model.config.norm_pix:
        columns["prediction"] = unpatchify(model(images, mask), size, validation.grid).clamp(0, 1).float()
    columns["repaired"] = model.reconstruct(images, mask)
    return {name: column.cpu() for name, column in columns.items()}


def save_figures(out: Path, rows: list[dict[str, float]], model: MaskedAutoencoder, validation: Validation) -> None:
    """Draw the curves of a log, a PNG file for each entry of `CURVES`, and repairs, one for each kind of hole."""
    columns = rows[-1] if rows else {}
    for kind, label in CURVES.items():
        series = {name: [row.get(name, math.nan) for row in rows] for name in columns if kind in name}
        if series:
            figure = show_curves(series, x=[row["step"] for row in rows], xlabel="step", ylabel=label)
            figure.savefig(out / f"curves-{kind}.png")
    for hole in HOLES:
        pictures = reconstructions(model, validation, hole)
        figure = show_images(list(zip(*pictures.values(), strict=True)), titles=list(pictures))
        figure.savefig(out / f"repairs-{hole.replace(' ', '-').replace('%', '')}.png")


def start_tracker(accelerator: "Accelerator", config: TrainConfig) -> None:
    """Start Weights & Biases, and hand it the configuration.

    It needs no account: unless `WANDB_MODE` says otherwise, a run goes online only where somebody has logged in. Its
    files lie in the run's folder, from where a run that resumes takes its identifier.

    Raises
    ------
    ImportError
        When the package is not installed.
    """
    if not accelerator.log_with:
        raise ImportError("track 'wandb' needs its package; pip install wandb, or omit --track")
    import wandb

    mode = os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
    options = {"mode": mode, "dir": str(config.out), "name": config.out.name}
    earlier = sorted(config.out.glob("wandb/*run-*-*")) if config.resume else []
    if earlier:
        options |= {"id": earlier[-1].name.rpartition("-")[2], "resume": "allow"}
    accelerator.init_trackers("maelib", plain(config), {"wandb": options})


def track_images(accelerator: "Accelerator", columns: Mapping[str, Tensor], step: int) -> None:
    """Hand pictures `(B, C, H, W)` in [0, 1] by name to the tracker."""
    pictures = {name: (x * 255).round().byte().permute(0, 2, 3, 1).numpy() for name, x in columns.items()}
    for tracker in accelerator.trackers:
        tracker.log_images(pictures, step)
