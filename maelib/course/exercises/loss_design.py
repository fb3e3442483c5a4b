"""Exercises of notebook 04: masked losses, normalised pixels, feature distances, receptive fields, balanced weights."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from maelib.course.exercises.exercise import Exercise, pairs, real, whole

Term = Callable[[Tensor], Tensor]


def _predictions(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Predicted and true patches `(B, N, P)` and a mask `(B, N)` whose rows hide 1, 2 and 4; a row hides none; one."""
    cases = []
    for counts, patches, values in (([1, 2, 4], 6, 12), ([0, 3], 5, 4), ([2], 3, 1)):
        prediction, target = torch.rand(2, len(counts), patches, values, generator=generator)
        order = torch.rand(len(counts), patches, generator=generator).argsort(dim=1).argsort(dim=1)
        cases.append((prediction, target, order < torch.tensor(counts)[:, None]))
    return cases


def _normalised(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Normalised predictions, true patches of different brightness, masks that hide equally many in each row."""
    cases = []
    for shape, hidden in (((3, 6, 12), 2), ((2, 5, 4), 3), ((1, 3, 3), 1)):
        prediction, patches = torch.randn(2, *shape, generator=generator)
        contrast = torch.rand(*shape[:2], 1, generator=generator)
        mask = torch.rand(shape[:2], generator=generator).argsort(dim=1) < hidden
        cases.append((prediction, 0.5 + 0.3 * contrast * patches + 0.2 * contrast, mask))
    return cases


def _maps(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Maps `(B, C, h, w)` and holes `(B, H, W)` that cut places in pieces; one channel; one row; no hole."""
    cases = []
    for shape, places in (((2, 5, 3, 4), (2, 2)), ((3, 1, 2, 2), (3, 2)), ((1, 2, 1, 3), (4, 2))):
        ours, truth = torch.rand(2, *shape, generator=generator)
        hole = torch.zeros(shape[0], shape[2] * places[0], shape[3] * places[1], dtype=torch.bool)
        hole[0, 1:4, 3:6], hole[-1, :5, : whole(generator, 1, 3)] = True, True
        cases.append((ours, truth, hole))
    return cases


def _stacks(generator: Generator) -> list[tuple[list[str]]]:
    """Networks as lists of layers; one is VGG19 up to conv3_1, one has no layer."""
    block = ["conv", "conv", "pool"]
    drawn = [["conv", "pool"][whole(generator, 0, 1)] for _ in range(4)]
    return [
        (["conv", "conv", "conv", "pool", "conv"],),
        ([*block, *block, "conv"],),
        (["pool", *drawn, "pool"],),
        ([],),
    ]


def _squares(target: Tensor, x: Tensor) -> Tensor:
    return (x - target).square().mean()


def _steps(target: Tensor, x: Tensor) -> Tensor:
    return 50 * (x.diff(dim=3) - target.diff(dim=3)).square().mean()


def _distances(target: Tensor, x: Tensor) -> Tensor:
    return (x - target).abs().mean()


def _terms(generator: Generator) -> list[tuple[Tensor, list[Term], list[float]]]:
    """Pixels, losses of very different slope, and the share that each is to have in the gradient; one loss alone."""
    share, cases = real(generator, 0.5, 0.7), []
    for shape, losses, shares in (
        ((1, 3, 4, 4), (_squares, _steps, _distances), [share, 0.9 - share, 0.1]),
        ((2, 1, 3, 5), (_steps, _squares), [0.75, 0.25]),
        ((1, 1, 2, 2), (_squares,), [1.0]),
    ):
        pixels, target = torch.rand(2, *shape, generator=generator)
        cases.append((pixels, [partial(loss, target) for loss in losses], shares))
    return cases


def _weights(
    scale: Callable[[Tensor, Tensor], Tensor], add_up: bool = False, blend: bool = True
) -> Callable[..., Tensor]:
    """Weights proportional to `scale` of the shares and the gradients `(T, values)`; as a blend they add up to 1."""

    def answer(pixels: Tensor, terms: list[Term], shares: list[float]) -> Tensor:
        x = pixels.clone().requires_grad_()
        gradients = torch.stack([torch.autograd.grad(term(x), x)[0].flatten() for term in terms])
        weights = scale(torch.tensor(shares), gradients.cumsum(dim=0) if add_up else gradients)
        return weights / weights.sum() if blend else weights

    return answer


def _by_value(pixels: Tensor, terms: list[Term], shares: list[float]) -> Tensor:
    weights = torch.tensor(shares) / torch.stack([term(pixels) for term in terms])
    return weights / weights.sum()


def _l1(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).abs().mean(dim=-1)  # (B, N, P) -> (B, N)


def _scaled_by(statistics: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """De-normalise with the mean and deviation of the values that `statistics` picks, one row a picture."""

    def answer(prediction: Tensor, patches: Tensor, mask: Tensor) -> Tensor:
        values = statistics(patches, mask)
        return prediction * values.std(dim=1)[:, None, None] + values.mean(dim=1)[:, None, None]

    return answer


def _visible(patches: Tensor, mask: Tensor) -> Tensor:
    return patches[~mask].reshape(len(patches), -1)  # (B, N, P) -> (B, V * P)


def _distance(ours: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Squared error of maps `(B, C, h, w)`, averaged with `weight` `(B, 1, h, w)`."""
    return ((ours - truth).square().mean(dim=1, keepdim=True) * weight).sum() / weight.sum()


def _share(ours: Tensor, hole: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(hole[:, None].float(), ours.shape[-2:])  # (B, H, W) -> (B, 1, h, w)


def _walk(conv: Callable[[int], int], pool: Callable[[int], int], widen: Callable[[int], int]) -> Callable[..., list]:
    """Margin and stride: a convolution adds `conv(stride)`, pooling adds `pool(stride)` and widens the stride."""

    def answer(layers: list[str]) -> list[int]:
        margin, stride = 0, 1
        for layer in layers:
            margin += conv(stride) if layer == "conv" else pool(stride)
            stride = stride if layer == "conv" else widen(stride)
        return [margin, stride]

    return answer


def _rounded_up(answer: list[int]) -> list[int]:
    margin, stride = answer
    return [-(-margin // stride) * stride, stride]


EXERCISES = {
    "04.1": Exercise(
        cases=_predictions,
        solution=lambda prediction, target, mask: (_l1(prediction, target) * mask).sum() / mask.sum(),
        praise="Only the power has changed; the mask works as before.",
        mistakes=pairs(
            lambda prediction, target, mask: _l1(prediction, target).mean(),
            "Visible patches count here too: multiply the error by mask.",
            lambda prediction, target, mask: (_l1(prediction, target) * mask).mean(),
            "The hidden patches' error is divided by the number of all patches: divide by mask.sum().",
            lambda prediction, target, mask: (_l1(prediction, target) * ~mask).sum() / (~mask).sum(),
            "This judges the visible patches: True means hidden.",
            lambda prediction, target, mask: ((prediction - target).square().mean(dim=-1) * mask).sum() / mask.sum(),
            "This is the squared error: take abs() of the difference.",
            lambda prediction, target, mask: (_l1(prediction, target) * mask).sum() * target.shape[-1] / mask.sum(),
            "The values of a patch are added up: average them, mean(dim=-1).",
            lambda prediction, target, mask: (
                (_l1(prediction, target) * mask).sum(1) / mask.sum(1).clamp(min=1)
            ).mean(),
            "Each picture is averaged first, so patches count less where many are hidden: average over the batch.",
            lambda prediction, target, mask: ((prediction - target).mean(dim=-1).abs() * mask).sum() / mask.sum(),
            "Errors of opposite sign cancel within a patch: take abs() before the mean.",
        ),
    ),
    "04.2": Exercise(
        cases=_normalised,
        solution=_scaled_by(_visible),
        praise="No hidden value went in: this could be done with a real hole.",
        mistakes=pairs(
            lambda prediction, patches, mask: (
                prediction * patches.std(dim=-1, keepdim=True) + patches.mean(dim=-1, keepdim=True)
            ),
            "This is the leak of trap 4: each patch gets its own true mean and deviation, the hidden ones too.",
            _scaled_by(lambda patches, mask: patches.flatten(1)),
            "The statistics are taken over all patches, so the hidden ones go in: pick patches[~mask] first.",
            _scaled_by(lambda patches, mask: patches[mask].reshape(len(patches), -1)),
            "These are the hidden patches' statistics: True means hidden, so use ~mask.",
            lambda prediction, patches, mask: prediction * patches[~mask].std() + patches[~mask].mean(),
            "This is one mean and one deviation for the whole batch: each picture has its own brightness.",
            lambda prediction, patches, mask: (
                prediction * _visible(patches, mask).var(dim=1)[:, None, None]
                + _visible(patches, mask).mean(dim=1)[:, None, None]
            ),
            "This multiplies by the variance: the standard deviation is its square root.",
            lambda prediction, patches, mask: (
                prediction * _visible(patches, mask).std(dim=1, correction=0)[:, None, None]
                + _visible(patches, mask).mean(dim=1)[:, None, None]
            ),
            "This deviation divides by the number of values: use torch.std as it is, which divides by one less.",
            lambda prediction, patches, mask: (
                (prediction + _visible(patches, mask).mean(dim=1)[:, None, None])
                * _visible(patches, mask).std(dim=1)[:, None, None]
            ),
            "The mean is added before the product: multiply by the deviation first.",
            lambda prediction, patches, mask: prediction * _visible(patches, mask).std(dim=1)[:, None, None],
            "The mean is missing: all patches come out around 0.",
            lambda prediction, patches, mask: (
                (prediction - _visible(patches, mask).mean(dim=1)[:, None, None])
                / _visible(patches, mask).std(dim=1)[:, None, None]
            ),
            "This normalises once more: do the reverse, times the deviation, plus the mean.",
        ),
    ),
    "04.3": Exercise(
        cases=_maps,
        solution=lambda ours, truth, hole: _distance(ours, truth, _share(ours, hole)),
        praise="This is one layer of maelib.losses.perceptual_loss.",
        mistakes=pairs(
            lambda ours, truth, hole: (ours - truth).square().mean(),
            "This is trap 1: the whole map counts. Weigh each place by how much of it is hidden.",
            lambda ours, truth, hole: ((ours - truth).square() * _share(ours, hole)).mean(),
            "The weighted errors are divided by the number of all places: divide by the sum of the weights.",
            lambda ours, truth, hole: _distance(ours, truth, (_share(ours, hole) > 0).float()),
            "A place that the hole only touches counts in full here: use the share, adaptive_avg_pool2d.",
            lambda ours, truth, hole: _distance(ours, truth, (_share(ours, hole) == 1).float()),
            "Places that are hidden in part are left out here: they count by their share.",
            lambda ours, truth, hole: ours.shape[1] * _distance(ours, truth, _share(ours, hole)),
            "The channels are added up: average over them.",
            lambda ours, truth, hole: torch.stack(
                [_distance(o[None], t[None], _share(ours, h[None])) for o, t, h in zip(ours, truth, hole, strict=True)]
            ).mean(),
            "Each picture is averaged first, so small holes weigh as much as large ones: average over the batch.",
            lambda ours, truth, hole: (
                ((ours - truth).abs().mean(dim=1, keepdim=True) * _share(ours, hole)).sum() / _share(ours, hole).sum()
            ),
            "This is the absolute difference: square it.",
            lambda ours, truth, hole: _distance(ours, truth, 1 - _share(ours, hole)),
            "This judges what is visible: True means hidden, so weigh by the hidden share.",
            lambda ours, truth, hole: _distance(ours, truth, _share(ours, hole)).sqrt(),
            "This is the root of the distance: leave the mean of squares as it is.",
        ),
    ),
    "04.4": Exercise(
        cases=_stacks,
        solution=_walk(lambda stride: stride, lambda stride: 0, lambda stride: 2 * stride),
        praise="For VGG19 up to conv3_1 it gives 10 and 4; rounded up to the grid, the margin is 12 px.",
        mistakes=pairs(
            _walk(lambda stride: 1, lambda stride: 0, lambda stride: 2 * stride),
            "A convolution looks one place further, and after pooling a place is more than one pixel wide.",
            _walk(lambda stride: 3 * stride, lambda stride: 0, lambda stride: 2 * stride),
            "A 3 x 3 convolution reaches one place beyond its own on each side, not three.",
            _walk(lambda stride: 2 * stride, lambda stride: 0, lambda stride: 2 * stride),
            "Both sides are counted here: the margin is what is seen on one side.",
            _walk(lambda stride: stride, lambda stride: stride, lambda stride: 2 * stride),
            "Pooling sees nothing beyond its own place: it only makes places wider.",
            _walk(lambda stride: stride, lambda stride: 0, lambda stride: stride + 2),
            "Each pooling layer doubles the stride: 1, 2, 4, 8.",
            lambda layers: _walk(lambda stride: stride, lambda stride: 0, lambda stride: 2 * stride)(layers)[::-1],
            "Margin and stride are swapped: the margin comes first.",
            lambda layers: _rounded_up(
                _walk(lambda stride: stride, lambda stride: 0, lambda stride: 2 * stride)(layers)
            ),
            "The margin is rounded up to the grid: return it as it is.",
            lambda layers: _walk(lambda stride: stride, lambda stride: 0, lambda stride: 2 * stride)(layers[::-1]),
            "The layers are walked from the last to the first: begin at the pixels.",
        ),
    ),
    "04.5": Exercise(
        cases=_terms,
        solution=_weights(lambda share, gradients: share / gradients.norm(dim=1)),
        praise="Now 0.6 means 0.6 of the pull, at this prediction; as training goes on, measure again.",
        mistakes=pairs(
            _by_value,
            "These weights come from the losses' values: what pulls is the gradient, so measure its norm.",
            _weights(lambda share, gradients: share * gradients.norm(dim=1)),
            "This gives the strongest term even more: divide the share by the norm.",
            _weights(lambda share, gradients: 1 / gradients.norm(dim=1)),
            "All terms pull equally now: multiply by the shares.",
            _weights(lambda share, gradients: share / gradients.norm(dim=1), add_up=True),
            "Each gradient still contains those before it: torch.autograd.grad gives that of one term alone.",
            _weights(lambda share, gradients: share / gradients.square().sum(dim=1)),
            "The norm is the square root of the summed squares: here the root is missing.",
            _weights(lambda share, gradients: share / gradients.abs().sum(dim=1)),
            "These are sums of absolute values: the length is the square root of the summed squares, norm().",
            _weights(lambda share, gradients: share / gradients.norm(dim=1), blend=False),
            "The proportion is right; divide by the weights' sum, so that they add up to 1.",
            lambda pixels, terms, shares: torch.tensor(shares),
            "These are the shares unchanged: in that blend, 0.6 and 0.4 do not say which term pulls how hard.",
        ),
    ),
}
