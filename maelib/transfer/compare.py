"""What pre-training is worth where labels are few: a pre-trained encoder beside one with random weights.

This is the question of He et al. 2022, section 4, and of IcarusWizard's MAE for CIFAR-10, asked of data that come
with the library. Every seed has its own labels and its own random weights; within a seed both encoders see the same
labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm
from tyro.conf import Positional

from maelib.model import MAEConfig, MaskedAutoencoder
from maelib.transfer.classifier import confusion, finetune, probe
from maelib.transfer.labelled import DATA_SETS
from maelib.weights import bundled_checkpoint, load_model


@dataclass(frozen=True)
class ProbeConfig:
    """Fit a linear head on frozen features, pre-trained and random, and compare."""

    data: Positional[Literal["style", "segmentation", "cifar10"]]
    """style: the six styles of drawn facades; segmentation: window, door or other, for each patch of drawn facades;
    cifar10: ten kinds of animals and vehicles, on photos of 32 px"""
    checkpoint: Path | None = None
    """pre-trained model, ours or a published one; by default the one that comes with the library"""
    labels: int = 60
    """labelled images to learn from, at most 3000; where an image has one class, the classes are equally frequent"""
    seeds: int = 5
    """repetitions, at most 100, each with other labels and other random weights"""
    test: int = 256
    """images to test on, at most: there are 256 drawn ones, and 10000 of CIFAR-10"""
    folder: Path = Path("data/photos/cifar10")
    """folder that holds CIFAR-10; it is downloaded there if it is missing"""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            most = {"labels": 3_000, "seeds": 100}.get(name, 1_000_000)  # a seed has facades for 3,000 balanced labels
            if isinstance(value, int | float) and not 0 < value <= most:
                raise ValueError(f"{name} {value} is not above 0 and at most {most}; use {getattr(type(self), name)}")


@dataclass(frozen=True)
class FinetuneConfig(ProbeConfig):
    """Train encoder and linear head together, from pre-trained and from random weights, and compare."""

    steps: int = 60
    """optimizer steps"""
    batch_size: int = 16
    """images a step"""
    lr: float = 3e-3
    """highest learning rate, reached at the end of the warm-up"""


class Result(NamedTuple):
    """The outcome of a configuration.

    Attributes
    ----------
    config : ProbeConfig, or FinetuneConfig for fine-tuning
    scores : the data set's score in [0, 1] for each seed, `(seeds,)`, by the name of the start: "scratch" or
        "pretrained".
    """

    config: ProbeConfig
    scores: dict[str, Tensor]

    def gain(self) -> Tensor:
        """Return what pre-training adds, seed by seed `(seeds,)`."""
        return self.scores["pretrained"] - self.scores["scratch"]


def random_weights(config: MAEConfig, seed: int) -> MaskedAutoencoder:
    """Return a model with random weights, in evaluation mode, without a change to the global random numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MaskedAutoencoder(config).eval()


def compare(config: ProbeConfig) -> Result:
    """Run `maelib probe` or `maelib finetune`.

    Raises
    ------
    ValueError
        When the data set does not hold that many labels, or so few labels cannot show every class.
    FileNotFoundError, CheckpointError
        When CIFAR-10 or the checkpoint cannot be read.
    """
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    model = load_model(config.checkpoint or bundled_checkpoint(), device, need_decoder=False)
    data, scores = DATA_SETS[config.data], {"scratch": [], "pretrained": []}
    test = data.test(config.test, model.config, config.folder)
    for seed in tqdm(range(config.seeds), f"{config.data}, {config.labels} labels", unit="seed"):
        few = data.few(config.labels, seed, model.config, config.folder)
        scratch = random_weights(model.config, seed).to(device)
        for start, encoder in {"scratch": scratch, "pretrained": model}.items():
            if isinstance(config, FinetuneConfig):
                classifier = finetune(encoder, few, data.classes, config.steps, config.batch_size, config.lr, seed)
            else:
                classifier = probe(encoder, few, data.classes)
            scores[start].append(data.score(confusion(classifier, test)))
    return Result(config, {start: torch.tensor(values) for start, values in scores.items()})


def standard_error(values: Tensor) -> float:
    """Standard error of the mean of values `(N,)`; NaN for a single value."""
    return (values.std() / len(values) ** 0.5).item() if len(values) > 1 else float("nan")


def table(results: Sequence[Result]) -> str:
    """Show results as a Markdown table: mean ± standard error over seeds, in per cent; gains in points, by seed."""

    def cell(values: Tensor, sign: str = "") -> str:
        return f"{100 * values.mean().item():{sign}.1f} ± {100 * standard_error(values):.1f}"

    rows = ["|  | score | from scratch | pre-trained | gain |", "| --- | --- | --- | --- | --- |"]
    for result in results:
        config, scores = result
        kind = "fine-tuning" if isinstance(config, FinetuneConfig) else "probe"
        name = f"{kind}, {config.data}, labels: {config.labels}, seeds: {config.seeds}"
        cells = f"{cell(scores['scratch'])} | {cell(scores['pretrained'])} | {cell(result.gain(), '+')}"
        rows.append(f"| {name} | {DATA_SETS[config.data].metric} | {cells} |")
    return "\n".join(rows)
