"""Classical inpainting, which fills a hole without learning anything: what a model has to beat.

Every baseline is a function `fill(images, hole)` of images float `(B, C, H, W)` in [0, 1] and a hole bool `(B, H, W)`,
True = hidden. It returns images of the same shape that differ in the hole only. It raises `ValueError` for bad
arguments or an image without a visible pixel, and `ImportError` when the optional package that it needs is missing.
Images are filled one by one, so the result does not depend on what else is in the batch.
"""

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from maelib.metrics import check_images

Fill = Callable[[Tensor, Tensor], Tensor]
MAX_COPIES = 512  # shifts that are tried, best first; a pixel that none of them reaches gets the mean colour


def _optional(module: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"this baseline needs {module}; pip install maelib[course]") from error


def _baseline(fill_image: Fill) -> Fill:
    """Turn a function of one image `(C, H, W)` and its hole `(H, W)`, both on the CPU, into a baseline.

    The function is given the mean of the visible pixels in place of the hidden ones, so that nothing of the truth can
    leak. (OpenCV's Telea does read pixels that the mask hides.)
    """

    @wraps(fill_image)
    def fill(images: Tensor, hole: Tensor) -> Tensor:
        check_images(images, hole)
        full = hole.flatten(1).all(dim=1).nonzero().flatten().tolist()
        if full:
            raise ValueError(f"the hole covers all of images {full}; a baseline needs at least one visible pixel")
        filled = images.clone()
        for i in hole.flatten(1).any(dim=1).nonzero().flatten().tolist():
            mean = images[i][:, ~hole[i]].mean(dim=1)[:, None, None]
            blank = torch.where(hole[i], mean, images[i]).cpu()
            filled[i] = fill_image(blank, hole[i].cpu()).clamp(0, 1).to(images)
        return torch.where(hole[:, None], filled, images)

    return fill


@_baseline
def mean_fill(image: Tensor, hole: Tensor) -> Tensor:
    """The mean colour of the visible pixels."""
    return image


