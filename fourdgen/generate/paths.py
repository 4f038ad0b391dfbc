"""Where nobody has looked yet: coverage of viewing directions, and camera paths into its gaps (docs/method.md 11.1)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fourdgen.fit.sampler import KAPPA, view_directions
from fourdgen.geometry.camera import Cameras, look_at, orbit_eyes
from fourdgen.geometry.transforms import quat_exp, quat_from_matrix, quat_log, quat_to_matrix, rigid, rigid_inverse
from fourdgen.scene.files import extent
from fourdgen.scene.scene4d import Scene4D

LOWEST, HIGHEST = -10.0, 45.0  # elevations that a path may go to, degrees
ARRIVAL = 0.3  # share of the clip after which the path has arrived
STEP = 10.0  # degrees between the directions that are compared


@dataclass(frozen=True)
class Path:
    """A moving camera beside a clip: one camera (root frame) for each of the clip's chosen times."""

    name: str
    clip: str
    seconds: Float[Tensor, "t"]
    cameras: Cameras


def coverage(directions: Float[Tensor, "q 3"], filmed: Float[Tensor, "f 3"]) -> Float[Tensor, "q"]:
    """How much was filmed from about each direction: a sum of von Mises-Fisher kernels of about 21 degrees."""
    return torch.exp(KAPPA * (directions @ filmed.T - 1)).sum(1)


def grid() -> tuple[Float[Tensor, "q"], Float[Tensor, "q"], Float[Tensor, "q 3"]]:
    """Azimuths, elevations (degrees) and unit directions that a path may go to."""
    up = torch.arange(LOWEST, HIGHEST + 1e-3, 11.0)
    around = torch.arange(-180.0, 180.0, STEP)
    azimuth, elevation = (part.flatten() for part in torch.meshgrid(around, up, indexing="ij"))
    return azimuth, elevation, orbit_eyes(azimuth, elevation, 1.0)


def plan_paths(scene: Scene4D, clip: str, count: int, every: int = 1, side: int = 0) -> list[Path]:
    """Paths of `count` cameras that show a clip's motion from the least covered directions, worst first.

    Each begins as the clip's first camera, has arrived at its direction after 30 % of the clip and stays there; a path
    counts as covered for the next. `every`: keep every n-th frame; `side`: longer side of the pictures, 0 as filmed.
    """
    source = scene.clips[clip]
    chosen = torch.arange(0, len(source.seconds), max(1, every))
    seconds = source.seconds[chosen]
    filmed = torch.cat([view_directions(c.cameras.cam_from_world) for c in scene.clips.values()])
    azimuth, elevation, directions = grid()
    paths = []
    for number in range(count):
        best = int(coverage(directions, filmed).argmin())
        target = (float(azimuth[best]), float(elevation[best]))
        cameras = _towards(scene, clip, chosen, target)
        if side and side < max(cameras.size):
            scale = side / max(cameras.size)
            cameras = cameras.resized((round(cameras.size[0] * scale), round(cameras.size[1] * scale)))
        paths.append(Path(f"{clip}-view{number + 1}", clip, seconds, cameras))
        filmed = torch.cat([filmed, view_directions(cameras.cam_from_world)])
    return paths


def _towards(scene: Scene4D, clip: str, chosen: Tensor, target: tuple[float, float]) -> Cameras:
    source = scene.clips[clip].cameras
    times = scene.clips[clip].seconds
    states = [scene.at(clip, float(times[int(i)])) for i in chosen[:: max(1, len(chosen) // 8)]]
    center = torch.stack([extent(state)[0] for state in states]).mean(0)
    first = source.centers()[0] - center
    distance = float((source.centers() - center).norm(dim=-1).mean())
    x, y, z = (first / first.norm()).tolist()
    start = (math.degrees(math.atan2(x, -z)), math.degrees(math.asin(max(-1.0, min(1.0, -y)))))
    turn = (target[0] - start[0] + 180) % 360 - 180  # the short way round
    share = torch.linspace(0, 1, len(chosen))
    eased = (share / ARRIVAL).clamp(0, 1)
    eased = eased * eased * (3 - 2 * eased)
    eyes = orbit_eyes(
        start[0] + turn * eased,
        start[1] + (target[1] - start[1]) * eased,
        float(first.norm()) + (distance - float(first.norm())) * eased,
    )
    poses = look_at(eyes + center, center)
    # The filmed camera may be rolled or look past the middle: what it differs by at the start fades on the way.
    off = source.cam_from_world[0] @ rigid_inverse(poses[:1])[0]
    fading = (1 - eased)[:, None]
    turned = quat_to_matrix(quat_exp(fading * quat_log(quat_from_matrix(off[None, :3, :3]))))
    poses = rigid(turned, fading * off[:3, 3]) @ poses
    poses[0] = source.cam_from_world[0]
    return Cameras(poses, source.K[chosen], source.size)


def picture(scene: Scene4D, paths: list[Path], height: int = 360) -> UInt8[np.ndarray, "h w 3"]:
    """The map of directions, azimuth across and elevation up: the brighter, the more was filmed from there. Dots are
    filmed cameras, lines the paths, from a ring to a disc."""
    width = 2 * height
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    around = torch.from_numpy((x / width - 0.5) * 360).flatten().float()
    up = torch.from_numpy((0.5 - y / height) * 180).flatten().float()
    filmed = torch.cat([view_directions(c.cameras.cam_from_world) for c in scene.clips.values()])
    found = coverage(orbit_eyes(around, up, 1.0), filmed).reshape(height, width)
    shade = (1 - torch.exp(-3 * found / found.max().clamp_min(1e-6))).numpy()
    image = cv2.applyColorMap((shade * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    for elevation in (LOWEST, HIGHEST):
        line = round((0.5 - elevation / 180) * height)
        cv2.line(image, (0, line), (width, line), (120, 120, 120), 1)
    for place in _places(filmed, width, height):
        cv2.circle(image, place, 2, (255, 255, 255), -1, cv2.LINE_AA)
    for path in paths:
        track = _places(view_directions(path.cameras.cam_from_world), width, height)
        for here, there in itertools.pairwise(track):
            if abs(here[0] - there[0]) < width // 2:
                cv2.line(image, here, there, (60, 80, 255), 2, cv2.LINE_AA)
        cv2.circle(image, track[0], 5, (60, 80, 255), 1, cv2.LINE_AA)
        cv2.circle(image, track[-1], 5, (60, 80, 255), -1, cv2.LINE_AA)
    return np.ascontiguousarray(image[..., ::-1])


def _places(directions: Float[Tensor, "f 3"], width: int, height: int) -> list[tuple[int, int]]:
    azimuth = torch.atan2(directions[:, 0], -directions[:, 2]) / (2 * math.pi) + 0.5
    elevation = torch.asin((-directions[:, 1]).clamp(-1, 1)) / math.pi
    return [(int(a * width), int((0.5 - e) * height)) for a, e in zip(azimuth.tolist(), elevation.tolist())]
