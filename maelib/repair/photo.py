"""Repair: any photo and any hole, with a trained model or a classical method.

`repair` works on batches at the model's own scale. `repair_photo` takes one photo of any size and goes from coarse to
fine; `benchmarks/large_photos.py` compares that with the coarse pass alone and with tiles alone.
"""

from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maelib.data.photos import check_hole
from maelib.masking import mask_from_pixels
from maelib.model import MaskedAutoencoder

MOST_HIDDEN = 0.4  # share of a tile's patches; beyond it a tile has too little to go by, and the coarser repair stays
SHIFTS = 2  # the patch grid is shifted this often along each axis, which averages its edges away


@torch.no_grad()
def repair(images: Tensor, hole: Tensor, method: MaskedAutoencoder | str) -> Tensor:
    """Fill the hole of each image; nothing else changes.

    Parameters
    ----------
    images : Tensor
        `(B, C, H, W)` in [0, 1]; for a model, sides are multiples of its patch size.
    hole : Tensor
        `(B, H, W)` bool, True = to be filled. A model is shown no patch that the hole touches.
    method : MaskedAutoencoder or str
        A model, or the name of one of `maelib.repair.classical.BASELINES`.

    Raises
    ------
    ValueError
        For an unknown name, a hole of another shape, or one that leaves nothing visible.
    """
    from maelib.repair.classical import BASELINES  # loads what classical methods need, which models do not

    if hole.dtype != torch.bool or hole.shape != images[:, 0].shape:
        raise ValueError(
            f"hole is {hole.dtype} of shape {tuple(hole.shape)}; for images {tuple(images.shape)} use bool of shape "
            f"{tuple(images[:, 0].shape)}, True = to be filled"
        )
    if not isinstance(method, str):
        device = next(iter(method.parameters())).device
        mask = mask_from_pixels(hole, method.config.patch_size)
        repaired = method.reconstruct(images.to(device), mask.to(device)).to(images)
    elif method in BASELINES:
        repaired = BASELINES[method](images, hole)
    else:
        raise ValueError(f"method {method!r} is not known; use a model or one of {', '.join(BASELINES)}")
    return torch.where(hole[:, None], repaired, images)


def harmonic_fill(values: Tensor, known: Tensor, sweeps: int = 24) -> Tensor:
    """Span a smooth surface over the gaps of `values` `(B, C, H, W)`, through what is `known` `(B, H, W)` bool.

    Solves Laplace's equation in the gaps (Perez et al. 2003, equation 2) by Jacobi sweeps, first on coarse grids, then
    on finer ones. A constant is continued exactly.
    """
    here = known[:, None]  # (B, 1, H, W)
    surface = torch.where(here, values, 0)
    if known.all() or known[0].numel() == 1:
        return surface
    share = F.avg_pool2d(here.to(values), 2, ceil_mode=True)  # (B, 1, H / 2, W / 2)
    mean = F.avg_pool2d(surface, 2, ceil_mode=True) / share.clamp(min=1e-6)
    coarse = harmonic_fill(mean, share[:, 0] > 0, sweeps)
    surface = torch.where(here, values, F.interpolate(coarse, size=known.shape[1:], mode="bilinear"))
    for _ in range(sweeps):
        x = F.pad(surface, (1, 1, 1, 1), mode="replicate")
        total = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
        surface = torch.where(here, values, total / 4)
    return surface


def _grow(hole: Tensor) -> Tensor:
    """The hole `(B, H, W)` and the pixels beside it."""
    return F.max_pool2d(hole[:, None].float(), 3, 1, 1)[:, 0].bool()


def blend_seam(images: Tensor, repaired: Tensor, hole: Tensor) -> Tensor:
    """Shift the hole `(B, H, W)` of `repaired` `(B, C, H, W)` so that it agrees with `images` around it.

    What `repaired` misses the images by, in the pixels beside the hole, is continued into it by a membrane. A constant
    error is removed exactly, and nothing outside the hole changes.
    """
    shift = harmonic_fill(images - repaired, _grow(hole) & ~hole)
    return torch.where(hole[:, None], (repaired + shift).clamp(0, 1), images)


