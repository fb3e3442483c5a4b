"""Detail for a repair: the model says what stands where, and the rest of the same facade says how it looks.

A model trained with squared error paints the average of what could be there, which is a blur. The visible part of the
photo holds windows, mouldings and bricks as sharp as the photo itself. `add_detail` therefore fills the hole with
copies of the photo, each moved by one offset, mirrored copies included. Every pixel takes the copy that agrees with the
model's repair and with the rim of the hole, and the borders between copies run where they do not show.

Sources: shift maps, Pritch, Kav-Venaki and Peleg 2009; few offsets taken from the statistics of the photo, He and Sun
2012. `maelib.repair.seams` names those of its methods.
"""

import warnings
from itertools import pairwise

import numpy as np
from PIL import Image
from tqdm import tqdm

from maelib.repair.seams import Scale, add_borders, blend, expand, look, neighbours, source_of

LARGEST, MOST_PIXELS = 224, 9000  # the coarsest scale: at most this many pixels a side, and so many in the hole
BLUR = 0.7 / 128  # how blurred the model's repair is: a Gaussian's sigma, as a share of the photo's longer side
CONTEXT = 0.6  # how far around the hole a copy is judged as a whole, in sizes of the hole
RIM = 0.02  # how far around the hole a copy is judged place by place, as a share of the photo's longer side
COPIES = 40  # most offsets to choose among
GAIN = 0.003  # an offset is worth having when it lowers the cost of the hole's pixels by this on average
# Weights of the costs, for colours in [0, 1]: agreement with the repair, the rim, the context.
GUIDE_WEIGHT, RIM_WEIGHT, CONTEXT_WEIGHT = 4.0, 6.0, 2.0
FORBIDDEN = 50.0  # cost of a pixel that a copy cannot supply
BAND = 2  # px to either side of a seam within which a finer scale may move it
SURE = 0.4  # cost at which the confidence has fallen to 1 / e


def _resize(pixels: np.ndarray, shape: tuple[int, int], how: Image.Resampling = Image.Resampling.BOX) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize(shape[::-1], how))


def _make_scale(
    photo: np.ndarray, hole: np.ndarray, visible: np.ndarray, guide: np.ndarray, shape: tuple[int, int]
) -> Scale:
    from scipy.ndimage import binary_erosion

    rgba = _resize(np.dstack([photo, visible * np.uint8(255)]), shape)  # weighs colours by alpha: hidden ones are out
    hole = _resize(hole * np.uint8(255), shape) > 0
    visible = (rgba[..., 3] == 255) & ~hole
    pixels = (rgba[..., :3] * visible[..., None]).astype(np.float32) / 255
    whole = binary_erosion(visible, border_value=1)
    return Scale(pixels, visible, whole, hole, _resize(guide, shape).astype(np.float32) / 255)


