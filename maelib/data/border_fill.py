"""The flat wedges that rectification leaves at the border of a photo.

Turning a photo so that the facade stands upright cuts corners off: what lies outside the old photo is filled with
black or mid-grey. The photo inside is a convex quadrilateral, so a wedge is all that lies beyond one straight line,
reaches a corner, and is flat. Shadows, trees, roofs and night skies lack the straight edge or the flatness.
"""

from collections.abc import Iterator

import numpy as np

FILLS = ((0, 36), (116, 144))  # darkest and brightest channel of the two fills, as JPEG and cameras leave them
NEUTRAL = 16  # levels between the channels of a fill
NEAR, FLAT = 8, 5  # levels by which compression takes a pixel off the fill, at most and mostly
EDGE = 1.6  # px that an edge frays to either side of its line
LEAST_EDGE, LEAST_AREA = 0.08, 0.001  # shares of the rows and of the photo, below which nothing is looked for
CLEAR = 0.6  # of 1, how clear a wedge must be: unbroken edge x flatness x photo beyond it


def find_border_fill(photos: np.ndarray) -> np.ndarray:
    """Where a photo shows no facade but a flat wedge, its frayed edge (1 px) included.

    Only photos with a black or grey corner are looked at closely, so that thousands of others cost next to nothing.

    Parameters
    ----------
    photos : ndarray
        uint8 `(H, W, 3)`, or a batch `(N, H, W, 3)`.

    Returns
    -------
    ndarray
        bool `(H, W)` or `(N, H, W)`, True = wedge.

    Raises
    ------
    ValueError
        When the photos are not uint8 with three channels.
    """
    if photos.dtype != np.uint8 or photos.ndim not in (3, 4) or photos.shape[-1] != 3:
        raise ValueError(f"photos are {photos.dtype} {photos.shape}; give uint8 (H, W, 3) or (N, H, W, 3)")
    if photos.ndim == 3:
        return find_border_fill(photos[None])[0]
    wedges = np.zeros(photos.shape[:3], bool)
    rim = max(1, round(min(photos.shape[1:3]) / 128))  # resampling and scanning spoil the outermost pixels
    if min(photos.shape[1:3]) < 16:
        return wedges
    for i in np.flatnonzero(_has_flat_corner(photos, rim)):
        photo = np.pad(photos[i, rim:-rim, rim:-rim], ((rim, rim), (rim, rim), (0, 0)), mode="edge")
        low, high = _extremes(photo)
        for fill in FILLS:
            filled = _filled(low, high, fill)
            if not filled.any():
                continue
            level = np.bincount(photo[filled].ravel()).argmax()  # the one that most of it has
            filled &= (low >= level - NEAR) & (high <= level + NEAR)
            for turn in range(4):  # each border in turn lies to the left
                for wedge in _beyond_lines(np.rot90(filled, turn), np.rot90(photo, turn)):
                    wedges[i] |= np.rot90(wedge, -turn)
    return wedges


def _has_flat_corner(photos: np.ndarray, rim: int) -> np.ndarray:
    """Which of `(N, H, W, 3)` have 3 x 3 px of one fill in a corner, as every wedge does."""
    side = np.r_[rim : rim + 3, -rim - 3 : -rim]
    corners = photos[:, side[:, None], side].reshape(-1, 2, 3, 2, 3, 3).swapaxes(2, 3)  # -> (N, 2, 2, 3, 3, 3)
    even = np.ptp(corners, axis=(3, 4)).max(axis=-1) <= 3 * NEAR
    filled = [_filled(*_extremes(corners), fill).mean(axis=(3, 4)) > 0.6 for fill in FILLS]
    return (even & np.any(filled, axis=0)).any(axis=(1, 2))


def _extremes(photos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Darkest and brightest channel of `(..., 3)`, each `(...)`; NumPy is slow along an axis of three."""
    red, green, blue = photos[..., 0], photos[..., 1], photos[..., 2]
    return np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)


def _filled(low: np.ndarray, high: np.ndarray, fill: tuple[int, int]) -> np.ndarray:
    """Where the darkest and the brightest channel are nearly those of a fill."""
    return (low >= fill[0]) & (high <= fill[1]) & (high - low <= NEUTRAL)


def _beyond_lines(filled: np.ndarray, photo: np.ndarray) -> Iterator[np.ndarray]:
    """The wedges at the left border, each `(H, W)`: left of a line `x = start + slope * y`, |slope| up to 1.

    In every row the fill ends somewhere. The line through most of these ends is found by voting (Hough 1962), and
    taken when ends follow it without gaps, the photo begins beyond it, and all that it cuts off is flat. What is
    nowhere thinner than half its thickest is a strip: a pavement or a shadow, none of rectification's.
    """
    height, width = filled.shape
    if not (filled[:3, 0].any() or filled[-3:, 0].any()):
        return
    least = max(5, LEAST_EDGE * height)
    end = np.where(filled.all(axis=1), width, filled.argmin(axis=1))
    y, left = np.arange(height), (end > 0) & (end < width)
    while left.sum() >= least:
        line = _most_voted(y[left], end[left], height, width)
        on_line = left & (np.abs(end - line) <= EDGE)
        rows, left = np.flatnonzero(on_line), left & ~on_line
        if len(rows) < least:
            return
        core = np.arange(width) < (line - 2.5)[:, None]  # what no edge frays
        if core.sum() < max(8, LEAST_AREA * core.size) or np.ptp(line) < max(1, line.min()):
            continue
        whole = len(rows) / (rows[-1] - rows[0] + 1)
        beyond = filled[rows, np.minimum(end[rows] + np.arange(2, 5)[:, None], width - 1)].mean()
        colours = photo[core].astype(int)
        flat = (np.abs(colours - np.median(colours, axis=0)).max(axis=1) <= FLAT).mean()
        if whole * flat * (1 - beyond) > CLEAR:
            yield np.arange(width) < (line + 1)[:, None]


def _most_voted(y: np.ndarray, x: np.ndarray, height: int, width: int) -> np.ndarray:
    """The line through most of the points `(x, y)`, as its x in each row `(height,)`."""
    slopes = np.linspace(-1, 1, height + 1)[:, None]
    start = np.floor(x - slopes * (y - height / 2)).astype(int) + height  # (S, points)
    bins = width + 2 * height
    votes = np.bincount((np.arange(len(slopes))[:, None] * bins + start).ravel(), minlength=len(slopes) * bins)
    votes = votes[:-2] + votes[1:-1] + votes[2:]  # three starts in a row, 3 px, vote together
    best, first = divmod(votes.argmax(), bins)
    near = (start[best] >= first) & (start[best] <= first + 2)
    return np.polyval(np.polyfit(y[near], x[near], 1), np.arange(height)) if near.sum() > 1 else np.full(height, -9.0)
