"""The rebuild cycle: carve the canonical shape again through the motion found so far, and cut the bones anew by how
things move (docs/method.md section 12).

The first hull is carved as if nothing moved, so limbs are missing or doubled and bones lie across them. Once a coarse
motion is there, a point of the canonical state can be followed into every frame and must lie inside the masks there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor

from fourdgen.data.records import ClipTrack, FrameSet
from fourdgen.fit.hull import facing_quats, look_up, one_side
from fourdgen.fit.model import Model
from fourdgen.fit.skeleton import recut
from fourdgen.fit.views import View, Views
from fourdgen.scene.bones import BoneMotion
from fourdgen.scene.surfels import sh_from_rgb

MOST_FRAMES = 64
IN_BOX, NEAR_SURFELS, JITTER = 50_000, 40_000, 0.03
SHARE, SHARE_UNSURE, SURVIVORS = 0.90, 0.80, 2500  # of the masks; the second while poses are still being found
LEAST_SHARE = 0.5
AT_ONCE = 8  # frames between which hopeless points are dropped
MARGIN = 0.05  # root units around the surfels in which points are tried
LEAST = 100  # points without which there is no shape
VOXEL = 0.02  # root units
MOST_POINTS = 12_000  # that make the new shape
OUTER = 0.6  # of them are its shell


@dataclass(frozen=True)
class Observed:
    """The frames that carving looks at, with the pose each is trained with."""

    views: Sequence[View]
    poses: Float[Tensor, "f 4 4"]
    clips: Sequence[str]
    seconds: Float[Tensor, "f"]


@torch.no_grad()
def observe(model: Model, views: Views, tracks: Mapping[str, ClipTrack], frames: FrameSet) -> Observed:
    """Every second training frame, or fewer of a long capture, with pose and focal length as they are now."""
    rows = range(0, len(frames.index), max(2, -(-len(frames.index) // MOST_FRAMES)))
    keys = [(frames.names[int(frames.clip[row])], int(frames.index[row])) for row in rows]
    seen, poses = zip(*(as_trained(model, views, tracks, *key) for key in keys), strict=True)
    return Observed(seen, torch.stack(poses), [clip for clip, _ in keys], frames.seconds[list(rows)])


def as_trained(
    model: Model, views: Views, tracks: Mapping[str, ClipTrack], clip: str, index: int
) -> tuple[View, Float[Tensor, "4 4"]]:
    """A frame and its pose, with the corrections that training has found so far."""
    view, pose = views.view(clip, index), tracks[clip].cam_from_root[index]
    if model.corrections is None or not model.corrections.covers(clip):
        return view, pose
    return replace(view, K=model.corrections.intrinsics(clip, view.K)), model.corrections.pose(clip, index)


def rebuild(model: Model, observed: Observed, tree: bool, generator: torch.Generator) -> Model:
    """The model with freshly carved surfels and new bones whose motion repeats the old one's."""
    surfels = carve_through(model, observed, generator)
    opaque = surfels["means"][torch.sigmoid(surfels["opacity"]) > 0.4]
    if len(opaque) < 4 * len(model.motion.centers):
        return model
    return model.rebuilt(surfels, recut(model.motion, opaque, tree, generator))


@torch.no_grad()
def carve_through(model: Model, observed: Observed, generator: torch.Generator) -> dict[str, Tensor]:
    """New surfels, about as many as there were and no more, on the shell of the points that stay inside 90 % of the
    masks while the motion carries them: 80 % while poses are being found, and less until 2500 survive. Where the motion
    contradicts all masks, the surfels stay as they are."""
    means = model.p["means"].detach()
    opaque = means[torch.sigmoid(model.p["opacity"].detach()) > 0.2]
    near = opaque if len(opaque) else means
    low, high = means.amin(0) - MARGIN, means.amax(0) + MARGIN
    finer = max(1.0, len(means) / (OUTER * MOST_POINTS))  # as many times more points than a smaller asset is made of
    in_box, beside = round(IN_BOX * finer), round(NEAR_SURFELS * finer)
    picked = near[torch.randint(len(near), (beside,), generator=generator)]
    anywhere = low + torch.rand(in_box, 3, generator=generator) * (high - low)
    candidates = torch.cat([anywhere, picked + torch.randn(beside, 3, generator=generator) * JITTER])
    wanted = SHARE if model.corrections is None else SHARE_UNSURE  # a pose that is off by degrees shaves off thin parts
    points, share, colors = follow(model.motion, candidates, observed, wanted, generator)
    if int((share >= wanted).sum()) < SURVIVORS:  # rare: once more, with those that were dropped on the way
        points, share, colors = follow(model.motion, candidates, observed, LEAST_SHARE, generator)
    while int((share >= wanted).sum()) < SURVIVORS and wanted > LEAST_SHARE:
        wanted -= 0.02
    kept = (share >= wanted).nonzero()[:, 0]
    if len(kept) < LEAST:
        return {name: tensor.detach().clone() for name, tensor in model.p.items()}
    kept = kept[torch.randperm(len(kept), generator=generator)[: round(MOST_POINTS * finer)]]
    voxel = VOXEL * finer ** (-1 / 3)
    return _shell(*_thin(points[kept], colors[kept], voxel), len(means), voxel, generator)