@_baseline
def nearest_patch(image: Tensor, hole: Tensor) -> Tensor:
    """A copy of the nearest visible patch; a patch is the largest of 32, 16, 8, 4 and 2 px that tiles the hole.

    No patch tiles a hole with a free outline: each of its pixels copies the nearest visible pixel.
    """
    from scipy.ndimage import distance_transform_edt

    height, width = hole.shape
    for size in (32, 16, 8, 4, 2, 1):
        if height % size == 0 and width % size == 0:
            tiles = hole.reshape(height // size, size, width // size, size)
            hidden = tiles.any(dim=3).any(dim=1)  # (rows, cols)
            if (tiles == hidden[:, None, :, None]).all() and not hidden.all():
                break
    nearest = distance_transform_edt(hidden.numpy(), return_distances=False, return_indices=True)  # (2, rows, cols)
    rows, cols = torch.from_numpy(nearest).long().repeat_interleave(size, 1).repeat_interleave(size, 2) * size
    return image[:, rows + torch.arange(height)[:, None] % size, cols + torch.arange(width) % size]


@_baseline
def translation_copy(image: Tensor, hole: Tensor) -> Tensor:
    """Each hidden pixel from the picture moved by the best whole-pixel translation that shows something there.

    `_rank_shifts` ranks all translations. A pixel that none of the best 512 reaches gets the mean colour.
    """
    return _fill_by_copies(image, hole, count=1)


@_baseline
def mean_of_copies(image: Tensor, hole: Tensor) -> Tensor:
    """The mean of the six best copies of `translation_copy` that show something at a pixel."""
    return _fill_by_copies(image, hole, count=6)


@_baseline
def mirror(image: Tensor, hole: Tensor) -> Tensor:
    """Each hidden pixel from the left-right mirror image about the best vertical axis that shows something there.

    Axes lie on and between all pixel columns and are ranked like the translations of `translation_copy`.
    """
    return _fill_by_copies(image, hole, count=1, mirrored=True)


def _fill_by_copies(image: Tensor, hole: Tensor, count: int, mirrored: bool = False) -> Tensor:
    """The mean of the first `count` shifted pictures, in order of rank, that show something at each hidden pixel."""
    source, visible = (image.flip(-1), ~hole.flip(-1)) if mirrored else (image, ~hole)
    source, seen = source.flatten(1), visible.flatten()
    shifts = _rank_shifts(image, ~hole, source.view_as(image), visible, rows_only=mirrored)  # (K, 2)
    pixels = hole.nonzero()  # (M, 2)
    values, found = torch.zeros(len(image), len(pixels)), torch.zeros(len(pixels), dtype=torch.long)
    for some in shifts.split(32):
        open_ = (found < count).nonzero()[:, 0]
        origin = pixels[open_] + some[:, None]  # (32, M', 2): where each shifted picture comes from
        inside = ((origin >= 0) & (origin < torch.tensor(hole.shape))).all(dim=2)
        origin = (origin[..., 0] * hole.shape[1] + origin[..., 1]) * inside  # (32, M'), index into a flat image
        use = seen[origin] & inside
        use &= found[open_] + use.cumsum(dim=0) <= count
        copy, pixel = use.nonzero(as_tuple=True)
        values.index_add_(1, open_[pixel], source[:, origin[copy, pixel]].float())
        found[open_] += use.sum(dim=0)
    filled = image.clone()
    filled[:, hole] = torch.where(found > 0, (values / found.clamp(min=1)).to(image), image[:, hole])
    return filled


def _rank_shifts(image: Tensor, visible: Tensor, source: Tensor, source_visible: Tensor, rows_only: bool) -> Tensor:
    """Shifts (K, 2) for which `source` at `pixel + shift` best agrees with `image` at `pixel`, best first.

    The score of a shift is the mean squared error over the pixels that are visible in both pictures; the Fourier
    transform finds it for all shifts at once. A small overlap is weak evidence, so the score is pulled towards the
    error of unrelated pixels (twice the variance), as if an eighth of the picture had been compared and found
    unrelated.
    """
    height, width = visible.shape
    size = (2 * height, 2 * width)  # room for every shift without wrapping round

    def correlate(a: Tensor, b: Tensor) -> Tensor:  # sum over x of a(x) b(x + shift), for every shift
        return torch.fft.irfft2(torch.fft.rfft2(a, size).conj() * torch.fft.rfft2(b, size), size)

    mean = image[:, visible].double().mean(dim=1)[:, None, None]
    here, there = visible.double(), source_visible.double()
    a, b = (image.double() - mean) * here, (source.double() - mean) * there  # (C, H, W)
    energy_a, energy_b = a.square().sum(dim=0), b.square().sum(dim=0)
    error = correlate(energy_a, there) + correlate(here, energy_b) - 2 * correlate(a, b).sum(dim=0)
    overlap, prior = correlate(here, there).clamp(min=0), height * width / 8
    score = (error + prior * 2 * energy_a.sum() / here.sum()) / (overlap + prior)  # (2H, 2W)
    score[correlate(1 - here, there) < 0.5] = torch.inf  # shows nothing in the hole
    if rows_only:
        score[1:] = torch.inf
    # A shift and its opposite often tie. Rounding makes ties exact and the stable sort breaks them alike on any CPU.
    score, best = score.flatten().round(decimals=9).sort(stable=True)
    best = best[score.isfinite()][:MAX_COPIES]
    shift = torch.stack([best // size[1], best % size[1]], dim=1)  # (K, 2), negative shifts wrapped round
    return torch.where(shift >= torch.tensor([height, width]), shift - torch.tensor(size), shift)


def _opencv(image: Tensor, hole: Tensor, algorithm: str) -> Tensor:
    cv2 = _optional("cv2")
    picture = (image * 255).round().clamp(0, 255).byte().permute(1, 2, 0).contiguous()  # (C, H, W) -> (H, W, C)
    filled = cv2.inpaint(picture.numpy(), hole.byte().numpy(), 3, getattr(cv2, algorithm))
    return torch.from_numpy(filled).reshape(picture.shape).permute(2, 0, 1) / 255  # (H, W, C) -> (C, H, W)


@_baseline
def telea(image: Tensor, hole: Tensor) -> Tensor:
    """OpenCV's fast marching, radius 3 px. Source: Telea, J. Graphics Tools 9(1), 2004."""
    return _opencv(image, hole, "INPAINT_TELEA")


@_baseline
def navier_stokes(image: Tensor, hole: Tensor) -> Tensor:
    """OpenCV's fluid dynamics, radius 3 px. Source: Bertalmio, Bertozzi, Sapiro, CVPR 2001."""
    return _opencv(image, hole, "INPAINT_NS")


@_baseline
def biharmonic(image: Tensor, hole: Tensor) -> Tensor:
    """scikit-image's smooth surface whose bilaplacian vanishes. Source: Damelin and Hoang, 2018."""
    inpaint = _optional("skimage.restoration").inpaint_biharmonic
    filled = inpaint(image.permute(1, 2, 0).double().numpy(), hole.numpy(), channel_axis=-1)
    return torch.from_numpy(filled).permute(2, 0, 1)


_FILLS = (mean_fill, mirror, nearest_patch, translation_copy, mean_of_copies, telea, navier_stokes, biharmonic)
BASELINES: dict[str, Fill] = {fill.__name__: fill for fill in _FILLS}
