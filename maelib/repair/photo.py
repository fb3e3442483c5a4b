"""Repair of any photo and any hole, with a trained model or a classical method.

`repair` works on batches at the model's own scale. `repair_photo` takes one photo of any size: it cuts crops around the
holes of large photos, and a model repairs each from coarse to fine. `benchmarks/large_photos.py` compares that with the
coarse pass alone and with tiles alone.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from maelib.data.photos import check_hole
from maelib.masking import mask_from_pixels
from maelib.model import MaskedAutoencoder
from maelib.repair.detail import add_detail

MOST_HIDDEN = 0.4  # share of a tile's patches; beyond it a tile has too little to go by, and the coarser repair stays
SHIFTS = 2  # positions of the patch grid along its diagonal, whose average hides the grid's edges
AT_ONCE = 24_000_000  # pixels that are repaired at once, which bounds the memory needed
CONTEXT = 1.25  # what a crop shows on each side of a hole, in sizes of the hole
BLOCK = 64  # px; holes in neighbouring blocks of this side are repaired together
Progress = Callable[[list], Iterable]


@torch.no_grad()
def repair(images: Tensor, hole: Tensor, method: MaskedAutoencoder | str) -> Tensor:
    """Fill the hole of each image; nothing else changes.

    Parameters
    ----------
    images : Tensor
        `(B, C, H, W)` in [0, 1]; for a model, the sides are multiples of its patch size.
    hole : Tensor
        `(B, H, W)` bool, True = to be filled. A model is shown no patch that the hole touches.
    method : MaskedAutoencoder or str
        A model, or the name of one of `maelib.repair.classical.BASELINES`.

    Raises
    ------
    ValueError
        For an unknown name, or a hole that leaves nothing visible.
    """
    from maelib.repair.classical import BASELINES  # loads what classical methods need, which models do not

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

    Solves Laplace's equation in the gaps (Perez et al. 2003, equation 2) by Jacobi sweeps, on coarse grids before fine
    ones. A constant is continued exactly.
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

    The error of `repaired` in the pixels beside the hole is continued into the hole by `harmonic_fill` and taken off.
    A constant error is removed exactly, and nothing outside the hole changes.
    """
    shift = harmonic_fill(images - repaired, _grow(hole) & ~hole)
    return torch.where(hole[:, None], (repaired + shift).clamp(0, 1), images)


