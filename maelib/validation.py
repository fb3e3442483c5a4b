"""How a model in training does, on images and masks that never change."""

import torch
from torch import Generator, Tensor

from maelib.evaluate import HOLES, PSNR_CAP
from maelib.losses import ReconstructionLoss
from maelib.masking import MASKS, keep_out, mask_from_pixels, mask_to_pixels
from maelib.metrics import hole_psnr
from maelib.model import MAEConfig, MaskedAutoencoder


class Validation:
    """Fixed images under fixed masks, so that its curve moves with the model alone.

    Takes `images` `(B, C, H, W)` in [0, 1], the masks of the training, strategy and ratio, and where the images are
    void, `(B, H, W)` bool: patches with any void are never hidden.
    """

    def __init__(
        self, images: Tensor, config: MAEConfig, mask: str, mask_ratio: float, voids: Tensor | None = None
    ) -> None:
        self.images, self.size, self.grid = images, config.patch_size, config.grid_size
        self.masks = {
            name: MASKS[kind](len(images), self.grid, ratio, Generator().manual_seed(i)).to(images.device)
            for i, (name, (kind, ratio)) in enumerate(({"val_loss": (mask, mask_ratio)} | HOLES).items())
        }
        self.void = None if voids is None else mask_from_pixels(voids, self.size).to(images.device)
        if self.void is not None:
            self.masks = {name: keep_out(mask, self.void) for name, mask in self.masks.items()}

    @torch.no_grad()
    def __call__(self, model: MaskedAutoencoder, loss: ReconstructionLoss) -> dict[str, float]:
        """Loss under the training's masks, on the training's scale, and hole PSNR in dB for each kind of hole.

        A loss with a perceptual term gives its terms too, `val_mse` and `val_perceptual`.
        """
        model.eval()
        row, chunks = {}, range(0, len(self.images), 32)
        for name, mask in self.masks.items():
            values: dict[str, list[Tensor]] = {}
            for i in chunks:
                images, hidden = self.images[i : i + 32], mask[i : i + 32]
                if name == "val_loss":
                    void = None if self.void is None else self.void[i : i + 32]
                    terms = loss(model(images, hidden), images, hidden, void)
                    for term in terms if loss.perceptual_weight else ("loss",):
                        values.setdefault(f"val_{term}", []).extend([terms[term]] * len(images))
                else:
                    repaired = model.reconstruct(images, hidden)
                    psnr = hole_psnr(repaired, images, mask_to_pixels(hidden, self.size, self.grid))
                    values.setdefault(f"psnr {name}", []).extend(psnr.clamp(max=PSNR_CAP))
            row |= {column: float(torch.stack(numbers).mean()) for column, numbers in values.items()}
        model.train()
        return row
