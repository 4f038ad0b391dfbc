"""A small made-up 4D scene, and a truth folder in the layout of the bench drawn from it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from fourdgen.data.cameras_io import CameraEntry, write_transforms_json
from fourdgen.geometry.camera import Cameras, intrinsics, look_at, orbit_eyes
from fourdgen.geometry.transforms import Sim3, dual_quat, quat_exp, quat_from_matrix, quat_rotate
from fourdgen.render import draw
from fourdgen.scene.motion import SampledBones
from fourdgen.scene.scene4d import Scene4D, SceneClip
from fourdgen.scene.surfels import Surfels, sh_from_rgb

SIZE = (96, 96)
FRAMES = 12


def ellipsoid(center: list[float], radii: list[float], count: int, colors: list[list[float]]) -> Surfels:
    """Surfels all over an ellipsoid, striped in two colours."""
    i = torch.arange(count) + 0.5
    height, turn = 1 - 2 * i / count, math.pi * (1 + 5**0.5) * i
    ring = (1 - height**2).sqrt()
    unit = torch.stack([ring * turn.cos(), height, ring * turn.sin()], 1)
    normal = torch.nn.functional.normalize(unit / torch.tensor(radii), dim=1)
    side = torch.nn.functional.normalize(
        torch.linalg.cross(normal, torch.tensor([0.3, 0.5, 0.8]).expand(count, 3)), dim=1
    )
    quats = quat_from_matrix(torch.stack([side, torch.linalg.cross(normal, side), normal], 2))
    striped = (torch.sin(9 * unit[:, 0] + 5 * unit[:, 1]) > 0).long()
    means = unit * torch.tensor(radii) + torch.tensor(center)
    sigma = 1.4 * math.sqrt(4 * math.pi / count) * (sum(radii) / 3) / 2
    return Surfels(
        means=means, quats=quats, log_scales=torch.full((count, 2), math.log(sigma)), opacity=torch.full((count,), 3.0),
        sh=sh_from_rgb(torch.tensor(colors)[striped]), confidence=torch.linspace(0, 1, count),
    )  # fmt: skip


def joined(parts: list[Surfels]) -> Surfels:
    names = ("means", "quats", "log_scales", "opacity", "sh", "confidence")
    return Surfels(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def clip_of(name: str, frames: int, sweep: float, elevation: float, step: int = 1) -> SceneClip:
    eyes = orbit_eyes(torch.linspace(0, sweep, frames), elevation, 3.2)
    cameras = Cameras(look_at(eyes), intrinsics(38.0, SIZE).expand(frames, 3, 3).clone(), SIZE)
    return SceneClip(
        name,
        torch.arange(frames) / 12,
        torch.arange(frames) * step,
        cameras,
        torch.tensor([1.0, 0.9, 0.8]),
        torch.full((3,), 0.05),
    )


def toy_scene(harmonics: int = 1) -> Scene4D:
    """A striped body with a head on one side and an arm that swings; clips a and b."""
    surfels = joined(
        [
            ellipsoid([0.0, 0.1, 0.0], [0.35, 0.45, 0.25], 500, [[0.9, 0.2, 0.1], [0.2, 0.3, 0.8]]),
            ellipsoid([0.25, -0.45, -0.15], [0.18, 0.18, 0.18], 200, [[0.1, 0.7, 0.2], [0.9, 0.8, 0.1]]),
            ellipsoid([-0.55, 0.0, 0.05], [0.3, 0.08, 0.08], 200, [[0.1, 0.1, 0.1], [0.6, 0.6, 0.6]]),
        ]
    )
    random = torch.Generator().manual_seed(1)
    if harmonics == 4:
        sh = torch.cat([surfels.sh, 0.2 * torch.randn(len(surfels), 3, 3, generator=random)], 1)
        surfels = replace(surfels, sh=sh)
    arm = torch.sigmoid((-surfels.means[:, 0] - 0.35) * 20)
    ids = torch.tensor([[0, 1, 0, 0]]).expand(len(surfels), 4).int().contiguous()
    weights = torch.stack([1 - arm, arm, torch.zeros_like(arm), torch.zeros_like(arm)], 1)
    surfels = replace(surfels, bone_ids=ids, bone_weights=weights)
    clips = {"a": clip_of("a", FRAMES, 200.0, 12.0), "b": clip_of("b", 6, -120.0, 25.0, step=2)}
    shoulder = torch.tensor([-0.3, 0.0, 0.05])
    seconds, poses = {}, {}
    for name, clip in clips.items():
        times = torch.linspace(0, float(clip.seconds[-1]), 2 * len(clip.seconds) - 1)
        angle = 0.8 * torch.sin(2 * math.pi * times) * (1 if name == "a" else 0.5)
        turn = quat_exp(torch.stack([torch.zeros_like(angle), torch.zeros_like(angle), angle], 1))
        swing = dual_quat(turn, shoulder - quat_rotate(turn, shoulder))
        still = torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0]).expand(len(times), 8)
        seconds[name], poses[name] = times, torch.stack([still, swing], 1)
    motion = SampledBones(seconds, poses, torch.stack([torch.zeros(3), shoulder]))
    return Scene4D(surfels, motion, clips, "a", notes={"poses": "given"})


def entries_in(world: Sim3, cameras: Cameras, clip: str, frames: list[int], prefix: str) -> list[CameraEntry]:
    """Entries of cameras given in the root frame, in a world with `root_from_world` = `world`."""
    poses = world.inverse().move_cameras(cameras.cam_from_world).double()
    return [
        CameraEntry(f"{prefix}/{i:04d}.png", pose, K.double(), cameras.size, clip, frame)
        for i, (pose, K, frame) in enumerate(zip(poses, cameras.K, frames))
    ]


def write_truth(folder: Path, scene: Scene4D, root_from_truth: Sim3) -> None:
    """transforms.json with the scene's own cameras, truth/ with pictures from elsewhere, all in the truth's world.

    The pictures have the colours of the clip that they show, not those of the asset.
    """
    inputs = [
        entry
        for clip in scene.clips.values()
        for entry in entries_in(root_from_truth, clip.cameras, clip.name, clip.frame_ids.tolist(), clip.name)
    ]
    (folder / "truth" / "val").mkdir(parents=True)
    write_transforms_json(folder / "transforms.json", inputs)
    frames = [0, 3, 6, 9] * 2
    eyes = orbit_eyes(torch.tensor([20.0] * 4 + [250.0] * 4), torch.tensor([30.0] * 4 + [5.0] * 4), 3.0)
    cameras = Cameras(look_at(eyes), intrinsics(38.0, SIZE).expand(8, 3, 3).clone(), SIZE)
    write_transforms_json(
        folder / "truth" / "transforms.json", entries_in(root_from_truth, cameras, "a", frames, "val")
    )
    for i, frame in enumerate(frames):
        write_filmed(folder / "truth" / "val" / f"{i:04d}.png", scene, "a", frame, cameras[i])


def write_filmed(path: Path, scene: Scene4D, name: str, frame: int, camera: Cameras) -> None:
    """A frame of a clip from anywhere, with alpha, in the colours in which the clip was filmed."""
    clip = scene.clips[name]
    out = draw(scene.at(name, float(clip.seconds[frame])), camera)
    straight = out.rgb[0] / out.alpha[0, ..., None].clamp_min(1e-6) * clip.gain + clip.bias
    rgba = torch.cat([straight, out.alpha[0, ..., None]], -1).clamp(0, 1).mul(255).round().byte().numpy()
    cv2.imwrite(str(path), np.ascontiguousarray(rgba[..., [2, 1, 0, 3]]))
