"""How good is a repair? PSNR, SSIM and sharpness, all measured inside the hole and nowhere else.

Around the hole, a repaired picture shows the photo's own pixels. A metric averaged over the whole picture counts them
as perfect predictions: pasting them back lifts PSNR by 6 dB for a hole of 25%, although no prediction became better.
The metrics here cannot be lifted that way, because they ignore what a prediction holds outside the hole. A prediction
and its pasted version get the same number.

Every metric clamps prediction and target to [0, 1] first, as saving a picture would.
"""

import torch
from torch import Tensor


def check_images(images: Tensor, hole: Tensor, name: str = "images") -> None:
    """Raise `ValueError` unless `images` are float `(B, C, H, W)` near [0, 1] and `hole` is bool `(B, H, W)`."""
    shape = tuple(images.shape)
    if images.ndim != 4 or not images.is_floating_point() or not images.numel():
        raise ValueError(f"{name} are {images.dtype} {shape}; pass float (B, C, H, W), such as images.float() / 255")
    wanted = (shape[0], *shape[2:])
    if hole.dtype != torch.bool or tuple(hole.shape) != wanted:
        raise ValueError(f"hole is {hole.dtype} {tuple(hole.shape)}; {name} {shape} need a torch.bool hole {wanted}")
    low, high = (value.item() for value in images.aminmax())
    if not (low >= -1 and high <= 2):  # refuses NaN too
        raise ValueError(f"{name} range from {low:.3g} to {high:.3g}, far outside [0, 1]; divide 0..255 images by 255")


def _clamp_pair(prediction: Tensor, target: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
    check_images(prediction, hole, "prediction")
    check_images(target, hole, "target")
    empty = (~hole.flatten(1).any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"the hole is empty in rows {empty} of the batch; a metric needs at least one hidden pixel")
    return prediction.clamp(0, 1), target.clamp(0, 1)


def _mean_where(values: Tensor, where: Tensor) -> Tensor:
    """Average `values` `(B, C, H, W)` over channels and the pixels of `where` `(B, H, W)`, for each image."""
    weights = where[:, None].to(values.dtype)
    return (values * weights).sum(dim=(1, 2, 3)) / (weights.sum(dim=(1, 2, 3)) * values.shape[1])


def hole_psnr(prediction: Tensor, target: Tensor, hole: Tensor) -> Tensor:
    """Compute the peak signal-to-noise ratio inside the hole.

    Parameters
    ----------
    prediction, target : Tensor
        `(B, C, H, W)` float in [0, 1].
    hole : Tensor
        `(B, H, W)` bool, True = hidden.

    Returns
    -------
    Tensor
        `(B,)` in decibels: -10 log10 of the squared error, averaged over hidden pixels and channels. It is `inf` where
        the error is zero.

    Raises
    ------
    ValueError
        If shapes or types do not fit, a row has an empty hole, or values lie outside [-1, 2] or are NaN.
    """
    prediction, target = _clamp_pair(prediction, target, hole)
    return -10 * _mean_where((prediction - target) ** 2, hole).log10()


def hole_ssim(prediction: Tensor, target: Tensor, hole: Tensor) -> Tensor:
    """Compute the structural similarity inside the hole: the mean of the SSIM map over hidden pixels and channels.

    Each place of the map sees a Gaussian window of 11 x 11 pixels with a sigma of 1.5. Near the border of the hole the
    window reaches outside, where the prediction is replaced by the target. Parameters and errors are those of
    `hole_psnr`. Images must be at least 6 px high and wide.

    Returns
    -------
    Tensor
        `(B,)` in [-1, 1]. 1 is a perfect repair.

    Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment", IEEE TIP 2004, equation 13.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim  # takes seconds to import

    prediction, target = _clamp_pair(prediction, target, hole)
    composite = torch.where(hole[:, None], prediction, target)
    _, ssim_map = ssim(composite, target, sigma=1.5, data_range=1.0, reduction="none", return_full_image=True)
    return _mean_where(ssim_map, hole)


def hole_sharpness(prediction: Tensor, target: Tensor, hole: Tensor) -> Tensor:
    """Divide the gradient energy of the prediction inside the hole by that of the target.

    A ratio below 1 means blurrier than the target, above 1 busier. The energy is the sum of squared differences between
    horizontal and vertical neighbours that both lie in the hole, so a seam at its border does not pass for sharpness.
    Parameters and errors are those of `hole_psnr`.

    Returns
    -------
    Tensor
        `(B,)`, 0 or more. It is `inf` where only the target is flat, and `nan` where both are or where no two hidden
        pixels touch.
    """
    prediction, target = _clamp_pair(prediction, target, hole)
    return _gradient_energy(prediction, hole) / _gradient_energy(target, hole)


def _gradient_energy(images: Tensor, hole: Tensor) -> Tensor:
    across = images.diff(dim=3) ** 2 * (hole[:, :, 1:] & hole[:, :, :-1])[:, None]  # (B, C, H, W - 1)
    down = images.diff(dim=2) ** 2 * (hole[:, 1:] & hole[:, :-1])[:, None]  # (B, C, H - 1, W)
    return across.sum(dim=(1, 2, 3)) + down.sum(dim=(1, 2, 3))
