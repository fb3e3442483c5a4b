"""Exercises of notebook 09: cost, time, shards, rounding, weights of unequal pieces, accumulation."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from maelib.course.exercises.exercise import Exercise, pairs, real, whole
from maelib.losses import masked_mse


class _Small(nn.Module):
    """A model `(B, N, P) -> (B, N, P)` small enough to look through, with gradients of 1 left by an earlier step.

    It takes at most `rows` images at a time, as a small memory would.
    """

    def __init__(self, rows: int, weight: Tensor) -> None:
        super().__init__()
        self.linear, self.rows = nn.Linear(4, 4), rows
        with torch.no_grad():
            for parameter, row in zip(self.parameters(), (weight, weight[0]), strict=True):
                parameter.copy_(row)
                parameter.grad = torch.ones_like(parameter)

    def __reduce__(self) -> tuple:
        return _Small, (self.rows, self.linear.weight.detach())  # pickling a parameter would lose its gradient

    def forward(self, patches: Tensor, mask: Tensor) -> Tensor:
        if len(patches) > self.rows:
            raise ValueError(f"{len(patches)} images at once are too many; pass at most rows = {self.rows}")
        return self.linear(patches * ~mask[..., None])


def _accumulations(generator: Generator) -> list[tuple]:
    """A model, patches `(B, N, P)`, a mask whose rows hide different numbers of patches, and the rows in a piece.

    The last piece may be smaller than the others, and there may be one piece alone.
    """
    cases = []
    for counts, rows in (([1, 2, 7, 6, 3], 2), ([1, 2, 7, 6, 3, 1], 3), ([4, 2], 2)):
        model = _Small(rows, torch.rand(4, 4, generator=generator) - 0.5)
        order = torch.rand(len(counts), 8, generator=generator).argsort(dim=1).argsort(dim=1)
        patches = torch.rand(len(counts), 8, 4, generator=generator)
        cases.append((model, patches, order < torch.tensor(counts)[:, None], rows))
    return cases


def _gradient(model: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def _whole(model: nn.Module, patches: Tensor, mask: Tensor, rows: int) -> Tensor:
    """The flat gradient of the whole batch; `linear` by itself takes all images at once."""
    model.zero_grad()
    masked_mse(model.linear(patches * ~mask[..., None]), patches, mask).backward()
    return _gradient(model)


def _pieces(weight: Callable[[Tensor, Tensor, int], float], forget: bool = False) -> Callable[..., Tensor]:
    """Accumulation whose pieces count as `weight(their mask, the whole mask, number of pieces)` says."""

    def accumulate(model: nn.Module, patches: Tensor, mask: Tensor, rows: int) -> Tensor:
        model.zero_grad()
        pieces = list(zip(patches.split(rows), mask.split(rows), strict=True))
        for piece, hidden in pieces:
            if forget:
                model.zero_grad()
            (masked_mse(model(piece, hidden), piece, hidden) * weight(hidden, mask, len(pieces))).backward()
        return _gradient(model)

    return accumulate


def _share(hidden: Tensor, mask: Tensor, pieces: int) -> float:
    return float(hidden.sum() / mask.sum())


def _images_within(hours: float, gflop: float, tflops: float, share: float) -> float:
    return hours * 3600 * tflops * 1e12 * share / (gflop * 1e9)


def _stalls_at(step: float, dtype: torch.dtype) -> Tensor:
    total = torch.zeros((), dtype=dtype)
    while total + step != total:
        total = total + step
    return total


def _additions(step: float, dtype: torch.dtype) -> int:
    total, count = torch.zeros((), dtype=dtype), 0
    while total + step != total:
        total, count = total + step, count + 1
    return count


def _shard(count: int, workers: int, rank: int) -> Tensor:
    return torch.arange(rank, count, workers)


def _padded_shard(count: int, workers: int, rank: int) -> Tensor:
    return torch.arange(rank, -(-count // workers) * workers, workers) % count


EXERCISES: dict[str, Exercise] = {
    "09.1": Exercise(
        cases=lambda generator: [(whole(generator, 50, 400), 256), (49, 768), (3136, 128), (1, 64)],
        solution=lambda tokens, dim: tokens / (tokens + 6 * dim),
        praise="Tokens against six times the width: it grows with the number of patches and not with the depth.",
        mistakes=pairs(
            lambda tokens, dim: tokens / (6 * dim),
            "This divides by the linear layers alone: a share is a part over the whole.",
            lambda tokens, dim: tokens / (tokens + 12 * dim),
            "Attention multiplies N x N twice: once for the scores, once for the values.",
            lambda tokens, dim: tokens / (tokens + 2 * dim),
            "The MLP is missing: its two layers make two thirds of a block's 24 N D^2.",
            lambda tokens, dim: tokens / (tokens + 3 * dim),
            "Half of the linear layers is missing: they take 24 N D^2, and attention's products 4 N^2 D.",
            lambda tokens, dim: 100 * tokens / (tokens + 6 * dim),
            "This is in percent: return a share from 0 to 1.",
            lambda tokens, dim: 6 * dim / (tokens + 6 * dim),
            "This is the share of the linear layers: the N^2 products are the rest.",
        ),
    ),
    "09.2": Exercise(
        cases=lambda generator: [
            (real(generator, 2, 20), 40.0, 8.0, real(generator, 0.2, 0.4)),
            (0.5, real(generator, 0.2, 0.8), 0.1, 0.7),
            (1.0, 3.0, 60.0, 1.0),
        ],
        solution=_images_within,
        praise="Rate times time over work: an estimate, as good as the share that you put in.",
        mistakes=pairs(
            lambda *a: _images_within(*a) / 3600,
            "An hour has 3600 seconds, and TFLOP/s count operations a second.",
            lambda *a: _images_within(*a) / 60,
            "This counts 60 seconds an hour: it has 3600.",
            lambda hours, gflop, tflops, share: _images_within(hours, gflop, tflops, 1.0),
            "This assumes the device at its peak: multiply the rate by the share that it reaches.",
            lambda hours, gflop, tflops, share: _images_within(hours, gflop, tflops, 1 / share),
            "A device that reaches a smaller share trains on fewer images: multiply by the share.",
            lambda *a: _images_within(*a) / 1e3,
            "A factor of 1000 is missing: GFLOP are 1e9, TFLOP/s 1e12.",
            lambda hours, gflop, tflops, share: hours * 3600 * gflop * 1e9 / (tflops * 1e12 * share),
            "Work and rate are swapped: multiply by the rate, and divide by the work of an image.",
        ),
    ),
    "09.3": Exercise(
        cases=lambda generator: [
            (torch.tensor([whole(generator, 1, 4), 6]),),
            (torch.tensor([98, whole(generator, 60, 98), 49]),),
            (torch.tensor([7]),),
            (torch.tensor([0, 5]),),
        ],
        solution=lambda counts: counts / counts.sum(),
        praise="Weighted by what it averaged over, the mean of means is the mean.",
        mistakes=pairs(
            lambda counts: torch.full((len(counts),), 1 / len(counts)),
            "These weights are equal: a piece with more hidden patches must count for more.",
            lambda counts: counts.float(),
            "These are the counts themselves: divide by their sum, so that the weights add up to 1.",
            lambda counts: counts / counts.max(),
            "The largest has weight 1: divide by the sum instead, so that the weights add up to 1.",
            lambda counts: (1 / counts) / (1 / counts).sum(),
            "This is the wrong way round: the piece with the fewest hidden patches counts most.",
            lambda counts: counts / counts.float().mean(),
            "The weights add up to the number of pieces: divide by the sum, not by the mean.",
        ),
    ),
    "09.4": Exercise(
        cases=lambda generator: [(4 * whole(generator, 2, 5) + 2, 4, 1), (11, 4, 3), (8, 2, 0), (2, 4, 3)],
        solution=_shard,
        praise="Every index once, with no sample judged twice; the workers' counts may differ by one.",
        mistakes=pairs(
            _padded_shard,
            "An index from the start occurs again: end the short shards early instead of filling them up.",
            lambda count, workers, rank: torch.arange(rank, count // workers * workers, workers),
            "The last indices reach no worker: go on up to count.",
            lambda count, workers, rank: torch.arange(rank * (count // workers), (rank + 1) * (count // workers)),
            "These are neighbouring indices: worker r takes r, r + workers, r + 2 workers, ...",
            lambda count, workers, rank: torch.arange(rank - 1, count, workers),
            "Ranks start at 0: the first index of a worker is its rank.",
            lambda count, workers, rank: torch.arange(rank, count + 1, workers),
            "`count` itself is no image: the last one is count - 1.",
            lambda count, workers, rank: torch.arange(count),
            "This is the whole epoch: each worker takes a part.",
        ),
    ),
    "09.5": Exercise(
        cases=lambda generator: [
            (float(whole(generator, 3, 7)), torch.bfloat16),
            (1.0, torch.bfloat16),
            (real(generator, 0.5, 1.5), torch.float16),
        ],
        solution=_stalls_at,
        praise="Sums of many numbers need a wider accumulator than the numbers themselves.",
        mistakes=pairs(
            lambda step, dtype: step / torch.finfo(dtype).eps,
            "There the sum still moves: it stalls once the step is no more than half the spacing of the numbers.",
            lambda step, dtype: 2 * step / torch.finfo(dtype).eps,
            "This holds for powers of two alone, where the spacing doubles: add in a loop and see where it stops.",
            _additions,
            "This counts the additions: return the total that no longer changes.",
            lambda step, dtype: _stalls_at(step, torch.bfloat16),
            "This always counts in bf16: give the total the dtype that is passed in.",
            lambda step, dtype: torch.finfo(dtype).max,
            "This is the largest number of the format: the sum stalls long before it.",
        ),
    ),
    "09.6": Exercise(
        cases=_accumulations,
        solution=_whole,
        praise="A large batch on a small device: the same gradient, but for rounding.",
        mistakes=pairs(
            _pieces(lambda hidden, mask, pieces: 1 / pieces),
            "This is the mean of means: weigh each piece by its share of the hidden patches.",
            _pieces(lambda hidden, mask, pieces: 1.0),
            "The losses are added up unweighted: multiply each by its share of the hidden patches.",
            _pieces(lambda hidden, mask, pieces: len(hidden) / len(mask)),
            "The pieces are weighted by their rows: masked_mse averages over hidden patches, so count those.",
            _pieces(_share, forget=True),
            "Only the last piece is left: backward adds to .grad, so clear it once, before the loop.",
            lambda *a: _whole(*a) + 1,
            "The old content of .grad is added in: call model.zero_grad() once, before the loop.",
            _pieces(lambda hidden, mask, pieces: float(hidden.sum())),
            "The weights are counts: divide by the hidden patches of the whole mask.",
        ),
    ),
}
