"""The masked autoencoder of He et al. 2022: an encoder for the visible patches and a light decoder for all patches.

Parameters have the names of the official code and of timm's `Block`, so weights can be exchanged without renaming.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maelib.masking import mask_to_pixels, split_ids
from maelib.patches import (
    PIXEL_MEAN,
    PIXEL_STD,
    grid_size,
    interpolate_positions,
    patchify,
    rotary_angles,
    rotate,
    sincos_positions,
    unpatchify,
)


@dataclass(frozen=True)
class MAEConfig:
    """The shape of a `MaskedAutoencoder`. The names are timm's."""

    img_size: int = 64
    """side of the square training images in pixels"""
    patch_size: int = 8
    """side of a patch in pixels"""
    embed_dim: int = 128
    """width of the encoder"""
    depth: int = 3
    """blocks of the encoder"""
    num_heads: int = 4
    """attention heads of the encoder"""
    decoder_embed_dim: int = 128
    """width of the decoder"""
    decoder_depth: int = 3
    """blocks of the decoder"""
    decoder_num_heads: int = 4
    """attention heads of the decoder"""
    mlp_ratio: float = 4.0
    """width of a block's hidden layer divided by the width of the block"""
    class_token: bool = False
    """put a learned token before the patches, as ViT does"""
    positions: str = "sincos"
    """positions added to the tokens: sincos (fixed) or learned"""
    rotary: bool = True
    """also rotate queries and keys by their row and column, so that attention depends on offsets"""
    norm_pix: bool = False
    """predict each patch relative to its own mean and standard deviation"""

    def __post_init__(self) -> None:
        grid_size(self.img_size, self.patch_size)
        if self.positions not in ("sincos", "learned"):
            raise ValueError(f"positions {self.positions!r} is not known; use 'sincos' or 'learned'")
        if not self.mlp_ratio > 0:  # refuses NaN too
            raise ValueError(f"mlp_ratio {self.mlp_ratio} is not positive; use 4, as most transformers do")
        for part in ("", "decoder_"):
            dim, depth, heads = (getattr(self, part + name) for name in ("embed_dim", "depth", "num_heads"))
            if min(dim, depth, heads) < 1:
                raise ValueError(f"{part}embed_dim {dim}, {part}depth {depth}, {part}num_heads {heads}: use 1 or more")
            unit, why = (4 * heads, "4 x num_heads, for rotary positions") if self.rotary else (heads, "num_heads")
            if dim % unit:
                cure = f"use {max(1, dim // unit) * unit}"
                raise ValueError(f"{part}embed_dim {dim} is not a multiple of {unit}, which is {why}; {cure}")

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches in a training image."""
        return grid_size(self.img_size, self.patch_size)


_VIT = MAEConfig(img_size=224, patch_size=16, class_token=True, rotary=False, norm_pix=True)
_VIT = replace(_VIT, decoder_embed_dim=512, decoder_depth=8, decoder_num_heads=16)

CONFIGS: dict[str, MAEConfig] = {
    "facade_tiny": MAEConfig(),
    "facade_small": MAEConfig(
        img_size=96, embed_dim=160, depth=3, num_heads=5, decoder_embed_dim=160, decoder_depth=4, decoder_num_heads=5
    ),
    "facade_medium": MAEConfig(
        img_size=96, embed_dim=192, depth=6, num_heads=6, decoder_embed_dim=192, decoder_depth=6, decoder_num_heads=6
    ),
    "facade_base": MAEConfig(
        img_size=224, patch_size=16, embed_dim=256, depth=12, decoder_embed_dim=256, decoder_depth=6, rotary=False
    ),
    "vit_base": replace(_VIT, embed_dim=768, depth=12, num_heads=12),
    "vit_large": replace(_VIT, embed_dim=1024, depth=24, num_heads=16),
    "vit_huge": replace(_VIT, patch_size=14, embed_dim=1280, depth=32, num_heads=16),
}


def attend(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None) -> Tensor:
    """Compute scaled dot-product attention (Vaswani et al. 2017, equation 1) in the fastest way of the device.

    Parameters
    ----------
    q, k, v : Tensor
        `(B, heads, N, d)`.
    valid : Tensor, optional
        `(B, N)` bool, False where a token only pads its row. No token attends to padding.

    Returns
    -------
    Tensor
        `(B, heads, N, d)`.
    """
    bias = None if valid is None else valid[:, None, None]  # (B, N) -> (B, 1, 1, N)
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:  # there the fused backward is the slower one
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, heads, N, N)
        if bias is not None:
            scores = scores.masked_fill(~bias, float("-inf"))
        return scores.softmax(dim=-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


class Attention(nn.Module):
    """Multi-head self-attention on tokens `(B, N, dim)`."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)  # official checkpoints have a bias here
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, angles: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        batch, count, dim = x.shape
        qkv = self.qkv(x).reshape(batch, count, 3, self.num_heads, -1)  # (B, N, 3D) -> (B, N, 3, heads, d)
        qkv = qkv.permute(2, 0, 3, 1, 4)  # -> (3, B, heads, N, d)
        q, k, v = qkv
        if angles is not None:
            q, k = rotate(qkv[:2], angles)
        x = attend(q, k, v, valid)
        return self.proj(x.transpose(1, 2).reshape(batch, count, dim))  # (B, heads, N, d) -> (B, N, D)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, applied to each token on its own."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Transformer block (Dosovitskiy et al. 2021, equations 2 and 3). Each part sees normalised tokens."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, angles: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        x = x + self.attn(self.norm1(x), angles, valid)
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Linear layer on patches, stored as the convolution `proj`, as ViT implementations do."""

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.proj = nn.Conv2d(3, config.embed_dim, kernel_size=size, stride=size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, D, H/p, W/p) -> (B, N, D)


class MaskedAutoencoder(nn.Module):
    """Predicts hidden patches from visible ones.

    Images are `(B, 3, H, W)` floats in [0, 1]. Their sides may differ from `config.img_size` as long as they are
    multiples of `config.patch_size`; the positions are then interpolated. A mask is `(B, N)` bool, True = hidden. Its
    rows may hide different numbers of patches.
    """

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        self.config, self.extra = config, int(config.class_token)  # tokens before the patches
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim)) if config.class_token else None
        self.pos_embed = self._init_positions(config.embed_dim)
        self.decoder_pos_embed = self._init_positions(config.decoder_embed_dim)
        self.blocks = self._make_blocks(config.depth, config.embed_dim, config.num_heads)
        self.norm = nn.LayerNorm(config.embed_dim, eps=1e-6)

        decoder_dim = config.decoder_embed_dim
        self.decoder_embed = nn.Linear(config.embed_dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.decoder_blocks = self._make_blocks(config.decoder_depth, decoder_dim, config.decoder_num_heads)
        self.decoder_norm = nn.LayerNorm(decoder_dim, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_dim, config.patch_size**2 * 3)

        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD), persistent=False)
        for module in self.modules():  # Xavier-uniform matrices and zero biases, as in He et al. 2022, appendix A.1
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1))  # flatten is a view, so this fills the weight itself
                nn.init.zeros_(module.bias)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    def _make_blocks(self, depth: int, dim: int, heads: int) -> nn.ModuleList:
        return nn.ModuleList(Block(dim, heads, self.config.mlp_ratio) for _ in range(depth))

    def _init_positions(self, dim: int) -> nn.Parameter:
        """Make positions `(1, [1 +] N, dim)`, frozen unless they are learned. The class token stands nowhere: zeros."""
        positions = F.pad(sincos_positions(self.config.grid_size, dim), (0, 0, self.extra, 0))[None]
        learned = self.config.positions == "learned"
        return nn.Parameter(0.02 * torch.randn_like(positions) if learned else positions, requires_grad=learned)

    def _check(self, images: Tensor, mask: Tensor | None) -> tuple[int, int]:
        """Refuse images and masks that do not fit the model or each other, and return the grid of patches."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            got = f"images are {images.dtype} of shape {tuple(images.shape)}"
            raise ValueError(f"{got}, expected floats (B, 3, H, W) in [0, 1], such as images.float() / 255")
        rows, cols = grid_size(images.shape[2:], self.config.patch_size)
        if mask is not None and (mask.dtype != torch.bool or mask.shape != (len(images), rows * cols)):
            got = f"mask is {mask.dtype} of shape {tuple(mask.shape)}"
            raise ValueError(f"{got}, expected bool ({len(images)}, {rows * cols}) for a grid of {rows} x {cols}")
        return rows, cols

    def resampled_positions(self, name: str, grid: tuple[int, int]) -> Tensor:
        """Resample 'pos_embed' or 'decoder_pos_embed' to a grid: `(1, [1 +] N, D)`."""
        positions = getattr(self, name)
        resampled = interpolate_positions(positions[0, self.extra :], self.config.grid_size, grid)
        return torch.cat([positions[:, : self.extra], resampled[None]], dim=1)

    def _angles(self, dim: int, heads: int, grid: tuple[int, int]) -> Tensor | None:
        """Rotary angles `(1, [1 +] N, d / 2)`. The class token stands nowhere and is not rotated."""
        if not self.config.rotary:
            return None
        angles = rotary_angles(grid, dim // heads).to(self.mask_token.device)
        return F.pad(angles, (0, 0, self.extra, 0))[None]

    def encode(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the features of the visible patches.

        Parameters
        ----------
        images : Tensor
            `(B, 3, H, W)` in [0, 1].
        mask : Tensor, optional
            `(B, N)` bool, True = hidden. By default nothing is hidden.

        Returns
        -------
        Tensor
            `(B, [1 +] K, embed_dim)`, the class token first if there is one, then the visible patches in the order of
            `maelib.masking.split_ids`. K is the largest number of visible patches in a row of the mask. A row with
            fewer visible patches ends in meaningless features.

        Raises
        ------
        ValueError
            If images or mask have another type or shape, or a row of the mask hides everything.
        """
        grid = self._check(images, mask)
        if mask is None:
            mask = torch.zeros(len(images), grid[0] * grid[1], dtype=torch.bool, device=images.device)

        # embed every patch and add its position
        x = (images - self.pixel_mean[:, None, None]) / self.pixel_std[:, None, None]
        positions = self.resampled_positions("pos_embed", grid)
        x = self.patch_embed(x) + positions[:, self.extra :]  # (B, C, H, W) -> (B, N, D)

        # keep the visible patches only
        ids_keep, _ = split_ids(mask)
        x = x.gather(1, ids_keep[..., None].expand(-1, -1, x.shape[-1]))  # (B, N, D) -> (B, K, D)
        padded = mask.gather(1, ids_keep)  # (B, K), True where a row has fewer than K visible patches
        valid = F.pad(~padded, (self.extra, 0), value=True) if padded.any() else None
        angles = self._angles(self.config.embed_dim, self.config.num_heads, grid)
        if angles is not None:
            kept = angles[0, self.extra :][ids_keep]  # (N, d / 2) -> (B, K, d / 2)
            angles = torch.cat([angles[:, : self.extra].expand(len(x), -1, -1), kept], dim=1)
        if self.cls_token is not None:
            x = torch.cat([(self.cls_token + positions[:, :1]).expand(len(x), -1, -1), x], dim=1)

        for block in self.blocks:
            x = block(x, angles, valid)
        return self.norm(x)

    def decode(self, features: Tensor, mask: Tensor, grid: tuple[int, int]) -> Tensor:
        """Predict all patches `(B, N, P)` of a `grid` from the `features` that `encode` computed under `mask`."""
        _, ids_restore = split_ids(mask)
        x = self.decoder_embed(features)  # (B, [1 +] K, D) -> (B, [1 +] K, D')

        # append mask tokens for the hidden patches, then put every patch back in its place
        missing = mask.shape[1] - (x.shape[1] - self.extra)
        hidden = self.mask_token.to(x.dtype).expand(len(x), -1, -1)
        patches = torch.cat([x[:, self.extra :], hidden.expand(-1, missing, -1)], dim=1)  # -> (B, N, D')
        patches = patches.gather(1, ids_restore[..., None].expand(-1, -1, x.shape[-1]))
        patches = torch.where(mask[..., None], hidden, patches)
        x = torch.cat([x[:, : self.extra], patches], dim=1) + self.resampled_positions("decoder_pos_embed", grid)

        angles = self._angles(self.config.decoder_embed_dim, self.config.decoder_num_heads, grid)
        for block in self.decoder_blocks:
            x = block(x, angles)
        x = self.decoder_pred(self.decoder_norm(x))[:, self.extra :]  # (B, [1 +] N, D') -> (B, N, P)
        return x if self.config.norm_pix else self._to_pixels(x)

    def _to_pixels(self, patches: Tensor) -> Tensor:
        """Undo ImageNet's normalisation of patches `(B, N, P)`."""
        area = self.config.patch_size**2
        return patches * self.pixel_std.repeat(area) + self.pixel_mean.repeat(area)

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        """Predict all patches `(B, N, P)` of `images` `(B, 3, H, W)` from those that `mask` `(B, N)` leaves visible.

        Predictions are pixels in the units of the images. With `config.norm_pix` they are multiples of each patch's
        own standard deviation about its own mean. Raises `ValueError` as `encode` does.
        """
        return self.decode(self.encode(images, mask), mask, grid_size(images.shape[2:], self.config.patch_size))

    @torch.no_grad()
    def reconstruct(self, images: Tensor, mask: Tensor) -> Tensor:
        """Repair `images` `(B, 3, H, W)`: hidden patches are predicted, in [0, 1], and visible pixels stay.

        With `config.norm_pix`, the mean and deviation of a hidden patch are unknown, and taking them from the true
        image would leak the answer. They are estimated from the visible patches, weighted by 1 / distance^2.
        """
        patches, size = self(images, mask), self.config.patch_size
        grid = grid_size(images.shape[2:], size)
        if self.config.norm_pix:
            truth = patchify((images - self.pixel_mean[:, None, None]) / self.pixel_std[:, None, None], size)
            statistics = torch.stack([truth.mean(dim=-1), truth.std(dim=-1)], dim=-1)  # (B, N, 2)
            place = torch.cartesian_prod(*(torch.arange(side, device=images.device).float() for side in grid))  # (N, 2)
            weight = 1 / (torch.cdist(place, place) ** 2 + 1e-6) * ~mask[:, None]  # (B, N, N), 0 for hidden patches
            mean, std = (weight / weight.sum(-1, keepdim=True) @ statistics)[..., None, :].unbind(-1)  # (B, N, 1) each
            patches = self._to_pixels(patches * std + mean)
        predicted = unpatchify(patches, size, grid).clamp(0, 1).to(images.dtype)
        return torch.where(mask_to_pixels(mask, size, grid)[:, None], predicted, images)
