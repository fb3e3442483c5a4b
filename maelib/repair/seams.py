"""Copies of a photo, each moved by one offset, and the seams between them: where to cut, and how to blend.

Sources: labels by alpha expansion, Boykov, Veksler and Zabih 2001; the cost of a seam, Kwatra et al. 2003, equation 4;
the blend of gradients, Perez, Gangnet and Blake 2003.
"""

from typing import NamedTuple

import numpy as np

SEAM_WEIGHT = 0.4  # cost of a difference of 1 across a seam; the other costs are in maelib.repair.detail
EDGE = 0.8  # colours that differ more, summed over channels, meet in an edge: blending them would smear
PULL = 1000.0  # how much the blend holds to the repair's colours, over the square of the photo's longer side in px


class Scale(NamedTuple):
    """Photo, hole and repair at one size."""

    pixels: np.ndarray  # (H, W, 3) float32
    visible: np.ndarray  # (H, W) bool
    whole: np.ndarray  # (H, W) bool, a visible pixel whose four neighbours are visible too
    hole: np.ndarray  # (H, W) bool
    guide: np.ndarray  # (H, W, 3) float32, the repair


def source_of(scale: Scale, offsets: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, ...]:
    """Where copies moved by `offsets` `(..., 3)` (mirrored, down, right) take their pixels from.

    Returns rows, columns, whether they lie inside the photo, and the step that goes one pixel to the right.
    """
    mirrored, down, right = np.moveaxis(np.asarray(offsets), -1, 0)
    height, width = scale.hole.shape
    rows, cols = rows + down, cols + right
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    cols = np.where(mirrored, width - 1 - cols, cols)
    return rows.clip(0, height - 1), cols.clip(0, width - 1), inside, np.where(mirrored, -1, 1)


