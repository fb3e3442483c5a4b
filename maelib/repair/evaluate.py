"""How much better is a model than classical inpainting? Fixed holes, fixed images, metrics inside the hole.

The protocol: three kinds of hole on the patch grid, drawn from fixed seeds; 256 facades that no training ever draws,
or photos; PSNR, SSIM and sharpness of the hole alone, averaged over images. Rectification leaves flat border fill in
photos and drawings. Patches that it touches are taken out of the holes, so that no method is judged on what is not
facade; an image whose hole vanishes has one patch hidden instead. A method is any function `method(images, hole)` that
returns repaired images, as the baselines are; `model_method` makes one of a model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from maelib.data.border_fill import find_border_fill
from maelib.data.images import TEST_SEEDS, FolderImages
from maelib.masking import MASKS, exclude_patches, mask_from_pixels, mask_to_pixels
from maelib.metrics import hole_psnr, hole_sharpness, hole_ssim
from maelib.model import MaskedAutoencoder
from maelib.patches import grid_size
from maelib.plots import mask_overlay, show_images
from maelib.repair.classical import BASELINES
from maelib.repair.photo import repair
from maelib.weights import bundled_checkpoint, load_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Method = Callable[[Tensor, Tensor], Tensor]
Methods = Mapping[str, Method]
HOLES = {"block 25%": ("block", 0.25), "block 50%": ("block", 0.5), "random 75%": ("random", 0.75)}
BATCH_SIZE = 64
PSNR_CAP = 60.0  # dB; finer than 8 bits can show, so that one perfectly filled flat wall does not make a mean infinite


class Score(NamedTuple):
    """What a method reached on one kind of hole: means over images, each PSNR counted up to 60 dB."""

    method: str
    hole: str
    psnr: float
    ssim: float
    sharpness: float


def drawn_tests(size: int, count: int = len(TEST_SEEDS)) -> tuple[Tensor, Tensor]:
    """The first `count` facades that are reserved for evaluation, and where they show a facade.

    Returns
    -------
    images : Tensor
        `(count, 3, size, size)` float in [0, 1].
    valid : Tensor
        `(count, size, size)` bool, False on border fill.
    """
    from maelib.facades import LABELS, draw_facade

    drawn = [draw_facade(seed, size) for seed in TEST_SEEDS[:count]]
    images = torch.from_numpy(np.stack([facade.image for facade in drawn])).permute(0, 3, 1, 2) / 255
    return images, torch.from_numpy(np.stack([facade.labels for facade in drawn]) != LABELS.index("void"))


def drawn_test_images(size: int, count: int = len(TEST_SEEDS)) -> Tensor:
    """The images of `drawn_tests` alone."""
    return drawn_tests(size, count)[0]


def image_border_fill(images: Tensor) -> Tensor:
    """Where photos `(B, 3, H, W)` in [0, 1] show border fill, `(B, H, W)` bool; see `maelib.data.border_fill`."""
    pixels = (images * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
    return torch.from_numpy(find_border_fill(pixels.cpu().numpy()))


def evaluation_holes(kind: str, images: Tensor, patch_size: int, valid: Tensor | None = None) -> Tensor:
    """The holes `(B, H, W)` of one kind in `HOLES` for `images` `(B, C, H, W)`; the same at every call.

    `valid` `(B, H, W)` bool says where a facade is; without it, border fill is searched for, as photos need.

    Raises
    ------
    ValueError
        When the images do not fit the patch size, or border fill touches every patch of one.
    """
    strategy, ratio = HOLES[kind]
    grid = grid_size(tuple(images.shape[2:]), patch_size)
    mask = MASKS[strategy](len(images), grid, ratio, torch.Generator().manual_seed(list(HOLES).index(kind)))
    invalid = image_border_fill(images) if valid is None else ~valid
    mask = exclude_patches(mask, mask_from_pixels(invalid, patch_size))
    if not mask.any(dim=1).all():
        row = int(mask.any(dim=1).int().argmin())
        raise ValueError(f"border fill touches every patch of {patch_size} px of image {row}; crop or remove the image")
    return mask_to_pixels(mask, patch_size, grid).to(images.device)


def model_method(model: MaskedAutoencoder) -> Method:
    """A model as `method(images, hole)`: every patch that the hole touches is hidden from it and repaired."""
    return partial(repair, method=model)


def evaluate(methods: Methods, images: Tensor, patch_size: int, valid: Tensor | None = None) -> list[Score]:
    """Score every method on every kind of hole.

    Parameters
    ----------
    methods : name -> `method(images, hole)`; `BASELINES` is one such mapping.
    images : (B, C, H, W) float in [0, 1], sides multiples of `patch_size`.
    patch_size : side in pixels of the patches that the holes are made of.
    valid : (B, H, W) bool, see `evaluation_holes`.

    Raises
    ------
    ValueError
        When the images do not fit the patch size, are not in [0, 1], or a method returns another shape.
    """
    scores = []
    holes = {kind: evaluation_holes(kind, images, patch_size, valid) for kind in HOLES}
    jobs = [(kind, name) for kind in HOLES for name in methods]
    for kind, name in tqdm(jobs, "evaluating", disable=None):
        columns = []
        for some, hole in zip(images.split(BATCH_SIZE), holes[kind].split(BATCH_SIZE), strict=True):
            repaired = methods[name](some, hole)
            columns.append(torch.stack([f(repaired, some, hole) for f in (hole_psnr, hole_ssim, hole_sharpness)]))
        table = torch.cat(columns, dim=1).double()  # (3, B)
        table[0].clamp_(max=PSNR_CAP)
        table[2][table[2].isinf()] = torch.nan
        scores.append(Score(name, kind, *table.nanmean(dim=1).tolist()))
    return scores


def best_baseline(scores: Sequence[Score], hole: str, metric: str = "psnr") -> Score:
    """The baseline with the highest `metric` on one kind of hole. ValueError when no baseline was scored."""
    known = (score for score in scores if score.hole == hole and score.method in BASELINES)
    return max(known, key=lambda score: getattr(score, metric))


def _margin(scores: Sequence[Score], own: Score) -> str:
    psnr, ssim = (best_baseline(scores, own.hole, metric) for metric in ("psnr", "ssim"))
    return f"{own.psnr - psnr.psnr:+.2f} dB ({psnr.method}) / {own.ssim - ssim.ssim:+.3f} ({ssim.method})"


def evaluation_table(scores: Sequence[Score]) -> str:
    """Scores as a Markdown table: a row for each method, then each model's margin over the best baseline."""
    own = {score.method: [s for s in scores if s.method == score.method] for score in scores}
    rows = [["PSNR dB / SSIM / sharpness in the hole", *HOLES]]
    for name in own:
        rows.append([name, *(f"{s.psnr:.2f} / {s.ssim:.3f} / {s.sharpness:.2f}" for s in own[name])])
    models = [name for name in own if name not in BASELINES]
    rows += [[f"{name} above the best", *(_margin(scores, s) for s in own[name])] for name in models]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def evaluation_figure(
    methods: Methods, scores: Sequence[Score], images: Tensor, patch_size: int, valid: Tensor | None = None
) -> "Figure":
    """Two images for each kind of hole: truth, hole, its two best baselines by PSNR, and the other methods."""
    mean = {name: sum(score.psnr for score in scores if score.method == name) for name in methods}
    baselines = sorted((name for name in methods if name in BASELINES), key=mean.get, reverse=True)[:2]
    columns = baselines + [name for name in methods if name not in BASELINES]
    rows, names = [], []
    for k, kind in enumerate(HOLES):
        ids = [i % len(images) for i in (2 * k, 2 * k + 1)]
        some, hole = images[ids], evaluation_holes(kind, images, patch_size, valid)[ids]
        pictures = [some, mask_overlay(some, hole), *(methods[name](some, hole) for name in columns)]
        rows += [list(row) for row in zip(*pictures, strict=True)]
        names += [kind, ""]
    return show_images(rows, ["truth", "hole", *columns], names)


