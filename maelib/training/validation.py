"""How a model does during training, on images and masks that never change."""

import math

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from maelib.data.augment import to_float
from maelib.losses import ReconstructionLoss
from maelib.masking import MASKS, exclude_patches, mask_from_pixels, mask_to_pixels
from maelib.metrics import hole_psnr
from maelib.model import MaskedAutoencoder
from maelib.repair.evaluate import HOLES, PSNR_CAP
from maelib.training.recipes import TrainConfig

CHUNK = 32  # images at a time


class Validation:
    """Fixed images under fixed masks, so that the curve moves with the model alone.

    Attributes
    ----------
    images : Tensor
        `(N, 3, H, W)` in [0, 1], at most `config.val_images`, without augmentation.
    masks : dict of str to Tensor
        `(N, n)` bool for "val_loss", drawn as in training, and for each kind of hole in `HOLES`. No mask hides a
        patch that holds any transparent pixel.
    """

    def __init__(self, dataset: Dataset, config: TrainConfig, device: torch.device) -> None:
        count = min(len(dataset), config.val_images)
        rgba = to_float(torch.stack([dataset[i] for i in range(count)])).to(device)
        self.images, self.size, self.grid = rgba[:, :3], config.model.patch_size, config.model.grid_size
        invalid = mask_from_pixels(rgba[:, 3] < 1, self.size)
        kinds = {"val_loss": (config.mask, sum(config.mask_ratio) / 2)} | HOLES
        drawn = {
            name: MASKS[kind](count, self.grid, ratio, Generator().manual_seed(i)).to(device)
            for i, (name, (kind, ratio)) in enumerate(kinds.items())
        }
        self.masks = {name: exclude_patches(mask, invalid) for name, mask in drawn.items()}
        self.counts = drawn["val_loss"].sum(dim=1)  # before the exclusion, as in training

    @torch.no_grad()
    def __call__(self, model: MaskedAutoencoder, loss: ReconstructionLoss) -> dict[str, float]:
        """Loss and its terms under the training's masks, on the training's scale, and hole PSNR in dB for each hole.

        Where the loss is not finite nothing is repaired, and there is no PSNR.
        """
        model.eval()
        chunks, sums = torch.arange(len(self.images)).split(CHUNK), dict.fromkeys(loss.names, 0.0)
        for chunk in chunks:
            images, mask = self.images[chunk], self.masks["val_loss"][chunk]
            terms = loss(model(images, mask), images, mask, self.counts[chunk].sum())
            for name in loss.names:
                sums[name] += terms[name].item() * len(chunk) / len(self.images)
        row = {f"val_{name}": value for name, value in sums.items()}
        if math.isfinite(row["val_loss"]):
            for kind in HOLES:
                psnr = torch.cat([self._psnr(model, self.images[chunk], self.masks[kind][chunk]) for chunk in chunks])
                row[f"psnr {kind}"] = psnr.mean().item()
        model.train()
        return row

    def _psnr(self, model: MaskedAutoencoder, images: Tensor, mask: Tensor) -> Tensor:
        """Hole PSNR of each image that has a hole."""
        hidden = mask.any(dim=1)  # border fill may touch every patch
        images, mask = images[hidden], mask[hidden]
        hole = mask_to_pixels(mask, self.size, self.grid)
        return hole_psnr(model.reconstruct(images, mask), images, hole).clamp(max=PSNR_CAP)
