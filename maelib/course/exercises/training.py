"""Exercises of notebook 05: the schedule, means, what decays, a split by group, resuming from a saved state."""

import math
from functools import partial

import torch
from torch import Generator, Tensor, nn

from maelib.course.exercises.exercise import Exercise, pairs, real, whole
from maelib.course.exercises.model_building import draw_model
from maelib.model import MAEConfig

# ---------------------------------------------------------------------------------------------------------- schedule


def _schedule(steps: int, rising: int, floor: float) -> list[float]:
    """Share of the highest learning rate at each step: a rise over `rising` steps, then a cosine to `floor`."""
    up = [(step + 1) / rising for step in range(rising)]
    return up + [floor + (1 - floor) * _cosine((step - rising) / (steps - rising)) for step in range(rising, steps)]


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


def _with_a_dead_step(steps: int, rising: int, floor: float) -> list[float]:
    return [step / rising for step in range(rising)] + _schedule(steps, rising, floor)[rising:]


def _smaller_of_two(steps: int, rising: int, floor: float) -> list[float]:
    cosine = [floor + (1 - floor) * _cosine(step / steps) for step in range(steps)]
    return [min((step + 1) / rising, value) for step, value in enumerate(cosine)]


def _cosine_from_the_start(steps: int, rising: int, floor: float) -> list[float]:
    cosine = [floor + (1 - floor) * _cosine(step / steps) for step in range(steps)]
    return _schedule(steps, rising, floor)[:rising] + cosine[rising:]


def _cosine_cut_at_the_floor(steps: int, rising: int, floor: float) -> list[float]:
    plain = _schedule(steps, rising, 0)
    return plain[:rising] + [max(value, floor) for value in plain[rising:]]


def _without_cosine(steps: int, rising: int, floor: float) -> list[float]:
    fall = [1 - (1 - floor) * step / (steps - rising) for step in range(steps - rising)]
    return _schedule(steps, rising, floor)[:rising] + fall


def _schedules(generator: Generator) -> list[tuple[int, int, float]]:
    """Steps, steps of the rise, floor; no rise at all; a floor of 0."""
    steps, rising = whole(generator, 10, 14), whole(generator, 3, 5)
    return [(steps, rising, real(generator, 0.05, 0.2)), (steps, 1, 0.3), (6, 2, 0.0), (5, 0, 0.1)]


def _cosine_of(steps: int, rising: int, floor: float, late: int, length: int) -> list[float]:
    """The rise, then a cosine that starts `late` steps in and takes `length` steps to reach the floor."""
    fall = [_cosine((step + late) / length) for step in range(steps - rising)]
    return _schedule(steps, rising, floor)[:rising] + [floor + (1 - floor) * value for value in fall]


# ------------------------------------------------------------------------------------------------------------- means


def _epochs(generator: Generator) -> list[tuple[Tensor, Tensor]]:
    """Mean loss of each batch of an epoch, and the number of its images: the last batch is small; one batch."""
    counts = [32, 32, 32, whole(generator, 2, 7)], [9, 9, 5], [6]
    losses = [torch.rand(len(some), generator=generator) + 0.2 for some in counts]
    for loss in losses:
        loss[-1] += 0.8
    return [(loss, torch.tensor(some)) for loss, some in zip(losses, counts, strict=True)]


# -------------------------------------------------------------------------------------------------------------- decay


def _models(generator: Generator) -> list[tuple[nn.Module]]:
    """Small masked autoencoders with every kind of parameter: matrices, norms, biases, tokens, positions, frozen."""
    cases = []
    for positions, class_token in (("learned", True), ("sincos", True), ("learned", False)):
        config = MAEConfig(
            img_size=16, embed_dim=16, depth=whole(generator, 1, 3), num_heads=1, decoder_embed_dim=8,
            decoder_depth=whole(generator, 1, 2), decoder_num_heads=1, class_token=class_token, positions=positions,
            rotary=False,
        )  # fmt: skip
        model = draw_model(config, generator)
        for frozen in (model.norm.weight, model.decoder_embed.weight)[: len(cases) + 1]:
            frozen.requires_grad_(False)
        cases.append((model,))
    return cases


def _apart(name: str) -> bool:
    return "token" in name or "pos_embed" in name


def _undecayed(model: nn.Module) -> int:
    return sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and (p.ndim < 2 or _apart(n)))


def _trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# -------------------------------------------------------------------------------------------------------------- split


def _groups(generator: Generator) -> list[tuple[Tensor, list[int], int]]:
    """Group number of each image, the order in which groups are drawn, the number of images that validation wants.

    The last group takes validation past what it wants, or to exactly that; one image; all of them.
    """
    cases = []
    for wanted in (3, 2, 7, 1, 9):
        order = torch.cat([torch.tensor([4]), torch.randperm(4, generator=generator)])
        groups = order.repeat_interleave(torch.tensor([2, 3, 1, 2, 1]))
        cases.append((groups[torch.randperm(9, generator=generator)], order.tolist(), wanted))
    return cases


