"""Points in groups: k-means from centres that lie far apart."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def k_means_centers(
    points: Float[Tensor, "p d"], first: Float[Tensor, "1 d"], count: int, steps: int
) -> Float[Tensor, "c d"]:
    """Centres after some steps of k-means; they start at `first` and, again and again, at the point farthest from all
    that are chosen. A centre that loses all its points stays where it is."""
    centers = first
    for _ in range(count - 1):
        centers = torch.cat([centers, points[torch.cdist(points, centers).amin(1).argmax()][None]])
    for _ in range(steps):
        nearest = torch.cdist(points, centers).argmin(1)
        centers = torch.stack(
            [points[nearest == c].mean(0) if bool((nearest == c).any()) else centers[c] for c in range(count)]
        )
    return centers
