"""The masked autoencoder of He et al. 2022: an encoder on the visible patches, a light decoder on all of them.

Parameter names are those of the official code and of timm's `Block`, so weights move without renaming.
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
    """Shape of a `MaskedAutoencoder`; the names are timm's."""

    img_size: int = 64
    """side in pixels of the square images it is trained on"""
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
    """width of a block's hidden layer over the block's width"""
    class_token: bool = False
    """put a learned token before the patches, as ViT does"""
    positions: str = "sincos"
    """positions added to the tokens: sincos (fixed) or learned"""
    rotary: bool = True
    """also turn queries and keys by their row and column, so that attention sees offsets"""
    norm_pix: bool = False
    """predict each patch relative to its own mean and standard deviation"""

    def __post_init__(self) -> None:
        grid_size(self.img_size, self.patch_size)
        if self.positions not in ("sincos", "learned"):
            raise ValueError(f"positions {self.positions!r} is not known; use 'sincos' or 'learned'")
        for part, dim, heads in (
            ("", self.embed_dim, self.num_heads),
            ("decoder_", self.decoder_embed_dim, self.decoder_num_heads),
        ):
            if heads < 1 or dim % heads:
                raise ValueError(
                    f"{part}embed_dim {dim} is not a multiple of {part}num_heads {heads}; "
                    f"use {max(1, dim // max(heads, 1)) * max(heads, 1)} or another number of heads"
                )
            if self.rotary and dim // heads % 4:
                raise ValueError(
                    f"{part}embed_dim {dim} over {heads} heads is {dim // heads} a head, and rotary positions need a "
                    f"multiple of 4; use {part}embed_dim {max(1, dim // heads // 4) * 4 * heads}, or rotary False"
                )
        for name in ("embed_dim", "decoder_embed_dim", "depth", "decoder_depth", "mlp_ratio"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} {getattr(self, name)} is not positive; use 1 or more")

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches at the training size."""
        return grid_size(self.img_size, self.patch_size)


_VIT = MAEConfig(
    img_size=224,
    patch_size=16,
    decoder_embed_dim=512,
    decoder_depth=8,
    decoder_num_heads=16,
    class_token=True,
    rotary=False,
    norm_pix=True,
)

CONFIGS: dict[str, MAEConfig] = {
    "facade_tiny": MAEConfig(),
    "facade_small": MAEConfig(
        img_size=96,
        embed_dim=160,
        depth=3,
        num_heads=5,
        decoder_embed_dim=160,
        decoder_depth=4,
        decoder_num_heads=5,
    ),
    "facade_base": MAEConfig(
        img_size=224,
        patch_size=16,
        embed_dim=256,
        depth=12,
        num_heads=4,
        decoder_embed_dim=256,
        decoder_depth=6,
        decoder_num_heads=4,
        rotary=False,
    ),
    "vit_base": replace(_VIT, embed_dim=768, depth=12, num_heads=12),
    "vit_large": replace(_VIT, embed_dim=1024, depth=24, num_heads=16),
    "vit_huge": replace(_VIT, patch_size=14, embed_dim=1280, depth=32, num_heads=16),
}


def attend(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, equation 1) by the fastest way of the device.

    Parameters
    ----------
    q, k, v : Tensor
        `(B, heads, N, d)`.
    valid : Tensor, optional
        `(B, N)` bool, False where a token only pads its row: nobody looks at it.

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
    """Two linear layers with a GELU between, on each token alone."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Transformer block (Dosovitskiy et al. 2021, equations 2 and 3): normalise first, add after."""

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
    """Linear layer on patches, held as the convolution `proj` like everywhere in the field."""

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.proj = nn.Conv2d(3, config.embed_dim, kernel_size=size, stride=size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, D, R, C) -> (B, N, D)


