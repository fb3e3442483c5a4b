"""What pre-training without labels is worth where labels are few: the same encoder beside one with random weights.

The question of He et al. 2022, section 4, and of IcarusWizard's MAE for CIFAR-10, asked of data that come with the
library. Everything is repeated with other labels and other random weights; both starts see the same labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm
from tyro.conf import Positional

from maelib.model import MAEConfig, MaskedAutoencoder
from maelib.transfer.classifier import Finetuning, confusion, finetune, probe
from maelib.transfer.labelled import DATA_SETS, LABEL_SEEDS, ROOM
from maelib.weights.checkpoint import bundled_checkpoint
from maelib.weights.published import load_model

STARTS = {"scratch": "from scratch", "pretrained": "pre-trained"}


@dataclass(frozen=True)
class TransferConfig:
    """What probes and fine-tuning have in common."""

    data: Positional[str]
    """style: the six styles of drawn facades; segmentation: window, door or other, for each patch of drawn facades;
    cifar10: ten kinds of things on photos of 32 px"""
    checkpoint: Path | None = None
    """pre-trained model, ours or a published one; by default the one that comes with the library"""
    start: Literal["both", "pretrained", "scratch"] = "both"
    """pretrained: from the checkpoint; scratch: from random weights in its shape; both: side by side"""
    labels: int = 60
    """images with labels to learn from; where an image has one class, the classes are equally frequent"""
    seeds: int = 5
    """repetitions, each with other labels and random weights"""
    test: int = 256
    """most images to test on, of 256 drawn ones or CIFAR-10's 10000"""
    folder: Path = Path("data/photos/cifar10")
    """where CIFAR-10 lies, or is downloaded to"""

    def __post_init__(self) -> None:
        if self.data not in DATA_SETS:
            known = "; ".join(f"{name}: {data.about}" for name, data in DATA_SETS.items())
            raise ValueError(f"{self.data!r} is no data set with labels; there is {known}")
        for name in ("labels", "seeds", "test"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is not positive; use 1 or more")
        if self.seeds > len(LABEL_SEEDS) // ROOM:
            raise ValueError(f"seeds {self.seeds} are more than there are; use {len(LABEL_SEEDS) // ROOM} or fewer")


@dataclass(frozen=True)
class ProbeConfig(TransferConfig):
    """Fit a linear head on frozen features, pre-trained and random, and compare."""

    penalty: float = 0.01
    """weight of the head's squared weights beside the cross-entropy"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.penalty <= 0:
            raise ValueError(f"penalty {self.penalty} lets the head grow without end; use more than 0, such as 0.01")


@dataclass(frozen=True)
class FinetuneConfig(TransferConfig):
    """Train encoder and linear head, from pre-trained and from random weights, and compare."""

    how: Finetuning = field(default_factory=Finetuning)
    """the training"""


class Result(NamedTuple):
    """What came of a configuration.

    Attributes
    ----------
    config : TransferConfig
    scores : for each start, the data set's score in [0, 1] with every seed, `(seeds,)`.
    notes : what of the checkpoint was left out.
    """

    config: TransferConfig
    scores: dict[str, Tensor]
    notes: list[str]

    def gain(self) -> Tensor:
        """What pre-training adds, seed by seed `(seeds,)`. KeyError where only one start was asked for."""
        return self.scores["pretrained"] - self.scores["scratch"]


def random_weights(config: MAEConfig, seed: int) -> MaskedAutoencoder:
    """A model from scratch, in evaluation mode; the global generator is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MaskedAutoencoder(config).eval()


def compare(config: ProbeConfig | FinetuneConfig) -> Result:
    """Do what `maelib probe` and `maelib finetune` are asked for.

    Raises
    ------
    ValueError
        When the data set does not hold so many labels, or so few cannot show every class.
    FileNotFoundError, CheckpointError
        When the checkpoint cannot be read, or CIFAR-10 cannot be had.
    """
    model, notes = load_model(config.checkpoint or bundled_checkpoint())
    data, classes = DATA_SETS[config.data], len(DATA_SETS[config.data].classes)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    scores = {start: [] for start in STARTS if config.start in (start, "both")}
    test = None
    for seed in tqdm(range(config.seeds), f"{config.data}, {config.labels} labels", unit="seed"):
        few = data.few(config.labels, seed, model.config, config.folder)
        test = test or data.test(config.test, model.config, config.folder)  # after what may be refused at once
        for start, values in scores.items():
            encoder = (model if start == "pretrained" else random_weights(model.config, seed)).to(device)
            if isinstance(config, ProbeConfig):
                classifier = probe(encoder, few, classes, config.penalty)
            else:
                classifier = finetune(encoder, few, classes, config.how, seed)
            values.append(data.score(confusion(classifier, test)))
    return Result(config, {start: torch.tensor(values) for start, values in scores.items()}, notes)


def standard_error(values: Tensor) -> float:
    """Of the mean of values `(N,)`; NaN for a single one."""
    return (values.std() / len(values) ** 0.5).item() if len(values) > 1 else float("nan")


def table(results: Sequence[Result]) -> str:
    """Results as a Markdown table: mean +- standard error over seeds, in per cent; gains in points, seed by seed."""
    starts = [start for start in STARTS if all(start in result.scores for result in results)]
    gains = ["gain"] if len(starts) == len(STARTS) else []
    lines = [["", "score", *(STARTS[start] for start in starts), *gains]]
    lines.append(["---"] * len(lines[0]))
    for result in results:
        config, name = result.config, "probe" if isinstance(result.config, ProbeConfig) else "fine-tuning"
        cells = [
            f"{name}, {config.data}, labels: {config.labels}, seeds: {config.seeds}",
            DATA_SETS[config.data].metric,
        ]
        for values, sign in [(result.scores[start], "") for start in starts] + [(result.gain(), "+") for _ in gains]:
            cells.append(f"{100 * values.mean().item():{sign}.1f} ± {100 * standard_error(values):.1f}")
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
