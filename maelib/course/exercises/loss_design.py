"""Exercises of notebook 04: masked losses, normalised pixels, feature distances, receptive fields, balanced weights."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from maelib.course.exercises.exercise import Exercise

Term = Callable[[Tensor], Tensor]


def _predictions() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Predicted and true patches `(B, N, P)` and a mask `(B, N)` whose rows hide 1, 2 and 4 of 6 patches."""
    prediction, target = torch.rand(2, 3, 6, 12, generator=Generator().manual_seed(0))
    return [(prediction, target, torch.arange(6) < torch.tensor([[1], [2], [4]]))]


def _normalised() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Normalised predictions, true patches of different brightness, a mask that hides 2 of 6 in each row."""
    generator = Generator().manual_seed(1)
    prediction, patches = torch.randn(2, 3, 6, 12, generator=generator)
    contrast = torch.rand(3, 6, 1, generator=generator)
    mask = torch.rand(3, 6, generator=generator).argsort(dim=1) < 2
    return [(prediction, 0.5 + 0.3 * contrast * patches + 0.2 * contrast, mask)]


def _maps() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Two batches of maps `(B, C, 3, 4)` and holes `(B, 6, 8)` that cut places in pieces."""
    ours, truth = torch.rand(2, 2, 5, 3, 4, generator=Generator().manual_seed(2))
    hole = torch.zeros(2, 6, 8, dtype=torch.bool)
    hole[0, 1:4, 3:6], hole[1, :5, :7] = True, True
    return [(ours, truth, hole)]


def _stacks() -> list[tuple[list[str]]]:
    """Networks as lists of layers; the last is VGG19 up to conv3_1."""
    block = ["conv", "conv", "pool"]
    return [(["conv", "conv", "conv", "pool", "conv"],), (["pool", "conv", "pool"],), ([*block, *block, "conv"],)]


def _terms() -> list[tuple[Tensor, list[Term], list[float]]]:
    """Pixels, three losses of very different slope, and the share that each is to have in the gradient."""
    pixels, target = torch.rand(2, 1, 3, 4, 4, generator=Generator().manual_seed(3))
    terms: list[Term] = [
        lambda x: (x - target).square().mean(),
        lambda x: 50 * (x.diff(dim=3) - target.diff(dim=3)).square().mean(),
        lambda x: (x - target).abs().mean(),
    ]
    return [(pixels, terms, [0.6, 0.3, 0.1])]


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


