"""What training minimises: a masked squared error, a perceptual loss inside the hole, or a weighted sum of the two."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maelib.masking import hole_boxes, mask_to_pixels
from maelib.model import MAEConfig
from maelib.patches import PIXEL_MEAN, PIXEL_STD, grid_size, patchify, unpatchify
from maelib.perceptual import cut_boxes

Features = Callable[[Tensor], Sequence[Tensor]]
Count = Tensor | int | None  # what a sum is divided by; None stands for the number of things in it


def target_patches(images: Tensor, patch_size: int, norm_pix: bool = False) -> Tensor:
    """Cut `images` `(B, C, H, W)` into the patches `(B, N, P)` that the model is to predict.

    With `norm_pix`, the pixels are normalised with ImageNet's statistics, and each patch is then standardised: its
    mean is subtracted and the result is divided by its standard deviation (He et al. 2022, section 4.1).
    """
    if not norm_pix:
        return patchify(images, patch_size)
    mean, std = (images.new_tensor(x)[:, None, None] for x in (PIXEL_MEAN, PIXEL_STD))
    patches = patchify((images - mean) / std, patch_size)
    variance, mean = patches.var(dim=-1, keepdim=True), patches.mean(dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor | None, count: Count = None) -> Tensor:
    """Compute the mean squared error over the hidden patches (He et al. 2022, section 3), a scalar.

    Parameters
    ----------
    prediction, target : Tensor
        `(B, N, P)`, in the same units.
    mask : Tensor or None
        `(B, N)` bool, True = hidden. None counts all patches.
    count : Tensor or int, optional
        Number of patches that the sum is divided by. By default it is the number of hidden patches.

    Raises
    ------
    ValueError
        If the shapes differ, or the mask hides nothing and there is no `count`.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ; "
            "patchify both with one patch_size"
        )
    error = (prediction - target).square().mean(dim=-1)  # (B, N, P) -> (B, N)
    if mask is None:
        return error.mean()
    if count is None:
        if not mask.any():
            raise ValueError("the mask hides no patch; hide at least 1, or pass mask=None to count all patches")
        count = mask.sum()
    return (error * mask).sum() / count


def masked_log_mse(prediction: Tensor, target: Tensor, mask: Tensor, count: int | None = None) -> Tensor:
    """Compute the mean over images of the natural logarithm of their masked squared error, a scalar.

    This is -0.23 times the mean PSNR of the holes in dB. An image of faint contrast therefore counts as much as one of
    strong contrast, which would dominate the plain mean. 0.001 is added to every error, so that errors below it (above
    30 dB) hardly count. Shapes are those of `masked_mse`. Images without a hole contribute nothing. The sum is divided
    by `count`, by default the number of images with a hole.
    """
    error = (prediction - target).square().mean(dim=-1)  # (B, N, P) -> (B, N)
    hidden = mask.sum(dim=1)
    logs = ((error * mask).sum(dim=1) / hidden.clamp(min=1) + 1e-3).log() * (hidden > 0)
    return logs.sum() / ((hidden > 0).sum() if count is None else count)


def perceptual_loss(
    predicted: Tensor, images: Tensor, hole: Tensor, features: Features, window: int = 1, pixels: Count = None
) -> Tensor:
    """Compute the mean squared difference of feature maps inside the hole, a scalar (after Johnson et al. 2016, eq. 2).

    Every layer has the same weight. The errors of a layer are averaged over the hole alone, so a larger hole does not
    weigh more. Features that know how far they see are computed only around the hole, with the same value and
    gradient: what the border of a crop spoils lies outside the hole and has no weight. A GPU runs them on whole images
    instead, all of one size, because crops of many sizes cost it more than they save.

    With a `window`, root mean squares over neighbourhoods are compared instead of single places. They say how much of
    a feature there is around a place, no longer where exactly. A blurred answer, which hedges between several places,
    then costs more than a sharp answer that is slightly off.

    Parameters
    ----------
    predicted, images : Tensor
        `(B, C, H, W)` in [0, 1], the repaired images and the true ones.
    hole : Tensor
        `(B, H, W)` bool, True = hidden.
    features : callable
        Turns images into a sequence of maps `(B, C', H', W')`. If it has the attributes `margin` and `stride` in
        pixels, as `maelib.perceptual.VGG19` does, it is run around the hole alone.
    window : int
        Side of the neighbourhoods, in places of each map. 1 compares place by place.
    pixels : Tensor or int, optional
        Number of hidden pixels that the sum of errors is divided by. By default it is the hole's own weight.
    """
    crops = [(predicted, images, hole)]
    if hasattr(features, "margin") and images.device.type == "cpu":
        boxes = hole_boxes(hole, features.margin + (window - 1) * features.stride, features.stride)
        crops = cut_boxes(boxes, predicted, images, hole)
    sums = (_feature_errors(*crop, features, window) for crop in crops)
    error, weight = sum(sums, torch.zeros(2, 1, device=images.device))  # no crop, no error
    return (error / (weight if pixels is None else pixels)).mean()


