"""How a model in training does, on images and masks that never change."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from maelib.losses import ReconstructionLoss
from maelib.masking import MASKS, exclude_patches, mask_from_pixels, mask_to_pixels
from maelib.metrics import hole_psnr
from maelib.model import MAEConfig, MaskedAutoencoder
from maelib.repair.evaluate import HOLES, PSNR_CAP

CHUNK = 32  # most images at a time


class Validation:
    """Fixed images under fixed masks, so that its curve moves with the model alone.

    Takes `images` `(B, C, H, W)` in [0, 1], the masks of the training, strategy and ratio, and where the images are
    void, `(B, H, W)` bool: patches with any void are never hidden. Of several processes each takes a `part` of the
    images, and `total` sums a tensor over all of them; those that have any call the model equally often.
    """

    def __init__(
        self,
        images: Tensor,
        config: MAEConfig,
        mask: str,
        mask_ratio: float,
        voids: Tensor | None = None,
        part: slice = slice(None),
        total: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        self.images, self.size, self.grid, self.total = images[part], config.patch_size, config.grid_size, total
        chunks = -(-len(images) // (CHUNK * (part.step or 1)))
        self.chunks = [chunk for chunk in torch.arange(len(self.images)).tensor_split(chunks) if len(chunk)]
        masks = {
            name: MASKS[kind](len(images), self.grid, ratio, Generator().manual_seed(i)).to(images.device)
            for i, (name, (kind, ratio)) in enumerate(({"val_loss": (mask, mask_ratio)} | HOLES).items())
        }
        self.void = None if voids is None else mask_from_pixels(voids[part], self.size).to(images.device)
        self.masks = {name: mask[part] for name, mask in masks.items()}
        if self.void is not None:
            self.masks = {name: exclude_patches(mask, self.void) for name, mask in self.masks.items()}

    @torch.no_grad()
    def __call__(self, model: MaskedAutoencoder, loss: ReconstructionLoss) -> dict[str, float]:
        """Loss under the training's masks, on the training's scale, and hole PSNR in dB for each kind of hole.

        A loss with a perceptual term gives its terms too, `val_mse` and `val_perceptual`. Where the loss is infinite
        or no number, nothing is repaired, and there is no PSNR.
        """
        model.eval()
        *sums, count = self.total(self._terms(model, loss)).tolist()
        row = {f"val_{name}": value / count for name, value in zip(loss.names, sums, strict=True)}
        if math.isfinite(sum(sums)):
            psnr = self.total(torch.stack([self._psnr(model, self.masks[kind]) for kind in HOLES]))
            row |= {f"psnr {kind}": total / number for kind, (total, number) in zip(HOLES, psnr.tolist(), strict=True)}
        model.train()
        return row

    def _terms(self, model: MaskedAutoencoder, loss: ReconstructionLoss) -> Tensor:
        """Each term summed over what it is a mean over, and the number of these, `(terms + 1,)`."""
        sums = torch.zeros(len(loss.names) + 1, device=self.images.device)
        for chunk in self.chunks:
            images, mask = self.images[chunk], self.masks["val_loss"][chunk]
            void = None if self.void is None else self.void[chunk]
            count, terms = loss.count(mask, void), loss(model(images, mask), images, mask, void)
            sums += torch.stack([*(terms[name] * count for name in loss.names), count.to(sums)])
        return sums

    def _psnr(self, model: MaskedAutoencoder, mask: Tensor) -> Tensor:
        """Hole PSNR summed over the images, and their number, `(2,)`."""
        sums = torch.zeros(2, device=self.images.device)
        for chunk in self.chunks:
            images, hidden = self.images[chunk], mask[chunk]
            psnr = hole_psnr(model.reconstruct(images, hidden), images, mask_to_pixels(hidden, self.size, self.grid))
            sums += torch.stack([psnr.clamp(max=PSNR_CAP).sum(), sums.new_tensor(len(psnr))])
        return sums