def _in_validation(groups: Tensor, order: list[int], wanted: int) -> Tensor:
    """Whole groups, in their order, until validation has what it wants."""
    chosen = torch.zeros(len(groups), dtype=torch.bool)
    for group in order:
        if chosen.sum() < wanted:
            chosen |= groups == group
    return chosen


def _stopped_before(groups: Tensor, order: list[int], wanted: int) -> Tensor:
    chosen = torch.zeros(len(groups), dtype=torch.bool)
    for group in order:
        if (chosen | (groups == group)).sum() > wanted:
            break
        chosen |= groups == group
    return chosen


def _cut_to_size(groups: Tensor, order: list[int], wanted: int) -> Tensor:
    images = [i for group in order for i in (groups == group).nonzero().flatten().tolist()][:wanted]
    return torch.isin(torch.arange(len(groups)), torch.tensor(images))


# ------------------------------------------------------------------------------------------------------------- resume


def _interrupted(generator: Generator) -> list[tuple]:
    """Weights, the gradients of the steps to come, the optimizer's state, learning rate and decay.

    The steps done are few, where the corrections matter most. The last weight has tiny gradients, where 1e-8 matters.
    """
    cases = []
    for done, steps, size, lr, decay in ((2, 3, 5, 0.1, 0.5), (1, 1, 2, 0.2, 0.3), (8, 2, 3, 0.3, 0.1)):
        weight, m = torch.randn(2, size, generator=generator)
        gradients, unit = torch.randn(steps, size, generator=generator), torch.ones(size)
        unit[-1] = 1e-7
        state = {"step": done, "m": 0.3 * m * unit, "v": (0.02 + 0.05 * m.square()) * unit**2}
        cases.append((weight, gradients * unit, state, lr, decay))
    return cases


def _adamw(
    weight: Tensor, gradients: Tensor, state: dict, lr: float, decay: float,
    corrected: bool = True, coupled: bool = False, once: bool = False, overwritten: bool = False, late: bool = False,
    inside: bool = False, after: bool = False,
) -> Tensor:  # fmt: skip
    """AdamW (Loshchilov and Hutter 2019, algorithm 2), continued from `state`."""
    step, m, v = state["step"], state["m"], state["v"]
    for gradient in gradients:
        step += 0 if once else 1
        if coupled:
            gradient = gradient + decay * weight
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        scale = (1 - 0.9 ** (step - late), 1 - 0.999 ** (step - late)) if corrected else (1, 1)
        kept = weight if coupled or after else (1 - lr * decay) * weight
        root = (v / scale[1] + 1e-8).sqrt() if inside else (v / scale[1]).sqrt() + 1e-8
        weight = (kept - lr * (m / scale[0]) / root) * (1 - lr * decay if after else 1)
        if overwritten:
            m, v = m / scale[0], v / scale[1]
    return weight


def _fresh(weight: Tensor) -> dict:
    return {"step": 0, "m": torch.zeros_like(weight), "v": torch.zeros_like(weight)}