def _feature_errors(predicted: Tensor, images: Tensor, hole: Tensor, features: Features, window: int) -> Tensor:
    """For each layer, sum the squared errors inside the hole, channels averaged, and the hole, in pixels: `(2, L)`."""
    with torch.no_grad():
        truths = features(images)
    sums = []
    for ours, truth in zip(features(predicted), truths, strict=True):
        exact = torch.promote_types(ours.dtype, torch.float32)  # bf16 maps are compared and summed in float32
        weight = F.adaptive_avg_pool2d(hole[:, None].to(exact), ours.shape[-2:])  # -> (B, 1, H', W')
        area = hole.numel() / weight.numel()  # pixels that a place of the map covers
        ours, truth = ours.to(exact), truth.to(exact)
        if window > 1:
            ours, truth = (_root_mean_squares(x, weight, window) for x in (ours, truth))
            weight = F.avg_pool2d(weight, _fit(window, weight), stride=1)
        error = (ours - truth).square().mean(dim=1, keepdim=True)
        sums.append(area * torch.stack([(error * weight).sum(), weight.sum()]))
    return torch.stack(sums, dim=1)


def _fit(window: int, x: Tensor) -> tuple[int, int]:
    """Clip the side of a window to the height and width of a map `x` `(B, C, H, W)`."""
    return min(window, x.shape[2]), min(window, x.shape[3])


def _root_mean_squares(x: Tensor, weight: Tensor, window: int) -> Tensor:
    """Take root mean squares of maps `(B, C, H, W)` over every window, places weighted by `weight` `(B, 1, H, W)`."""
    size = _fit(window, x)
    total = F.avg_pool2d(x.square() * weight, size, stride=1) / F.avg_pool2d(weight, size, stride=1).clamp(min=1e-3)
    return (total + 1e-4).sqrt()


@dataclass
class ReconstructionLoss:
    """The loss of a model: `mse_weight` x masked squared error + `perceptual_weight` x perceptual loss.

    Parameters
    ----------
    config : MAEConfig
        Configuration of the model. The loss needs its patch size, and whether it predicts normalised pixels.
    mse_weight, perceptual_weight : float
        Weights of the two terms, 0.6 and 0.4 in `facade_base`. A term of weight 0 costs no time.
    features : callable, optional
        What the perceptual term compares, such as `maelib.perceptual.vgg19()`; see `perceptual_loss`.
    log_mse : bool
        Minimise the logarithm of each image's squared error, as `masked_log_mse` does.
    window : int
        Side of the neighbourhoods that the perceptual term compares; see `perceptual_loss`.

    Attributes
    ----------
    names : list of str
        The terms that a log shows: 'loss' and, if there is a perceptual term, what the loss consists of.

    Raises
    ------
    ValueError
        If the weights are negative or all 0, if a perceptual weight comes without features or with normalised pixels,
        or if `log_mse` comes with a perceptual weight.
    """

    config: MAEConfig
    mse_weight: float = 1.0
    perceptual_weight: float = 0.0
    features: Features | None = None
    log_mse: bool = False
    window: int = 1

    def __post_init__(self) -> None:
        weights = f"mse_weight {self.mse_weight} and perceptual_weight {self.perceptual_weight}"
        if min(self.mse_weight, self.perceptual_weight) < 0 or not self.mse_weight + self.perceptual_weight > 0:
            raise ValueError(f"{weights} are not the weights of a loss; use 0 or more, and one of them above 0")
        if self.perceptual_weight and self.features is None:
            raise ValueError(f"{weights} need features to compare; pass maelib.perceptual.vgg19() as features")
        if self.perceptual_weight and self.config.norm_pix:
            raise ValueError(f"{weights} need pixels, and a model with norm_pix predicts none; turn one of them off")
        if self.perceptual_weight and self.log_mse:
            raise ValueError(f"{weights} do not go with log_mse; set perceptual_weight to 0 or log_mse to False")
        note = getattr(self.features, "note", "")  # ' (random VGG19)' warns whoever reads a log
        self.names = ["loss", "mse", f"perceptual{note}"] if self.perceptual_weight else ["loss"]

    def __call__(self, prediction: Tensor, images: Tensor, mask: Tensor, count: Count = None) -> dict[str, Tensor]:
        """Compute the loss and its unweighted terms, all scalars.

        Parameters
        ----------
        prediction : Tensor
            `(B, N, P)`, the patches that the model predicts.
        images : Tensor
            `(B, C, H, W)` in [0, 1], the true images.
        mask : Tensor
            `(B, N)` bool, True = hidden.
        count : Tensor or int, optional
            Number of patches that the terms are divided by, by default those that are hidden. With one count for all
            parts of a batch, the mean over the parts is the loss of the batch. `log_mse` averages over the images.

        Returns
        -------
        dict
            'loss', 'mse' and, if it has a weight, 'perceptual' followed by the note that the features carry.

        Raises
        ------
        ValueError
            If nothing is hidden and there is no `count`.
        """
        size = self.config.patch_size
        target = target_patches(images, size, self.config.norm_pix)
        terms = {"mse": masked_mse(prediction, target, mask, count)}
        loss = self.mse_weight * terms["mse"]
        if self.log_mse:
            loss = self.mse_weight * masked_log_mse(prediction, target, mask, None if count is None else len(mask))
        if self.perceptual_weight:
            grid = grid_size(images.shape[2:], size)
            hole = mask_to_pixels(mask, size, grid)
            predicted = unpatchify(prediction, size, grid).where(hole[:, None], images)
            pixels = None if count is None else count * size**2
            terms[self.names[-1]] = perceptual_loss(predicted, images, hole, self.features, self.window, pixels)
            loss = loss + self.perceptual_weight * terms[self.names[-1]]
        return {"loss": loss, **terms}
