"""Exercises of notebook 07: energy of a labelling, offsets that may serve, best seam, share of detail, blend."""

from collections.abc import Callable
from functools import partial

import numpy as np
from torch import Generator

from maelib.course.exercises.exercise import Exercise, pairs, whole


def _numpy(generator: Generator) -> np.random.Generator:
    return np.random.default_rng(whole(generator, 0, 2**31))


# ------------------------------------------------------------------------------------------------------ 07.1: energy


def _labellings(generator: Generator) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Costs `(K, n)` of n pixels in a row, labels `(n,)`, costs `(n - 1,)` of a seam; no border; one pixel."""
    rng, cases = _numpy(generator), []
    for labels in ([0, 2, 2, 1, 0], [1, 1, 1, 1], [0]):
        count = len(labels)
        cases.append(
            (rng.random((3, count)) * 4, (np.array(labels) + rng.integers(3)) % 3, rng.random(count - 1) + 0.2)
        )
    return cases


def _energy(costs: np.ndarray, labels: np.ndarray, seams: np.ndarray) -> float:
    return _fit(costs, labels) + float(seams[labels[1:] != labels[:-1]].sum())


def _fit(costs: np.ndarray, labels: np.ndarray) -> float:
    return float(costs[labels, np.arange(len(labels))].sum())


# ----------------------------------------------------------------------------------------------------- 07.2: offsets


def _moves(generator: Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Holes `(H, W)` and offsets `(K, 2)`, down and right: a box, an L, a hole at the photo's corner, no hole."""
    rng = _numpy(generator)
    offsets = [(0, 0), (0, 4), (0, -3), (3, 0), (-2, 0), (0, 6), (1, 1), (-3, 4), (2, -4), (0, 3), (4, 0), (-1, -3)]
    box, bent, corner = (np.zeros((8, 12), bool) for _ in range(3))
    box[3:5, 3:6] = box[5, rng.integers(3, 6)] = True
    bent[2:5, 3:5] = bent[4, 3:7] = True
    corner[:2, :3] = True
    more = rng.integers(-3, 4, (4, 2))
    return [(hole, np.concatenate([offsets, more])) for hole in (box, bent, corner, np.zeros((3, 4), bool))]


def _sources(hole: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, ...]:
    """Rows, columns `(K, n)`, clipped to the photo, and whether they had to be."""
    rows, cols = (at + offsets[:, axis, None] for axis, at in enumerate(np.nonzero(hole)))
    inside = (rows >= 0) & (rows < hole.shape[0]) & (cols >= 0) & (cols < hole.shape[1])
    return rows.clip(0, hole.shape[0] - 1), cols.clip(0, hole.shape[1] - 1), inside


