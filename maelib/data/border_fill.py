"""Find border fill: the flat areas that rectification leaves at the border of a photo.

When a photo is turned so that its facade stands upright, its corners are cut off, and what lies outside the old photo
is filled with black or mid-grey. The photo inside is a convex quadrilateral. A piece of border fill is therefore all
that lies beyond one straight line, reaches a corner, and is flat. Shadows, trees, roofs and night skies lack the
straight edge or the flatness.
"""

from collections.abc import Iterator

import numpy as np

FILLS = ((0, 36), (116, 144))  # darkest and brightest channel of the two fills, as JPEG and cameras leave them
NEUTRAL = 16  # largest difference between the channels of a fill, in levels
NEAR, FLAT = 8, 5  # how far compression takes a pixel off the fill, in levels: at most, and mostly
EDGE = 1.6  # px by which an edge frays on either side of its line
LEAST_EDGE, LEAST_AREA = 0.08, 0.001  # smallest edge as a share of the rows, smallest area as a share of the photo
CLEAR = 0.6  # how clear a piece must be, out of 1: unbroken edge x flatness x photo beyond the edge


def find_border_fill(photos: np.ndarray) -> np.ndarray:
    """Find where a photo shows border fill instead of a facade, the frayed edge (1 px) included.

    Only photos with a black or grey corner are searched, so thousands of others cost next to nothing.

    Parameters
    ----------
    photos : ndarray
        uint8 `(H, W, 3)`, or a batch `(N, H, W, 3)`.

    Returns
    -------
    ndarray
        bool `(H, W)` or `(N, H, W)`, True = border fill.
    """
    if photos.ndim == 3:
        return find_border_fill(photos[None])[0]
    found, side = np.zeros(photos.shape[:3], bool), min(photos.shape[1:3])
    rim = max(1, round(side / 128))  # resampling and scanning spoil the outermost pixels
    for i in np.flatnonzero(_has_flat_corner(photos, rim)) if side >= 16 else []:
        photo = np.pad(photos[i, rim:-rim, rim:-rim], ((rim, rim), (rim, rim), (0, 0)), mode="edge")
        low, high = _extremes(photo)
        for fill in FILLS:
            filled = _filled(low, high, fill)
            level = np.bincount(photo[filled].ravel(), minlength=1).argmax()  # the most frequent level
            filled &= (low >= level - NEAR) & (high <= level + NEAR)
            for turn in range(4):  # turn each border to the left
                for piece in _beyond_lines(np.rot90(filled, turn), np.rot90(photo, turn)):
                    found[i] |= np.rot90(piece, -turn)
    return found


def _has_flat_corner(photos: np.ndarray, rim: int) -> np.ndarray:
    """Tell which of `(N, H, W, 3)` have 3 x 3 px of one fill in a corner, as all photos with border fill do."""
    side = np.r_[rim : rim + 3, -rim - 3 : -rim]
    corners = photos[:, side[:, None], side].reshape(-1, 2, 3, 2, 3, 3).swapaxes(2, 3)  # -> (N, 2, 2, 3, 3, 3)
    even = np.ptp(corners, axis=(3, 4)).max(axis=-1) <= 3 * NEAR
    filled = [_filled(*_extremes(corners), fill).mean(axis=(3, 4)) > 0.6 for fill in FILLS]
    return (even & np.any(filled, axis=0)).any(axis=(1, 2))


def _extremes(photos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take the darkest and the brightest channel of `(..., 3)`. NumPy is slow along an axis of three."""
    red, green, blue = photos[..., 0], photos[..., 1], photos[..., 2]
    return np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)


def _filled(low: np.ndarray, high: np.ndarray, fill: tuple[int, int]) -> np.ndarray:
    """Tell where the darkest and the brightest channel fit a fill."""
    return (low >= fill[0]) & (high <= fill[1]) & (high - low <= NEUTRAL)


def _beyond_lines(filled: np.ndarray, photo: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the pieces of fill at the left border, `(H, W)` each: left of a line `x = start + slope * y`, |slope| <= 1.

    In every row the fill ends somewhere. Voting (Hough 1962) finds the line through most of these ends. The line is
    accepted if ends follow it without gaps, the photo begins beyond it, and all that it cuts off is flat. Fill whose
    thinnest place is more than half as thick as its thickest is a strip, such as a pavement or a shadow, and was not
    left by rectification.
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
        core = np.arange(width) < (line - 2.5)[:, None]  # beyond the reach of the frayed edge
        if core.sum() < max(8, LEAST_AREA * core.size) or np.ptp(line) < max(1, line.min()):
            continue
        whole = len(rows) / (rows[-1] - rows[0] + 1)
        beyond = filled[rows, np.minimum(end[rows] + np.arange(2, 5)[:, None], width - 1)].mean()
        flat = (np.abs(photo[core] - np.median(photo[core], axis=0)).max(axis=1) <= FLAT).mean()
        if whole * flat * (1 - beyond) > CLEAR:
            yield np.arange(width) < (line + 1)[:, None]


def _most_voted(y: np.ndarray, x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Find the line through most of the points `(x, y)` and return its x in each row, `(height,)`."""
    slopes = np.linspace(-1, 1, height + 1)[:, None]
    start = np.floor(x - slopes * (y - height / 2)).astype(int) + height  # (S, points)
    bins = width + 2 * height
    votes = np.bincount((np.arange(len(slopes))[:, None] * bins + start).ravel(), minlength=len(slopes) * bins)
    votes = votes[:-2] + votes[1:-1] + votes[2:]  # three neighbouring starts, 3 px, vote together
    best, first = divmod(votes.argmax(), bins)
    near = (start[best] >= first) & (start[best] <= first + 2)
    return np.polyval(np.polyfit(y[near], x[near], 1), np.arange(height)) if near.sum() > 1 else np.full(height, -9.0)
