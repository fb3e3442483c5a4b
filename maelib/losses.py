"""What training minimises: masked squared error, features compared, and their weighted blend."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from maelib.crops import cut_holes
from maelib.masking import mask_to_pixels
from maelib.model import MAEConfig
from maelib.patches import PIXEL_MEAN, PIXEL_STD, grid_size, patchify, unpatchify

Features = Callable[[Tensor], Sequence[Tensor]]


def target_patches(images: Tensor, patch_size: int, norm_pix: bool = False) -> Tensor:
    """What the model is to predict, `(B, N, P)`: pixels of `images` `(B, C, H, W)`, or each patch standardised.

    With `norm_pix`, ImageNet-normalised patches minus their mean, over their deviation (He et al. 2022, section 4.1).
    """
    if not norm_pix:
        return patchify(images, patch_size)
    mean, std = (images.new_tensor(x)[:, None, None] for x in (PIXEL_MEAN, PIXEL_STD))
    patches = patchify((images - mean) / std, patch_size)
    variance, mean = patches.var(dim=-1, keepdim=True), patches.mean(dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """Mean squared error over hidden patches (He et al. 2022, section 3), a scalar.

    Parameters
    ----------
    prediction, target : Tensor
        `(B, N, P)`, in the same units.
    mask : Tensor or None
        `(B, N)` bool, True = hidden. None counts all patches.

    Raises
    ------
    ValueError
        When the shapes differ, or the mask hides nothing.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ; "
            "patchify both with one patch_size"
        )
    error = (prediction - target).square().mean(dim=-1)  # (B, N, P) -> (B, N)
    if mask is None:
        return error.mean()
    if not mask.any():
        raise ValueError("the mask hides no patch; hide at least 1, or pass mask=None to count all patches")
    return (error * mask).sum() / mask.sum()


