"""What a run writes down: a CSV log, its curves, pictures of what the model repairs, and the same for a tracker."""

import csv
import io
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maelib.files import write_atomic
from maelib.masking import mask_to_pixels
from maelib.model import MaskedAutoencoder
from maelib.patches import unpatchify
from maelib.plots import mask_overlay, show_curves, show_images

if TYPE_CHECKING:
    from accelerate import Accelerator


class CsvLog:
    """Rows of numbers in `path`, one a log interval; a run that resumes drops the rows after its step.

    The columns are those of all rows; a cell is empty where a row has no such number.
    """

    def __init__(self, path: Path, first_step: int = 0) -> None:
        self.path = Path(path)
        self.rows = [row for row in read_log(path) if row["step"] <= first_step] if first_step else []
        self._write()

    def _write(self) -> None:
        """All of it, each time: a row that did not reach a full disk does so with the next."""
        file = io.StringIO(newline="")
        if self.rows:
            writer = csv.DictWriter(file, _columns(self.rows))
            writer.writeheader()
            writer.writerows(self.rows)
        write_atomic(self.path, file.getvalue().encode())

    def add(self, row: Mapping[str, float]) -> None:
        """Append one row, which must hold `step`, and bring the log to the disk."""
        self.rows.append(dict(row))
        self._write()


def _columns(rows: list[dict[str, float]]) -> list[str]:
    """Every name in any of the rows, in the order of first use."""
    return list(dict.fromkeys(name for row in rows for name in row))


def read_log(path: Path) -> list[dict[str, float]]:
    """Rows of a run's `log.csv`, without their empty cells; no rows when there is no such file.

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
        raise ValueError(
            f"{path} is no log of a run, or damaged ({error}); mend it, or move it away: a run that resumes then logs "
            "from there on"
        ) from error


def save_curves(rows: list[dict[str, float]], path: Path) -> None:
    """Draw loss and hole PSNR of a log over its steps, two PNG files: `path` with -loss and -psnr in the name.

    A log of a loss with several terms also gives -mse, -perceptual and, for the norms of their gradients, -grad.
    """
    steps = [row["step"] for row in rows]
    for kind, starts, unit in (
        ("loss", ("train_loss", "val_loss"), "loss"),
        ("psnr", ("psnr",), "hole PSNR, dB"),
        ("mse", ("train_mse", "val_mse"), "squared error"),
        ("perceptual", ("train_perceptual", "val_perceptual"), "perceptual loss"),
        ("grad", ("grad_",), "norm of the gradient at the prediction"),
    ):
        names = [name for name in _columns(rows) if name.startswith(starts)]
        series = {name: [row.get(name, math.nan) for row in rows] for name in names}
        if series:
            figure = show_curves(series, x=steps, xlabel="step", ylabel=unit)
            figure.savefig(path.with_name(f"{path.stem}-{kind}.png"))


@torch.no_grad()
def reconstructions(model: MaskedAutoencoder, images: Tensor, mask: Tensor, note: str = "") -> dict[str, Tensor]:
    """Original, masked, the bare prediction and the repair, its name ending in `note`: each `(B, C, H, W)` in [0, 1].

    Takes `images` `(B, C, H, W)` in [0, 1] and `mask` `(B, N)`, on the model's device; returns them on the CPU.
    """
    size = model.config.patch_size
    grid = (images.shape[2] // size, images.shape[3] // size)
    repaired = model.reconstruct(images, mask)
    columns = {"original": images, "masked": mask_overlay(images, mask_to_pixels(mask, size, grid))}
    if not model.config.norm_pix:  # normalised pixels have no picture of their own
        columns["prediction"] = unpatchify(model(images, mask), size, grid).clamp(0, 1).float()
    columns[f"repaired{note}"] = repaired
    return {name: column.cpu() for name, column in columns.items()}


def save_reconstructions(columns: Mapping[str, Tensor], path: Path) -> None:
    """Draw what `reconstructions` returns as a PNG, a row per image."""
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    show_images(rows, titles=list(columns)).savefig(path)


def start_tracker(accelerator: "Accelerator", tracker: str, config: Mapping[str, Any], out: Path) -> None:
    """Start the tracker that the accelerator was made with, and tell it the configuration.

    Its files go into `out` where it takes a folder. Weights & Biases needs no account: unless `WANDB_MODE` says
    otherwise, a run goes online only where somebody has logged in.

    Raises
    ------
    ImportError
        When the tracker's package is not installed.
    """
    if not accelerator.log_with:
        raise ImportError(f"track {tracker!r} needs its package; pip install {tracker}, or leave --track out")
    options = {}
    if "wandb" in map(str, accelerator.log_with):  # `tracker` may be "all"
        import wandb

        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
        options["wandb"] = {"mode": mode, "dir": str(out), "name": out.name}
    flat = {}
    for name, value in config.items():
        flat |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    plain = {name: value if isinstance(value, bool | int | float) else str(value) for name, value in flat.items()}
    accelerator.init_trackers("maelib", plain, options)


def track_images(accelerator: "Accelerator", columns: Mapping[str, Tensor], step: int) -> None:
    """Hand pictures `(B, C, H, W)` in [0, 1] by name to the tracker, if there is one and it takes pictures."""
    pictures = {name: (x * 255).round().byte().permute(0, 2, 3, 1).numpy() for name, x in columns.items()}
    for tracker in accelerator.trackers:
        if hasattr(tracker, "log_images"):
            options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images(pictures, step, **options)
