"""Images as grids of patches, and the positions of those patches.

A patch stores its pixels in the order (row, column, channel). He et al. 2022 use the same order, so the published
weights fit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

PIXEL_MEAN = (0.485, 0.456, 0.406)  # statistics of ImageNet, which published weights expect
PIXEL_STD = (0.229, 0.224, 0.225)


def grid_size(img_size: int | tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Count the rows and columns of patches in an image of `img_size` pixels (one side, or height and width).

    Raises
    ------
    ValueError
        If a side is not a positive multiple of `patch_size`.
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
        If `images` is not four-dimensional, or a side is not a multiple of `patch_size`.
    """
    if images.ndim != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}, expected (B, C, H, W); add a batch axis?")
    batch, channels, height, width = images.shape
    rows, cols = grid_size((height, width), patch_size)
    patches = images.reshape(batch, channels, rows, patch_size, cols, patch_size)
    patches = patches.permute(0, 2, 4, 3, 5, 1)  # (B, C, H/p, p, W/p, p) -> (B, H/p, W/p, p, p, C)
    return patches.reshape(batch, rows * cols, patch_size**2 * channels)  # -> (B, N, P)


def unpatchify(patches: Tensor, patch_size: int, grid_size: tuple[int, int]) -> Tensor:
    """Put patches `(B, N, patch_size**2 * C)` back together as images `(B, C, H, W)`. This undoes `patchify`.

    Raises
    ------
    ValueError
        If the patches do not fill the grid, or a patch does not hold whole pixels.
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
    images = images.permute(0, 5, 1, 3, 2, 4)  # (B, H/p, W/p, p, p, C) -> (B, C, H/p, p, W/p, p)
    return images.reshape(batch, -1, rows * patch_size, cols * patch_size)  # -> (B, C, H, W)


def sincos_positions(grid_size: tuple[int, int], dim: int) -> Tensor:
    """Make fixed sine-cosine positions `(N, dim)`. The first half encodes the column, the second half the row.

    Each axis follows Vaswani et al. 2017, section 3.5, with all sines before all cosines. The two axes are joined as
    in the code of He et al. 2022.

    Raises
    ------
    ValueError
        If `dim` is not a multiple of 4. Each of the two axes needs pairs of a sine and a cosine.
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
    """Resample the positions `(N_old, dim)` of grid `old` to the positions `(N_new, dim)` of grid `new` (bicubic)."""
    if old == new:
        return positions
    image = positions.reshape(1, *old, -1).permute(0, 3, 1, 2)  # (N, D) -> (1, D, H/p, W/p)
    image = F.interpolate(image.float(), size=new, mode="bicubic", antialias=True)
    return image[0].flatten(1).T.to(positions.dtype)  # (D, H/p, W/p) -> (N, D)


def rotary_angles(grid_size: tuple[int, int], head_dim: int, base: float = 100.0) -> Tensor:
    """Make the angles `(N, head_dim / 2)`, in radians, by which `rotate` turns queries and keys.

    The first half belongs to the row, the second half to the column. This is the axial form (Heo et al. 2024,
    section 3) of rotary positions (Su et al. 2021). Position then enters attention only as the offset between two
    patches, and offsets are what repeats on a facade.

    Raises
    ------
    ValueError
        If `head_dim` is not a multiple of 4. Each of the two axes needs pairs of values.
    """
    if head_dim % 4:
        raise ValueError(f"head_dim {head_dim} is not a multiple of 4; choose embed_dim = heads x such a multiple")
    rows, cols = grid_size
    omega = base ** -(torch.arange(head_dim // 4, dtype=torch.float32) / (head_dim // 4))
    row = torch.arange(rows).repeat_interleave(cols)  # (N,)
    col = torch.arange(cols).repeat(rows)  # (N,)
    return torch.cat([row[:, None] * omega, col[:, None] * omega], dim=1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate each pair of values `(i, i + d / 2)` of `x` `(..., B, heads, N, d)` by `angles` `(B or 1, N, d / 2)`."""
    cos, sin = (f(angles)[:, None].to(x.dtype) for f in (torch.cos, torch.sin))  # (B, 1, N, d / 2)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