def _shrink(photo: Tensor, hole: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Photo `(C, H, W)` and hole `(H, W)` at another size; only visible pixels count, so that no hole bleeds."""
    visible = (~hole)[None].to(photo)
    both = torch.cat([photo * visible, visible])[None]  # (1, C + 1, H, W)
    smaller = shape[0] <= hole.shape[0] and shape[1] <= hole.shape[1]
    both = F.interpolate(both, size=shape, mode="area" if smaller else "bilinear")[0]
    share = both[-1]
    return torch.where(share > 0, both[:-1] / share.clamp(min=1e-6), 0), share


def _sizes(shape: tuple[int, int], model: MaskedAutoencoder) -> list[tuple[int, int]]:
    """Sizes to repair at: as many pixels as the model was trained on, then about twice the side, up to `shape`."""
    img_size, patch_size = model.config.img_size, model.config.patch_size
    ratio = (shape[0] * shape[1]) ** 0.5 / img_size
    first = tuple(max(patch_size, round(side / ratio / patch_size) * patch_size) for side in shape)
    steps = max(0, round(np.log2(ratio)))
    scales = (ratio ** (step / steps - 1) for step in range(1, steps + 1))
    return [first, *(tuple(max(patch_size, round(side * scale)) for side in shape) for scale in scales)]


def _predict(model: MaskedAutoencoder, tiles: Tensor, hole: Tensor) -> Tensor:
    """Repair tiles `(B, C, h, w)` on several positions of the patch grid and average."""
    size, (height, width) = model.config.patch_size, tiles.shape[2:]
    total, count = torch.zeros_like(tiles), 0
    for top, left in product(range(0, size, max(1, size // SHIFTS)), repeat=2):
        pad = (left, -left % size, top, -top % size)
        shifted = F.pad(hole[:, None].float(), pad, mode="replicate")[:, 0].bool()
        if mask_from_pixels(shifted, size).all(dim=1).any():
            continue  # the shift has spread the hole over the last visible patch
        filled = repair(F.pad(tiles, pad, mode="replicate"), shifted, model)
        total, count = total + filled[..., top : top + height, left : left + width], count + 1
    return total / count


def _starts(side: int, tile: int) -> list[int]:
    """First pixels of tiles that overlap by half and end with the picture."""
    return [*range(0, side - tile, max(1, tile // 2)), side - tile]


def _repair_tiles(photo: Tensor, hole: Tensor, model: MaskedAutoencoder, tile: tuple[int, int], most: float) -> Tensor:
    """Repair the hole `(H, W)` of `photo` `(C, H, W)` tile by tile, each fading towards its edges.

    The model is asked for the pixels beside the hole too, since what it misses there tells how to shift the tile,
    unless that hides more than half of the patches it could go by. Tiles of which more than `most` is hidden keep what
    the hole shows already.
    """
    larger = _grow(hole[None])[0]
    window = [torch.sin(torch.pi * (torch.arange(side) + 0.5) / side) ** 2 + 1e-3 for side in tile]
    window = window[0][:, None] * window[1]  # (h, w)
    total, weight = torch.zeros_like(photo), torch.zeros_like(photo[0])
    boxes = []
    for top in _starts(hole.shape[0], tile[0]):
        for left in _starts(hole.shape[1], tile[1]):
            box = (slice(top, top + tile[0]), slice(left, left + tile[1]))
            if hole[box].any():
                weight[box] += window
                masks = torch.stack([hole[box], larger[box]])
                hidden = mask_from_pixels(masks, model.config.patch_size).float().mean(dim=1)
                choice = int(hidden[1] - hidden[0] <= (1 - hidden[0]) / 2)
                if hidden[choice] <= most:
                    boxes.append((box, masks[choice]))
                else:
                    total[:, *box] += window * photo[:, *box]
    for start in range(0, len(boxes), 32):
        some = boxes[start : start + 32]
        tiles, gaps = (torch.stack([x[..., *box] for box, _ in some]) for x in (photo, hole))
        tiles = blend_seam(tiles, _predict(model, tiles, torch.stack([mask for _, mask in some])), gaps)
        for (box, _), repaired in zip(some, tiles, strict=True):
            total[:, *box] += window * repaired
    return torch.where(hole, total / weight.clamp(min=1e-6), photo)


def _repair_by_model(photo: Tensor, hole: Tensor, model: MaskedAutoencoder) -> Tensor:
    """Repair `photo` `(C, H, W)` in [0, 1]: the whole at the model's scale, then finer and finer by tiles.

    A finer pass starts from the coarser repair and predicts anew where its tiles see enough of the photo.
    """
    repaired = None
    for size in _sizes(tuple(hole.shape), model):
        small, share = _shrink(photo, hole, size)
        gap = share < 0.5
        if repaired is None:
            start, tile, most = harmonic_fill(small[None], share[None] > 0)[0], size, 1 - 1e-6
        else:
            start = F.interpolate(repaired[None], size=size, mode="bicubic")[0].clamp(0, 1)
            step = model.config.patch_size
            tile, most = tuple(min(model.config.img_size, side // step * step) for side in size), MOST_HIDDEN
        start = torch.where(gap, start, small)
        repaired = _repair_tiles(start, gap, model, tile, most)
    if repaired.shape[1:] != hole.shape:
        repaired = F.interpolate(repaired[None], size=hole.shape, mode="bilinear", antialias=True)[0]
    return repaired


@torch.no_grad()
def repair_photo(photo: np.ndarray, hole: np.ndarray, method: MaskedAutoencoder | str) -> np.ndarray:
    """Fill the hole of one photo of any size; every other pixel stays as it is, to the bit.

    Parameters
    ----------
    photo : ndarray
        uint8 `(H, W, 3)`. A grey photo gets a grey repair.
    hole : ndarray
        `(H, W)` bool, True = to be filled. What the photo shows there is never looked at.
    method : MaskedAutoencoder or str
        A model, or the name of one of `maelib.repair.classical.BASELINES`.

    Returns
    -------
    ndarray
        uint8 `(H, W, 3)`.

    Raises
    ------
    ValueError
        When the photo is no uint8 `(H, W, 3)` or smaller than a patch, or the hole has another size, or hides
        nothing or everything (`PhotoError`).
    """
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        raise ValueError(
            f"photo is {photo.dtype} of shape {photo.shape}, expected uint8 (H, W, 3); see data.photos.as_rgb_uint8"
        )
    check_hole(hole, photo.shape)
    if not isinstance(method, str) and min(photo.shape[:2]) < method.config.patch_size:
        raise ValueError(
            f"photo is {photo.shape[1]} x {photo.shape[0]} px (width x height), smaller than a patch of the model; use "
            f"one of at least {method.config.patch_size} px a side"
        )
    visible = np.where(hole[..., None], np.uint8(0), photo)
    image, gap = torch.from_numpy(visible).permute(2, 0, 1) / 255, torch.from_numpy(hole)
    filled = (
        repair(image[None], gap[None], method)[0] if isinstance(method, str) else _repair_by_model(image, gap, method)
    )
    filled = (filled.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()  # (C, H, W) -> (H, W, C)
    if (visible == visible[..., :1]).all():
        filled = filled.mean(axis=2, keepdims=True).round().astype(np.uint8)
    return np.where(hole[..., None], filled, photo)
