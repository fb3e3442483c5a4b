"""Augmentation of whole batches: crop, rotation without black corners, flip, colour jitter."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def to_float(images: Tensor) -> Tensor:
    """What validation does with a batch: uint8 0..255 to float in [0, 1], nothing else."""
    return images.float() / 255


@dataclass(frozen=True)
class Augment:
    """Random change of each image of a batch; the randomness comes from the generator it is called with.

    Raises
    ------
    ValueError
        When a value is out of range.
    """

    flip: float = 0.5
    """probability of a mirrored image"""
    rotation: float = 0.0
    """largest rotation to either side, degrees"""
    scale: tuple[float, float] = (1.0, 1.0)
    """smallest and largest side of the crop, as a share of the image's"""
    jitter: float = 0.15
    """largest relative change of brightness, contrast and saturation"""
    hue: float = 0.0
    """largest turn of the hue to either side, as a share of the colour circle"""

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"scale {self.scale} is not a range of shares; use 0 < smallest <= largest <= 1")
        for name, most in (("flip", 1), ("rotation", 45), ("jitter", 0.99), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} {getattr(self, name)} is out of range; use 0 to {most}")

    def __call__(self, images: Tensor, size: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Augment each image of a batch.

        Parameters
        ----------
        images : Tensor
            `(B, 3, H, W)` or, with an alpha channel, `(B, 4, H, W)`; uint8.
        size : int
            Side of the result in pixels.
        generator : Generator

        Returns
        -------
        images : Tensor
            `(B, 3, size, size)` floats in [0, 1].
        valid : Tensor
            `(B, size, size)` bool, False where a pixel holds anything that is transparent in the original.
        """
        return self.apply(images, size, self.draw(len(images), generator))

    def draw(self, count: int, generator: Generator) -> dict[str, Tensor]:
        """Random numbers for `count` images, a column for each, so that a part of the columns serves a part of them."""
        drawn = {"place": torch.rand(5, count, generator=generator)}
        if self.jitter:
            drawn["colour"] = torch.rand(3, count, generator=generator)
        if self.hue:
            drawn["hue"] = torch.rand(1, count, generator=generator)
        return drawn

    def apply(self, images: Tensor, size: int, drawn: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What `__call__` does, with numbers that `draw` returned.

        Changes brightness, contrast about the mean grey, saturation about each pixel's grey, and hue, in this order.
        """
        x = self._move(to_float(images), size, drawn["place"])
        valid = (x[:, 3:] > 0.999).all(dim=1)  # (B, 1, H, W) -> (B, H, W); without an alpha channel all of it
        x = x[:, :3].contiguous()
        if self.jitter:
            factors = 1 + self.jitter * (2 * drawn["colour"] - 1)
            brightness, contrast, saturation = factors[..., None, None, None].to(x.device)
            x = x * brightness
            x = x.mean(dim=(1, 2, 3), keepdim=True).lerp(x, contrast)
            x = x.mean(dim=1, keepdim=True).lerp(x, saturation).clamp(0, 1)
        if self.hue:
            turns = self.hue * (2 * drawn["hue"][0] - 1)
            x = torch.einsum("bdc,bchw->bdhw", hue_turns(turns).to(x.device), x).clamp(0, 1)
        return x, valid

    def _move(self, x: Tensor, size: int, u: Tensor) -> Tensor:
        """Crop, rotate and mirror by resampling once; the rotated crop always lies inside the image."""
        mirror = torch.where(u[0] < self.flip, -1.0, 1.0)
        if self.rotation == 0 and self.scale[0] == 1 and x.shape[2:] == (size, size):
            return torch.where(mirror[:, None, None, None].to(x.device) < 0, x.flip(3), x)
        angle = torch.deg2rad((2 * u[1] - 1) * self.rotation)
        cos, sin = angle.cos(), angle.sin()
        reach = cos.abs() + sin.abs()  # half the side of the box around a rotated square of half side 1
        half = (self.scale[0] + (self.scale[1] - self.scale[0]) * u[2]).minimum(1 / reach)
        centre = (2 * u[3:] - 1) * (1 - half * reach)  # (2, B), coordinates from -1 to 1
        rows = (half * cos * mirror, -half * sin, centre[0], half * sin * mirror, half * cos, centre[1])
        theta = torch.stack(rows, dim=1).reshape(-1, 2, 3).to(x.device)  # (B, 6) -> (B, 2, 3)
        grid = F.affine_grid(theta, [*x.shape[:2], size, size], align_corners=False)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def hue_turns(turns: Tensor) -> Tensor:
    """Matrices `(B, 3, 3)` that turn colours about the axis of greys by `turns` `(B,)` of the colour circle."""
    channel = torch.arange(3)
    angle = 2 * torch.pi * (turns[:, None] - channel / 3)  # a third of a turn: red is green
    kept = (1 + 2 * angle.cos()) / 3  # (B, 3)
    return kept[:, (channel[:, None] - channel) % 3]  # (B, 3) -> (B, 3, 3)