def look(scale: Scale, offsets: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours and gradients `(..., 9)` of copies, and whether the photo can supply them."""
    rows, cols, inside, step = source_of(scale, offsets, rows, cols)
    height, width = scale.hole.shape
    colour = scale.pixels[rows, cols]
    right = scale.pixels[rows, (cols + step).clip(0, width - 1)]
    below = scale.pixels[(rows + 1).clip(0, height - 1), cols]
    return np.concatenate([colour, right - colour, below - colour], axis=-1), inside & scale.whole[rows, cols]


def neighbours(where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of neighbouring pixels of `where` `(H, W)`, as two arrays of their numbers in reading order."""
    number = np.full(where.shape, -1)
    number[where] = np.arange(where.sum())
    pairs = []
    for first, second in ((number[:, :-1], number[:, 1:]), (number[:-1], number[1:])):
        both = (first >= 0) & (second >= 0)
        pairs.append(np.stack([first[both], second[both]]))
    return tuple(np.concatenate(pairs, axis=1))


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("...c->...", np.abs(a - b))  # in a fixed order, whatever the threads


def add_borders(scale: Scale, costs: np.ndarray, offsets: np.ndarray, free: np.ndarray, labels: np.ndarray) -> None:
    """Add to `costs` `(K, n)` of the pixels that are `free` `(H, W)` the seams to neighbours that are not.

    Those are visible, or belong to the hole and keep their `labels` `(H, W)`.
    """
    height, width = free.shape
    rows, cols = np.nonzero(free)
    for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        y, x = rows + down, cols + right
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        y, x = y.clip(0, height - 1), x.clip(0, width - 1)
        shown, kept = (np.nonzero(inside & m[y, x])[0] for m in (scale.visible, scale.hole & ~free))
        others = labels[y[kept], x[kept]]
        for label, offset in enumerate(offsets):
            top, left, there, _ = source_of(scale, offset, y[shown], x[shown])
            differs = np.abs(scale.pixels[top, left] - scale.pixels[y[shown], x[shown]]).sum(-1)
            costs[label, shown] += 2 * SEAM_WEIGHT * np.where(there & scale.visible[top, left], differs, 0.5)
            for at in ((rows[kept], cols[kept]), (y[kept], x[kept])):
                seam = _distance(look(scale, offset, *at)[0], look(scale, offsets[others], *at)[0])
                costs[label, kept] += SEAM_WEIGHT * np.where(others != label, seam, 0)


def expand(
    costs: np.ndarray, looks: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], labels: np.ndarray
) -> np.ndarray:
    """Lower the sum of `costs` `(K, n)` and seams by letting one label after another take what it can (a cut each).

    A seam between neighbours p and q costs how much the two copies differ at p and at q in their `looks` `(K, n, 9)`.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    (count, n), (p, q), at = costs.shape, pairs, np.arange(costs.shape[1])
    rows = np.concatenate([p, q, np.full(n, n), at, at, np.full(n, n + 1)])
    cols = np.concatenate([q, p, at, np.full(n, n), np.full(n, n + 1), at])
    order = np.lexsort((cols, rows))  # both directions of every edge, so that the flow fits the same structure
    starts, cols = np.searchsorted(rows[order], np.arange(n + 3)).astype(np.int32), cols[order].astype(np.int32)
    backward, none = np.zeros(len(p), np.int32), np.zeros(n, np.int32)

    def capacity(values: np.ndarray) -> np.ndarray:
        return np.minimum(np.round(values * 4096), 2**29).astype(np.int32)

    def seam(of_p: np.ndarray, of_q: np.ndarray) -> np.ndarray:
        differ = _distance(looks[of_p, p], looks[of_q, p]) + _distance(looks[of_p, q], looks[of_q, q])
        return SEAM_WEIGHT * np.where(of_p != of_q, differ, 0)

    def energy(labels: np.ndarray) -> float:
        return float(costs[labels, at].sum(dtype=float) + seam(labels[p], labels[q]).sum(dtype=float))

    lowest = energy(labels)
    for label in range(count):
        new = np.full(len(p), label)
        p_moves, q_moves = seam(new, labels[q]), seam(labels[p], new)
        both_stay = np.minimum(seam(labels[p], labels[q]), p_moves + q_moves)
        move = costs[label] + np.bincount(p, p_moves - both_stay, n) - np.bincount(q, p_moves, n)
        stay = costs[labels, at].astype(float)
        shared = np.minimum(stay, move)
        edges = [p_moves + q_moves - both_stay, backward, move - shared, none, stay - shared, none]
        graph = csr_matrix((np.concatenate([capacity(e) for e in edges])[order], cols, starts), (n + 2, n + 2))
        residual = graph - maximum_flow(graph, n, n + 1).flow
        residual.eliminate_zeros()
        stays = np.zeros(n + 2, bool)
        stays[breadth_first_order(residual, n, return_predecessors=False)] = True
        moved = np.where(stays[:n], labels, label)
        if (cost := energy(moved)) < lowest:
            labels, lowest = moved, cost
    return labels


def blend(scale: Scale, offsets: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Colours `(n, 3)` of the hole's pixels whose gradients are the copies' own, also across seams and the rim.

    Solves the screened Poisson equation by conjugate gradients.
    """
    from scipy.sparse import coo_matrix, diags

    height, width = scale.hole.shape
    rows, cols = np.nonzero(scale.hole)
    number = np.full(scale.hole.shape, -1)
    number[rows, cols] = np.arange(len(rows))
    mine = offsets[labels[rows, cols]]

    def colour(offset: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        y, x, _, _ = source_of(scale, offset, y, x)
        return scale.pixels[y, x].astype(float)

    copied, guide = colour(mine, rows, cols), scale.guide[scale.hole].astype(float)
    pull = PULL / max(height, width) ** 2
    wanted, degree, links = pull * guide, np.full(len(rows), pull), []
    for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        y, x = rows + down, cols + right
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        y, x = y.clip(0, height - 1), x.clip(0, width - 1)
        here = np.nonzero(inside & scale.hole[y, x])[0]
        there = number[y[here], x[here]]
        mine_there, theirs_here = colour(mine[here], y[here], x[here]), colour(mine[there], rows[here], cols[here])
        fits = (_distance(copied[here], theirs_here) + _distance(copied[there], mine_there)) / 2 < EDGE
        here, there, mine_there, theirs_here = here[fits], there[fits], mine_there[fits], theirs_here[fits]
        wanted[here] += (copied[here] - mine_there + theirs_here - copied[there]) / 2
        links.append((here, there))
        rim = np.nonzero(inside & scale.visible[y, x])[0]
        top, left, seen, _ = source_of(scale, mine[rim], y[rim], x[rim])
        step = np.where((seen & scale.visible[top, left])[:, None], copied[rim] - scale.pixels[top, left], 0)
        aim = scale.pixels[y[rim], x[rim]] + step
        fits = _distance(aim, copied[rim]) < EDGE
        rim, aim = rim[fits], aim[fits]
        wanted[rim] += aim
        degree[here] += 1
        degree[rim] += 1
    links = np.concatenate(links, axis=1)
    matrix = (diags(degree) - coo_matrix((np.ones(links.shape[1]), links), (len(rows),) * 2)).tocsr()
    result = copied
    residual = wanted - matrix @ result
    direction, size = residual, np.einsum("nc,nc->c", residual, residual)
    for _ in range(500):
        if size.max() < 1e-8 * len(rows):  # 0.0001 a pixel
            break
        image = matrix @ direction
        step = size / np.maximum(np.einsum("nc,nc->c", direction, image), 1e-30)
        result, residual = result + step * direction, residual - step * image
        before, size = size, np.einsum("nc,nc->c", residual, residual)
        direction = residual + size / np.maximum(before, 1e-30) * direction
    return result.clip(0, 1)
