"""How much better than classical inpainting? Fixed holes, fixed images, metrics inside the hole.

The protocol: three kinds of hole on the patch grid, drawn from fixed seeds; 256 facades that no training ever draws,
or photos of your own; PSNR, SSIM and sharpness of the hole alone, averaged over images. Photos and drawings may have
flat wedges, left by rectification: patches that these touch are taken out of the holes, so that no method is judged on
what is no facade, and an image whose hole vanishes has one patch hidden instead. A method is any function
`method(images, hole)` that returns repaired images, as the baselines are; `model_method` makes one of a model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from maelib.data.border_fill import find_border_fill
from maelib.data.cmp import read_photos
from maelib.data.images import TEST_SEEDS
from maelib.masking import MASKS, exclude_patches, mask_from_pixels, mask_to_pixels
from maelib.metrics import hole_psnr, hole_sharpness, hole_ssim
from maelib.model import MaskedAutoencoder
from maelib.patches import grid_size
from maelib.repair.classical import BASELINES
from maelib.repair.photo import repair

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Method = Callable[[Tensor, Tensor], Tensor]
HOLES: dict[str, tuple[str, float]] = {
    "block 25%": ("block", 0.25),
    "block 50%": ("block", 0.5),
    "random 75%": ("random", 0.75),
}
BATCH_SIZE = 64
PSNR_CAP = 60.0  # dB; finer than 8 bits can show, so that one perfectly filled flat wall does not make a mean infinite


class Score(NamedTuple):
    """What a method reached on one kind of hole: means over images, PSNR counted up to 60 dB an image."""

    method: str
    hole: str
    psnr: float
    ssim: float
    sharpness: float


def drawn_test_images(size: int, count: int = len(TEST_SEEDS)) -> Tensor:
    """The first `count` facades reserved for evaluation, `(count, 3, size, size)` float in [0, 1]."""
    from maelib.facades import draw_images

    return torch.from_numpy(draw_images(TEST_SEEDS[:count], size)).permute(0, 3, 1, 2) / 255


def image_border_fill(images: Tensor) -> Tensor:
    """Where `images` `(B, 3, H, W)` float in [0, 1] show flat wedges, `(B, H, W)` bool; see `data.border_fill`."""
    pixels = (images * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
    return torch.from_numpy(find_border_fill(pixels.cpu().numpy()))


def evaluation_holes(kind: str, images: Tensor, patch_size: int) -> Tensor:
    """The holes `(B, H, W)` of one kind in `HOLES` for `images` `(B, C, H, W)`; the same at every call.

    Raises
    ------
    ValueError
        When the images do not fit the patch size, or wedges touch every patch of one.
    """
    strategy, ratio = HOLES[kind]
    grid = grid_size(tuple(images.shape[2:]), patch_size)
    generator = torch.Generator().manual_seed(list(HOLES).index(kind))
    mask = MASKS[strategy](len(images), grid, ratio, generator)
    mask = exclude_patches(mask, mask_from_pixels(image_border_fill(images), patch_size))
    if not mask.any(dim=1).all():
        row = int((~mask.any(dim=1)).nonzero()[0])
        raise ValueError(f"wedges touch every patch of {patch_size} px of image {row}; crop them or leave it out")
    return mask_to_pixels(mask, patch_size, grid).to(images.device)


def model_method(model: MaskedAutoencoder) -> Method:
    """A model as `method(images, hole)`: every patch that the hole touches is hidden from it and repaired."""
    return partial(repair, method=model)


def evaluate(methods: Mapping[str, Method], images: Tensor, patch_size: int, progress: bool = False) -> list[Score]:
    """Score every method on every kind of hole.

    Parameters
    ----------
    methods : name -> `method(images, hole)`; `BASELINES` is one such mapping.
    images : (B, C, H, W) float in [0, 1], sides multiples of `patch_size`.
    patch_size : side in pixels of the patches that the holes are made of.
    progress : show a progress bar.

    Raises
    ------
    ValueError
        When the images do not fit the patch size, are not in [0, 1], or a method returns another shape.
    """
    scores = []
    holes = {kind: evaluation_holes(kind, images, patch_size) for kind in HOLES}
    jobs = [(kind, name) for kind in HOLES for name in methods]
    for kind, name in tqdm(jobs, "evaluating", disable=not progress):
        hole = holes[kind]
        columns = []
        for some, hidden in zip(images.split(BATCH_SIZE), hole.split(BATCH_SIZE), strict=True):
            repaired = methods[name](some, hidden)
            columns.append(torch.stack([f(repaired, some, hidden) for f in (hole_psnr, hole_ssim, hole_sharpness)]))
        table = torch.cat(columns, dim=1).double()  # (3, B)
        table[0].clamp_(max=PSNR_CAP)
        table[2][table[2].isinf()] = torch.nan
        psnr, ssim, sharpness = table.nanmean(dim=1).tolist()
        scores.append(Score(name, kind, psnr, ssim, sharpness))
    return scores


def best_baseline(scores: Sequence[Score], hole: str, metric: str = "psnr") -> Score:
    """The baseline with the highest `metric` on one kind of hole. ValueError when no baseline was scored."""
    known = [score for score in scores if score.hole == hole and score.method in BASELINES]
    if not known:
        raise ValueError(f"no baseline was scored on {hole!r}; add maelib.repair.classical.BASELINES to the methods")
    return max(known, key=lambda score: getattr(score, metric))


def evaluation_table(scores: Sequence[Score]) -> str:
    """Scores as a Markdown table: a row for each method, then each model's margin over the best baseline."""
    by_key = {(score.method, score.hole): score for score in scores}
    methods = dict.fromkeys(score.method for score in scores)
    rows = [["PSNR dB / SSIM / sharpness in the hole", *HOLES]]
    for name in methods:
        cells = [by_key[name, hole] for hole in HOLES]
        rows.append([name, *(f"{s.psnr:.2f} / {s.ssim:.3f} / {s.sharpness:.2f}" for s in cells)])
    if any(name in BASELINES for name in methods):
        for name in [name for name in methods if name not in BASELINES]:
            rows.append([f"{name} above the best", *(_margin(scores, by_key[name, hole]) for hole in HOLES)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _margin(scores: Sequence[Score], own: Score) -> str:
    psnr, ssim = (best_baseline(scores, own.hole, metric) for metric in ("psnr", "ssim"))
    return f"{own.psnr - psnr.psnr:+.2f} dB ({psnr.method}) / {own.ssim - ssim.ssim:+.3f} ({ssim.method})"


def evaluation_figure(
    methods: Mapping[str, Method], scores: Sequence[Score], images: Tensor, patch_size: int
) -> "Figure":
    """Two facades for each kind of hole: truth, hole, its two best baselines by PSNR, and the other methods."""
    from maelib.plots import mask_overlay, show_images

    mean = {n: sum(s.psnr for s in scores if s.method == n) for n in methods}
    baselines = sorted((n for n in methods if n in BASELINES), key=mean.get, reverse=True)[:2]
    columns = baselines + [n for n in methods if n not in BASELINES]
    rows, names = [], []
    for k, kind in enumerate(HOLES):
        hole = evaluation_holes(kind, images, patch_size)
        ids = [i % len(images) for i in (2 * k, 2 * k + 1)]
        some, hidden = images[ids], hole[ids]
        pictures = [some, mask_overlay(some, hidden), *(methods[name](some, hidden) for name in columns)]
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
    """Do what `maelib evaluate` is asked for: write the figure, return the table and what was left out."""
    from maelib.weights.checkpoint import bundled_checkpoint
    from maelib.weights.published import load_model

    model, notes = load_model(config.checkpoint or bundled_checkpoint())
    size, skipped = model.config.img_size, []
    if config.photos is None:
        images = drawn_test_images(size)
    else:
        photos, skipped = read_photos(config.photos, size, config.skip_bad)
        images = photos.__getitems__(list(range(len(photos)))).float() / 255
    methods = {**BASELINES, "model": model_method(model)}
    scores = evaluate(methods, images, model.config.patch_size, progress=True)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    evaluation_figure(methods, scores, images, model.config.patch_size).savefig(config.out)
    left_out = notes + [f"left out: {reason}" for reason in skipped]
    wedged = int(image_border_fill(images).any(dim=(1, 2)).sum())
    about = f"{len(images)} images, {wedged} of them with flat wedges, which no hole touches"
    return "\n".join([*left_out, about, "", evaluation_table(scores), "", f"figure: {config.out}"])
