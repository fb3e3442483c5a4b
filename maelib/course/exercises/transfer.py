"""Exercises of notebook 08: pooling, standardising, paired gains, learning rates by layer, votes of neighbours."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from maelib.course.exercises.exercise import Exercise, pairs, real, whole


def _tokens(generator: Generator) -> list[tuple[Tensor, bool]]:
    """Tokens `(B, [1 +] N, D)`, with a class token and without; one patch."""
    cases = []
    for shape, class_token in (((3, 6, 4), True), ((2, 5, 3), False), ((1, 2, 5), True)):
        tokens = torch.rand(shape, generator=generator)
        tokens[:, 0] += 2  # a class token unlike the rest
        cases.append((tokens, class_token))
    return cases


def _sets(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    """Features to train on `(N, D)` and to test on `(M, D)`, of different means and scales; one number; one row."""
    cases = []
    for rows, tested, scales in ((6, 4, [1.0, 5.0, 40.0]), (5, 3, [2.0]), (4, 1, [0.3, 9.0])):
        train, test = (torch.rand(n, len(scales), generator=generator) * torch.tensor(scales) for n in (rows, tested))
        cases.append((train + 7, test * 1.5 + 5))
    return cases


def _scores(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    """Scores `(S,)` that rise and fall together, from a pre-trained encoder and from scratch; two seeds."""
    cases = []
    for seeds in (5, 3, 2):
        scratch, gain = torch.rand(2, seeds, generator=generator)
        cases.append((scratch + 0.1 + 0.3 * gain, scratch))
    return cases


def _rates(generator: Generator) -> list[tuple[int, float, float]]:
    """Depth, highest learning rate and decay; one block; no decay."""
    return [
        (whole(generator, 3, 6), real(generator, 0.1, 0.5), 0.75),
        (1, 0.2, real(generator, 0.4, 0.6)),
        (2, 1.0, 1.0),
    ]


def _neighbours(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor, int, int]]:
    """Features `(N, D)` of very different lengths, their classes `(N,)`, queries `(Q, D)`, classes, neighbours."""
    cases = []
    for count, queries, classes, k in ((24, 12, 4, 5), (16, 8, 3, 1), (9, 1, 5, 9)):
        features, lengths = torch.randn(count, 4, generator=generator), torch.rand(count, 1, generator=generator)
        features *= torch.tensor([1, 5, 1, 0.2])
        targets = torch.randint(classes - 1, (count,), generator=generator)  # the last class is nobody's
        cases.append(
            (features * (9 * lengths + 0.5), targets, torch.randn(queries, 4, generator=generator), classes, k)
        )
    return cases


def _standardised(
    mean: Callable[[Tensor, Tensor], Any], deviation: Callable[[Tensor, Tensor], Any]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Standardise `test` with a mean and a deviation taken from `train` and `test`."""
    return lambda train, test: (test - mean(train, test)) / deviation(train, test)


def _mean(train: Tensor, test: Tensor) -> Tensor:
    return train.mean(dim=0)


def _deviation(train: Tensor, test: Tensor) -> Tensor:
    return train.std(dim=0, correction=0)


