"""The surface of a scene as a mesh: depth drawn from all around, fused into a distance field.

It is fused in the state in which the parts lie farthest from each other, most often one that was filmed, and then
brought to the canonical one.

Truncated signed distances are averaged over the views (Curless and Levoy 1996). Wherever a ray passes is outside, so
what no view sees stays inside and the surface closes by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fourdgen.geometry.camera import Cameras, intrinsics, look_at
from fourdgen.render import Rasterizer, RenderOut, draw
from fourdgen.report import FourdgenError, Reporter, Silent
from fourdgen.scene.files import extent
from fourdgen.scene.mesh import SkinnedMesh, compact, large_parts, skinned_like, surface_nets, without_pockets
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.simplify import load_open3d, simplified
from fourdgen.scene.surfels import Surfels, rgb_from_sh

MOMENTS = 9  # frames of the reference clip among which the one is chosen in whose state the mesh is made
OUTLINES = 3  # views outside whose outlines a point must lie to be cut away: one or two may have a hole


@dataclass(frozen=True)
class SurfaceConfig:
    """How fine the mesh is."""

    cells: int = 128  # of the distance field along the longest side of the subject
    views: int = 60  # directions from which depth is drawn
    size: int = 384  # pixels of a view
    reach: float = 5.0  # cells in front of a measured depth over which it says something
    behind: float = 1.5  # the same behind it: a thin part has its other side there, which only other views may measure
    smooth: float = 0.8  # cells over which the field is smoothed (standard deviation): rays that leak in leave dents
    smallest: float = 0.02  # parts with less than this share of the largest part's faces are left out
    faces: int = 0  # at most about this many triangles (by open3d); 0: as many as there are


@torch.no_grad()
def surface(
    scene: Scene4D,
    rasterizer: Rasterizer,
    config: SurfaceConfig = SurfaceConfig(),  # frozen
    report: Reporter = Silent(),
) -> SkinnedMesh:
    """The mesh of the canonical state, with colours, and skinning weights taken over from the surfels beside it.

    Raises FourdgenError where the surfels are too thin or too clear to have a surface, and where fewer faces are asked
    for and open3d is not installed.
    """
    if config.faces:
        load_open3d()  # or say so before the work
    from scipy.ndimage import gaussian_filter

    moment = open_moment(scene)
    state = state_at(scene, moment)
    cameras, low, cell, shape = around(state, config)
    grid = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij"), -1).reshape(-1, 3)
    points = low + grid.float() * cell
    total, weight = torch.zeros(len(points)), torch.zeros(len(points))
    outlines = torch.full((OUTLINES, len(points)), -1.0)  # the largest distances outside an outline, in falling order
    pictures = []
    reach, behind = config.reach * cell, config.behind * cell
    for number in range(len(cameras)):
        camera = cameras[number]
        out = draw(state, camera, rasterizer=rasterizer)
        picture = _picture(out)
        pictures.append(picture)
        depth = picture[1]
        solid = depth.isfinite()
        (ahead, slant, beside, z), inside = _looked_up(camera, points, depth, _slants(camera, out), _distances(solid))
        # Distances to the surface's plane, not along the ray, and to the outline where the ray meets nothing: they
        # are true near the surface, and what a grazing ray says does not outweigh what one from ahead says.
        plane = ahead * slant
        hit = ahead.isfinite() & (plane > -behind) & (ahead > -2 * behind)
        missed = ~ahead.isfinite()
        outline = beside * z / float(camera.K[0, 0, 0])  # signed: negative inside
        value = torch.where(missed, outline, plane)
        outside = torch.where(inside, (outline / reach).clamp(-1, 1), torch.full_like(outline, -1.0))
        for rank in range(OUTLINES):
            outlines[rank], outside = torch.maximum(outlines[rank], outside), torch.minimum(outlines[rank], outside)
        measured = inside & (hit | missed)
        total += torch.where(measured, (value / reach).clamp(-1, 1), torch.zeros_like(value))
        weight += measured
        report.emit("step", stage="surface", step=number + 1, total=len(cameras))
    field = torch.where(weight > 0, total / weight.clamp_min(1), torch.full_like(total, -1.0))
    field = torch.from_numpy(gaussian_filter(field.reshape(shape).numpy(), config.smooth, mode="nearest"))
    hull = outlines[-1].reshape(shape)
    level = _level(field, hull, low, cell, cameras, [depth.isfinite() for _, depth in pictures], report)
    field = torch.maximum(field - level, hull)
    nets, faces = surface_nets(without_pockets(field.numpy().astype(np.float64)))
    if len(faces) == 0:
        raise FourdgenError("the surfels have no surface: they are too thin or too clear", "export splats instead")
    nets, faces = compact(nets, large_parts(faces, len(nets), config.smallest))
    if config.faces:
        nets, faces = simplified(nets, faces, config.faces)
    vertices = (low + torch.from_numpy(nets).float() * cell).contiguous()
    mesh = SkinnedMesh(vertices, torch.from_numpy(faces), torch.zeros_like(vertices))
    ids, weights = skinned_like(state, vertices)
    colors = colors_at(vertices, mesh.normals(), state, cameras, pictures, cell, report=report)
    mesh = replace(mesh, colors=colors, bone_ids=ids, bone_weights=weights)
    return mesh if moment is None else mesh.back_from(scene.motion, *moment)


def open_moment(scene: Scene4D) -> tuple[str, float] | None:
    """The clip and time in whose state meshes are made: of some frames of the reference clip the one that is most open,
    because parts that touch would grow together. None where the canonical state is more open than all of them: it was
    never filmed, so it has to be better. Openness is the number of cells of 5 % of the radius with surfels."""
    seconds = scene.clips[scene.reference].seconds.tolist()
    cell = 0.05 * extent(scene.surfels)[1]
    solid = torch.sigmoid(scene.surfels.opacity) > 0.1

    def openness(means: Float[Tensor, "n 3"]) -> int:
        return len(torch.unique((means[solid] / cell).floor().int(), dim=0))

    times = dict.fromkeys(seconds[int(i)] for i in torch.linspace(0, len(seconds) - 1, MOMENTS).round())
    counts = {time: openness(scene.at(scene.reference, time).means) for time in times}
    best = max(counts, key=lambda time: counts[time])
    return None if openness(scene.surfels.means) > counts[best] else (scene.reference, best)


def state_at(scene: Scene4D, moment: tuple[str, float] | None) -> Surfels:
    """The surfels as they are at a moment; None: in the canonical state."""
    return scene.surfels if moment is None else scene.at(*moment)


def around(surfels: Surfels, config: SurfaceConfig) -> tuple[Cameras, Float[Tensor, "3"], float, tuple[int, int, int]]:
    """Cameras all around, and the field: its lowest corner, the size of a cell, and how many there are each way."""
    center, radius = extent(surfels)
    solid = (torch.sigmoid(surfels.opacity) > 0.1) & ((surfels.means - center).norm(dim=1) < 1.3 * radius)
    points = surfels.means[solid] if bool(solid.any()) else surfels.means
    size = float(surfels.log_scales.exp().median())
    low, high = points.amin(0) - 2 * size, points.amax(0) + 2 * size
    cell = float((high - low).max()) / config.cells
    low, high = low - 3 * cell, high + 3 * cell
    shape = tuple(int(n) for n in ((high - low) / cell).ceil() + 1)
    middle, reach = 0.5 * (low + high), 0.5 * float((high - low).norm())
    i = torch.arange(config.views) + 0.5
    height, turn = 1 - 2 * i / config.views, math.pi * (1 + 5**0.5) * i  # a Fibonacci sphere
    ring = (1 - height**2).sqrt()
    directions = torch.stack([ring * turn.cos(), height, ring * turn.sin()], 1)
    distance = 5 * reach  # far off, so that the rays are nearly parallel
    fov = math.degrees(2 * math.asin(reach / distance))
    picture = (config.size, config.size)
    poses = look_at(directions * distance + middle, middle)
    return (
        Cameras(poses, intrinsics(fov, picture).expand(len(poses), 3, 3), picture),
        low,
        cell,
        (shape[0], shape[1], shape[2]),
    )


def _level(
    field: Float[Tensor, "x y z"],
    hull: Float[Tensor, "x y z"],
    low: Float[Tensor, "3"],
    cell: float,
    cameras: Cameras,
    solid: list[Tensor],
    report: Reporter,
) -> float:
    """The level of the field whose outlines agree best with those of the surfels (IoU over some views), the lowest of
    those that are nearly as good.

    Surfels are soft: half of a ray's light is lost only some way inside, so the level 0 is too thin.
    """
    scale = 2.0 / (torch.tensor(field.shape) - 1)
    # A ray passes a level where field < level and hull < 0: where the field is 1 outside the hull, no level is passed.
    volume = torch.where(hull < 0, field, torch.ones_like(field)).permute(2, 1, 0)[None, None]  # last axis first
    levels = torch.linspace(-0.3, 0.9, 25)
    both, either = torch.zeros(len(levels)), torch.zeros(len(levels))
    w, h = cameras.size
    y, x = torch.meshgrid(torch.arange(1, h, 3) + 0.5, torch.arange(1, w, 3) + 0.5, indexing="ij")
    chosen = range(0, len(cameras), max(1, len(cameras) // 8))
    for done, number in enumerate(chosen, 1):
        camera = cameras[number]
        rays = torch.stack([x, y, torch.ones_like(x)], -1) @ torch.linalg.inv(camera.K[0]).T
        center = camera.centers()[0]
        rays = rays @ camera.cam_from_world[0, :3, :3]
        middle = float((low + 0.5 * cell * (torch.tensor(field.shape) - 1) - center).norm())
        reach = 0.5 * cell * float(torch.tensor(field.shape).float().norm())
        lowest = torch.ones_like(x)
        for z in torch.arange(middle - reach, middle + reach, cell):
            at = (center + rays * z - low) / cell * scale - 1
            seen = torch.nn.functional.grid_sample(volume, at[None, None], padding_mode="border", align_corners=True)
            lowest = torch.minimum(lowest, seen[0, 0, 0])
        wanted = solid[number][1::3, 1::3]
        inside = lowest[..., None] < levels
        both += (inside & wanted[..., None]).sum((0, 1))
        either += (inside | wanted[..., None]).sum((0, 1))
        report.emit("step", stage="outlines", step=done, total=len(chosen))
    overlap = both / either.clamp_min(1)
    return float(levels[(overlap >= overlap.max() - 0.003).nonzero()[0, 0]])


def _slants(camera: Cameras, out: RenderOut) -> Float[Tensor, "h w"]:
    """|cosine| between each pixel's surface and its ray, at least 0.1."""
    w, h = camera.size
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], -1) @ torch.linalg.inv(camera.K[0]).T
    rays = torch.nn.functional.normalize(rays, dim=-1) @ camera.cam_from_world[0, :3, :3]
    return (torch.nn.functional.normalize(out.normal[0], dim=-1) * rays).sum(-1).abs().clamp_min(0.1)