def _blur(values: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(values, (sigma, sigma) + (0,) * (values.ndim - 2), mode="nearest")


def _squared_differences(
    pictures: list[tuple[np.ndarray, np.ndarray]], photo: np.ndarray, visible: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Compare pictures, each `(H, W, C)` where its `(H, W)` mask holds, with the photo moved by every offset.

    Returns the sum of squared differences and the number of pixels compared, both by offset, modulo their shape.
    """
    from scipy.fft import irfft2, next_fast_len, rfft2

    shape = [next_fast_len(2 * side, real=True) for side in visible.shape]

    def transform(values: np.ndarray) -> np.ndarray:
        return rfft2(values.astype(np.float32), shape, axes=(0, 1))

    photo = photo * visible[..., None]
    theirs, squares, seen = transform(photo), transform((photo**2).sum(-1)), transform(visible)
    results = []
    for picture, where in pictures:
        picture = picture * where[..., None]
        mask = transform(where).conj()
        error = transform((picture**2).sum(-1)).conj() * seen + mask * squares
        error -= 2 * (transform(picture).conj() * theirs).sum(-1)
        results.append((irfft2(error, shape), irfft2(mask * seen, shape)))
    return results


def _lowest(score: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Offsets of the `count` lowest scores that are not neighbours of each other."""
    score, offsets = score.copy(), []
    while len(offsets) < count and np.isfinite(score.min()):
        place = np.unravel_index(score.argmin(), score.shape)
        offsets.append(
            tuple(int(at if at < side // 2 else at - side) for at, side in zip(place, score.shape, strict=True))
        )
        score[np.ix_(*(np.arange(at - 2, at + 3) % side for at, side in zip(place, score.shape, strict=True)))] = np.inf
    return offsets


def _parts(scale: Scale) -> list[np.ndarray]:
    """The hole in up to 3 x 3 parts, each with what lies around it."""
    rows, cols = (np.nonzero(scale.hole.any(axis=axis))[0] for axis in (1, 0))
    tops, lefts = (np.linspace(at[0], at[-1] + 1, 4).astype(int) for at in (rows, cols))
    pad, parts = max(2, (tops[1] - tops[0]) // 3), []
    for top, bottom in pairwise(tops):
        for left, right in pairwise(lefts):
            if scale.hole[top:bottom, left:right].sum() >= 10:
                part = np.zeros_like(scale.hole)
                part[max(0, top - pad) : bottom + pad, max(0, left - pad) : right + pad] = True
                parts.append(part & (scale.hole | scale.visible))
    return parts


def _find_offsets(scale: Scale, target: np.ndarray, blurred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets `(K, 3)` that may serve, and how badly each fits the context of the hole `(K,)`.

    They are those that fit the context, the repair, or a part of the hole best.
    `target` is the blurred photo with the repair in its hole.
    """
    from scipy.ndimage import binary_dilation

    area, parts = int(scale.hole.sum()), _parts(scale)
    context = binary_dilation(scale.hole, iterations=max(4, int(CONTEXT * area**0.5))) & scale.visible
    found, context_costs = [], []
    for mirrored in (0, 1):
        pixels, visible, blur = (x[:, ::-1] if mirrored else x for x in (scale.pixels, scale.visible, blurred))
        ((error, count),) = _squared_differences([(scale.pixels, context)], pixels, visible)
        inside, *pieces = _squared_differences([(target, scale.hole), *((target, p) for p in parts)], blur, visible)
        prior = 0.05 * area  # pixels at a squared difference of 0.1, which a small overlap has to outweigh
        around, guided = ((e + 0.1 * prior) / np.maximum(n + prior, 1) for e, n in ((error, count), inside))
        allowed = np.ones(error.shape, bool)
        if not mirrored:  # almost no offset: the hole itself
            allowed[np.ix_(*(np.arange(-2, 3) % side for side in error.shape))] = False
        reaches = allowed & (inside[1] > 0.15 * area)
        for score in (around, guided):
            found += [(mirrored, *o) for o in _lowest(np.where(reaches, score, np.inf), 12 if mirrored else 24)]
        for part, (error, count) in zip(parts, pieces, strict=True):
            score = np.where(allowed & (count > 0.7 * part.sum()), error / np.maximum(count, 1), np.inf)
            found += [(mirrored, *o) for o in _lowest(score, 4 if mirrored else 8)]
        context_costs.append(around)
    offsets = np.array(list(dict.fromkeys(found)), int).reshape(-1, 3)
    height, width = context_costs[0].shape
    return offsets, np.array([context_costs[m][down % height, right % width] for m, down, right in offsets])


def _costs(scale: Scale, offsets: np.ndarray, target: np.ndarray, blurred: np.ndarray) -> np.ndarray:
    """How badly each copy fits each pixel of the hole, `(K, n)`: the repair there, and the rim nearby."""
    from scipy.ndimage import binary_dilation, distance_transform_edt, gaussian_filter, uniform_filter

    reach = max(2, round(RIM * max(scale.hole.shape)))
    near = binary_dilation(scale.hole, iterations=reach)
    rows, cols = (np.nonzero(near.any(axis=axis))[0] for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)
    rows, cols = np.mgrid[box]
    hole, rim, pixels, target = scale.hole[box], (near & scale.visible)[box], scale.pixels[box], target[box]
    fade = np.exp(-distance_transform_edt(scale.hole)[box] / max(2.0, 0.08 * scale.hole.sum() ** 0.5))
    costs = []
    for offset in offsets:
        y, x, inside, _ = source_of(scale, offset, rows, cols)
        usable, seen = inside & scale.whole[y, x], (inside & scale.visible[y, x] & rim).astype(np.float32)
        weight = (usable & hole).astype(np.float32)
        differs = ((blurred[y, x] - target) ** 2).sum(-1) * weight
        differs = uniform_filter(differs, 5) / np.maximum(uniform_filter(weight, 5), 1e-3)
        weight = gaussian_filter(seen, reach)
        breaks = gaussian_filter(np.abs(scale.pixels[y, x] - pixels).sum(-1) * seen, reach) / np.maximum(weight, 0.02)
        cost = GUIDE_WEIGHT * differs + RIM_WEIGHT * fade * np.where(weight > 0.02, breaks, 0.5)
        costs.append(np.where(usable, cost, FORBIDDEN)[hole])
    return np.array(costs, np.float32)


def _choose(costs: np.ndarray) -> list[int]:
    """Which copies `(K, n)` to choose among: those that lower the cost most, one by one."""
    best, chosen = np.full(costs.shape[1], FORBIDDEN, np.float32), []
    while len(chosen) < COPIES:
        gains = np.maximum(best - costs, 0).mean(axis=1)
        gains[chosen] = 0
        if gains.max() <= GAIN:
            break
        chosen.append(int(gains.argmax()))
        best = np.minimum(best, costs[chosen[-1]])
    return chosen


def _first_labels(scale: Scale) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets `(K, 3)` at the coarsest scale; the number of each pixel's offset and its confidence, both `(H, W)`."""
    sigma = BLUR * max(scale.hole.shape)
    shown = np.maximum(_blur(scale.visible.astype(np.float32), sigma), 1e-4)[..., None]
    blurred = _blur(scale.pixels, sigma) / shown
    target = np.where(scale.hole[..., None], scale.guide, blurred)
    offsets, context = _find_offsets(scale, target, blurred)
    labels, confidence = np.zeros(scale.hole.shape, int), np.zeros(scale.hole.shape, np.float32)
    if not len(offsets):
        return offsets, labels, confidence
    fits = _costs(scale, offsets, target, blurred)
    costs = fits + (CONTEXT_WEIGHT * (context - context.min()))[:, None].astype(np.float32)
    chosen = _choose(costs)
    offsets, fits, costs = offsets[chosen], fits[chosen], costs[chosen]
    if chosen:
        rows, cols = np.nonzero(scale.hole)
        looks = np.stack([look(scale, offset, rows, cols)[0] for offset in offsets])
        add_borders(scale, costs, offsets, scale.hole, labels)
        labels[scale.hole] = expand(costs, looks, neighbours(scale.hole), costs.argmin(axis=0))
        confidence[scale.hole] = np.exp(-fits[labels[scale.hole], np.arange(len(rows))] / SURE)
    return offsets, labels, confidence


def _finer_labels(
    scale: Scale, coarse: Scale, offsets: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Carry offsets and labels to a scale of about twice the size: fit each offset anew, and move the seams."""
    from scipy.ndimage import binary_dilation, distance_transform_edt

    used, numbers = np.unique(labels[coarse.hole], return_inverse=True)
    composed, offsets, labels = coarse.pixels.copy(), offsets[used], np.zeros_like(labels)
    labels[coarse.hole] = numbers
    composed[coarse.hole] = look(coarse, offsets[numbers], *np.nonzero(coarse.hole))[0][:, :3]
    shape, small = scale.hole.shape, coarse.hole.shape
    target = _resize((composed * 255).round().astype(np.uint8), shape, Image.Resampling.BICUBIC) / np.float32(255)
    target = np.where(scale.visible[..., None], scale.pixels, target)
    nearest = distance_transform_edt(~coarse.hole, return_distances=False, return_indices=True)
    labels = labels[tuple(nearest)]
    labels = labels[np.ix_(*(np.arange(side) * part // side for side, part in zip(shape, small, strict=True)))]
    fitted = []
    for label, (mirrored, down, right) in enumerate(offsets):
        own = binary_dilation(scale.hole & (labels == label), iterations=2) & (scale.hole | scale.visible)
        rows, cols = (at[:: max(1, len(at) // 4000)] for at in np.nonzero(own))
        down, right = round(down * shape[0] / small[0]), round(right * shape[1] / small[1])
        weight, best = np.where(scale.visible[rows, cols], 3, 1), (np.inf, (mirrored, down, right))
        for more in np.ndindex(3, 5) if len(rows) else ():
            offset = mirrored, down + more[0] - 1, right + more[1] - 2
            copied, usable = look(scale, offset, rows, cols)
            error = np.minimum(((copied[:, :3] - target[rows, cols]) ** 2).sum(-1), 0.3)
            best = min(best, (float((np.where(usable, error, 0.3) * weight).sum()), offset))
        fitted.append(best[1])
    offsets = np.array(fitted)
    rows, cols = np.nonzero(scale.hole)
    free = np.zeros_like(scale.hole)
    free[rows, cols] = ~look(scale, offsets[labels[rows, cols]], rows, cols)[1]
    for axis in (0, 1):
        seam = np.diff(labels, axis=axis) != 0
        for side in (slice(1, None), slice(None, -1)):
            free[(side, slice(None)) if axis == 0 else (slice(None), side)] |= seam
    free = binary_dilation(free, iterations=BAND) & scale.hole
    if free.any() and len(offsets) > 1:
        rows, cols = np.nonzero(free)
        looks, usable = zip(*(look(scale, offset, rows, cols) for offset in offsets), strict=True)
        costs = np.where(usable, np.float32(0), np.float32(FORBIDDEN))
        add_borders(scale, costs, offsets, free, labels)
        labels[free] = expand(costs, np.stack(looks), neighbours(free), labels[free])
    return offsets, labels


def add_detail(
    photo: np.ndarray, hole: np.ndarray, guide: np.ndarray, unknown: np.ndarray | bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Fill the hole of a photo with copies of its visible part, guided by a repair that knows what stands where.

    The result does not depend on the number of threads.

    Parameters
    ----------
    photo : ndarray
        uint8 `(H, W, 3)`. What it shows in the hole is never looked at.
    hole : ndarray
        `(H, W)` bool, True = to be filled.
    guide : ndarray
        uint8 `(H, W, 3)`, the photo as a model repaired it.
    unknown : ndarray, optional
        `(H, W)` bool, True = not to be copied from, such as border fill and what is transparent.

    Returns
    -------
    filled : ndarray
        uint8 `(H, W, 3)`; outside the hole it equals the photo. When nothing can be copied, it is the guide, and a
        warning says so.
    confidence : ndarray
        `(H, W)` float32 in [0, 1]: how well the copy fits the guide and the rim. It is 0 outside the hole, and where
        nothing visible could be copied.
    """
    visible, filled = ~(hole | unknown), np.where(hole[..., None], guide, photo)
    if not hole.any():
        return filled, np.zeros(hole.shape, np.float32)
    shrink = max(max(hole.shape) / LARGEST, (hole.sum() / MOST_PIXELS) ** 0.5)
    halvings = max(0, int(np.ceil(np.log2(shrink) - 0.3)))
    shapes = [tuple(min(s, max(8, round(s / 2**step))) for s in hole.shape) for step in range(halvings, -1, -1)]
    scales = (_make_scale(photo, hole, visible, guide, shape) for shape in shapes)
    scale = next(scales)
    offsets, labels, confidence = _first_labels(scale)
    if not len(offsets):
        warnings.warn("nothing visible can be copied into the hole; it stays as the model fills it", stacklevel=2)
        return filled, np.zeros(hole.shape, np.float32)
    for finer in tqdm(scales, "adding detail", len(shapes) - 1, delay=2, leave=False):
        offsets, labels = _finer_labels(finer, scale, offsets, labels)
        scale = finer
    filled[hole] = (blend(scale, offsets, labels) * 255).round()
    usable = look(scale, offsets[labels[hole]], *np.nonzero(hole))[1]
    filled[hole] = np.where(usable[:, None], filled[hole], guide[hole])
    confidence = _resize(confidence, hole.shape, Image.Resampling.BILINEAR) * hole
    confidence[hole] *= usable
    return filled, confidence