EXERCISES = {
    "04.1": Exercise(
        cases=_predictions,
        solution=lambda prediction, target, mask: (_l1(prediction, target) * mask).sum() / mask.sum(),
        praise="Only the power has changed; the mask works as before.",
        mistakes=(
            (
                lambda prediction, target, mask: _l1(prediction, target).mean(),
                "Visible patches count here too: multiply the error by mask.",
            ),
            (
                lambda prediction, target, mask: (_l1(prediction, target) * mask).mean(),
                "The hidden patches' error is divided by the number of all patches: divide by mask.sum().",
            ),
            (
                lambda prediction, target, mask: (_l1(prediction, target) * ~mask).sum() / (~mask).sum(),
                "This judges the visible patches: True means hidden.",
            ),
            (
                lambda prediction, target, mask: (
                    ((prediction - target).square().mean(dim=-1) * mask).sum() / mask.sum()
                ),
                "This is the squared error: take abs() of the difference.",
            ),
            (
                lambda prediction, target, mask: (_l1(prediction, target) * mask).sum() * 12 / mask.sum(),
                "The values of a patch are added up: average them, mean(dim=-1).",
            ),
            (
                lambda prediction, target, mask: ((_l1(prediction, target) * mask).sum(1) / mask.sum(1)).mean(),
                "Each picture is averaged first, so patches count less where many are hidden: average over the batch.",
            ),
            (
                lambda prediction, target, mask: ((prediction - target).mean(dim=-1).abs() * mask).sum() / mask.sum(),
                "Errors of opposite sign cancel within a patch: take abs() before the mean.",
            ),
        ),
    ),
    "04.2": Exercise(
        cases=_normalised,
        solution=_scaled_by(_visible),
        praise="No hidden value went in: this could be done with a real hole.",
        mistakes=(
            (
                lambda prediction, patches, mask: (
                    prediction * patches.std(dim=-1, keepdim=True) + patches.mean(dim=-1, keepdim=True)
                ),
                "This is the leak of trap 4: each patch gets its own true mean and deviation, the hidden ones too.",
            ),
            (
                _scaled_by(lambda patches, mask: patches.flatten(1)),
                "The statistics are taken over all patches, so the hidden ones go in: pick patches[~mask] first.",
            ),
            (
                _scaled_by(lambda patches, mask: patches[mask].reshape(len(patches), -1)),
                "These are the hidden patches' statistics: True means hidden, so use ~mask.",
            ),
            (
                lambda prediction, patches, mask: prediction * patches[~mask].std() + patches[~mask].mean(),
                "This is one mean and one deviation for the whole batch: each picture has its own brightness.",
            ),
            (
                lambda prediction, patches, mask: (
                    prediction * _visible(patches, mask).var(dim=1)[:, None, None]
                    + _visible(patches, mask).mean(dim=1)[:, None, None]
                ),
                "This multiplies by the variance: the standard deviation is its square root.",
            ),
            (
                lambda prediction, patches, mask: prediction * _visible(patches, mask).std(dim=1)[:, None, None],
                "The mean is missing: all patches come out around 0.",
            ),
            (
                lambda prediction, patches, mask: (
                    (prediction - _visible(patches, mask).mean(dim=1)[:, None, None])
                    / _visible(patches, mask).std(dim=1)[:, None, None]
                ),
                "This normalises once more: do the reverse, times the deviation, plus the mean.",
            ),
        ),
    ),
    "04.3": Exercise(
        cases=_maps,
        solution=lambda ours, truth, hole: _distance(ours, truth, _share(ours, hole)),
        praise="This is one layer of maelib.losses.perceptual_loss.",
        mistakes=(
            (
                lambda ours, truth, hole: (ours - truth).square().mean(),
                "This is trap 1: the whole map counts. Weigh each place by how much of it is hidden.",
            ),
            (
                lambda ours, truth, hole: ((ours - truth).square() * _share(ours, hole)).mean(),
                "The weighted errors are divided by the number of all places: divide by the sum of the weights.",
            ),
            (
                lambda ours, truth, hole: _distance(ours, truth, (_share(ours, hole) > 0).float()),
                "A place that the hole only touches counts in full here: use the share, adaptive_avg_pool2d.",
            ),
            (
                lambda ours, truth, hole: _distance(ours, truth, (_share(ours, hole) == 1).float()),
                "Places that are hidden in part are left out here: they count by their share.",
            ),
            (
                lambda ours, truth, hole: ours.shape[1] * _distance(ours, truth, _share(ours, hole)),
                "The channels are added up: average over them.",
            ),
            (
                lambda ours, truth, hole: torch.stack(
                    [
                        _distance(o[None], t[None], _share(ours, h[None]))
                        for o, t, h in zip(ours, truth, hole, strict=True)
                    ]
                ).mean(),
                "Each picture is averaged first, so small holes weigh as much as large ones: average over the batch.",
            ),
            (
                lambda ours, truth, hole: (
                    ((ours - truth).abs().mean(dim=1, keepdim=True) * _share(ours, hole)).sum()
                    / _share(ours, hole).sum()
                ),
                "This is the absolute difference: square it.",
            ),
        ),
    ),
    "04.4": Exercise(
        cases=_stacks,
        solution=_walk(lambda stride: stride, lambda stride: 0, lambda stride: 2 * stride),
        praise="For VGG19 up to conv3_1 it gives 10 and 4; rounded up to the grid, the margin is 12 px.",
        mistakes=(
            (
                _walk(lambda stride: 1, lambda stride: 0, lambda stride: 2 * stride),
                "A convolution looks one place further, and after pooling a place is more than one pixel wide.",
            ),
            (
                _walk(lambda stride: 3 * stride, lambda stride: 0, lambda stride: 2 * stride),
                "A 3 x 3 convolution reaches one place beyond its own on each side, not three.",
            ),
            (
                _walk(lambda stride: 2 * stride, lambda stride: 0, lambda stride: 2 * stride),
                "Both sides are counted here: the margin is what is seen on one side.",
            ),
            (
                _walk(lambda stride: stride, lambda stride: stride, lambda stride: 2 * stride),
                "Pooling sees nothing beyond its own place: it only makes places wider.",
            ),
            (
                _walk(lambda stride: stride, lambda stride: 0, lambda stride: stride + 2),
                "Each pooling layer doubles the stride: 1, 2, 4, 8.",
            ),
            (
                lambda layers: _walk(lambda stride: stride, lambda stride: 0, lambda stride: 2 * stride)(layers)[::-1],
                "Margin and stride are swapped: the margin comes first.",
            ),
        ),
    ),
    "04.5": Exercise(
        cases=_terms,
        solution=_weights(lambda share, gradients: share / gradients.norm(dim=1)),
        praise="Now 0.6 means 0.6 of the pull, at this prediction; as training goes on, measure again.",
        mistakes=(
            (_by_value, "These weights come from the losses' values: what pulls is the gradient, so measure its norm."),
            (
                _weights(lambda share, gradients: share * gradients.norm(dim=1)),
                "This gives the strongest term even more: divide the share by the norm.",
            ),
            (
                _weights(lambda share, gradients: 1 / gradients.norm(dim=1)),
                "All terms pull equally now: multiply by the shares.",
            ),
            (
                _weights(lambda share, gradients: share / gradients.norm(dim=1), add_up=True),
                "Each gradient still contains those before it: torch.autograd.grad gives that of one term alone.",
            ),
            (
                _weights(lambda share, gradients: share / gradients.square().sum(dim=1)),
                "The norm is the square root of the summed squares: here the root is missing.",
            ),
            (
                _weights(lambda share, gradients: share / gradients.abs().sum(dim=1)),
                "These are sums of absolute values: the length is the square root of the summed squares, norm().",
            ),
            (
                _weights(lambda share, gradients: share / gradients.norm(dim=1), blend=False),
                "The proportion is right; divide by the weights' sum, so that they add up to 1.",
            ),
            (
                lambda pixels, terms, shares: torch.tensor(shares),
                "These are the shares unchanged: in that blend, 0.6 and 0.4 do not say which term pulls how hard.",
            ),
        ),
    ),
}
