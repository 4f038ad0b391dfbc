"""Colour of clips relative to each other: exposure and white balance that differ between cameras or days."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ClipColors(nn.Module):
    """Filmed colour = gain * asset colour + bias, per clip and channel; the reference clip is left as it is.

    Starts at exactly "no difference" (docs/method.md section 9).
    """

    def __init__(self, names: Sequence[str], reference: str) -> None:
        super().__init__()
        self._row = {name: row for row, name in enumerate(n for n in names if n != reference)}
        self.log_gain = nn.Parameter(torch.zeros(len(self._row), 3))
        self.bias = nn.Parameter(torch.zeros(len(self._row), 3))

    def of(self, clip: str) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
        """(gain, bias) of a clip."""
        if clip not in self._row:
            return torch.ones(3), torch.zeros(3)
        row = self._row[clip]
        return self.log_gain[row].exp(), self.bias[row]

    def seen(
        self, clip: str, rgb: Float[Tensor, "3 h w"], alpha: Float[Tensor, "h w"], background: Float[Tensor, "3"]
    ) -> Float[Tensor, "3 h w"]:
        """A picture drawn before a background, as the clip's camera would have filmed the subject before it."""
        if clip not in self._row:
            return rgb
        gain, bias = self.of(clip)
        behind = (1 - alpha) * background[:, None, None]
        return gain[:, None, None] * (rgb - behind) + bias[:, None, None] * alpha + behind

    def size(self) -> Float[Tensor, ""]:
        """Sum of squares of all differences: what their prior pulls to zero."""
        return (self.log_gain**2).sum() + (self.bias**2).sum()