EXERCISES = {
    "05.1": Exercise(
        cases=_epochs,
        solution=lambda losses, counts: (losses * counts).sum() / counts.sum(),
        praise="Every image counts once, no matter which batch it was in.",
        mistakes=pairs(
            lambda losses, counts: losses.mean(),
            "This is the mean of the batches: an image of the small last batch counts for more than the others.",
            lambda losses, counts: (losses * counts).sum(),
            "This is the sum over all images: divide by the number of images.",
            lambda losses, counts: (losses * counts).sum() / len(counts),
            "This divides by the number of batches: divide by the number of images, counts.sum().",
            lambda losses, counts: losses[:-1].mean(),
            "The last batch is left out: it is small, but its images count too.",
            lambda losses, counts: (losses * counts).mean() / counts.max(),
            "This divides by the size of a full batch: divide by the number of images, counts.sum().",
            lambda losses, counts: (losses / counts).sum() / (1 / counts).sum(),
            "The weights are the wrong way round: multiply each loss by its number of images.",
        ),
    ),
    "05.2": Exercise(
        cases=_schedules,
        solution=_schedule,
        praise="It rises to exactly 1 and leaves from there.",
        mistakes=pairs(
            _smaller_of_two,
            "This is the smaller of ramp and cosine, which never reaches 1: switch at step `rising` instead.",
            _cosine_from_the_start,
            "The rise is right, but the cosine has run since step 0: it must start at 1 when the rise ends.",
            lambda steps, rising, floor: _cosine_of(steps, rising, floor, 1, steps - rising),
            "The cosine is a step ahead: it starts at step `rising`, where it is still 1.",
            lambda steps, rising, floor: _cosine_of(steps, rising, floor, 0, steps - rising - 1),
            "The last step is at the floor: the cosine should reach it one step later, at step `steps`.",
            lambda steps, rising, floor: _cosine_of(steps, rising, floor, 0, (steps - rising) / 2),
            "This is a whole wave, which rises again: half a wave, up to pi, takes all the steps.",
            lambda steps, rising, floor: (
                _schedule(steps, rising, 0)[:rising] + [floor + x for x in _schedule(steps, rising, 0)[rising:]]
            ),
            "The cosine starts above 1: scale it by 1 - floor before you add `floor`.",
            _without_cosine,
            "This falls along a straight line: use the cosine, 0.5 * (1 + cos(pi * share)).",
            _with_a_dead_step,
            "The first step has rate 0 and does nothing: the rise is (step + 1) / rising.",
            lambda steps, rising, floor: _schedule(steps, rising, 0),
            "The cosine ends at 0: scale it so that it ends at `floor`.",
            _cosine_cut_at_the_floor,
            "A cosine cut off at `floor` stays flat at the end: scale it, floor + (1 - floor) * cosine.",
        ),
    ),
    "05.3": Exercise(
        cases=_models,
        solution=_undecayed,
        praise="As many as maelib.training.optim.parameter_groups puts under `rest`.",
        mistakes=pairs(
            lambda model: sum(p.requires_grad and (p.ndim < 2 or _apart(n)) for n, p in model.named_parameters()),
            "This counts tensors: count the numbers in them, parameter.numel().",
            lambda model: sum(p.numel() for p in model.parameters() if p.requires_grad and p.ndim < 2),
            "Norms and biases are counted, but tokens and positions, which have three dimensions, are missing.",
            lambda model: sum(
                p.numel() for n, p in model.named_parameters() if p.requires_grad and (p.ndim < 2 or "token" in n)
            ),
            "Positions are missing: their names contain `pos_embed`.",
            lambda model: sum(
                p.numel() for n, p in model.named_parameters() if p.requires_grad and (p.ndim < 2 or "pos_embed" in n)
            ),
            "Tokens are missing: their names contain `token`.",
            lambda model: sum(p.numel() for n, p in model.named_parameters() if p.ndim < 2 or _apart(n)),
            "Frozen parameters are counted too: only those with requires_grad are trained.",
            lambda model: _trainable(model) - _undecayed(model),
            "These are the decayed parameters: count the others.",
        ),
    ),
    "05.4": Exercise(
        cases=_groups,
        solution=_in_validation,
        praise="No group has a member on both sides.",
        mistakes=pairs(
            _cut_to_size,
            "The number is right, but the last group is cut in two: take whole groups, even beyond `wanted`.",
            _stopped_before,
            "Validation gets too few images: take groups until it has at least `wanted`.",
            lambda groups, order, wanted: _in_validation(groups, order, wanted + 1),
            "With exactly `wanted` images validation has enough: stop there.",
            lambda groups, order, wanted: torch.isin(groups, torch.tensor(order[:wanted])),
            "This takes `wanted` groups: `wanted` counts images.",
            lambda groups, order, wanted: torch.isin(torch.arange(len(groups)), torch.tensor(order[:wanted])),
            "The group numbers are used as image numbers: find the images of a group, groups == group.",
            lambda groups, order, wanted: ~_in_validation(groups, order, wanted),
            "This is the training part: True means validation.",
            lambda groups, order, wanted: _in_validation(groups, sorted(order), wanted),
            "The groups are taken by number: take them in `order`, which was drawn at random.",
        ),
    ),
    "05.5": Exercise(
        cases=_interrupted,
        solution=_adamw,
        praise="To the digits checked, this is the run that nobody interrupted.",
        mistakes=pairs(
            lambda weight, gradients, state, lr, decay: _adamw(weight, gradients, _fresh(weight), lr, decay),
            "This is a fresh optimizer: start from state's `m`, `v` and `step`.",
            lambda weight, gradients, state, lr, decay: _adamw(weight, gradients, {**state, "step": 0}, lr, decay),
            "`m` and `v` continue, but the step starts again at 1: the corrections then enlarge both.",
            partial(_adamw, once=True),
            "The step does not change: add 1 before each correction.",
            partial(_adamw, late=True),
            "The corrections are one step behind: add 1 to `step` before you use it.",
            lambda weight, gradients, state, lr, decay: _adamw(
                weight, gradients, {**state, "step": state["step"] + 1}, lr, decay
            ),
            "The corrections are one step ahead: the first gradient here belongs to step `step` + 1.",
            partial(_adamw, inside=True),
            "1e-8 is added under the root: take the root of the corrected v first.",
            partial(_adamw, after=True),
            "The weights shrink after the update: shrink them first, then subtract.",
            lambda weight, gradients, state, lr, decay: _adamw(weight, gradients[:-1], state, lr, decay),
            "The last gradient is missing: every row of `gradients` is a step.",
            partial(_adamw, corrected=False),
            "The corrections are missing: divide m by 1 - 0.9**step and v by 1 - 0.999**step.",
            partial(_adamw, overwritten=True),
            "The corrected m and v went into the next step: correct copies, and leave m and v as they are.",
            partial(_adamw, coupled=True),
            "The decay went through the gradient, as in Adam: AdamW shrinks the weight itself, by 1 - lr * decay.",
            lambda weight, gradients, state, lr, decay: _adamw(weight, gradients, state, lr, decay / lr),
            "The weights shrink by 1 - decay: include the learning rate, 1 - lr * decay.",
            lambda weight, gradients, state, lr, decay: _adamw(weight, gradients, state, lr, 0),
            "The weights do not decay: multiply them by 1 - lr * decay before each update.",
        ),
    ),
}
