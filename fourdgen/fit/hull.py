"""Where training starts: seeds on the visual hull's shell, and bones spread over it (docs/method.md section 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy import sparse
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree
from torch import Tensor

from fourdgen.fit.clusters import k_means_centers
from fourdgen.fit.sampler import view_directions
from fourdgen.fit.views import View

CANDIDATES = 100_000
SHARE_START, SHARE_STEP, SURVIVORS = 0.85, 0.05, 1500
OUTSIDE = 0.25  # of the window: what is filmed so far beyond its border is background
SOLVED = 64  # pixels a side at which a silhouette is inflated
ONE_SIDE = 0.94  # cosine of 20 degrees: views closer together than this to their middle show one side only


@dataclass(frozen=True)
class Seeds:
    """m starting surfels on the shell of the hull: place, outward normal, colour; `spacing` is their mean distance."""

    points: Float[Tensor, "m 3"]
    normals: Float[Tensor, "m 3"]
    colors: Float[Tensor, "m 3"]
    spacing: float


def carve(
    views: Sequence[View], cam_from_root: Float[Tensor, "f 4 4"], extent: float, generator: torch.Generator
) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "p 3"]]:
    """Random points of a cube of half side `extent` that lie inside nearly all masks, and their mean colours.

    A moving subject has no exact hull, so the share of masks that must contain a point begins at 85 % and is lowered in
    steps of 5 % until enough points survive. A view in which a point falls outside the picture does not vote.
    """
    points = (torch.rand(CANDIDATES, 3, generator=generator) * 2 - 1) * extent
    side = one_side(cam_from_root)
    inside, votes, colors = torch.zeros(CANDIDATES), torch.zeros(CANDIDATES), torch.zeros(CANDIDATES, 3)
    for view, pose in zip(views, cam_from_root, strict=True):
        hit, color, visible = look_up(points, view, pose, side)
        inside += hit
        votes += visible
        colors += color * hit[:, None]
    share = inside / votes.clamp_min(1)
    share[votes < 0.3 * len(views)] = 0
    wanted = SHARE_START
    while int((share >= wanted).sum()) < SURVIVORS and wanted > SHARE_STEP:
        wanted -= SHARE_STEP
    keep = share >= wanted
    if not bool(keep.any()):  # masks and poses contradict each other everywhere: begin with a ball
        keep = points.norm(dim=-1) < 0.4 * extent
    return points[keep], (colors / inside[:, None].clamp_min(1))[keep]


def one_side(cam_from_root: Float[Tensor, "f 4 4"]) -> Float[Tensor, "3"] | None:
    """The direction from which all views look, where they are so close together that they show one side only."""
    toward = view_directions(cam_from_root)
    middle = F.normalize(toward.mean(0), dim=-1)
    return middle if float((toward @ middle).min()) > ONE_SIDE else None


def inflated(mask: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Half thickness, in pixels, of a round body with this outline: sqrt(u), where the Laplacian of u is -4 inside and
    u is 0 on the outline. A disc becomes a ball. Where the picture cuts the subject off, u runs on level; no body is
    thicker than a ball of its area.
    """
    coarse = max(1, round(max(mask.shape) / SOLVED))
    inside = (F.avg_pool2d(mask[None, None], coarse, ceil_mode=True, count_include_pad=False)[0, 0] > 0.5).numpy()
    count = int(inside.sum())
    if count == 0:
        return torch.zeros_like(mask)
    number = np.full(inside.shape, -1)
    number[inside] = np.arange(count)
    # A neighbour inside couples, one on the outline is 0, one beyond the picture is left out.
    neighbours, couples = np.zeros(count), []
    for near, far in ((number[1:], number[:-1]), (number[:, 1:], number[:, :-1])):
        for here, there in ((near, far), (far, near)):
            neighbours += np.bincount(here[here >= 0], minlength=count)
            both = (here >= 0) & (there >= 0)
            couples.append(np.stack([here[both], there[both]]))
    row, column = np.concatenate(couples, 1)
    laplacian = sparse.diags(neighbours + 1e-6) - sparse.coo_matrix((np.ones(len(row)), (row, column)), (count, count))
    half = np.zeros(inside.shape, dtype=np.float32)
    half[inside] = np.sqrt(np.minimum(spsolve(laplacian.tocsc(), np.full(count, 4.0)), count / math.pi))
    up = torch.from_numpy(half)[None, None].repeat_interleave(coarse, 2).repeat_interleave(coarse, 3)
    return coarse * up[0, 0, : mask.shape[0], : mask.shape[1]]


