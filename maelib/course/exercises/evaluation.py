"""Exercises of notebook 06: hole PSNR from whole-picture PSNR, paired comparison, weighted SSIM, best shift."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Generator, Tensor

from maelib.course.exercises.exercise import Exercise, pairs, whole

C1, C2 = 0.01**2, 0.03**2  # of SSIM, for values from 0 to 1
LEAST = 2  # px; the shifts of 06.4 must be longer

# ------------------------------------------------------------------------------------------------ 06.1: whole to hole


def _wholes(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    """PSNRs of whole pictures `(B,)` in dB, and the shares hidden `(B,)`; one picture; nearly nothing, everything."""
    psnrs = [18 + 9 * torch.rand(count, generator=generator) for count in (3, 1, 2)]
    shares = 0.2 + 0.6 * torch.rand(3, generator=generator), torch.tensor([0.1]), torch.tensor([0.002, 1.0])
    return list(zip(psnrs, shares, strict=True))


# ---------------------------------------------------------------------------------------------------- 06.2: paired


def _two_methods(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    """PSNRs of two methods on the same images, `(n,)` each: the images differ more than the methods; two images."""
    noises = [torch.randn(3, count, generator=generator) for count in (12, 5, 2)]
    return [(18 + 3 * image + 0.4 * first, 17.5 + 3 * image + 0.4 * second) for image, first, second in noises]


def _paired(a: Tensor, b: Tensor, middle: Callable[[Tensor], Tensor] = torch.mean) -> Tensor:
    difference = a - b
    return torch.stack([middle(difference), difference.std() / len(a) ** 0.5])


def _spread_with(spread: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda a, b: torch.stack([(a - b).mean(), spread(a, b)])


# ------------------------------------------------------------------------------------------------------ 06.3: SSIM


def _windows(generator: Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Two windows `(11, 11)` from 0 to 1 and a Gaussian that sums to 1: windows alike, faint, dark and plain."""
    cases = []
    for sigma, contrast, kinship, light in ((1.5, 1.0, 0.6, 0.0), (2.5, 0.05, 0.1, 0.4), (1.0, 0.02, 0.0, 0.01)):
        x, noise = torch.rand(2, 11, 11, generator=generator)
        bell = torch.exp(-(torch.arange(-5, 6) ** 2) / (2 * sigma**2))
        y = 0.7 * light + contrast * (kinship * x + (0.9 - kinship) * noise)
        cases.append((light + contrast * x, y, bell[:, None] * bell / bell.sum() ** 2))
    return cases


def _ssim(
    x: Tensor,
    y: Tensor,
    weights: Tensor,
    c1: float = C1,
    c2: float = C2,
    root: bool = False,
    scale: float = 1,
    both: bool = True,
) -> Tensor:
    """SSIM of one window; `root` and `scale` change the variances, which is a usual mistake."""
    mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
    var_x, var_y = ((weights * (z - mean) ** 2).sum() for z, mean in ((x, mean_x), (y, mean_y)))
    cov = (weights * (x - mean_x) * (y - mean_y)).sum()
    var_x, var_y, cov = var_x * scale, var_y * scale, cov * (scale if both else 1)
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