def follow(
    motion: BoneMotion, points: Float[Tensor, "p 3"], observed: Observed, wanted: float, generator: torch.Generator
) -> tuple[Float[Tensor, "q 3"], Float[Tensor, "q"], Float[Tensor, "q 3"]]:
    """Canonical points that stay inside most masks, the share of telling views in which each does, its mean colour.

    Frames are visited in random order; a point that has missed twice as many as the `wanted` share allows is
    followed no further.
    """
    order = torch.randperm(len(observed.views), generator=generator).tolist()
    side = one_side(observed.poses)
    allowed = 2 + 2 * (1 - wanted) * len(order)
    inside, votes, colors = torch.zeros(len(points)), torch.zeros(len(points)), torch.zeros(len(points), 3)
    for begin in range(0, len(order), AT_ONCE):
        alive = votes - inside <= allowed
        points, inside, votes, colors = points[alive], inside[alive], votes[alive], colors[alive]
        quats = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(points), 4).contiguous()
        for i in order[begin : begin + AT_ONCE]:
            bones = motion.dual_quats(observed.clips[i], observed.seconds[i : i + 1])[0]
            moved = motion.carried(bones, points, quats)[0]
            hit, color, visible = look_up(moved, observed.views[i], observed.poses[i], side)
            inside += hit
            votes += visible
            colors += color * hit[:, None]
    share = inside / votes.clamp_min(1)
    share[votes < 0.3 * len(order)] = 0
    return points, share, colors / inside[:, None].clamp_min(1)


def _thin(points: Float[Tensor, "p 3"], colors: Float[Tensor, "p 3"], voxel: float) -> tuple[Tensor, Tensor]:
    """One point a voxel (root units), so that density does not follow where candidates were drawn."""
    cells = torch.unique((points / voxel).floor().long(), dim=0, return_inverse=True)[1]
    first = torch.full((int(cells.max()) + 1,), len(points)).scatter_reduce(0, cells, torch.arange(len(points)), "amin")
    return points[first], colors[first]


def _shell(
    points: Tensor, colors: Tensor, most: int, voxel: float, generator: torch.Generator
) -> dict[str, Tensor]:  # fmt: skip
    """Surfels among the outer points of such voxels, facing away from the mean of their neighbours, half opaque."""
    neighbours = torch.from_numpy(cKDTree(points.numpy()).query(points.numpy(), k=min(24, len(points)))[1])
    offset = points - points[neighbours].mean(1)
    length = offset.norm(dim=-1)
    outer = (length > length.quantile(1 - OUTER)).nonzero()[:, 0]
    chosen = outer[torch.randperm(len(outer), generator=generator)[:most]]
    means = points[chosen] + torch.randn(len(chosen), 3, generator=generator) * 0.3 * voxel
    spacing = cKDTree(means.numpy()).query(means.numpy(), k=min(4, len(means)))[0][:, 1:].mean(1)
    scale = torch.from_numpy(spacing).float().clamp(0.012, 0.08) * 0.9
    return {
        "means": means,
        "quats": facing_quats(F.normalize(offset[chosen] + 1e-6, dim=-1)),
        "log_scales": scale.log()[:, None].expand(-1, 2).clone(),
        "opacity": torch.zeros(len(chosen)),
        "sh": sh_from_rgb(colors[chosen].clamp(0.02, 0.98)),
    }