def _gain(error: Callable[[Tensor, Tensor], Tensor], sign: int = 1) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean gain, and its error as `error` computes it from both kinds of scores."""
    return lambda pretrained, scratch: torch.stack(
        [sign * (pretrained - scratch).mean(), error(pretrained, scratch)]  # (2,)
    )


def _standard_error(pretrained: Tensor, scratch: Tensor) -> Tensor:
    return (pretrained - scratch).std() / len(scratch) ** 0.5


def _cosine(features: Tensor, queries: Tensor) -> Tensor:
    return F.normalize(queries, dim=1) @ F.normalize(features, dim=1).T  # (Q, N)


def _vote(
    similarity: Callable[[Tensor, Tensor], Tensor], share: bool = True, largest: bool = True, weighted: bool = False
) -> Callable[[Tensor, Tensor, Tensor, int, int], Tensor]:
    """Let the `k` most similar features vote with their classes."""

    def vote(features: Tensor, targets: Tensor, queries: Tensor, classes: int, k: int) -> Tensor:
        values, nearest = similarity(features, queries).topk(k, dim=1, largest=largest)  # (Q, k)
        votes = F.one_hot(targets[nearest], classes).float()  # (Q, k, classes)
        if weighted:
            return (votes * values[..., None]).sum(dim=1) / values.sum(dim=1, keepdim=True)
        return votes.mean(dim=1) if share else votes.sum(dim=1)

    return vote


def _winner(features: Tensor, targets: Tensor, queries: Tensor, classes: int, k: int) -> Tensor:
    return _vote(_cosine)(features, targets, queries, classes, k).argmax(dim=1)


EXERCISES = {
    "08.1": Exercise(
        cases=_tokens,
        solution=lambda tokens, class_token: tokens[:, int(class_token) :].mean(dim=1),
        praise="One feature vector a picture, whether the encoder has a class token or not.",
        mistakes=pairs(
            lambda tokens, class_token: tokens.mean(dim=1),
            "The class token is part of this mean: where there is one, start after it.",
            lambda tokens, class_token: tokens[:, 1:].mean(dim=1),
            "A patch is lost where there is no class token: skip the first token only if class_token is True.",
            lambda tokens, class_token: tokens[:, 0] if class_token else tokens.mean(dim=1),
            "This is the class token by itself: average the patches' tokens.",
            lambda tokens, class_token: tokens[:, : tokens.shape[1] - int(class_token)].mean(dim=1),
            "The class token comes first: leave out the first token, not the last.",
            lambda tokens, class_token: tokens[:, int(class_token) :].mean(dim=2),
            "This averages the numbers of each token: patches run along dim=1.",
            lambda tokens, class_token: tokens[:, int(class_token) :].amax(dim=1),
            "This is the largest value over the patches: take the mean.",
            lambda tokens, class_token: tokens[:, int(class_token) :].sum(dim=1),
            "This is the sum: divide by the number of patches, or take the mean.",
        ),
    ),
    "08.2": Exercise(
        cases=_sets,
        solution=_standardised(_mean, _deviation),
        praise="The test set had no say in the statistics.",
        mistakes=pairs(
            _standardised(lambda train, test: test.mean(0), lambda train, test: test.std(0, correction=0)),
            "These are the test set's own statistics (trap 3): take mean and deviation of `train`.",
            _standardised(
                lambda train, test: torch.cat([train, test]).mean(0),
                lambda train, test: torch.cat([train, test]).std(0, correction=0),
            ),
            "The test set is mixed into the statistics: use `train` alone.",
            _standardised(lambda train, test: test.mean(0), _deviation),
            "The mean comes from `test`, the deviation from `train`: take both from `train`.",
            _standardised(lambda train, test: train.mean(), lambda train, test: train.std(correction=0)),
            "This is one mean for all D features: with dim=0, each feature gets its own.",
            _standardised(_mean, lambda train, test: train.std(dim=0)),
            "This divides by N - 1 inside the deviation: pass correction=0.",
            _standardised(_mean, lambda train, test: train.var(dim=0, correction=0)),
            "This divides by the variance: the standard deviation is its square root.",
            lambda train, test: test / _deviation(train, test) - _mean(train, test),
            "The mean is subtracted after the division: subtract it first.",
            _standardised(_mean, lambda train, test: 1),
            "Divide by the deviation of `train` as well.",
            _standardised(_mean, lambda train, test: test.std(dim=0, correction=0)),
            "The deviation comes from `test`: take both mean and deviation from `train`.",
            _standardised(lambda train, test: 0, _deviation),
            "The scale is right, but the mean of `train` must be subtracted first.",
            lambda train, test: (train - train.mean(0)) / train.std(0, correction=0),
            "This is `train`, standardised: return `test`, shifted and scaled by the same numbers.",
        ),
    ),
    "08.3": Exercise(
        cases=_scores,
        solution=_gain(_standard_error),
        praise="What a seed does to both encoders cancels in the differences.",
        mistakes=pairs(
            _gain(lambda a, b: ((a.var() + b.var()) / len(a)) ** 0.5),
            "This is the error of an unpaired comparison: take differences seed by seed first, then their error.",
            _gain(lambda a, b: (a - b).std()),
            "This is the deviation of single differences: the error of their mean is smaller by sqrt(S).",
            _gain(lambda a, b: (a - b).std() / len(a)),
            "The deviation is divided by S: divide by its square root.",
            _gain(lambda a, b: (a - b).std(correction=0) / len(a) ** 0.5),
            "This divides by S inside the deviation: with few seeds use S - 1, which is correction=1.",
            _gain(lambda a, b: (a - b).var() / len(a) ** 0.5),
            "This starts from the variance of the differences: take its square root, the standard deviation.",
            lambda pretrained, scratch: _gain(_standard_error)(pretrained, scratch).flip(0),
            "The order is reversed: the mean gain comes first, then its error.",
            _gain(_standard_error, sign=-1),
            "The sign is reversed: a gain is pre-trained minus from scratch.",
        ),
    ),
    "08.4": Exercise(
        cases=_rates,
        solution=lambda depth, lr, decay: lr * decay ** torch.arange(depth + 1, -1, -1),
        praise="The layers nearest to the pixels, the most general ones, are disturbed least.",
        mistakes=pairs(
            lambda depth, lr, decay: lr * decay ** torch.arange(depth + 2),
            "The order is reversed: the patch embedding comes first, and its rate is the lowest.",
            lambda depth, lr, decay: lr * decay ** torch.arange(depth + 2, 0, -1),
            "Every rate is one step too low: the head gets the full lr.",
            lambda depth, lr, decay: lr * decay ** torch.arange(depth, -1, -1),
            "A layer is missing: patch embedding, `depth` blocks and the head are depth + 2.",
            lambda depth, lr, decay: lr * decay ** torch.tensor([*range(depth, -1, -1), 0]),
            "The last block and the head share a rate: the block lies one layer below the head.",
            lambda depth, lr, decay: lr * (decay * torch.ones(depth + 2)).where(torch.arange(depth + 2) <= depth, 1),
            "All layers below the head share one rate: multiply by decay once more for each layer down.",
            lambda depth, lr, decay: lr / decay ** torch.arange(depth + 1, -1, -1),
            "The rates rise towards the input: multiply by decay instead of dividing.",
            lambda depth, lr, decay: decay ** torch.arange(depth + 1, -1, -1),
            "The head's rate is 1 here: multiply all of them by lr.",
            lambda depth, lr, decay: (lr * decay) ** torch.arange(depth + 1, -1, -1),
            "Only decay is raised to a power: lr * decay ** k, not (lr * decay) ** k.",
            lambda depth, lr, decay: lr * (1 - (1 - decay) * torch.arange(depth + 1, -1, -1)),
            "The rates fall by equal steps: each layer down multiplies by decay once more.",
        ),
    ),
    "08.5": Exercise(
        cases=_neighbours,
        solution=_vote(_cosine),
        praise="A classifier without a single trained weight.",
        mistakes=pairs(
            _vote(lambda features, queries: -torch.cdist(queries, features)),
            "These neighbours are nearest in distance: scale all vectors to length 1 first.",
            _vote(lambda features, queries: queries @ features.T),
            "Long features win here: scale them to length 1 before the product, F.normalize(features, dim=1).",
            _vote(_cosine, share=False),
            "These are counts of votes: divide by k.",
            _vote(_cosine, largest=False),
            "These are the least similar features: take the most similar ones.",
            _vote(_cosine, weighted=True),
            "The votes are weighted by similarity: each of the k counts the same.",
            _winner,
            "This is the class that wins: return the share of votes for every class, (Q, classes).",
            _vote(lambda features, queries: F.normalize(queries, dim=0) @ F.normalize(features, dim=0).T),
            "The vectors are scaled along the wrong dimension: each row must have length 1, so use dim=1.",
        ),
    ),
}