def _repeating(generator: Generator) -> list[tuple[Tensor, Tensor, int]]:
    """Pictures `(C, H, W)` that repeat, a hole `(H, W)` with noise in it, and the least shift.

    The first repeats every 5 px down and 4 across, and brightens slightly to the right. The second is smooth. The
    third repeats 5 px down and 3 to the left. The fourth has one channel; along the diagonal it repeats every 2 px,
    which is too short, though longer than `least` in a straight line. The fifth repeats exactly 6 px across, half of
    its width and so too far, and nearly 10 px down.
    """
    first = torch.rand(3, 5, 4, generator=generator).repeat(1, 4, 6) + 0.0005 * torch.arange(24)
    first = first + 0.02 * torch.rand(3, 20, 24, generator=generator)
    y, x = torch.arange(16)[:, None], torch.arange(24)
    second = (0.3 * torch.sin(2 * torch.pi * x / 8) + 0.3 * torch.sin(y / 6) + 0.01 * x).expand(3, 16, 24)
    y, x = torch.arange(20)[:, None], torch.arange(24)
    third = torch.rand(3, 5, 16, generator=generator)[:, y % 5, (x + 3 * (y // 5)) % 16]
    y, x = torch.arange(16)[:, None], torch.arange(20)
    fourth = torch.rand(1, 2, 20, generator=generator)[:, y % 2, (x - y // 2 * 2) % 20]
    fourth = fourth + 0.02 * torch.rand(1, 16, 20, generator=generator) + 0.02 * y
    y, x = torch.arange(21)[:, None], torch.arange(12)
    fifth = torch.rand(2, 10, 6, generator=generator)[:, y % 10, x % 6]
    fifth = fifth + 0.02 * torch.rand(2, 21, 6, generator=generator)[:, y, x % 6]
    places = ((first, 6, 9), (second, 3, 10), (third, 6, 9), (fourth, whole(generator, 4, 6), 8), (fifth, 6, 3))
    cases = []
    for image, top, left in places:
        hole = torch.zeros(image.shape[1:], dtype=torch.bool)
        hole[top : top + 7, left : left + 8] = True
        rubbish = torch.rand(image.shape, generator=generator) + 2 * torch.linspace(0, 1, image.shape[2])
        cases.append((torch.where(hole, rubbish, image), hole, LEAST))
    return cases


def _errors(image: Tensor, hole: Tensor, beyond: int) -> Iterator[tuple[int, int, Tensor]]:
    """Each shift down, or straight to the right, below half of the picture: `dy, dx`, squared errors of its pairs."""
    height, width = hole.shape
    tall, wide = (height + 1) // 2 + beyond, (width + 1) // 2 + beyond
    for dy in range(tall):
        for dx in range(1 - wide if dy else 1, wide):
            here = slice(0, height - dy), slice(max(0, -dx), width - max(0, dx))
            there = slice(dy, height), slice(max(0, dx), width - max(0, -dx))
            both = ~hole[here] & ~hole[there]
            yield dy, dx, (image[:, *here] - image[:, *there])[:, both] ** 2


def _best(
    image: Tensor,
    hole: Tensor,
    least: int,
    score: Callable[[Tensor], Tensor] = torch.mean,
    allowed: Callable[[int, int], bool] = lambda dy, dx: max(abs(dy), abs(dx)) > LEAST,
    beyond: int = 0,
) -> Tensor:
    """The shift `(2,)` with the lowest score among those allowed."""
    tried = [(score(error).item(), dy, dx) for dy, dx, error in _errors(image, hole, beyond) if allowed(dy, dx)]
    return torch.tensor(min(tried)[1:])


# ------------------------------------------------------------------------------------------------ 06.5: honest lead


def _methods(generator: Generator) -> list[tuple[Tensor]]:
    """PSNRs `(M, n)`: choosing on the first half, on the second or on all gives other methods; one wins all; two.

    On the first half, one image decides the mean but not the median, and so on the second half.
    """
    lead = torch.tensor([[0.0, 0.2], [0.1, 1.4], [0.3, 0.0], [0.6, 0.9]])  # on the first half, on the second
    shared, own = torch.randn(12, generator=generator), torch.rand(4, 12, generator=generator)
    psnr = 18 + 2 * shared + 0.2 * own + lead.repeat_interleave(6, dim=1)
    psnr[0, 2] += 9
    psnr[2, 8] += 12
    winner = psnr + torch.tensor([[2.0], [0], [0], [0]])
    return [(psnr,), (winner,), (20 + torch.randn(2, 4, generator=generator),)]


def _lead(
    choose: Tensor,
    judge: Tensor,
    rivals: Tensor | None = None,
    centre: Callable[[Tensor], Tensor] = lambda psnr: psnr.mean(dim=1),
    middle: Callable[[Tensor], Tensor] = torch.mean,
) -> Tensor:
    """Mean and standard error of the lead, on `judge` `(M, n)`, of the best on `choose` over the best on `rivals`."""
    chosen = int(centre(choose).argmax())
    means = centre(judge if rivals is None else rivals).clone()
    means[chosen] = -torch.inf
    return _paired(judge[chosen], judge[int(means.argmax())], middle)


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
        mistakes=pairs(
            lambda psnr, share: psnr - 10 * share.log10(),
            "This adds decibels: the hole is worse than the average.",
            lambda psnr, share: psnr + 10 * (1 - share).log10(),
            "This uses the visible share, 1 - share.",
            lambda psnr, share: psnr + 10 * share.log(),
            "This is the natural logarithm: decibels take log10.",
            lambda psnr, share: psnr + 20 * share.log10(),
            "The error is already squared: the factor is 10, not 20.",
            lambda psnr, share: psnr / share,
            "Decibels are logarithms: a divisor of the error becomes a summand.",
            lambda psnr, share: psnr * share,
            "Decibels are logarithms: a factor of the error becomes a summand.",
        ),
    ),
    "06.2": Exercise(
        cases=_two_methods,
        solution=_paired,
        praise="What both methods share has cancelled.",
        mistakes=pairs(
            _spread_with(lambda a, b: ((a.var() + b.var()) / len(a)) ** 0.5),
            "This error is unpaired: take the standard deviation of a - b, not those of a and b.",
            _spread_with(lambda a, b: (a - b).std()),
            "This is the spread of one image: divide it by n ** 0.5.",
            _spread_with(lambda a, b: (a - b).std() / len(a)),
            "This divides by n: divide by its root, n ** 0.5.",
            _spread_with(lambda a, b: (a - b).var() / len(a)),
            "This is a variance: take its square root.",
            _spread_with(lambda a, b: (a - b).std(correction=0) / len(a) ** 0.5),
            "This deviation divides by n: estimated from the images, it divides by n - 1, as std() does.",
            _spread_with(lambda a, b: (a - b).std() / (len(a) - 1) ** 0.5),
            "std() divides by n - 1 already: the root is that of n.",
            lambda a, b: _paired(a, b).flip(0),
            "The order is reversed: the mean comes first, then its error.",
            partial(_paired, middle=torch.median),
            "This is the median of the differences: take their mean.",
            lambda a, b: _paired(b, a),
            "The sign is reversed: the difference is a - b.",
        ),
    ),
    "06.3": Exercise(
        cases=_windows,
        solution=_ssim,
        praise="Slid over the picture, this is the map that hole_ssim averages.",
        mistakes=pairs(
            lambda x, y, weights: _ssim(x, y, torch.full_like(weights, 1 / weights.numel())),
            "The weights are not used: every mean here is (weights * ...).sum().",
            _ssim_uncentred,
            "Variances and covariance are taken around zero: subtract the means first.",
            lambda x, y, weights: _ssim(x, y, weights, 0.01, 0.03),
            "The constants are squares: 0.01 ** 2 and 0.03 ** 2.",
            lambda x, y, weights: _ssim(x, y, weights, root=True),
            "These are standard deviations in place of variances: leave out the square root.",
            _structure,
            "This is the structure alone: multiply it by the light.",
            lambda x, y, weights: _ssim(x, y, weights / weights.numel()),
            "A weighted mean is a sum, (weights * x).sum(): the weights already divide.",
            lambda x, y, weights: _ssim(x, y, weights, scale=x.numel() / (x.numel() - 1), both=False),
            "The variances are unbiased but the covariance is not: the weights sum to 1, so divide by nothing.",
            lambda x, y, weights: _ssim(x, y, weights, scale=x.numel() / (x.numel() - 1)),
            "The variances are unbiased, divided by n - 1: the weights sum to 1, so leave them as they are.",
            lambda x, y, weights: _ssim(x, y, weights) / _structure(x, y, weights),
            "This is the light alone: multiply it by the structure.",
            lambda x, y, weights: _ssim(x, y, weights, 0, 0),
            "The constants are missing: 0.01 ** 2 and 0.03 ** 2.",
            lambda x, y, weights: _ssim(x, y, weights, C2, C1),
            "The constants are swapped: 0.01 ** 2 belongs to the means.",
        ),
    ),
    "06.4": Exercise(
        cases=_repeating,
        solution=_best,
        praise="This is the distance at which the facade repeats.",
        mistakes=pairs(
            lambda image, hole, least: _best(image, torch.zeros_like(hole), least),
            "Hidden pixels were compared: a pair counts only if both of its pixels are visible.",
            partial(_best, score=torch.sum),
            "The sum favours shifts with few pairs: divide by their number.",
            partial(_best, allowed=lambda dy, dx: True),
            "This shift is too short: the picture agrees with itself wherever it is smooth.",
            partial(_best, allowed=lambda dy, dx: min(abs(dy), abs(dx)) > LEAST),
            "A shift that is long in one direction is enough: max(abs(dy), abs(dx)) > least.",
            partial(_best, allowed=lambda dy, dx: dy**2 + dx**2 > LEAST**2),
            "This shift is short in both directions: the longer of the two must exceed `least`, not the length.",
            partial(_best, allowed=lambda dy, dx: max(abs(dy), abs(dx)) >= LEAST),
            "A shift of exactly `least` is too short: it must exceed `least`.",
            partial(_best, allowed=lambda dy, dx: dx >= 0 and max(abs(dy), abs(dx)) > LEAST),
            "Shifts to the left are missing: with dy > 0, dx may be negative.",
            partial(_best, beyond=1),
            "This shift is half of the picture: it must be shorter than that in both directions.",
            partial(_best, score=lambda error: error.sqrt().mean()),
            "This is the mean absolute error: take the mean of the squares.",
            lambda image, hole, least: _best(image, hole, least).flip(0),
            "The order is reversed: dy, down, comes first.",
            partial(_best, score=lambda error: -error.mean()),
            "This is the worst shift: take the smallest error.",
        ),
    ),
    "06.5": Exercise(
        cases=_methods,
        solution=lambda psnr: _lead(*_halves(psnr)),
        praise="Chosen on some images, judged on others: this number will hold up.",
        mistakes=pairs(
            lambda psnr: _lead(psnr, psnr),
            "The method is chosen and judged on the same images: split them first.",
            lambda psnr: _lead(_halves(psnr)[1], _halves(psnr)[1]),
            "This chooses on the half that judges: choose on the first half.",
            lambda psnr: _lead(_halves(psnr)[0], _halves(psnr)[0]),
            "This judges on the half that chose: judge on the second.",
            lambda psnr: _lead(*_halves(psnr), _halves(psnr)[0]),
            "The rival was chosen on the first half: take the best of the others on the second.",
            _against_itself,
            "The chosen method is its own rival here: leave it out, and take the best of the others.",
            lambda psnr: _lead(*_halves(psnr), middle=torch.median),
            "This is the median of the differences: take their mean.",
            lambda psnr: _lead(*_halves(psnr), centre=lambda some: some.median(dim=1).values),
            "Methods are compared by their medians: compare them by their means.",
            lambda psnr: -_lead(*_halves(psnr)) * torch.tensor([1.0, -1.0]),
            "The sign is reversed: a lead is the chosen method minus its rival.",
            _unpaired_lead,
            "The error is unpaired: take the standard deviation of the differences, image by image.",
        ),
    ),
}