def _usable(hole: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    rows, cols, inside = _sources(hole, offsets)
    return (inside & ~hole[rows, cols]).all(axis=1)


def _usable_in_part(hole: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    rows, cols, inside = _sources(hole, offsets)
    return (inside & ~hole[rows, cols]).any(axis=1)


def _usable_round(hole: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    rows, cols = (at + offsets[:, axis, None] for axis, at in enumerate(np.nonzero(hole)))
    return (~hole[rows % hole.shape[0], cols % hole.shape[1]]).all(axis=1)


# -------------------------------------------------------------------------------------------------------- 07.3: seam


def _cost_maps(generator: Generator) -> list[tuple[np.ndarray]]:
    """Costs `(H, W)` of a seam: the greedy walk is wrong; one tempts from edge to edge; one row; one column."""
    rng = _numpy(generator)
    noise, edge = rng.random((6, 7)), rng.random((5, 6)) + 1
    noise[1:, :4] += 1
    noise[range(6), [0, 4, 6, 4, 5, 6]] = 0
    edge[[0, 1, 2, 3, 4, 4], [0, 0, 5, 5, 5, 2]] = 0.1, 0.1, 0.1, 0.1, 0.1, 0.05
    return [(noise,), (edge,), (rng.random((1, 3)),), (rng.random((4, 1)),)]


def _seam(cost: np.ndarray, reach: int = 1, wrap: bool = False, back: bool = True) -> np.ndarray:
    """The best seam, a column for each row. `reach`, `wrap` and `back` make usual mistakes."""
    total, came = cost[0].copy(), []
    cols = np.arange(cost.shape[1])
    distance = np.abs(cols[:, None] - cols)
    if wrap:
        distance = np.minimum(distance, cost.shape[1] - distance)
    totals = [total]
    for row in cost[1:]:
        choices = np.where(distance <= reach, total[:, None], np.inf)  # (from, to)
        came.append(choices.argmin(axis=0))
        total = row + choices.min(axis=0)
        totals.append(total)
    if not back:
        return np.array([total.argmin() for total in totals])
    seam = [int(total.argmin())]
    for step in reversed(came):
        seam.append(int(step[seam[-1]]))
    return np.array(seam[::-1])


def _greedy(cost: np.ndarray) -> np.ndarray:
    seam = [int(cost[0].argmin())]
    for row in cost[1:]:
        first = max(0, seam[-1] - 1)
        seam.append(first + int(row[first : seam[-1] + 2].argmin()))
    return np.array(seam)


# ------------------------------------------------------------------------------------------------------- 07.4: share


def _pictures(generator: Generator) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]]:
    """Photo, guide, copy, all uint8 `(H, W, 3)`, a hole and a share; one row; no hole; no halves."""
    rng, cases = _numpy(generator), []
    for height, hidden, share in ((4, 0.5, 0.3713), (1, 0.4, 0.0), (3, 0.4, 1.0), (2, 0.0, 0.25), (4, 0.6, 0.6181)):
        photo, guide, copied = rng.integers(0, 256, (3, height, 5, 3)).astype(np.uint8)
        cases.append((photo, guide, copied, rng.random((height, 5)) < hidden, share))
    return cases


def _mix(
    photo: np.ndarray,
    guide: np.ndarray,
    copied: np.ndarray,
    hole: np.ndarray,
    share: float,
    whole_numbers: Callable[[np.ndarray], np.ndarray] = np.round,
) -> np.ndarray:
    mixed = whole_numbers(guide + share * (copied.astype(float) - guide)).astype(np.uint8)
    return np.where(hole[..., None], mixed, photo)


# ------------------------------------------------------------------------------------------------------- 07.5: blend


def _rows(generator: Generator) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A row, what is hidden of it, and a copy, `(n,)` each: one gap, two gaps, gaps that reach the end or the start."""
    rng, cases = _numpy(generator), []
    for hidden in ([2, 3, 4, 5], [1, 4, 5], [5, 6, 7], [0, 1]):
        row, copied = rng.random((2, 8)) * 9
        where = np.isin(np.arange(8), hidden)
        cases.append((row, where, copied))
    return cases


def _blend(row: np.ndarray, hidden: np.ndarray, copied: np.ndarray, garbage: bool = False) -> np.ndarray:
    """Least squares over the steps that touch a hidden pixel; `garbage` takes hidden values for known ones."""
    number = np.cumsum(hidden) - 1
    touched = [i for i in range(len(row) - 1) if hidden[i] or hidden[i + 1]]
    matrix, wanted = np.zeros((len(touched), int(hidden.sum()))), []
    for line, i in enumerate(touched):
        step = copied[i + 1] - copied[i]
        for at, sign in ((i, -1), (i + 1, 1)):
            if hidden[at]:
                matrix[line, number[at]] = sign
            if garbage or not hidden[at]:
                step -= sign * row[at]
        wanted.append(step)
    result = row.copy()
    result[hidden] = np.linalg.lstsq(matrix, np.array(wanted), rcond=None)[0]
    return result


def _from_the_left(row: np.ndarray, hidden: np.ndarray, copied: np.ndarray) -> np.ndarray:
    result = row.copy()
    for i in np.nonzero(hidden)[0]:
        result[i] = result[i - 1] + copied[i] - copied[i - 1]
    return result


def _level(row: np.ndarray, hidden: np.ndarray, copied: np.ndarray) -> np.ndarray:
    return np.where(hidden, copied + (row - copied)[~hidden].mean(), row)


EXERCISES = {
    "07.1": Exercise(
        cases=_labellings,
        solution=_energy,
        praise="This is the number that every cut makes smaller.",
        mistakes=pairs(
            _fit,
            "The seams are missing: add seams[i] wherever labels[i] and labels[i + 1] differ.",
            lambda costs, labels, seams: _fit(costs, labels) + float(seams.sum()),
            "Every pair of neighbours pays here: a seam costs only where the two labels differ.",
            lambda costs, labels, seams: _fit(costs, labels) + float(seams[labels[1:] == labels[:-1]].sum()),
            "Seams are paid where labels agree: it is the other way round.",
            lambda costs, labels, seams: _energy(costs, costs.argmin(axis=0), seams),
            "These are the cheapest labels: take the ones you are given.",
            lambda costs, labels, seams: float(costs[labels].sum() + seams[labels[1:] != labels[:-1]].sum()),
            "costs[labels] takes whole rows: take one cost a pixel, costs[labels, np.arange(n)].",
            lambda costs, labels, seams: _fit(costs, labels) + float((seams * np.abs(np.diff(labels))).sum()),
            "A seam costs the same whichever labels meet: do not multiply by their difference.",
            lambda costs, labels, seams: 2 * _energy(costs, labels, seams) - _fit(costs, labels),
            "Every seam is paid twice: go through the pairs i, i + 1 once.",
            lambda costs, labels, seams: float((labels[1:] != labels[:-1]).sum()) + _fit(costs, labels),
            "Every seam costs 1 here: add seams[i] where labels[i] and labels[i + 1] differ.",
            lambda costs, labels, seams: (
                float(np.mean(costs[labels, np.arange(len(labels))])) + float(seams[labels[1:] != labels[:-1]].sum())
            ),
            "The costs of the pixels are averaged: add them up, as the seams are.",
        ),
    ),
    "07.2": Exercise(
        cases=_moves,
        solution=_usable,
        praise="Such a copy never looks under the hole.",
        mistakes=pairs(
            lambda hole, offsets: _sources(hole, offsets)[2].all(axis=1),
            "A copy may still lie under the hole: its sources have to be visible too.",
            lambda hole, offsets: np.array([_usable(hole, offset[None])[0] or not offset.any() for offset in offsets]),
            "The offset (0, 0) copies the hole onto itself: it may not serve.",
            _usable_in_part,
            "One usable pixel is not enough here: use all, not any.",
            lambda hole, offsets: _usable(hole, -offsets),
            "The sign is reversed: the source of (y, x) is (y, x) + offset.",
            lambda hole, offsets: _usable(hole, offsets[:, ::-1]),
            "The order is reversed: an offset is (down, right).",
            _usable_round,
            "A negative index counts from the other end, and np.roll wraps round: those lie outside the photo.",
            lambda hole, offsets: ~_usable(hole, offsets),
            "True and False are swapped: True = this offset may serve.",
        ),
    ),
    "07.3": Exercise(
        cases=_cost_maps,
        solution=_seam,
        praise="Nothing was tried twice, and no seam was missed.",
        mistakes=pairs(
            _greedy,
            "This walks to the cheapest neighbour, row by row: add up the best totals first, then walk back.",
            lambda cost: cost.argmin(axis=1),
            "These columns are not joined: from row to row a seam moves by one column at most.",
            partial(_seam, back=False),
            "The smallest total of each row belongs to different seams: start at the last row and walk back.",
            partial(_seam, wrap=True),
            "This seam jumps from one edge to the other: np.roll wraps round, so pad with infinity instead.",
            lambda cost: _seam(cost[::-1]),
            "The seam is upside down: reverse it, so that row 0 comes first.",
            partial(_seam, reach=2),
            "This seam moves by two columns: from row to row it may move by one at most.",
            partial(_seam, reach=0),
            "This seam goes straight down: it may move by one column a row.",
            lambda cost: _seam(-cost),
            "This is the most expensive seam: take the smallest totals.",
            lambda cost: _seam(cost.T),
            "This seam runs from left to right: it has one column for each row.",
        ),
    ),
    "07.4": Exercise(
        cases=_pictures,
        solution=_mix,
        praise="This is the last line of repair_photo, which lets you choose the share.",
        mistakes=pairs(
            lambda photo, guide, copied, hole, share: np.where(
                hole[..., None], np.round(guide + share * (copied - guide)).astype(np.uint8), photo
            ),
            "copied - guide wraps round below zero in uint8: turn one of them into floats first.",
            lambda photo, guide, copied, hole, share: np.where(
                hole[..., None], guide + share * (copied.astype(float) - guide), photo
            ),
            "The mixture has fractions: round it, then turn it into uint8.",
            partial(_mix, whole_numbers=np.ceil),
            "Fractions are rounded up: round to the nearest whole number, np.round.",
            partial(_mix, whole_numbers=np.floor),
            "astype(np.uint8) cuts the fraction off: round first.",
            lambda photo, guide, copied, hole, share: _mix(photo, guide, copied, np.ones_like(hole), share),
            "Visible pixels have changed: outside the hole the photo stays as it is.",
            lambda photo, guide, copied, hole, share: _mix(photo, copied, guide, hole, share),
            "The share is reversed: 0 is the guide alone, 1 the copy alone.",
            lambda photo, guide, copied, hole, share: _mix(guide, guide, copied, hole, share),
            "Outside the hole this shows the guide: take the photo there.",
            lambda photo, guide, copied, hole, share: _mix(photo, guide, copied, ~hole, share),
            "The hole is inverted: True = hidden, and only those pixels change.",
        ),
    ),
    "07.5": Exercise(
        cases=_rows,
        solution=_blend,
        praise="The same equations, for two directions, blend a facade.",
        mistakes=pairs(
            partial(_blend, garbage=True),
            "What `row` holds in the gap counts as known here: set it to 0 before you take the steps.",
            lambda row, hidden, copied: np.where(hidden, copied, row),
            "This is the plain copy: take its steps from pixel to pixel, not its values.",
            lambda row, hidden, copied: _blend(row, hidden, np.zeros_like(copied)),
            "The steps of the copy are missing: this is a straight line from rim to rim.",
            _from_the_left,
            "All of the error lands at the right end of the gap: spread it over all steps, by least squares.",
            lambda row, hidden, copied: _blend(row, hidden, -copied),
            "The steps have the wrong sign: copied[i + 1] - copied[i] is wanted for row[i + 1] - row[i].",
            _level,
            "One shift for the whole copy leaves a jump at both ends: let the shift change along the gap.",
            lambda row, hidden, copied: _blend(row, hidden, copied)[hidden],
            "Return the whole row, the visible values unchanged.",
        ),
    ),
}