def masked_log_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean over images of the natural logarithm of their masked squared error, a scalar.

    It is -0.23 times the mean hole PSNR in dB, so a faint facade counts as much as one of strong contrast, which
    dominates the plain mean. Errors under 0.001 (30 dB) are not pressed further. Shapes as in `masked_mse`; rows of
    the mask that hide nothing do not count.
    """
    error = (prediction - target).square().mean(dim=-1)  # (B, N, P) -> (B, N)
    count = mask.sum(dim=1)
    return ((error * mask).sum(dim=1)[count > 0] / count[count > 0] + 1e-3).log().mean()


def perceptual_loss(predicted: Tensor, images: Tensor, hole: Tensor, features: Features, window: int = 1) -> Tensor:
    """Mean squared difference of feature maps inside the hole (after Johnson et al. 2016, equation 2), a scalar.

    Every layer counts the same, and each is averaged over the hole alone, so that a larger hole weighs no more.

    With a `window` it is the root mean squares of a map over windows of the hole that are compared: how much of a
    feature there is around a place, no longer where exactly. A blurred answer, which hedges between places, then has
    too little of it and costs more than a sharp one slightly off.

    Parameters
    ----------
    predicted, images : Tensor
        `(B, C, H, W)` in [0, 1], the repaired image and the truth.
    hole : Tensor
        `(B, H, W)` bool, True = hidden.
    features : callable
        Images to a sequence of maps `(B, C', H', W')`.
    window : int
        Side of the windows, in places of each map; 1 compares place by place.
    """
    error, weight = _feature_errors(predicted, images, hole, features, window)
    return (error / weight).mean()


def cropped_perceptual_loss(
    predicted: Tensor, images: Tensor, hole: Tensor, features: Features, window: int = 1
) -> Tensor:
    """`perceptual_loss`, with features computed only as far around each hole as a map's places inside it see.

    Value and gradient are the same: what a crop's own border spoils weighs nothing. Parameters are the same too, but
    `features` must know how far it sees: `margin` and `stride` in pixels, as `maelib.perceptual.VGG19` does.
    """
    margin = features.margin + (window - 1) * features.stride
    crops = cut_holes(hole, margin, features.stride, predicted, images)
    error, weight = sum(_feature_errors(*crop, features, window) for crop in crops)
    return (error / weight).mean()


def _feature_errors(predicted: Tensor, images: Tensor, hole: Tensor, features: Features, window: int) -> Tensor:
    """For each layer the sum of squared errors inside the hole, channels averaged, and of its places, `(2, layers)`."""
    with torch.no_grad():
        truths = features(images)
    sums = []
    for ours, truth in zip(features(predicted), truths, strict=True):
        exact = torch.promote_types(ours.dtype, torch.float32)  # bf16 maps are compared and summed in float32
        weight = F.adaptive_avg_pool2d(hole[:, None].to(exact), ours.shape[-2:])  # -> (B, 1, H', W')
        ours, truth = ours.to(exact), truth.to(exact)
        if window > 1:
            ours, truth = (_root_mean_squares(x, weight, window) for x in (ours, truth))
            weight = F.avg_pool2d(weight, _fit(window, weight), stride=1)
        error = (ours - truth).square().mean(dim=1, keepdim=True)
        sums.append(torch.stack([(error * weight).sum(), weight.sum()]))
    return torch.stack(sums, dim=1)


def _fit(window: int, x: Tensor) -> tuple[int, int]:
    """Height and width of a window on `x` `(B, C, H, W)`, which may be smaller than it."""
    return min(window, x.shape[2]), min(window, x.shape[3])


def _root_mean_squares(x: Tensor, weight: Tensor, window: int) -> Tensor:
    """Of maps `(B, C, H, W)` over every window, places counted by `weight` `(B, 1, H, W)`; 0.01 or more."""
    size = _fit(window, x)
    total = F.avg_pool2d(x.square() * weight, size, stride=1) / F.avg_pool2d(weight, size, stride=1).clamp(min=1e-3)
    return (total + 1e-4).sqrt()


class ReconstructionLoss:
    """`mse_weight` x masked squared error + `perceptual_weight` x perceptual loss.

    Parameters
    ----------
    config : MAEConfig
        Of the model whose predictions are judged: patch size, and whether it predicts normalised pixels.
    mse_weight, perceptual_weight : float
        The blend; 0.6 and 0.4 for `facade_base`. A term of weight 0 costs nothing.
    features : callable, optional
        What the perceptual term compares, such as `maelib.perceptual.vgg19()`, which is run around the hole alone.
    all_patches : bool
        Count visible patches in the squared error as well.
    log_mse : bool
        Minimise the logarithm of each image's squared error, as `masked_log_mse` does.
    window : int
        Of the perceptual term; see `perceptual_loss`.

    Raises
    ------
    ValueError
        When log_mse is not the only term, a perceptual weight comes without features or with normalised pixels, or
        the weights are no blend.
    """

    def __init__(
        self,
        config: MAEConfig,
        mse_weight: float = 1.0,
        perceptual_weight: float = 0.0,
        features: Features | None = None,
        all_patches: bool = False,
        log_mse: bool = False,
        window: int = 1,
    ) -> None:
        if min(mse_weight, perceptual_weight) < 0 or mse_weight + perceptual_weight == 0:
            raise ValueError(
                f"mse_weight {mse_weight} and perceptual_weight {perceptual_weight} are no blend; "
                "use weights of 0 or more, one of them above 0"
            )
        if perceptual_weight and features is None:
            raise ValueError(
                f"perceptual_weight {perceptual_weight} needs features to compare; "
                "hand in features, such as maelib.perceptual.vgg19(), or set perceptual_weight to 0"
            )
        if perceptual_weight and config.norm_pix:
            raise ValueError(
                f"perceptual_weight {perceptual_weight} needs pixels, and a model with norm_pix predicts none; "
                "set perceptual_weight to 0 or norm_pix to False"
            )
        if log_mse and (perceptual_weight or all_patches):
            raise ValueError(
                f"log_mse stands alone, and perceptual_weight is {perceptual_weight}, all_patches {all_patches}; "
                "leave log_mse off, or set these to 0 and False"
            )
        if window < 1:
            raise ValueError(f"window {window} is no number of places; use 1 or more, such as 4")
        self.config, self.features, self.all_patches, self.log_mse = config, features, all_patches, log_mse
        self.window = window
        self.mse_weight, self.perceptual_weight = mse_weight, perceptual_weight
        self.perceptual_name = f"perceptual{getattr(features, 'note', '')}"
        self.perceptual_loss = cropped_perceptual_loss if hasattr(features, "margin") else perceptual_loss

    @property
    def names(self) -> list[str]:
        """The terms that a log shows: `loss`, and what it is made of where that is more than one."""
        return ["loss", "mse", self.perceptual_name] if self.perceptual_weight else ["loss"]

    def count(self, mask: Tensor, void: Tensor | None = None) -> Tensor:
        """How many things the terms are means over, a scalar: what a part of a batch weighs in the whole of it."""
        if self.all_patches:
            return torch.as_tensor(mask.numel()) if void is None else (~void).sum()
        return mask.any(dim=1).sum() if self.log_mse else mask.sum()

    def __call__(
        self, prediction: Tensor, images: Tensor, mask: Tensor, void: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Scalars `loss` (the blend) and its unweighted terms `mse` and, where it counts, `perceptual`.

        Features that carry a `note` lend it to their term's name: `perceptual (random VGG19)`.
        Takes predicted patches `(B, N, P)`, true images `(B, C, H, W)` in [0, 1], mask `(B, N)` bool, and, for
        `all_patches`, the patches `(B, N)` bool that do not count even so.
        """
        size = self.config.patch_size
        target = target_patches(images, size, self.config.norm_pix)
        everywhere = None if void is None else ~void
        terms = {"mse": masked_mse(prediction, target, everywhere if self.all_patches else mask)}
        if self.log_mse:
            return {"loss": self.mse_weight * masked_log_mse(prediction, target, mask), **terms}
        loss = self.mse_weight * terms["mse"]
        if self.perceptual_weight:
            grid = grid_size(tuple(images.shape[2:]), size)
            hole = mask_to_pixels(mask, size, grid)
            predicted = unpatchify(prediction, size, grid).where(hole[:, None], images)
            perceptual = self.perceptual_loss(predicted, images, hole, self.features, self.window)
            terms[self.perceptual_name] = perceptual
            loss = loss + self.perceptual_weight * perceptual
        return {"loss": loss, **terms}
