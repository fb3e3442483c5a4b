"""When does the model lose? How often classical inpainting repairs a hole better, and what such holes have in common.

    python benchmarks/failures.py --photos FOLDER

compares hole PSNR image by image on 256 held-out drawn facades and on the photos of a folder, measures properties of
image and hole, and writes tables and the worst failures on drawn facades to benchmarks/results/.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from common import DRAWN, RESULTS, image_sets, machine, save_small, shown
from properties import PROPERTIES, measure
from scipy.stats import spearmanr
from torch import Tensor
from tqdm import tqdm

from maelib.data.images import TEST_SEEDS
from maelib.metrics import hole_psnr
from maelib.model import MaskedAutoencoder
from maelib.plots import mask_overlay, show_images
from maelib.repair.classical import BASELINES
from maelib.repair.evaluate import BATCH_SIZE, HOLES, PSNR_CAP, Method, evaluation_holes, model_method
from maelib.weights.checkpoint import bundled_checkpoint, load_model

RIVALS = ("translation_copy", "mean_of_copies", "telea")
FEWEST = 20  # wins of the three together; with fewer there is nothing to divide into quarters
WORST = 3  # rows of the figure for each kind of hole
WELL, BADLY = "it does well", "the model does badly"
EXPLANATION = """\
Share of the images where a baseline repairs the hole better than the model, and its median lead there; in brackets how
much better it / the model does in these images than in the others: does it win by doing well, or does the model fail?
Below, the same shares by quarters of the images, ordered by a property, and the property's rank correlation (Spearman)
with the lead over the model in dB. The sentences name the correlations beyond three standard errors. Shares of quarters
are good to some 3 points with 256 images, 6 with 90; that the images were chosen by who won moves the brackets a little
by itself. Properties:"""


@dataclass(frozen=True)
class FailuresConfig:
    """Find where classical inpainting beats a model."""

    checkpoint: Path | None = None
    """model to look at; by default the bundled one"""
    photos: Path | None = None
    """folder of real photos to look at as well"""
    count: int = len(TEST_SEEDS)
    """drawn facades to look at"""
    out: Path = RESULTS
    """folder for report and figure"""


def repair_all(method: Method, images: Tensor, hole: Tensor) -> Tensor:
    """Repairs, batch by batch."""
    batches = zip(images.split(BATCH_SIZE), hole.split(BATCH_SIZE), strict=True)
    return torch.cat([method(some, hidden) for some, hidden in batches])


def there(own: np.ndarray, model: np.ndarray) -> tuple[float, float]:
    """How much better than elsewhere a rival and the model do in the images that the rival wins, dB."""
    won = own > model
    return own[won].mean() - own[~won].mean(), model[won].mean() - model[~won].mean()


def wins_table(psnr: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
    """A row for each baseline: how often and by how much it wins, and how both do there compared with elsewhere."""
    rows = [f"| better than the model | {' | '.join(HOLES)} |", "|---" * (1 + len(HOLES)) + "|"]
    for name in BASELINES:
        cells = []
        for by_method in psnr.values():
            own, model = by_method[name], by_method["model"]
            won = own > model
            cells.append(f"{won.mean():.1%}")
            if 0 < won.sum() < len(won):
                brackets = "{:+.1f} / {:+.1f}".format(*there(own, model))
                cells[-1] += f" by {np.median((own - model)[won]):.1f} dB ({brackets})"
        rows.append(f"| {name} | {' | '.join(cells)} |")
    lost = [np.any([some[name] > some["model"] for name in BASELINES], axis=0).mean() for some in psnr.values()]
    return [*rows, f"| any of them | {' | '.join(f'{share:.1%}' for share in lost)} |"]


def quarters(kind: str, psnr: Mapping[str, np.ndarray], values: np.ndarray) -> list[str]:
    """A table of how often each rival wins in each quarter of each property, and sentences on what it shows."""
    won = {rival: psnr[rival] > psnr["model"] for rival in RIVALS}
    lines = [f"### {kind}: {' / '.join(RIVALS)} win", ""]
    if sum(map(np.sum, won.values())) < FEWEST:
        return [*lines, f"Together fewer than {FEWEST} times: nothing to divide.", ""]
    lines += ["| property: ends of its quarters | lowest | 2nd | 3rd | highest | rank correlation with the lead |"]
    lines += ["|---" * 6 + "|"]
    found: dict[str, list[tuple[float, str]]] = {rival: [] for rival in RIVALS}
    for column, name in zip(values.T, PROPERTIES, strict=True):
        quarter = column.argsort().argsort() * 4 // len(column)
        rates = {rival: [won[rival][quarter == i].mean() for i in range(4)] for rival in RIVALS}
        ties = {rival: spearmanr(column, psnr[rival] - psnr["model"]).statistic for rival in RIVALS}
        cells = [" / ".join(f"{rates[rival][i]:.0%}" for rival in RIVALS) for i in range(4)]
        cuts = ", ".join(f"{cut:.2g}" for cut in np.quantile(column, (0.25, 0.5, 0.75)))
        lines.append(f"| {name}: {cuts} | {' | '.join(cells)} | {' / '.join(f'{tie:+.2f}' for tie in ties.values())} |")
        for rival, tie in ties.items():
            if abs(tie) > 3 / len(column) ** 0.5:  # three standard errors of a rank correlation when there is none
                ends = f"wins {rates[rival][0]:.0%} at its lowest, {rates[rival][3]:.0%} at its highest"
                found[rival].append((abs(tie), f"{'high' if tie > 0 else 'low'} {name} ({tie:+.2f}; {ends})"))
    lines.append("")
    for rival, texts in found.items():
        if 0 < won[rival].sum() < len(values):
            own, model = there(psnr[rival], psnr["model"])
            reason = WELL if own > -2 * model else BADLY if -model > 2 * own else f"{WELL} and {BADLY}"
            lines.append(f"- {rival} wins where {reason}: {own:+.1f} dB against elsewhere, the model {model:+.1f} dB.")
        told = "; ".join(text for _, text in sorted(texts, reverse=True)) or "nothing measured here, clearly"
        lines.append(f"- {rival} gains on the model with {told}.")
    return [*lines, ""]


def worst(
    kind: str, psnr: Mapping[str, np.ndarray], repairs: Mapping[str, Tensor], images: Tensor, hole: Tensor
) -> Iterator[tuple[str, list[Tensor]]]:
    """The images where a rival leads the model by most: what happened, and truth, hole, the rival, the model."""
    leads = np.stack([psnr[rival] - psnr["model"] for rival in RIVALS])
    for i in (-leads.max(axis=0)).argsort()[:WORST]:
        rival = RIVALS[leads[:, i].argmax()]
        if leads[:, i].max() > 0:
            title = "\n".join([kind, *(f"{name} {psnr[name][i]:.1f} dB" for name in (rival, "model"))])
            torn = mask_overlay(images[i : i + 1], hole[i : i + 1])[0]
            yield title, [images[i], torn, repairs[rival][i], repairs["model"][i]]


def examine(model: MaskedAutoencoder, name: str, images: Tensor) -> tuple[list[str], dict[str, list[Tensor]]]:
    """The report on one set of images, and the rows of its figure by title."""
    methods, patch_size = {**BASELINES, "model": model_method(model)}, model.config.patch_size
    psnr, lines, rows = {}, [], {}
    for kind in tqdm(HOLES, name):
        hole = evaluation_holes(kind, images, patch_size)
        repairs = {name: repair_all(method, images, hole) for name, method in methods.items()}
        psnr[kind] = {
            name: hole_psnr(repaired, images, hole).clamp(max=PSNR_CAP).numpy() for name, repaired in repairs.items()
        }
        values = [measure(image, hidden, patch_size) for image, hidden in zip(images, hole, strict=True)]
        lines += quarters(kind, psnr[kind], np.array(values))
        rows |= worst(kind, psnr[kind], repairs, images, hole)
    return [f"## {name}: {len(images)} images", "", *wins_table(psnr), "", *lines], rows


def main(config: FailuresConfig) -> None:
    """Repair, compare, report."""
    checkpoint = config.checkpoint or bundled_checkpoint()
    model = load_model(checkpoint)
    config.out.mkdir(parents=True, exist_ok=True)
    lines = ["# When does the model lose?", "", f"`{shown(checkpoint)}`, {machine()}.", "", EXPLANATION, ""]
    lines += [f"- {name}: {text}" for name, text in PROPERTIES.items()] + [""]
    for name, images in image_sets(model.config.img_size, config.photos, config.count).items():
        told, rows = examine(model, name, images)
        lines += told
        if name == DRAWN and rows:  # real photos never get into the figure
            figure = show_images(list(rows.values()), ["truth", "hole", "better", "model"], list(rows), height=1.3)
            save_small(figure, config.out / "failures.png")
            lines += [
                "![Drawn facades on which a baseline leads by most: truth, hole, baseline, model.](failures.png)",
                "",
            ]
    (config.out / "failures.md").write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    try:
        main(tyro.cli(FailuresConfig, description=__doc__))
    except (ValueError, OSError) as error:
        raise SystemExit(f"failures.py: {error}") from error
