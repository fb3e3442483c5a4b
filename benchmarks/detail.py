"""What does a repair gain from the photo's own detail? `python benchmarks/detail.py --photos FOLDER --page`.

The bundled model alone, with `maelib.repair.detail.add_detail` in full and by half, and classical methods fill three
kinds of hole in held-out drawings of 224 px and in the photos of a folder at 256 px. Border fill is hidden from every
method and belongs to no hole. Report and figures (drawn facades only) go to benchmarks/results/.
"""

import functools
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from common import DRAWN, PHOTOS, RESULTS, save_small, write_report
from torch import Tensor
from tqdm import tqdm

from maelib.data.images import TEST_SEEDS, FolderImages
from maelib.facades import draw_facade
from maelib.masking import hole_boxes
from maelib.metrics import hole_psnr, hole_sharpness, hole_ssim
from maelib.model import MaskedAutoencoder
from maelib.perceptual import LAYERS, VGG19, vgg19
from maelib.plots import mask_overlay, show_images
from maelib.repair import detail, seams
from maelib.repair.evaluate import PSNR_CAP, drawn_tests
from maelib.repair.photo import repair_photo
from maelib.weights.checkpoint import bundled_checkpoint, load_model

SIDES = {DRAWN: 224, PHOTOS: 256}  # px
KINDS = ("rectangle", "block", "occluder")
OCCLUDERS = 910_000_000  # the first seed of the drawings that lend their occluders' outlines; training draws none here
TRIES = 100  # holes that are tried until half of one shows a facade
MODEL, FULL, HALF, UNGUIDED, RIVAL = "model alone", "full detail", "half detail", "detail, no model", "pypatchmatch"
CLASSICAL = ("telea", "translation_copy", "mean_of_copies")
RADIUS = 5  # px around a pixel that pypatchmatch compares
IN_FIGURE, ON_PAGE = 6, 24  # drawings, the first ones
EXPLANATION = f"""\
Holes, seeded by the image's number: a rectangle of 10 to 20% of the image, a block of half the image's side on a grid
of 8 px, the outline of a drawn occluder. "{UNGUIDED}" is `add_detail` guided by Telea's fill instead of the model's
repair, with a guide's weight and pull of 0, so that it only takes part in proposing offsets and fills what no copy
reaches. pypatchmatch compares patches of {2 * RADIUS + 1} px.

Cells: PSNR dB / SSIM / sharpness (1 is the truth's), all in the hole, means over images. Below, the paired difference
to the model alone, mean ± standard error, in PSNR dB / SSIM, and the distance of VGG19's maps divided by the model's,
at {" / ".join(LAYERS)}. A distance is a mean square over channels and over the places that the hole touches. "All"
takes an image's three holes as one sample."""


@dataclass(frozen=True)
class DetailConfig:
    """Compare a model's repair with and without detail, beside other methods that copy."""

    checkpoint: Path | None = None
    """model to repair with; by default the bundled one"""
    photos: Path | None = None
    """folder of real photos to score on as well"""
    first: int | None = None
    """score on the folder's first photos only"""
    drawn: int = len(TEST_SEEDS)
    """held-out drawings to score on"""
    processes: int = 2
    """processes that work side by side"""
    vgg: str = "normalised"
    """VGG19 weights of the distance"""
    page: bool = False
    """also make a page of drawn repairs beside the truth, to tell apart by eye"""
    out: Path = RESULTS
    """folder of report and figures"""


class Result(NamedTuple):
    """Of one image: scores `(kinds, methods, 6)` and CPU-seconds of `add_detail`; and pictures of one hole."""

    methods: list[str]
    scores: np.ndarray
    seconds: list[float]
    kind: str
    hole: np.ndarray
    pictures: dict[str, np.ndarray]