def _distances(solid: Bool[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Pixels from each pixel to the outline; negative inside."""
    import cv2

    outside, inside = (
        torch.from_numpy(cv2.distanceTransform(part.to(torch.uint8).numpy(), cv2.DIST_L2, 5)) - 0.5
        for part in (~solid, solid)
    )
    return torch.where(solid, -inside, outside)


def _looked_up(
    camera: Cameras, points: Float[Tensor, "n 3"], depth: Float[Tensor, "h w"], *pictures: Float[Tensor, "h w"]
) -> tuple[list[Tensor], Bool[Tensor, "n"]]:
    """How far each point lies before the depth of its pixel, what further pictures have there, and the point's own
    depth; and whether it is in the picture."""
    pixels, z = camera.project(points)
    x, y = pixels[0].floor().long().unbind(-1)
    inside = (x >= 0) & (x < camera.size[0]) & (y >= 0) & (y < camera.size[1]) & (z[0] > 0)
    x, y = x.clamp(0, camera.size[0] - 1), y.clamp(0, camera.size[1] - 1)
    return [depth[y, x] - z[0], *(picture[y, x] for picture in pictures), z[0]], inside


Picture = tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"]]  # straight colours, median depth (inf: nothing there)


def _picture(out: RenderOut) -> Picture:
    solid = (out.alpha[0] > 0.5) & (out.median[0] > 0)
    return out.rgb[0] / out.alpha[0, ..., None].clamp_min(1e-6), torch.where(solid, out.median[0], torch.inf)


def pictures_of(
    surfels: Surfels, cameras: Cameras, rasterizer: Rasterizer, report: Reporter, stage: str
) -> list[Picture]:
    """What each camera sees of surfels."""
    pictures = []
    for number in range(len(cameras)):
        pictures.append(_picture(draw(surfels, cameras[number], rasterizer=rasterizer)))
        report.emit("step", stage=stage, step=number + 1, total=len(cameras))
    return pictures


def colors_at(
    points: Float[Tensor, "n 3"],
    normals: Float[Tensor, "n 3"],
    surfels: Surfels,
    cameras: Cameras,
    pictures: list[Picture],
    cell: float,
    sharp: float = 4.0,
    report: Reporter = Silent(),
) -> Float[Tensor, "n 3"]:
    """Colours of points on the surface: the mean of the pictures that see them (to two cells in depth), weighted by the
    cosine of the view to the power of `sharp`; of the nearest point that is seen where none does."""
    from scipy.spatial import cKDTree

    total, weight = torch.zeros_like(points), torch.zeros(len(points), 1)
    for number, (rgb, depth) in enumerate(pictures):
        camera = cameras[number]
        towards = torch.nn.functional.normalize(camera.centers()[0] - points, dim=1)
        ahead = (normals * towards).sum(1)
        index = (ahead > 0.1).nonzero()[:, 0]  # the others would weigh next to nothing
        near = points[index]
        (gap, _), inside = _looked_up(camera, near, depth)
        share = (ahead[index] ** sharp * (inside & (gap.abs() < 2 * cell)))[:, None]
        scale = 2 / torch.tensor(camera.size)
        at = camera.project(near)[0][0] * scale - 1
        seen = torch.nn.functional.grid_sample(
            rgb.permute(2, 0, 1)[None], at[None, None], padding_mode="border", align_corners=False
        )
        total.index_add_(0, index, share * seen[0, :, 0].T)
        weight.index_add_(0, index, share)
        report.emit("step", stage="colours", step=number + 1, total=len(pictures))
    seen_at_all = weight[:, 0] > 1e-3
    colors = total / weight.clamp_min(1e-9)
    if not bool(seen_at_all.all()):
        known = (points[seen_at_all], colors[seen_at_all]) if bool(seen_at_all.any()) else None
        near_points, near_colors = known or (surfels.means, rgb_from_sh(surfels.sh[:, :1]))
        _, nearest = cKDTree(near_points.numpy()).query(points[~seen_at_all].numpy())
        colors[~seen_at_all] = near_colors[torch.from_numpy(nearest)]
    return colors.clamp(0, 1)
