"""Images as grids of patches, and the positions of those patches.

The order of a patch's pixels is (row, column, channel), as in He et al. 2022, so that official weights fit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

PIXEL_MEAN = (0.485, 0.456, 0.406)  # ImageNet's, as everywhere in the field
PIXEL_STD = (0.229, 0.224, 0.225)


def grid_size(img_size: int | tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches in an image of `img_size` pixels (one side, or height and width).

    Raises
    ------
    ValueError
        When a side is not a positive multiple of `patch_size`.
    """
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if patch_size < 1:
        raise ValueError(f"patch_size {patch_size} is below 1; use the side of a patch in pixels, such as 16")
    for side in (height, width):
        if side < patch_size or side % patch_size:
            below, above = side // patch_size * patch_size, (side // patch_size + 1) * patch_size
            cure = f"{below} or {above}" if below else f"{above}"
            raise ValueError(f"img_size {side} is not a multiple of patch_size {patch_size}; use {cure}")
    return height // patch_size, width // patch_size


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images `(B, C, H, W)` into flattened patches `(B, N, patch_size**2 * C)`, row by row.

    Raises
    ------
    ValueError
        When `images` is not four-dimensional, or a side is not a multiple of `patch_size`.
    """
    if images.ndim != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}, expected (B, C, H, W); add a batch axis?")
    batch, channels, height, width = images.shape
    rows, cols = grid_size((height, width), patch_size)
    patches = images.reshape(batch, channels, rows, patch_size, cols, patch_size)
    patches = patches.permute(0, 2, 4, 3, 5, 1)  # (B, C, R, p, W/p, p) -> (B, R, W/p, p, p, C)
    return patches.reshape(batch, rows * cols, patch_size**2 * channels)  # -> (B, N, P)


def unpatchify(patches: Tensor, patch_size: int, grid_size: tuple[int, int]) -> Tensor:
    """Put patches `(B, N, patch_size**2 * C)` back into images `(B, C, H, W)`; undoes `patchify`.

    Raises
    ------
    ValueError
        When the patches do not fill the grid, or a patch does not hold whole pixels.
    """
    rows, cols = grid_size
    batch, count, length = patches.shape
    if count != rows * cols:
        raise ValueError(f"{count} patches do not fill a grid of {rows} x {cols} = {rows * cols}; pass its grid")
    if length % patch_size**2:
        raise ValueError(
            f"a patch of {length} values does not hold {patch_size} x {patch_size} pixels; check patch_size"
        )
    images = patches.reshape(batch, rows, cols, patch_size, patch_size, -1)
    images = images.permute(0, 5, 1, 3, 2, 4)  # (B, R, W/p, p, p, C) -> (B, C, R, p, W/p, p)
    return images.reshape(batch, -1, rows * patch_size, cols * patch_size)  # -> (B, C, H, W)


def sincos_positions(grid_size: tuple[int, int], dim: int) -> Tensor:
    """Fixed 2-D sine-cosine positions `(N, dim)`: columns in the first half, rows in the second.

    One axis follows Vaswani et al. 2017, section 3.5 (all sines, then all cosines); the two axes are
    joined as He et al. 2022 do.

    Raises
    ------
    ValueError
        When `dim` is not a multiple of 4 (a sine and a cosine for each of two axes).
    """
    if dim % 4:
        raise ValueError(f"dim {dim} is not a multiple of 4; use {dim // 4 * 4 + 4}")
    rows, cols = grid_size
    omega = 10000 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row = torch.arange(rows, dtype=torch.float64).repeat_interleave(cols)  # (N,)
    col = torch.arange(cols, dtype=torch.float64).repeat(rows)  # (N,)
    angles = [axis[:, None] * omega for axis in (col, row)]  # two of (N, dim / 4)
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1).float()


def interpolate_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Positions `(N_old, dim)` of grid `old`, resampled (bicubic) to the `(N_new, dim)` of grid `new`."""
    if old == new:
        return positions
    image = positions.reshape(1, *old, -1).permute(0, 3, 1, 2)  # (N, D) -> (1, D, R, C)
    image = F.interpolate(image.float(), size=new, mode="bicubic", antialias=True)
    return image[0].flatten(1).T.to(positions.dtype)  # (D, R, C) -> (N_new, D)


def rotary_angles(grid_size: tuple[int, int], head_dim: int, base: float = 100.0) -> Tensor:
    """Angles `(N, head_dim / 2)` in radians by which `rotate` turns queries and keys: rows, then columns.

    Axial form (Heo et al. 2024, section 3) of rotary positions (Su et al. 2021): the attention between two
    patches then depends on their offset alone, which is what repeats on a facade.

    Raises
    ------
    ValueError
        When `head_dim` is not a multiple of 4 (pairs of values for each of two axes).
    """
    if head_dim % 4:
        raise ValueError(f"head_dim {head_dim} is not a multiple of 4; choose embed_dim = heads x such a multiple")
    rows, cols = grid_size
    omega = base ** -(torch.arange(head_dim // 4, dtype=torch.float32) / (head_dim // 4))
    row = torch.arange(rows).repeat_interleave(cols)  # (N,)
    col = torch.arange(cols).repeat(rows)  # (N,)
    return torch.cat([row[:, None] * omega, col[:, None] * omega], dim=1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn value pairs `(i, i + d / 2)` of `x` `(..., B, heads, N, d)` by `angles` `(B or 1, N, d / 2)`."""
    cos, sin = (f(angles)[:, None].to(x.dtype) for f in (torch.cos, torch.sin))  # (B, 1, N, d / 2)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
