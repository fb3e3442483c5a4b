"""What may decide who repairs a hole better: properties of an image and its hole, each one number."""

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from maelib.repair.classical import _rank_shifts

PROPERTIES = {
    "repetition error": "squared error of the best translation by more than a patch, outside the hole; 1 = unrelated",
    "reach of the copy": "share of the hole that this translation fills",
    "detail": "difference of visible neighbours over the contrast",
    "truth's gradient": "difference of neighbours in the truth under the hole, 0..255; low = sky or bare wall",
    "contrast": "standard deviation of the visible pixels, 0..255",
    "colour step": "distance between the mean colours in and outside the hole, 0..255",
    "depth": "mean distance of hidden pixels from the nearest visible one, px; high = large or at the border",
}


def roughness(image: Tensor, where: Tensor) -> float:
    """Root mean square difference of neighbours that both lie in `where` `(H, W)`, 0..255."""
    pairs = [(image.diff(dim=2), where[:, 1:] & where[:, :-1]), (image.diff(dim=1), where[1:] & where[:-1])]
    return torch.cat([step[:, both].flatten() for step, both in pairs]).square().mean().sqrt().item() * 255


def best_translation(image: Tensor, hole: Tensor, least: int) -> tuple[float, float]:
    """Repetition error and reach of the translation that the copies trust most among those by more than `least` px."""
    shifts = _rank_shifts(image, ~hole, image, ~hole, rows_only=False)
    shifts = shifts[shifts.abs().amax(dim=1) > least]  # shorter ones agree wherever the picture is smooth
    if not len(shifts):
        return 1.0, 0.0
    origin = torch.stack(torch.meshgrid(*map(torch.arange, hole.shape), indexing="ij")) + shifts[0][:, None, None]
    inside = ((origin >= 0) & (origin < torch.tensor(hole.shape)[:, None, None])).all(dim=0)
    rows, cols = origin * inside
    seen = inside & ~hole[rows, cols]
    both = seen & ~hole
    error = (image - image[:, rows, cols])[:, both].square().mean() / (2 * image[:, ~hole].var(dim=1).mean())
    return error.item(), (seen & hole).sum().item() / hole.sum().item()


def measure(image: Tensor, hole: Tensor, patch_size: int) -> list[float]:
    """`PROPERTIES` of an image `(3, H, W)` and its hole `(H, W)`, in order."""
    contrast = image[:, ~hole].var(dim=1).mean().sqrt().item() * 255
    step = (image[:, hole].mean(dim=1) - image[:, ~hole].mean(dim=1)).square().mean().sqrt().item() * 255
    depth = distance_transform_edt(hole.numpy())[hole.numpy()].mean()
    repetition = best_translation(image, hole, patch_size)
    return [*repetition, roughness(image, ~hole) / contrast, roughness(image, hole), contrast, step, depth]
