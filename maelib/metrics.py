"""How good is a repair? PSNR, SSIM and sharpness, each measured inside the hole and nowhere else.

A repaired picture shows the photo's own pixels around the hole. A metric averaged over the whole picture counts them
as perfect predictions, so pasting them back lifts PSNR by 6 dB at a 25% hole although nothing was predicted better.
The three metrics here cannot be lifted that way: what a prediction holds outside the hole is replaced by the truth
before SSIM's window looks at it, and left out of the other two. Composited or not, a prediction gets the same number.

Every function clamps prediction and target to [0, 1] first, as saving a picture would.
"""

import torch
from torch import Tensor


def check_images(images: Tensor, hole: Tensor, name: str = "images") -> None:
    """Raise `ValueError` unless `images` are float (B, C, H, W) near [0, 1] and `hole` is bool (B, H, W)."""
    if images.ndim != 4 or not images.is_floating_point() or not images.numel():
        raise ValueError(
            f"{name} are {images.dtype} of shape {tuple(images.shape)}; "
            "pass float (B, C, H, W) in [0, 1], for uint8 images: images.float() / 255"
        )
    batch, _, height, width = images.shape
    if hole.dtype != torch.bool or tuple(hole.shape) != (batch, height, width):
        raise ValueError(
            f"hole is {hole.dtype} of shape {tuple(hole.shape)}; "
            f"{name} of shape {tuple(images.shape)} need torch.bool of shape {(batch, height, width)}, True = hidden"
        )
    low, high = (value.item() for value in images.aminmax())
    if not (low >= -1 and high <= 2):  # written so that NaN fails too
        raise ValueError(
            f"{name} range from {low:.3g} to {high:.3g}, far outside [0, 1]; "
            "divide 0..255 images by 255, undo any normalisation, and look for NaN"
        )


def _clamp_pair(prediction: Tensor, target: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)} but target {tuple(target.shape)}; they must be equal"
        )
    check_images(prediction, hole, "prediction")
    check_images(target, hole, "target")
    empty = (~hole.flatten(1).any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"the hole is empty in rows {empty} of the batch; a metric needs at least one hidden pixel")
    return prediction.clamp(0, 1), target.clamp(0, 1)


def _mean_where(values: Tensor, where: Tensor) -> Tensor:
    """Mean of `values` (B, C, H, W) over channels and the pixels of `where` (B, H, W), for each image."""
    weights = where[:, None].to(values.dtype)
    return (values * weights).sum(dim=(1, 2, 3)) / (weights.sum(dim=(1, 2, 3)) * values.shape[1])


def hole_psnr(prediction: Tensor, target: Tensor, hole: Tensor) -> Tensor:
    """Peak signal-to-noise ratio inside the hole.

    Parameters
    ----------
    prediction, target : (B, C, H, W) float in [0, 1]; values outside are clamped.
    hole : (B, H, W) bool, True = hidden.

    Returns
    -------
    (B,) decibels, -10 log10 of the squared error averaged over hidden pixels and channels; `inf` where it is zero.

    Raises
    ------
    ValueError : shapes that differ, an empty hole in any row, values outside [-1, 2] or NaN.
    """
    prediction, target = _clamp_pair(prediction, target, hole)
    return -10 * _mean_where((prediction - target) ** 2, hole).log10()


def hole_ssim(prediction: Tensor, target: Tensor, hole: Tensor) -> Tensor:
    """Structural similarity inside the hole: the mean of the SSIM map over hidden pixels and channels.

    The window is a Gaussian of sigma 1.5 on 11 x 11 pixels, so near its border the map also sees pixels around the
    hole; the prediction's are replaced by the truth's there. Parameters and errors are those of `hole_psnr`; besides,
    images must be at least 6 px high and wide.

    Returns
    -------
    (B,) in [-1, 1], 1 for a perfect repair.

    Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment", IEEE TIP 2004, eq. 13.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure  # takes seconds to import

    prediction, target = _clamp_pair(prediction, target, hole)
    if min(target.shape[2:]) < 6:
        raise ValueError(f"images of {tuple(target.shape[2:])} px are too small for SSIM; use 6 px or more each way")
    composite = torch.where(hole[:, None], prediction, target)
    _, ssim_map = structural_similarity_index_measure(
        composite, target, sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
    )
    return _mean_where(ssim_map, hole)


def hole_sharpness(prediction: Tensor, target: Tensor, hole: Tensor) -> Tensor:
    """Gradient energy inside the hole, relative to the truth's: below 1 is blurrier, above 1 busier than the truth.

    The energy is the sum of squared differences between horizontal and vertical neighbours that both lie in the
    hole, so a seam at the border does not pass for sharpness. Parameters and errors are those of `hole_psnr`.

    Returns
    -------
    (B,) ratio, >= 0; `inf` where only the truth is flat, `nan` where both are or no two hidden pixels touch.
    """
    prediction, target = _clamp_pair(prediction, target, hole)
    return _gradient_energy(prediction, hole) / _gradient_energy(target, hole)


def _gradient_energy(images: Tensor, hole: Tensor) -> Tensor:
    across = images.diff(dim=3) ** 2 * (hole[:, :, 1:] & hole[:, :, :-1])[:, None]  # (B, C, H, W - 1)
    down = images.diff(dim=2) ** 2 * (hole[:, 1:] & hole[:, :-1])[:, None]  # (B, C, H - 1, W)
    return across.sum(dim=(1, 2, 3)) + down.sum(dim=(1, 2, 3))