@dataclass(frozen=True)
class EvaluateConfig:
    """Compare a model with classical inpainting, inside the hole."""

    checkpoint: Path | None = None
    """model to evaluate; by default the one that comes with the library"""
    photos: Path | None = None
    """folder of photos or .npy arrays to evaluate on; by default 256 drawn facades that no training uses"""
    skip_bad: bool = False
    """leave out files of the folder that cannot be read, and list them"""
    out: Path = Path("evaluation.png")
    """figure to write"""


def run(config: EvaluateConfig) -> str:
    """Do what `maelib evaluate` is asked for: write the figure and return the table. Warns of what was left out.

    Raises
    ------
    ValueError
        When the figure's suffix cannot be written, before anything is computed.
    """
    from matplotlib.figure import Figure

    kinds = Figure().canvas.get_supported_filetypes()
    if config.out.suffix[1:].lower() not in kinds:
        raise ValueError(f"--out {config.out}: this suffix cannot be written; use one of .{', .'.join(kinds)}")
    model = load_model(config.checkpoint or bundled_checkpoint())
    size, patch_size = model.config.img_size, model.config.patch_size
    if config.photos is None:
        images, valid = drawn_tests(size)
    else:
        photos = FolderImages(config.photos, size, config.skip_bad)
        read = {name: photos[i] for i, name in enumerate(photos.names)}
        rgba = torch.stack([image for name, image in read.items() if name not in photos.skipped]) / 255
        images, valid = rgba[:, :3], rgba[:, 3] == 1
    methods = {**BASELINES, "model": model_method(model)}
    scores = evaluate(methods, images, patch_size, valid)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    evaluation_figure(methods, scores, images, patch_size, valid).savefig(config.out)
    bordered = int((~valid).flatten(1).any(dim=1).sum())
    about = f"{len(images)} images, {bordered} of them with border fill, which no hole touches"
    return "\n".join([about, "", evaluation_table(scores), "", f"figure: {config.out}"])