class MaskedAutoencoder(nn.Module):
    """Predicts hidden patches from visible ones.

    Images are `(B, C, H, W)` floats in [0, 1]; sides may differ from `config.img_size` as long as they are
    multiples of `config.patch_size`: positions are then interpolated. A mask is `(B, N)` bool, True = hidden, and
    its rows may hide different numbers of patches.
    """

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        self.config = config
        dims = {"pos_embed": config.embed_dim, "decoder_pos_embed": config.decoder_embed_dim}
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim)) if config.class_token else None
        for name, dim in dims.items():
            positions = sincos_positions(config.grid_size, dim)[None]  # (N, D) -> (1, N, D)
            positions = F.pad(positions, (0, 0, int(config.class_token), 0))  # the class token stands nowhere
            learned = config.positions == "learned"
            setattr(
                self,
                name,
                nn.Parameter(0.02 * torch.randn_like(positions) if learned else positions, learned),
            )
        self.blocks = nn.ModuleList(
            Block(config.embed_dim, config.num_heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.embed_dim, eps=1e-6)

        self.decoder_embed = nn.Linear(config.embed_dim, config.decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_embed_dim))
        self.decoder_blocks = nn.ModuleList(
            Block(config.decoder_embed_dim, config.decoder_num_heads, config.mlp_ratio)
            for _ in range(config.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(config.decoder_embed_dim, eps=1e-6)
        self.decoder_pred = nn.Linear(config.decoder_embed_dim, config.patch_size**2 * 3)

        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD), persistent=False)
        self.apply(self._init_weights)
        for token in filter(lambda t: t is not None, (self.cls_token, self.mask_token)):
            nn.init.normal_(token, std=0.02)

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        """Xavier-uniform matrices, zero biases, as in He et al. 2022, appendix A.1."""
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1))  # flatten is a view: the weight itself changes
            nn.init.zeros_(module.bias)

    def _check(self, images: Tensor, mask: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"images are {images.dtype} of shape {tuple(images.shape)}, expected floats in [0, 1] of shape "
                "(B, 3, H, W); convert uint8 with images.float() / 255, repeat grey three times"
            )
        rows, cols = grid_size(tuple(images.shape[2:]), self.config.patch_size)
        if mask.dtype != torch.bool or mask.shape != (len(images), rows * cols):
            raise ValueError(
                f"mask is {mask.dtype} of shape {tuple(mask.shape)}, expected bool of shape "
                f"({len(images)}, {rows * cols}) for a grid of {rows} x {cols}; see maelib.masking"
            )

    def resampled_positions(self, name: str, grid: tuple[int, int]) -> Tensor:
        """Positions `(1, [1 +] N, D)` of encoder or decoder, resampled where the grid is not the trained one."""
        positions, extra = getattr(self, name), int(self.config.class_token)
        resampled = interpolate_positions(positions[0, extra:], self.config.grid_size, grid)
        return torch.cat([positions[:, :extra], resampled[None]], dim=1)

    def _angles(self, dim: int, heads: int, grid: tuple[int, int]) -> Tensor | None:
        """Rotary angles `(1, [1 +] N, d / 2)`; the class token, which stands nowhere, is not turned."""
        if not self.config.rotary:
            return None
        angles = rotary_angles(grid, dim // heads).to(self.mask_token.device)
        return F.pad(angles, (0, 0, int(self.config.class_token), 0))[None]

    def encode(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features of the visible patches, class token first if there is one.

        Parameters
        ----------
        images : Tensor
            `(B, C, H, W)` in [0, 1].
        mask : Tensor, optional
            `(B, N)` bool, True = hidden. None hides nothing.

        Returns
        -------
        Tensor
            `(B, [1 +] K, embed_dim)`, K the largest number of visible patches in a row of the mask, in the order
            of `maelib.masking.split_ids`; tokens past a row's own number are meaningless.

        Raises
        ------
        ValueError
            When images or mask have another type or shape than these, or a row hides everything.
        """
        grid = grid_size(tuple(images.shape[2:]), self.config.patch_size)
        if mask is None:
            mask = torch.zeros(len(images), grid[0] * grid[1], dtype=torch.bool, device=images.device)
        self._check(images, mask)
        extra = int(self.config.class_token)

        # embed every patch and say where it stands
        x = (images - self.pixel_mean[:, None, None]) / self.pixel_std[:, None, None]
        positions = self.resampled_positions("pos_embed", grid)
        x = self.patch_embed(x) + positions[:, extra:]  # (B, C, H, W) -> (B, N, D)

        # keep the visible ones only
        ids_keep, _ = split_ids(mask)
        x = x.gather(1, ids_keep[..., None].expand(-1, -1, x.shape[-1]))  # (B, N, D) -> (B, K, D)
        padded = mask.gather(1, ids_keep)  # (B, K), True where a row has fewer than K visible patches
        valid = F.pad(~padded, (extra, 0), value=True) if padded.any() else None
        angles = self._angles(self.config.embed_dim, self.config.num_heads, grid)
        if angles is not None:
            kept = angles[0, extra:][ids_keep]  # (N, d / 2) -> (B, K, d / 2)
            angles = torch.cat([angles[:, :extra].expand(len(x), -1, -1), kept], dim=1)
        if self.cls_token is not None:
            x = torch.cat([(self.cls_token + positions[:, :1]).expand(len(x), -1, -1), x], dim=1)

        for block in self.blocks:
            x = block(x, angles, valid)
        return self.norm(x)

    def decode(self, features: Tensor, mask: Tensor, grid: tuple[int, int]) -> Tensor:
        """Predict all patches `(B, N, P)` of a `grid` from the `features` that `encode` made under `mask`."""
        extra = int(self.config.class_token)
        _, ids_restore = split_ids(mask)
        x = self.decoder_embed(features)  # (B, [1 +] K, D) -> (B, [1 +] K, D')

        # mask tokens where patches are hidden, then every patch back to its place
        missing = mask.shape[1] - (x.shape[1] - extra)
        hidden = self.mask_token.to(x.dtype).expand(len(x), -1, -1)
        patches = torch.cat([x[:, extra:], hidden.expand(-1, missing, -1)], dim=1)  # -> (B, N, D')
        patches = patches.gather(1, ids_restore[..., None].expand(-1, -1, x.shape[-1]))
        patches = torch.where(mask[..., None], hidden, patches)
        x = torch.cat([x[:, :extra], patches], dim=1) + self.resampled_positions("decoder_pos_embed", grid)

        angles = self._angles(self.config.decoder_embed_dim, self.config.decoder_num_heads, grid)
        for block in self.decoder_blocks:
            x = block(x, angles)
        x = self.decoder_pred(self.decoder_norm(x))[:, extra:]  # (B, [1 +] N, D') -> (B, N, P)
        if self.config.norm_pix:
            return x
        area = self.config.patch_size**2
        return x * self.pixel_std.repeat(area) + self.pixel_mean.repeat(area)

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        """Predict the patches `(B, N, P)` of `images` `(B, C, H, W)` from those that `mask` `(B, N)` leaves visible.

        Predictions are pixels in the units of the images, or, when `config.norm_pix` is set, multiples of the
        patch's own standard deviation about its own mean. Raises `ValueError` as `encode` does.
        """
        grid = grid_size(tuple(images.shape[2:]), self.config.patch_size)
        return self.decode(self.encode(images, mask), mask, grid)

    @torch.no_grad()
    def reconstruct(self, images: Tensor, mask: Tensor) -> Tensor:
        """Repair `images` `(B, C, H, W)`: predictions in the hidden patches, in [0, 1], visible ones untouched.

        With `config.norm_pix` a hidden patch's mean and deviation are unknown; taking them from the truth would leak
        the answer. They are estimated from the visible patches, the nearest counting most.
        """
        size = self.config.patch_size
        grid = grid_size(tuple(images.shape[2:]), size)
        patches = self(images, mask)
        if self.config.norm_pix:
            patches = self._denormalise(patches, images, mask, grid)
        predicted = unpatchify(patches, size, grid).clamp(0, 1).to(images.dtype)
        return torch.where(mask_to_pixels(mask, size, grid)[:, None], predicted, images)

    def _denormalise(self, patches: Tensor, images: Tensor, mask: Tensor, grid: tuple[int, int]) -> Tensor:
        """Predictions in standard deviations -> pixels, with statistics of visible patches, 1 / distance^2 weighted."""
        size = self.config.patch_size
        truth = patchify((images - self.pixel_mean[:, None, None]) / self.pixel_std[:, None, None], size)
        statistics = torch.stack([truth.mean(dim=-1), truth.std(dim=-1)], dim=-1)  # (B, N, 2)
        place = torch.cartesian_prod(*(torch.arange(side, device=images.device).float() for side in grid))  # (N, 2)
        weight = 1 / (torch.cdist(place, place) ** 2 + 1e-6) * ~mask[:, None]  # (B, N, N), none to hidden ones
        mean, std = (weight / weight.sum(-1, keepdim=True) @ statistics)[..., None, :].unbind(-1)  # two of (B, N, 1)
        area = size**2
        return (patches * std + mean) * self.pixel_std.repeat(area) + self.pixel_mean.repeat(area)