def _shrink(photo: Tensor, hole: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Photo `(C, H, W)`, 0 in its hole `(H, W)`, at another size, and the share of each pixel that is visible.

    Only visible pixels count, so that no hole bleeds.
    """
    visible = (~hole)[None].to(photo)
    if shape == hole.shape:
        return photo, visible[0]
    smaller = shape[0] <= hole.shape[0] and shape[1] <= hole.shape[1]
    both = torch.cat([photo, visible])[None]  # (1, C + 1, H, W)
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
    for shift in range(0, size, max(1, size // SHIFTS)):
        pad = (shift, -shift % size) * 2
        shifted = F.pad(hole[:, None].float(), pad, mode="replicate")[:, 0].bool()
        if mask_from_pixels(shifted, size).all(dim=1).any():
            continue  # the shift has spread the hole over the last visible patch
        filled = repair(F.pad(tiles, pad, mode="replicate"), shifted, model)
        total, count = total + filled[..., shift : shift + height, shift : shift + width], count + 1
    return total / count


def _repair_tiles(photo: Tensor, hole: Tensor, model: MaskedAutoencoder, tile: tuple[int, int], most: float) -> Tensor:
    """Repair the hole `(H, W)` of `photo` `(C, H, W)` tile by tile, each fading towards its edges.

    The model is asked for the pixels beside the hole too, since its error there tells how to shift the tile, unless
    that hides more than half of the patches it could go by. A tile of which more than `most` is hidden keeps what
    `photo` shows in the hole already.
    """
    larger = _grow(hole[None])[0]
    window = [torch.sin(torch.pi * (torch.arange(side) + 0.5) / side) ** 2 + 1e-3 for side in tile]
    window = window[0][:, None] * window[1]  # (h, w)
    total, weight = torch.zeros_like(photo), torch.zeros_like(photo[0])
    jobs = []
    starts = (
        [*range(0, side - part, max(1, part // 2)), side - part] for side, part in zip(hole.shape, tile, strict=True)
    )
    for top, left in product(*starts):  # tiles overlap by half; the last one ends with the picture
        box = (slice(top, top + tile[0]), slice(left, left + tile[1]))
        if hole[box].any():
            weight[box] += window
            masks = torch.stack([hole[box], larger[box]])
            hidden = mask_from_pixels(masks, model.config.patch_size).float().mean(dim=1)
            choice = int(hidden[1] - hidden[0] <= (1 - hidden[0]) / 2)
            if hidden[choice] <= most:
                jobs.append((box, masks[choice]))
            else:
                total[:, *box] += window * photo[:, *box]
    for start in range(0, len(jobs), 32):
        boxes, masks = zip(*jobs[start : start + 32], strict=True)
        tiles, gaps = (torch.stack([x[..., *box] for box in boxes]) for x in (photo, hole))
        tiles = blend_seam(tiles, _predict(model, tiles, torch.stack(masks)), gaps)
        for box, repaired in zip(boxes, tiles, strict=True):
            total[:, *box] += window * repaired
    total /= weight.clamp_(min=1e-6)
    return torch.where(hole, total, photo, out=total)  # no further copy of what may be large


def _repair_by_model(photo: Tensor, hole: Tensor, model: MaskedAutoencoder, progress: Progress) -> Tensor:
    """Repair `photo` `(C, H, W)` in [0, 1], 0 in its hole: the whole at the model's scale, then finer and finer tiles.

    A finer pass starts from the coarser repair and predicts anew where its tiles see enough of the photo.
    """
    repaired = None
    for size in progress(_sizes(tuple(hole.shape), model)):
        small, share = _shrink(photo, hole, size)
        gap = share < 0.5
        if repaired is None:
            start, tile, most = harmonic_fill(small[None], share[None] > 0)[0], size, 1 - 1e-6
        else:
            start = F.interpolate(repaired[None], size=size, mode="bicubic")[0].clamp_(0, 1)
            step = model.config.patch_size
            tile, most = tuple(min(model.config.img_size, side // step * step) for side in size), MOST_HIDDEN
        repaired = _repair_tiles(torch.where(gap, start, small, out=start), gap, model, tile, most)
    if repaired.shape[1:] != hole.shape:
        repaired = F.interpolate(repaired[None], size=hole.shape, mode="bilinear", antialias=True)[0]
    return repaired


def _repair_crop(
    photo: np.ndarray,
    hole: np.ndarray,
    hidden: np.ndarray,
    method: MaskedAutoencoder | str,
    detail: float,
    progress: Progress,
) -> np.ndarray:
    """Repair the `hole` `(H, W)` of uint8 `(H, W, 3)`, of which more may be `hidden` `(H, W)`.

    Where the whole would be too large, it is repaired at a reduced size.
    """
    (height, width), factor, strips = hidden.shape, int(np.ceil((hidden.size / AT_ONCE) ** 0.5)), []
    if factor > 1:
        for top in range(0, height, 64 * factor):  # in strips, because Pillow copies what it reduces
            rows = slice(top, top + 64 * factor)
            visible = Image.fromarray(np.dstack([photo[rows], ~hidden[rows] * np.uint8(255)]))
            strips.append(np.asarray(visible.reduce(factor)))  # weighs colours by alpha: only visible pixels count
        small, gap = np.vstack(strips), np.asarray(Image.fromarray(hole).convert("L").reduce(factor)) > 0
        repaired = Image.fromarray(_repair_crop(small[..., :3], gap, small[..., 3] == 0, method, detail, progress))
        box = (0, 0, width / factor, height / factor)
        return np.asarray(repaired.resize((width, height), Image.Resampling.BICUBIC, box))
    visible = np.where(hidden[..., None], np.uint8(0), photo)
    image, gap = torch.from_numpy(visible).permute(2, 0, 1) / 255, torch.from_numpy(hidden)
    if isinstance(method, str):
        filled = repair(image[None], gap[None], method)[0]
    else:
        filled = _repair_by_model(image, gap, method, progress)
    filled = (filled.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()  # (C, H, W) -> (H, W, C)
    if detail and not isinstance(method, str):
        copied, _ = add_detail(visible, hole, filled, hidden)
        filled = (filled + detail * (copied.astype(np.float32) - filled)).round().astype(np.uint8)
    if (visible == visible[..., :1]).all():  # a grey photo gets a grey repair
        filled = filled.mean(axis=2, keepdims=True).round().astype(np.uint8).repeat(3, axis=2)
    return filled


def _find_crops(hole: np.ndarray, hidden: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Boxes that together contain the hole, each with the crop to repair it from: `((top, left), (bottom, right))`.

    At least half of a crop is visible, where the photo has as much.
    """
    from scipy.ndimage import find_objects, label

    whole = np.array([(0, 0), hole.shape])
    if hole.size <= AT_ONCE:
        yield whole, whole
        return
    blocks = hole
    for axis in (0, 1):
        blocks = np.logical_or.reduceat(blocks, range(0, blocks.shape[axis], BLOCK), axis)
    for rows, cols in find_objects(label(blocks, np.ones((3, 3)))[0]):
        box = np.array([(rows.start, cols.start), (rows.stop, cols.stop)]) * BLOCK
        reach, crop = (CONTEXT * (box[1] - box[0])).astype(int), box
        while crop is box or ((crop != whole).any() and hidden[_inside(crop)].mean() > 0.5):
            crop = np.stack([crop[0] - reach, crop[1] + reach]).clip(*whole)
        yield box.clip(*whole), crop


def _inside(box: np.ndarray) -> tuple[slice, slice]:
    return tuple(map(slice, *box))


@torch.no_grad()
def repair_photo(
    photo: np.ndarray,
    hole: np.ndarray,
    method: MaskedAutoencoder | str,
    unknown: np.ndarray | bool = False,
    detail: float = 1.0,
    progress: Progress = iter,
) -> np.ndarray:
    """Fill the hole of one photo of any size; every other pixel stays as it is, to the bit.

    A photo of more than 24 megapixels is repaired from crops around its holes, and a crop of more than that at a
    reduced size, so that the memory needed beyond a few copies of the photo stays below 2 GB.

    Parameters
    ----------
    photo : ndarray
        uint8 `(H, W, 3)`. A grey photo gets a grey repair.
    hole : ndarray
        `(H, W)` bool, True = to be filled. What the photo shows there is never looked at.
    method : MaskedAutoencoder or str
        A model, or the name of one of `maelib.repair.classical.BASELINES`.
    unknown : ndarray, optional
        `(H, W)` bool, True = not looked at either, although it stays as it is, such as what is transparent.
    detail : float
        Share of `maelib.repair.detail.add_detail` in a model's repair: 0 is the model alone, which is blurred, and 1 is
        as sharp as the photo. The squared error is lowest about halfway. Classical methods get no detail.
    progress : callable
        Is handed the sizes of the model's passes and yields them one by one; `tqdm` shows a bar.

    Returns
    -------
    ndarray
        uint8 `(H, W, 3)`.

    Raises
    ------
    ValueError
        When the photo is not uint8 `(H, W, 3)`, or the hole has another size, or hides
        nothing, or nothing is visible (`PhotoError`), or `detail` lies outside [0, 1].
    """
    if not 0 <= detail <= 1:
        raise ValueError(f"detail {detail} is not a share; use 0 (the model alone) to 1 (as sharp as the photo)")
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        raise ValueError(f"photo is {photo.dtype} of shape {photo.shape}; use uint8 (H, W, 3)")
    hidden = check_hole(check_hole(hole, photo.shape) | unknown, photo.shape)
    result = photo.copy()
    for box, crop in _find_crops(hole, hidden):
        here, around = _inside(box), _inside(crop)
        repaired = _repair_crop(photo[around], hole[around], hidden[around], method, detail, progress)
        np.copyto(result[here], repaired[_inside(box - crop[0])], where=hole[here][..., None])
    return result
