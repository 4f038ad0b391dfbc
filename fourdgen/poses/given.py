"""Cameras that the user gave: where the subject is in the user's world, and the way from there to the root frame."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fourdgen.geometry.transforms import Sim3
from fourdgen.poses.pictures import mask_boxes

RADIUS = 0.8  # of the subject in the root frame
NEAREST = 2.0  # root lengths from the subject's middle to any camera, so that no near plane cuts it
UPRIGHT = 0.5  # cosine below which the world's z axis is not taken for up
POINTS = 20_000
INSIDE = 0.85  # share of the masks that hold a point of the subject


def subject_ball(
    cam_from_input: Float[Tensor, "n 4 4"], K: Float[Tensor, "n 3 3"], masks: list[np.ndarray], seed: int = 0,
    points: int = POINTS,
) -> tuple[Float[Tensor, "3"], float]:  # fmt: skip
    """Middle and radius of the subject in the user's world, from masks (one a camera, each of its own size).

    First the point nearest to all rays through the masks' middles, then the hull: points of a ball about it that lie
    inside nearly all masks. Cameras that all look along one line cannot tell the depth: the subject is then put three
    baselines (or three units, when they stand still) in front of them.
    """
    boxes = np.concatenate([mask_boxes(mask[None]) for mask in masks])
    shown = torch.from_numpy(~np.isnan(boxes[:, 0]))
    if not bool(shown.any()):
        raise ValueError("every mask is empty")
    seen = [mask for mask, here in zip(masks, shown.tolist(), strict=True) if here]
    box = torch.from_numpy(boxes)[shown].double()
    pose, intrinsics = cam_from_input[shown].double(), K[shown].double()
    middle = torch.stack([(box[:, 0] + box[:, 2]) / 2, (box[:, 1] + box[:, 3]) / 2, torch.ones(len(box))], 1).double()
    ray = torch.linalg.solve(intrinsics, middle[..., None])
    rotation = pose[:, :3, :3].transpose(1, 2)
    direction = torch.nn.functional.normalize((rotation @ ray)[..., 0], dim=-1)
    eye = -(rotation @ pose[:, :3, 3:])[..., 0]
    center = _meeting_point(eye, direction)
    depth = ((pose[:, :3, :3] @ center[:, None])[..., 0] + pose[:, :3, 3])[:, 2].clamp_min(1e-6)
    half = torch.maximum(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]) / 2
    radius = float((half / intrinsics[:, 0, 0] * depth).quantile(0.9))
    hull = _hull(center, 1.4 * radius, pose, intrinsics, seen, seed, points)
    if len(hull) >= 50:  # fewer: a subject that travels, or masks that contradict each other
        center = (hull.quantile(0.01, dim=0) + hull.quantile(0.99, dim=0)) / 2
    # The hull has lost every limb that moves, so the radius is that of the outlines, seen from the middle.
    far = [_farthest(mask, center, p, k) for mask, p, k in zip(seen, pose, intrinsics)]
    return center.float(), float(torch.tensor(far, dtype=torch.float64).quantile(0.95))


def _farthest(mask: UInt8[np.ndarray, "h w"], center: Tensor, pose: Tensor, K: Tensor) -> float:
    """How far the mask reaches from the middle, as a length at the middle's depth (stray pixels do not count)."""
    middle = pose[:3, :3] @ center + pose[:3, 3]
    depth = float(middle[2].clamp_min(1e-9))
    pixel = (K @ middle)[:2] / depth
    y, x = np.nonzero(mask > 127)
    return (
        float(np.quantile(np.hypot(x + 0.5 - float(pixel[0]), y + 0.5 - float(pixel[1])), 0.998))
        / float(K[0, 0])
        * depth
    )


def _meeting_point(eye: Float[Tensor, "n 3"], direction: Float[Tensor, "n 3"]) -> Float[Tensor, "3"]:
    """The point nearest to all rays; where they tell none, one ahead of the cameras (see `subject_ball`)."""
    across = torch.eye(3, dtype=eye.dtype) - direction[:, :, None] * direction[:, None, :]
    system = across.mean(0)
    point = torch.linalg.lstsq(system, (across @ eye[..., None]).mean(0)[:, 0]).solution
    spread = torch.linalg.eigvalsh(system)
    baseline = float((eye - eye.mean(0)).norm(dim=-1).max())
    in_front = ((point - eye) * direction).sum(-1) > 0
    still = baseline <= 1e-6 * max(1.0, float(eye.abs().max()))  # then all rays meet in the camera
    if still or float(spread[0]) < 1e-3 or float(in_front.double().mean()) < 0.8:
        ahead = torch.nn.functional.normalize(direction.mean(0), dim=0)
        return eye.mean(0) + ahead * (3.0 if still else 3 * baseline)
    return point


def _hull(
    center: Tensor, reach: float, pose: Tensor, K: Tensor, masks: list[np.ndarray], seed: int, count: int
) -> Float[Tensor, "m 3"]:
    generator = torch.Generator().manual_seed(seed)
    points = center + reach * (2 * torch.rand(count, 3, generator=generator, dtype=torch.float64) - 1)
    inside = torch.zeros(count)
    chosen = torch.linspace(0, len(masks) - 1, min(60, len(masks))).round().long().unique().tolist()
    for i in chosen:
        in_cam = points @ pose[i, :3, :3].T + pose[i, :3, 3]
        pixel = (in_cam @ K[i].T)[:, :2] / in_cam[:, 2:].clamp_min(1e-9)
        height, width = masks[i].shape
        x, y = pixel[:, 0].floor().long(), pixel[:, 1].floor().long()
        seen = (in_cam[:, 2] > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        values = torch.from_numpy(masks[i] > 127)[y.clamp(0, height - 1), x.clamp(0, width - 1)]
        inside += (seen & values).float()
    share = inside / len(chosen)
    return points[share >= min(INSIDE, 0.95 * float(share.max()))] if float(share.max()) > 0.5 else points[:0]


def root_scale(radius: float, nearest: float) -> float:
    """Root lengths of one length: RADIUS for the subject's radius, more where a camera (`nearest` to the subject's
    middle) would come nearer than NEAREST, but never more than 1 for the radius."""
    scale = RADIUS / max(radius, 1e-9)
    if nearest * scale < NEAREST:
        scale = min(1.0 / max(radius, 1e-9), NEAREST / max(nearest, 1e-9))
    return scale


def root_from_input(cam_from_input: Float[Tensor, "n 4 4"], center: Float[Tensor, "3"], radius: float) -> Sim3:
    """The similarity that puts the subject's middle at 0, its radius at about RADIUS and up along -y.

    Up is the world's z axis (nerfstudio) unless the cameras disagree with it; then the mean of the cameras' own up.
    """
    down = cam_from_input[:, 1, :3].double()  # the cameras' y axis in the user's world
    mean_up = torch.nn.functional.normalize(-down.mean(0), dim=0)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    if float(mean_up @ up) < UPRIGHT:
        up = mean_up
    helper = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    if abs(float(helper @ up)) > 0.9:
        helper = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    right = torch.nn.functional.normalize(helper - (helper @ up) * up, dim=0)
    rotation = torch.stack([right, -up, torch.linalg.cross(right, -up)])
    eyes = -(cam_from_input[:, :3, :3].transpose(1, 2) @ cam_from_input[:, :3, 3:])[..., 0]
    nearest = float((eyes - center).norm(dim=-1).min())
    scale = root_scale(radius, nearest)
    return Sim3(scale, rotation, -scale * (rotation @ center.double()))
