"""Exercises of notebook 06: hole PSNR from whole-picture PSNR, paired comparison, weighted SSIM, best shift."""

from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor

from maelib.course.exercises.exercise import Exercise

C1, C2 = 0.01**2, 0.03**2  # of SSIM, for values from 0 to 1
LEAST = 2  # px; the shifts of 06.4 must be longer

# ------------------------------------------------------------------------------------------------ 06.1: whole to hole


def _wholes() -> list[tuple[Tensor, Tensor]]:
    """PSNRs of whole pictures `(B,)` in dB, and the shares hidden `(B,)`."""
    return [(torch.tensor([26.0, 21.5, 19.0]), torch.tensor([0.25, 0.5, 0.7]))]


# ---------------------------------------------------------------------------------------------------- 06.2: paired


def _two_methods() -> list[tuple[Tensor, Tensor]]:
    """PSNRs of two methods on the same images, `(n,)` each: the images differ more than the methods."""
    noise = torch.randn(3, 12, generator=Generator().manual_seed(0))
    return [(18 + 3 * noise[0] + 0.4 * noise[1], 17.5 + 3 * noise[0] + 0.4 * noise[2])]


def _paired(a: Tensor, b: Tensor) -> Tensor:
    difference = a - b
    return torch.stack([difference.mean(), difference.std() / len(a) ** 0.5])


