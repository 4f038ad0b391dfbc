"""Do given cameras fit the pictures? The visual hull that they carve out of the masks, drawn over the same pictures."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fourdgen.data.records import ClipAlignment
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import rigid_inverse
from fourdgen.poses.check import DOUBT, GREY, Block, outlined
from fourdgen.poses.pictures import Pictures

GRID, REACH = 64, 1.15  # cells of the cube of this half side, root lengths; the subject's radius is 0.8
SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of the masks that have to hold a point: a moving subject has no exact hull
# Overlap of outlines below which given cameras cannot be right. Right ones have 59 to 77 % on clips of a subject in one
# place, 42 % on a man who walks about; inverted ones 2 to 45 %. What lies between is for the eye to judge.
FITS = 0.3
SIDE, SAMPLES = 64, 72  # pixels of an outline; places along the ray of each


def window_intrinsics(pictures: Pictures, K: Float[Tensor, "n 3 3"], size: tuple[int, int]) -> Float[Tensor, "n 3 3"]:
    """K of the windows for cameras of the whole frames (pixels at `size`), wherever their principal points are."""
    scale = pictures.unit / max(size)
    corner = torch.tensor(size) / 2 - pictures.principal / scale[:, None]
    out = K.clone()
    out[:, :2, 2] -= corner
    out[:, :2] *= scale[:, None, None]
    return out


@torch.no_grad()
def shares(views: list[tuple[Float[Tensor, "n 1 s s"], Cameras]], grid: int = GRID) -> Float[Tensor, "g g g"]:
    """In what share of all masks of all clips each cell lies, by their cameras. Indexed z, y, x."""
    line = torch.linspace(-REACH, REACH, grid)
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    points = torch.stack([x, y, z], -1).reshape(-1, 3)
    inside = torch.cat([_inside(masks, cameras, points) for masks, cameras in views])
    return inside.float().mean(0).reshape(grid, grid, grid)


def _inside(masks: Float[Tensor, "n 1 s s"], cameras: Cameras, points: Float[Tensor, "p 3"]) -> Bool[Tensor, "n p"]:
    pixels, depth = cameras.project(points)
    values = F.grid_sample(masks, pixels[:, None] / cameras.size[0] * 2 - 1, align_corners=False)[:, 0, 0]
    return (values > 0.5) & (depth > 0)


@torch.no_grad()
def silhouettes(share: Float[Tensor, "g g g"], cameras: Cameras, side: int = SIDE) -> Float[Tensor, "n a a"]:
    """The largest share along each ray, in square pictures of `side` pixels: above a level, that level's hull."""
    step = cameras.size[0] / side
    at = (torch.arange(side) + 0.5) * step
    y, x = torch.meshgrid(at, at, indexing="ij")
    pixel = torch.stack([x, y, torch.ones_like(x)], -1).reshape(-1, 3)
    drawn = []
    for K, pose in zip(cameras.K, cameras.cam_from_world, strict=True):
        middle = float(pose[2, 3])  # how far the root's origin lies ahead
        depth = middle + torch.linspace(-1, 1, round(SAMPLES / SIDE * side)) * 3**0.5 * REACH
        in_camera = (pixel @ torch.linalg.inv(K).T)[:, None] * depth.clamp_min(1e-3)[:, None]
        world = rigid_inverse(pose)
        points = (in_camera @ world[:3, :3].T + world[:3, 3]) / REACH
        values = F.grid_sample(share[None, None], points[None, None], align_corners=True)[0, 0, 0]
        drawn.append((values * (depth > 0)).amax(1).reshape(side, side))
    return torch.stack(drawn)


def fitting(
    views: list[tuple[Float[Tensor, "n 1 s s"], Cameras]], side: int = SIDE
) -> list[tuple[Float[Tensor, "n a a"], float]]:
    """For each clip, masks (windows) and cameras in the root frame: the hull's masks (0 or 1) and their mean IoU with
    the filmed ones. Of the hulls of several levels the one that fits all clips best is taken. `side`: cells of the hull
    and pixels of the outlines along a side."""
    share = shares(views, side)
    drawn = [silhouettes(share, cameras, side) for _, cameras in views]
    filmed = [F.interpolate(masks, (side, side), mode="area")[:, 0] > 0.5 for masks, _ in views]

    def agreement(level: float) -> list[float]:
        pairs = [(d >= level, f) for d, f in zip(drawn, filmed, strict=True)]
        return [float(((d & f).sum((1, 2)) / (d | f).sum((1, 2)).clamp_min(1)).mean()) for d, f in pairs]

    best = max(SHARES, key=lambda level: sum(agreement(level)))
    return [((d >= best).float(), shared) for d, shared in zip(drawn, agreement(best), strict=True)]


def blocks(
    windows: Mapping[str, Pictures],
    clips: Mapping[str, ClipAlignment],
    sizes: Mapping[str, tuple[int, int]],
    doubt: str,
) -> list[Block]:
    """For the check picture: some frames of each clip with cameras, and over them the outline of the hull that these
    cameras carve. Cameras that do not fit cut away what the frames show. `sizes`: of the filmed frames, (w, h);
    `doubt`: why the cameras of these clips may be wrong."""
    views = []
    for name, pictures in windows.items():
        K = window_intrinsics(pictures, clips[name].K[pictures.frame], sizes[name])
        cameras = Cameras(clips[name].cam_from_root[pictures.frame], K, (pictures.side,) * 2)
        views.append((pictures.picture[:, 3:], cameras))
    found = []
    for (name, pictures), (drawn, shared) in zip(windows.items(), fitting(views), strict=True):
        frames = pictures.picture[:, :3].permute(0, 2, 3, 1)
        text = f"{name}: cameras given; the shape that all outlines share (pink) fits to {100 * shared:.0f} %"
        bar = GREY
        if doubt:
            text, bar = f"{text}. UNCERTAIN: {doubt}", DOUBT
        found.append(Block(name, text, bar, [frames, outlined(frames, drawn)], clips[name].cam_from_root))
    return found
