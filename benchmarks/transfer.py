"""What is pre-training without labels worth where labels are few? `python benchmarks/transfer.py`

compares the bundled model with its own shape from scratch, by linear probes and by fine-tuning, over five seeds, and
writes benchmarks/results/transfer.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from common import RESULTS, cpu_seconds, machine, shown
from scipy.stats import t

from maelib.files import write_atomic
from maelib.transfer.compare import FinetuneConfig, ProbeConfig, Result, compare, standard_error, table
from maelib.transfer.labelled import DATA_SETS, IGNORED
from maelib.weights import bundled_checkpoint, load_model

ROWS = (
    ProbeConfig("style", labels=60),
    ProbeConfig("segmentation", labels=20),
    FinetuneConfig("style", labels=60),
    FinetuneConfig("segmentation", labels=20),
)
EXPLANATION = """\
In per cent, mean ± standard error over seeds. A seed decides which images have labels, the random weights, and the
order in fine-tuning; within one, both starts see the same labels, and the gain is taken seed by seed. The sentences
below the table give its 95% interval by Student's t. The style is one of six, so that guessing gets 17. Patches are
window, door or other; always "other" gets {other:.0f}. The facades with labels were not pre-trained on, and the {test}
tested ones are in neither."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """Compare a pre-trained model with one from scratch where labels are few."""

    checkpoint: Path | None = None
    """pre-trained model; by default the bundled one"""
    seeds: int = 5
    """repetitions with other labels"""
    test: int = 256
    """facades to test on"""
    out: Path = RESULTS
    """folder for the report"""


def verdict(result: Result) -> str:
    """Whether the 95% interval of the gain, by Student's t over seeds, lies above zero, in a sentence."""
    gain = result.gain()
    mean, half = gain.mean().item(), t.ppf(0.975, len(gain) - 1) * standard_error(gain)
    points = f"{100 * mean:+.1f} points, from {100 * (mean - half):+.1f} to {100 * (mean + half):+.1f}"
    return f"pre-training {'helps' if mean > half else 'does not clearly help'}: {points}"


def always_other(test: int, checkpoint: Path) -> float:
    """Score in [0, 1] of calling every patch of the segmentation's test images "other"."""
    data, model = DATA_SETS["segmentation"], load_model(checkpoint)
    targets = data.test(test, model.config, Path()).targets
    counts = torch.zeros(data.classes, data.classes)
    counts[:, 0] = torch.bincount(targets[targets != IGNORED], minlength=data.classes)
    return data.score(counts)


def report(config: BenchmarkConfig, results: Sequence[Result], seconds: float) -> str:
    """The page for benchmarks/results/."""
    checkpoint = config.checkpoint or bundled_checkpoint()
    explanation = EXPLANATION.format(other=100 * always_other(config.test, checkpoint), test=config.test)
    rows = table(results)
    names = [row.split(" | ")[0].removeprefix("| ") for row in rows.splitlines()[2:]]
    verdicts = [f"- {name}: {verdict(result)}." for name, result in zip(names, results, strict=True)]
    told = f"`{shown(checkpoint)}`, {machine()}; {seconds / 60:.1f} minutes of CPU time."
    return "\n".join(["# Few labels: pre-trained or from scratch?", "", told, "", explanation, "", rows, "", *verdicts])


def main(config: BenchmarkConfig) -> None:
    """Run every row, write the report and print it."""
    began = sum(cpu_seconds())
    rows = [replace(row, checkpoint=config.checkpoint, seeds=config.seeds, test=config.test) for row in ROWS]
    text = report(config, [compare(row) for row in rows], sum(cpu_seconds()) - began)
    write_atomic(config.out / "transfer.md", f"{text}\n".encode())
    print(text)


if __name__ == "__main__":
    try:
        main(tyro.cli(BenchmarkConfig, description=__doc__))
    except (ValueError, OSError) as error:
        raise SystemExit(f"transfer.py: {error}") from error