def look_up(
    points: Float[Tensor, "p 3"], view: View, pose: Float[Tensor, "4 4"], side: Float[Tensor, "3"] | None = None
) -> tuple[Float[Tensor, "p"], Float[Tensor, "p 3"], Float[Tensor, "p"]]:
    """For each point: 1 inside the mask, the (straight) colour there, 1 where the view can tell.

    With `side`, the direction from which all views look, the hull would be a cone without end. Nobody knows the depth;
    a round body is a modest guess: what lies further before or behind the middle than the inflated mask is outside.
    """
    pixels, depth = view.cameras(pose).project(points)
    width, height = view.size
    grid = pixels[0] / torch.tensor([width, height]) * 2 - 1
    known = view.weight if view.weight is not None else torch.ones_like(view.mask)
    thick = view.mask if side is None else inflated(view.mask)
    layers = torch.cat([view.rgb, view.mask[None], known[None], thick[None]])
    values = F.grid_sample(layers[None], grid[None, None], align_corners=False)[0, :, 0].T
    in_window = (grid.abs() < 1).all(1) & (depth[0] > 0)
    # A window is cut around the subject, so what falls outside it is background. Where the picture ended within the
    # window, only what was filmed and lies clearly outside counts as that: a limb's point of one moment may leave the
    # window at another, and a hull without limbs is worse than a loose one.
    visible = torch.where(in_window, values[:, 4] > 0.5, _clearly_outside(pixels[0], view) & (depth[0] > 0))
    inside = (values[:, 3] > 0.5) & in_window & visible
    if side is not None:
        before = points @ side
        inside &= before.abs() * view.K[0, 0] <= values[:, 5] * (depth[0] + before)  # the scale is the middle's
    return inside.float(), values[:, :3] / values[:, 3:4].clamp_min(0.05), visible.float()


def _clearly_outside(pixels: Float[Tensor, "p 2"], view: View) -> Bool[Tensor, "p"]:
    """Whether points outside a view's window are known to be background."""
    if view.weight is None:
        return torch.ones(len(pixels), dtype=torch.bool)
    width, height = view.size
    left, top, right, bottom = view.picture or (0.0, 0.0, float(width), float(height))
    x, y = pixels.unbind(1)
    filmed = (x > left) & (x < right) & (y > top) & (y < bottom)
    beyond = torch.stack([-x, x - width, -y, y - height]).amax(0)
    return filmed & (beyond > OUTSIDE * max(width, height))


def shell(
    points: Float[Tensor, "p 3"], colors: Float[Tensor, "p 3"], count: int, extent: float, generator: torch.Generator
) -> Seeds:
    """Draw `count` seeds from the outer half of the points that were carved from a cube of half side `extent`.

    The offset of a point from the mean of its 40 neighbours points outwards and is large near the surface.
    """
    tree = cKDTree(points.numpy())
    neighbours = torch.from_numpy(tree.query(points.numpy(), k=min(40, len(points)))[1]).reshape(len(points), -1)
    offset = points - points[neighbours].mean(1)
    length = offset.norm(dim=-1)
    outer = (length >= length.median()).nonzero()[:, 0]
    chosen = outer[torch.randint(len(outer), (count,), generator=generator)]
    volume = (2 * extent) ** 3 * len(points) / CANDIDATES
    spacing = (volume / count) ** (1 / 3)
    places = points[chosen] + torch.randn(count, 3, generator=generator) * spacing * 0.1
    return Seeds(places, F.normalize(offset[chosen] + 1e-6, dim=-1), colors[chosen], spacing)


def facing_quats(normals: Float[Tensor, "m 3"]) -> Float[Tensor, "m 4"]:
    """The shortest turn (wxyz) of +z to each normal."""
    q = torch.stack([1 + normals[:, 2], -normals[:, 1], normals[:, 0], torch.zeros(len(normals))], -1)
    upside_down = torch.tensor([0.0, 1.0, 0.0, 0.0])
    return F.normalize(torch.where(q.norm(dim=-1, keepdim=True) < 1e-3, upside_down, q), dim=-1)


def spread_bones(points: Float[Tensor, "p 3"], count: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """Bone centres [b 3] by farthest points, then k-means; and the mean distance of a centre to its two neighbours."""
    sample = points[torch.randperm(len(points), generator=generator)[:4000]]
    count = min(count, len(sample))
    centers = k_means_centers(sample, sample[:1], count, 8)
    if count == 1:
        return centers, 1.0
    distance = torch.cdist(centers, centers) + torch.eye(count) * 1e3
    return centers, float(distance.topk(min(2, count - 1), largest=False)[0].mean())


def seed_log_scale(spacing: float) -> float:
    """Log of a seed's standard deviation, for seeds so far apart (root units)."""
    return math.log(0.6 * spacing)