def shapes(kind: str, number: int, size: int) -> Iterator[np.ndarray]:
    """Holes `(size, size)` of one kind for an image, one after another."""
    rng = np.random.default_rng((KINDS.index(kind), number))
    for seed in count(OCCLUDERS + 1000 * number):
        if kind == "occluder":
            from scipy.ndimage import binary_dilation

            hole = draw_facade(seed, size, occluders=True).occluder
            if 0.03 <= hole.mean() <= 0.3:
                yield binary_dilation(hole, iterations=2)
            continue
        step, height, width = 8, size // 16 * 8, size // 16 * 8
        if kind == "rectangle":
            area, aspect = rng.uniform(0.1, 0.2), np.exp(rng.uniform(*np.log((0.6, 1.6))))
            step, height, width = 1, round(size * (area * aspect) ** 0.5), round(size * (area / aspect) ** 0.5)
        top, left = (step * rng.integers((size - side) // step + 1) for side in (height, width))
        hole = np.zeros((size, size), bool)
        hole[top : top + height, left : left + width] = True
        yield hole


def find_hole(kind: str, number: int, valid: np.ndarray) -> np.ndarray:
    """The first hole of which at least half shows a facade, without the rest."""
    for hole in islice(shapes(kind, number, len(valid)), TRIES):
        if valid[hole].mean() >= 0.5:
            return hole & valid
    raise ValueError(f"image {number} is nearly all border fill; leave it out")


def fill(
    photo: np.ndarray, hole: np.ndarray, unknown: np.ndarray, model: MaskedAutoencoder
) -> tuple[dict[str, np.ndarray], float]:
    """The repairs by each method, and the CPU-seconds that detail took."""
    guide = repair_photo(photo, hole, model, unknown, detail=0)
    began = time.process_time()
    full, _ = detail.add_detail(photo, hole, guide, unknown)
    seconds = time.process_time() - began
    half = (guide + 0.5 * (full.astype(np.float32) - guide)).round().astype(np.uint8)  # as `repair_photo` does
    repairs = {MODEL: guide, FULL: full, HALF: half}
    repairs |= {name: repair_photo(photo, hole, name, unknown) for name in CLASSICAL}
    with patch.object(detail, "GUIDE_WEIGHT", 0.0), patch.object(seams, "PULL", 0.0):
        repairs[UNGUIDED], _ = detail.add_detail(photo, hole, repairs["telea"], unknown)
    if inpaint := find_rival():
        repairs[RIVAL] = inpaint(photo, hole, global_mask=unknown, patch_size=RADIUS)
    return repairs, seconds


@functools.cache
def find_rival() -> Callable | None:
    """pypatchmatch's function, if it is installed and its compiled part loads."""
    try:
        from patchmatch import inpaint, patchmatch_available
    except ImportError:
        return None
    return inpaint if patchmatch_available else None


@torch.no_grad()
def score(repairs: Sequence[np.ndarray], truth: np.ndarray, hole: np.ndarray, judge: VGG19) -> np.ndarray:
    """PSNR, SSIM, sharpness and distances, one a layer, of each repair, `(methods, 6)`."""
    images = torch.from_numpy(np.stack([*repairs, truth])).permute(0, 3, 1, 2) / 255  # (B, H, W, C) -> (B, C, H, W)
    target, where = images[-1:].expand_as(images[:-1]), torch.from_numpy(hole)[None]
    holes = where.expand(len(repairs), *hole.shape)
    columns = [measure(images[:-1], target, holes) for measure in (hole_psnr, hole_ssim, hole_sharpness)]
    columns[0], columns[2] = columns[0].clamp(max=PSNR_CAP), columns[2].where(columns[2].isfinite(), torch.nan)
    return torch.stack([*columns, *distances(images, where, judge)], dim=1).numpy()


def distances(images: Tensor, hole: Tensor, judge: VGG19) -> list[Tensor]:
    """For each layer, of each image's maps to the last one's, where the hole `(1, H, W)` touches them."""
    top, bottom, left, right = hole_boxes(hole, judge.margin, judge.stride)[0]  # all that those places see
    box = (..., slice(top, bottom), slice(left, right))
    errors = []
    for maps in judge(images[box]):
        touched = F.adaptive_max_pool2d(hole[box].float(), maps.shape[2:])[0].bool()
        inside = maps[..., touched]  # (B, C, places)
        errors.append((inside[:-1] - inside[-1]).square().mean(dim=(1, 2)))
    return errors


@functools.cache
def tools(checkpoint: Path | None, vgg: str) -> tuple[MaskedAutoencoder, VGG19]:
    """Model and judge, loaded once in each process."""
    return load_model(checkpoint or bundled_checkpoint()), vgg19(vgg)


def examine(config: DetailConfig, number: int, rgba: np.ndarray) -> Result:
    """Repair every kind of hole in an image `(H, W, 4)` by every method."""
    model, judge = tools(config.checkpoint, config.vgg)
    photo, valid = np.ascontiguousarray(rgba[..., :3]), rgba[..., 3] == 255
    scores, seconds, shown = [], [], ()
    for kind in KINDS:
        hole = find_hole(kind, number, valid)
        repairs, took = fill(photo, hole, ~valid, model)
        scores.append(score(list(repairs.values()), photo, hole, judge))
        seconds.append(took)
        if kind == KINDS[number % len(KINDS)]:
            shown = kind, hole, {name: repairs[name] for name in (MODEL, HALF, FULL)} | {"truth": photo}
    return Result(list(repairs), np.stack(scores), seconds, *shown)


def load_sets(config: DetailConfig) -> dict[str, Tensor]:
    """Images `(B, H, W, 4)` uint8 by name; alpha is 0 on border fill."""
    images, valid = drawn_tests(SIDES[DRAWN], config.drawn)
    sets = {DRAWN: (torch.cat([images, valid[:, None]], dim=1) * 255).round().byte()}
    if config.photos is not None:
        photos = FolderImages(config.photos, SIDES[PHOTOS])
        sets[PHOTOS] = torch.stack([photos[i] for i in range(len(photos))[: config.first]])
    return {name: rgba.permute(0, 2, 3, 1) for name, rgba in sets.items()}  # (B, C, H, W) -> (B, H, W, C)


def run_all(config: DetailConfig, name: str, images: Tensor) -> list[Result]:
    """Examine all images of a set, in several processes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(config.processes, context, torch.set_num_threads, (1,)) as pool:
        each = map if config.processes == 1 else pool.map  # a pool starts no process before it is asked to
        results = each(functools.partial(examine, config), range(len(images)), images.numpy())
        return [*tqdm(results, name, len(images))]


def tables(methods: Sequence[str], scores: np.ndarray) -> list[str]:
    """Means, and paired differences to the model, of scores `(images, kinds, methods, 6)`."""
    samples = [np.nanmean(scores, axis=1), *scores.swapaxes(0, 1)]  # all kinds, then each: (images, methods, 6)

    def paired(some: np.ndarray, one: str, other: str, column: int) -> str:
        gain = some[:, methods.index(one), column] - some[:, methods.index(other), column]
        error, digits = gain.std(ddof=1) / len(gain) ** 0.5, 2 + column
        return f"{gain.mean():+.{digits}f} ± {error:.{digits}f}"

    titles = ("mean", "against the model alone", f"PSNR dB against {RIVAL}", "VGG19 distance, of the model's")
    rows = {title: [] for title in titles}
    means, gains, beside, apart = rows.values()
    for k, name in enumerate(methods):
        cells = [some[:, k] for some in samples]
        cells = ["{:.2f} / {:.3f} / {:.2f}".format(*np.nanmean(cell, axis=0)[:3]) for cell in cells]
        means.append([name, *cells])
        if name != MODEL:
            gains.append([name, *(" / ".join(paired(some, name, MODEL, i) for i in (0, 1)) for some in samples)])
            ratios = [some[:, k, 3:].mean(axis=0) / some[:, methods.index(MODEL), 3:].mean(axis=0) for some in samples]
            apart.append([name, *(" / ".join(f"{x:.2f}" for x in ratio) for ratio in ratios)])
    if RIVAL in methods:
        beside.append([FULL, *(paired(some, FULL, RIVAL, 0) for some in samples)])
    lines = []
    for title, body in rows.items():
        if body:
            lines += [f"| {' | '.join(row)} |" for row in ([title, "all", *KINDS], ["---"] * (2 + len(KINDS)), *body)]
            lines.append("")
    return lines


def save_figures(results: Sequence[Result], config: DetailConfig) -> list[str]:
    """Write the figure and, if asked for, the page of drawn facades; returns how the report shows them."""
    some, rows = results[:IN_FIGURE], []
    for result in some:
        truth = torch.from_numpy(result.pictures["truth"]).permute(2, 0, 1)[None] / 255  # (H, W, C) -> (1, C, H, W)
        rows.append([mask_overlay(truth, torch.from_numpy(result.hole)[None])[0], *result.pictures.values()])
    titles = ["hole", *results[0].pictures]
    save_small(show_images(rows, titles, [result.kind for result in some], height=2.15), config.out / "detail.png")
    lines = [f"![Drawn facades: {', '.join(titles)}.](detail.png)", ""]
    if config.page:
        lefts, pairs = np.random.default_rng(0).random(ON_PAGE) < 0.5, []
        for left, result in zip(lefts, results, strict=False):
            pair = [result.pictures["truth"], result.pictures[FULL]]
            pairs += pair[::-1] if left else pair
        figure = show_images([pairs[i : i + 8] for i in range(0, len(pairs), 8)], height=2.15)
        for i, axis in enumerate(figure.axes[: len(pairs)]):
            axis.set_title(f"{i // 2 + 1} {('left', 'right')[i % 2]}")
        sides = ", ".join(str(i + 1) for i in np.nonzero(lefts[: len(pairs) // 2])[0]) or "none"
        figure.supxlabel(f"One of each pair is repaired, with {FULL}. Key: the left one in {sides}.", fontsize=9)
        save_small(figure, config.out / "detail_page.png")
        lines += ["![Pairs of drawn facades, one of each repaired.](detail_page.png)", ""]
    return lines


def main(config: DetailConfig) -> None:
    """Repair, score, report."""
    tools(config.checkpoint, config.vgg)  # before the work, so that what is missing costs nothing
    lines = ["", EXPLANATION, ""]
    if not find_rival():
        lines += [f"{RIVAL} is left out: it is not installed here, or its compiled part does not load.", ""]
    config.out.mkdir(parents=True, exist_ok=True)
    for name, images in load_sets(config).items():
        results = run_all(config, name, images)
        seconds = np.median([result.seconds for result in results])
        lines += [f"## {name}: {len(images)} of {SIDES[name]} px", ""]
        lines += tables(results[0].methods, np.stack([result.scores for result in results]))
        lines += [f"`add_detail` takes {seconds:.2f} CPU-seconds (median).", ""]
        if name == DRAWN:  # real photos never get into a figure
            lines += save_figures(results, config)
    write_report(config.out / "detail.md", "What detail adds to a repair", lines[:-1])


if __name__ == "__main__":
    try:
        main(tyro.cli(DetailConfig, description=__doc__))
    except (ValueError, OSError) as error:
        raise SystemExit(f"detail.py: {error}") from error