def _spread_with(spread: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda a, b: torch.stack([(a - b).mean(), spread(a, b)])


# ------------------------------------------------------------------------------------------------------ 06.3: SSIM


def _windows() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Two related windows `(11, 11)` from 0 to 1, and a Gaussian that sums to 1."""
    x, noise = torch.rand(2, 11, 11, generator=Generator().manual_seed(0))
    bell = torch.exp(-(torch.arange(-5, 6) ** 2) / (2 * 1.5**2))
    return [(x, 0.6 * x + 0.3 * noise, bell[:, None] * bell / bell.sum() ** 2)]


def _ssim(x: Tensor, y: Tensor, weights: Tensor, c1: float = C1, c2: float = C2, root: bool = False) -> Tensor:
    """SSIM of one window; `root` puts standard deviations in place of variances, a usual mistake."""
    mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
    var_x, var_y = ((weights * (z - mean) ** 2).sum() for z, mean in ((x, mean_x), (y, mean_y)))
    cov = (weights * (x - mean_x) * (y - mean_y)).sum()
    if root:
        var_x, var_y = var_x**0.5, var_y**0.5
    return (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1) * (2 * cov + c2) / (var_x + var_y + c2)


def _ssim_uncentred(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
    square_x, square_y, product = (weights * x * x).sum(), (weights * y * y).sum(), (weights * x * y).sum()
    light = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return light * (2 * product + C2) / (square_x + square_y + C2)


def _structure(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    x, y = x - (weights * x).sum(), y - (weights * y).sum()
    return (2 * (weights * x * y).sum() + C2) / ((weights * x * x).sum() + (weights * y * y).sum() + C2)


# ------------------------------------------------------------------------------------------------- 06.4: best shift


def _repeating() -> list[tuple[Tensor, Tensor, int]]:
    """Three pictures `(C, H, W)` that repeat, a hole `(H, W)` with noise in it, and the least shift.

    The first repeats every 5 px down and 4 across, and brightens slightly to the right. The second is smooth. The
    third repeats 5 px down and 3 to the left.
    """
    generator = Generator().manual_seed(1)
    first = torch.rand(3, 5, 4, generator=generator).repeat(1, 4, 6) + 0.0005 * torch.arange(24)
    first = first + 0.02 * torch.rand(3, 20, 24, generator=generator)
    y, x = torch.arange(16)[:, None], torch.arange(24)
    second = (0.3 * torch.sin(2 * torch.pi * x / 8) + 0.3 * torch.sin(y / 6) + 0.01 * x).expand(3, 16, 24)
    y, x = torch.arange(20)[:, None], torch.arange(24)
    third = torch.rand(3, 5, 16, generator=generator)[:, y % 5, (x + 3 * (y // 5)) % 16]
    cases = []
    for image, top, left in ((first, 6, 9), (second, 3, 10), (third, 6, 9)):
        hole = torch.zeros(image.shape[1:], dtype=torch.bool)
        hole[top : top + 7, left : left + 8] = True
        rubbish = torch.rand(image.shape, generator=generator) + 2 * torch.linspace(0, 1, image.shape[2])
        cases.append((torch.where(hole, rubbish, image), hole, LEAST))
    return cases


def _errors(image: Tensor, hole: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Each shift down, or straight to the right, below half of the picture: `dy, dx`, squared errors of its pairs."""
    height, width = hole.shape
    for dy in range((height + 1) // 2):
        for dx in range(1 - (width + 1) // 2 if dy else 1, (width + 1) // 2):
            here = slice(0, height - dy), slice(max(0, -dx), width - max(0, dx))
            there = slice(dy, height), slice(max(0, dx), width - max(0, -dx))
            both = ~hole[here] & ~hole[there]
            yield dy, dx, (image[:, *here] - image[:, *there])[:, both] ** 2


def _best(
    image: Tensor,
    hole: Tensor,
    score: Callable[[Tensor], Tensor] = torch.mean,
    allowed: Callable[[int, int], bool] = lambda dy, dx: max(abs(dy), abs(dx)) > LEAST,
) -> Tensor:
    """The shift `(2,)` with the lowest score among those allowed."""
    tried = [(score(error).item(), dy, dx) for dy, dx, error in _errors(image, hole) if allowed(dy, dx)]
    return torch.tensor(min(tried)[1:])


# ------------------------------------------------------------------------------------------------ 06.5: honest lead


def _methods() -> list[tuple[Tensor]]:
    """PSNRs `(M, n)`: choosing on the first half, on the second or on all gives other methods; then one wins all."""
    shared, own = (
        torch.randn(12, generator=Generator().manual_seed(0)),
        torch.randn(4, 12, generator=Generator().manual_seed(1)),
    )
    psnr = 18 + 2 * shared + 0.3 * own
    lead = torch.tensor([[1.0, 0.2], [0.1, 1.4], [0.0, 1.1], [0.6, 0.9]])  # on the first half, on the second
    psnr = psnr + lead.repeat_interleave(6, dim=1)
    return [(psnr,), (psnr + torch.tensor([[2.0], [0], [0], [0]]),)]


def _lead(choose: Tensor, judge: Tensor, rivals: Tensor | None = None) -> Tensor:
    """Mean and standard error of the lead, on `judge` `(M, n)`, of the best on `choose` over the best on `rivals`."""
    chosen = int(choose.mean(dim=1).argmax())
    means = (judge if rivals is None else rivals).mean(dim=1).clone()
    means[chosen] = -torch.inf
    return _paired(judge[chosen], judge[int(means.argmax())])


def _halves(psnr: Tensor) -> tuple[Tensor, Tensor]:
    return psnr[:, : psnr.shape[1] // 2], psnr[:, psnr.shape[1] // 2 :]


def _against_itself(psnr: Tensor) -> Tensor:
    first, second = _halves(psnr)
    return _paired(*(second[int(half.mean(dim=1).argmax())] for half in (first, second)))


def _unpaired_lead(psnr: Tensor) -> Tensor:
    first, second = _halves(psnr)
    chosen = int(first.mean(dim=1).argmax())
    means = second.mean(dim=1).clone()
    means[chosen] = -torch.inf
    a, b = second[chosen], second[int(means.argmax())]
    return torch.stack([(a - b).mean(), ((a.var() + b.var()) / len(a)) ** 0.5])


EXERCISES = {
    "06.1": Exercise(
        cases=_wholes,
        solution=lambda psnr, share: psnr + 10 * share.log10(),
        praise="Six decibels at a quarter were the photo's own pixels.",
        mistakes=(
            (lambda psnr, share: psnr - 10 * share.log10(), "This adds decibels: the hole is worse than the average."),
            (lambda psnr, share: psnr + 10 * (1 - share).log10(), "This uses the visible share, 1 - share."),
            (lambda psnr, share: psnr + 10 * share.log(), "This is the natural logarithm: decibels take log10."),
            (lambda psnr, share: psnr + 20 * share.log10(), "The error is already squared: the factor is 10, not 20."),
            (lambda psnr, share: psnr * share, "Decibels are logarithms: a factor of the error becomes a summand."),
        ),
    ),
    "06.2": Exercise(
        cases=_two_methods,
        solution=_paired,
        praise="What both methods share has cancelled.",
        mistakes=(
            (
                _spread_with(lambda a, b: ((a.var() + b.var()) / len(a)) ** 0.5),
                "This error is unpaired: take the standard deviation of a - b, not those of a and b.",
            ),
            (_spread_with(lambda a, b: (a - b).std()), "This is the spread of one image: divide it by n ** 0.5."),
            (_spread_with(lambda a, b: (a - b).std() / len(a)), "This divides by n: divide by its root, n ** 0.5."),
            (_spread_with(lambda a, b: (a - b).var() / len(a)), "This is a variance: take its square root."),
            (
                _spread_with(lambda a, b: (a - b).std(correction=0) / len(a) ** 0.5),
                "This deviation divides by n: estimated from the images, it divides by n - 1, as std() does.",
            ),
            (lambda a, b: _paired(b, a), "The sign is reversed: the difference is a - b."),
        ),
    ),
    "06.3": Exercise(
        cases=_windows,
        solution=_ssim,
        praise="Slid over the picture, this is the map that hole_ssim averages.",
        mistakes=(
            (
                lambda x, y, weights: _ssim(x, y, torch.full_like(weights, 1 / weights.numel())),
                "The weights are not used: every mean here is (weights * ...).sum().",
            ),
            (_ssim_uncentred, "Variances and covariance are taken around zero: subtract the means first."),
            (
                lambda x, y, weights: _ssim(x, y, weights, 0.01, 0.03),
                "The constants are squares: 0.01 ** 2 and 0.03 ** 2.",
            ),
            (
                lambda x, y, weights: _ssim(x, y, weights, root=True),
                "These are standard deviations in place of variances: leave out the square root.",
            ),
            (_structure, "This is the structure alone: multiply it by the light."),
            (
                lambda x, y, weights: _ssim(x, y, weights / weights.numel()),
                "A weighted mean is a sum, (weights * x).sum(): the weights already divide.",
            ),
        ),
    ),
    "06.4": Exercise(
        cases=_repeating,
        solution=lambda image, hole, least: _best(image, hole),
        praise="This is the distance at which the facade repeats.",
        mistakes=(
            (
                lambda image, hole, least: _best(image, torch.zeros_like(hole)),
                "Hidden pixels were compared: a pair counts only if both of its pixels are visible.",
            ),
            (
                lambda image, hole, least: _best(image, hole, torch.sum),
                "The sum favours shifts with few pairs: divide by their number.",
            ),
            (
                lambda image, hole, least: _best(image, hole, allowed=lambda dy, dx: True),
                "This shift is too short: the picture agrees with itself wherever it is smooth.",
            ),
            (
                lambda image, hole, least: _best(image, hole, allowed=lambda dy, dx: min(abs(dy), abs(dx)) > LEAST),
                "A shift that is long in one direction is enough: max(abs(dy), abs(dx)) > least.",
            ),
            (
                lambda image, hole, least: _best(
                    image, hole, allowed=lambda dy, dx: dx >= 0 and max(abs(dy), abs(dx)) > LEAST
                ),
                "Shifts to the left are missing: with dy > 0, dx may be negative.",
            ),
            (lambda image, hole, least: _best(image, hole).flip(0), "The order is reversed: dy, down, comes first."),
            (
                lambda image, hole, least: _best(image, hole, lambda error: -error.mean()),
                "This is the worst shift: take the smallest error.",
            ),
        ),
    ),
    "06.5": Exercise(
        cases=_methods,
        solution=lambda psnr: _lead(*_halves(psnr)),
        praise="Chosen on some images, judged on others: this number will hold up.",
        mistakes=(
            (lambda psnr: _lead(psnr, psnr), "The method is chosen and judged on the same images: split them first."),
            (
                lambda psnr: _lead(_halves(psnr)[1], _halves(psnr)[1]),
                "This chooses on the half that judges: choose on the first half.",
            ),
            (
                lambda psnr: _lead(_halves(psnr)[0], _halves(psnr)[0]),
                "This judges on the half that chose: judge on the second.",
            ),
            (
                lambda psnr: _lead(*_halves(psnr), _halves(psnr)[0]),
                "The rival was chosen on the first half: take the best of the others on the second.",
            ),
            (
                _against_itself,
                "The chosen method is its own rival here: leave it out, and take the best of the others.",
            ),
            (_unpaired_lead, "The error is unpaired: take the standard deviation of the differences, image by image."),
        ),
    ),
}
