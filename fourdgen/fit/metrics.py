"""Scores of pictures. All take sRGB in 0..1, channels first."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

_WINDOW, _SIGMA = 11, 1.5  # of SSIM, as published (Wang et al. 2004)
SSIM_LEAST_SIDE = _WINDOW  # pixels: smaller pictures have no SSIM
_C1, _C2 = 0.01**2, 0.03**2


def psnr(picture: Float[Tensor, "*b c h w"], truth: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b"]:
    """Peak signal-to-noise ratio in dB, per picture; 100 at most, so that equal pictures have a figure."""
    error = ((picture - truth) ** 2).mean(dim=(-1, -2, -3))
    return -10 * error.clamp_min(1e-10).log10()


def ssim(picture: Float[Tensor, "b c h w"], truth: Float[Tensor, "b c h w"]) -> Float[Tensor, "b"]:
    """Structural similarity (Wang et al. 2004), mean over channels: 11 x 11 Gaussian windows wholly inside the picture.

    Raises ValueError for pictures smaller than a window.
    """
    if min(picture.shape[-2:]) < _WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {_WINDOW} x {_WINDOW} pixels")
    maps = [picture, truth, picture * picture, truth * truth, picture * truth]
    mean_a, mean_b, aa, bb, ab = _smoothed(torch.stack(maps)).unbind(0)
    var_a, var_b, cov = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
    value = (2 * mean_a * mean_b + _C1) * (2 * cov + _C2) / ((mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2))
    return value.mean(dim=(-1, -2, -3))


def _smoothed(images: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b h2 w2"]:
    at = torch.arange(_WINDOW, dtype=images.dtype) - _WINDOW // 2
    kernel = torch.exp(-(at**2) / (2 * _SIGMA**2))
    kernel = kernel / kernel.sum()
    flat = images.reshape(-1, 1, *images.shape[-2:])
    flat = F.conv2d(F.conv2d(flat, kernel[None, None, :, None]), kernel[None, None, None])
    return flat.reshape(*images.shape[:-2], *flat.shape[-2:])


def iou(mask: Bool[Tensor, "b h w"], truth: Bool[Tensor, "b h w"]) -> Float[Tensor, "b"]:
    """Intersection over union; 1 where both are empty."""
    union = (mask | truth).sum(dim=(1, 2))
    return torch.where(union > 0, (mask & truth).sum(dim=(1, 2)) / union.clamp_min(1), 1.0)


def mask_box(mask: Bool[Tensor, "h w"]) -> tuple[slice, slice] | None:
    """Rows and columns of the smallest box around a mask; None for an empty one."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    if len(rows) == 0:
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
