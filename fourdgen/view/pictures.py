"""What one visitor of the live viewer sees: their camera, drawn by our renderer as fast as it can be drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8

from fourdgen.data.capture import png_bytes
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import quat_to_matrix, rigid, rigid_inverse
from fourdgen.playback.channels import Look, layer, opaque, with_alpha
from fourdgen.playback.shots import Shot
from fourdgen.render import Rasterizer
from fourdgen.scene.files import extent
from fourdgen.scene.scene4d import Scene4D

FAR = 100.0  # depth of pixels where nothing is, root units
LONGEST = 1280  # pixels: no picture is larger


@dataclass(frozen=True)
class Eye:
    """A visitor's camera: pose as quaternion wxyz and position (x right, y down, z forward), vertical field of view in
    radians, and the size of their window in pixels."""

    wxyz: tuple[float, ...]
    position: tuple[float, ...]
    fov: float
    window: tuple[int, int]

    def camera(self, scale: float = 1.0) -> Cameras:
        """The camera for pictures of `scale` times the window's size, at most LONGEST."""
        scale = min(scale, LONGEST / max(self.window))
        size = (max(16, round(self.window[0] * scale)), max(16, round(self.window[1] * scale)))
        world_from_cam = rigid(
            quat_to_matrix(torch.tensor([self.wxyz], dtype=torch.float32)), torch.tensor([self.position]).float()
        )
        focal = 0.5 * size[1] / math.tan(self.fov / 2)
        K = torch.tensor([[[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1.0]]])
        return Cameras(rigid_inverse(world_from_cam), K, size)


@dataclass(frozen=True)
class Scenery:
    """Everything besides the camera that a picture depends on."""

    scene: Scene4D
    clip: str
    seconds: float
    channel: str
    background: tuple[int, int, int]

    def look(self, camera: Cameras) -> Look:
        """How it is drawn. Depth spans the subject, so that its colours stay as they are while a camera circles it."""
        if self.channel != "depth":
            return Look(self.channel)
        center, radius = extent(self.scene.surfels)
        distance = float((camera.centers()[0] - center).norm())
        return Look(self.channel, (max(distance - radius, 0.0), distance + radius))


def picture(
    scenery: Scenery, camera: Cameras, rasterizer: Rasterizer
) -> tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
    """The picture before its background, and the depth along the camera's axis."""
    look = scenery.look(camera)
    drawn = layer(scenery.scene, Shot(camera, scenery.clip, scenery.seconds), look, rasterizer)
    background = torch.tensor(scenery.background) / 255
    depth = torch.where(drawn.alpha > 0.5, drawn.depth, torch.full_like(drawn.depth, FAR))
    return opaque(drawn, look, background), depth.numpy()


def screenshot(scenery: Scenery, camera: Cameras, rasterizer: Rasterizer) -> bytes:
    """The picture as a PNG with alpha."""
    look = scenery.look(camera)
    pixels = with_alpha(layer(scenery.scene, Shot(camera, scenery.clip, scenery.seconds), look, rasterizer), look)
    return png_bytes(pixels)


@dataclass
class Pace:
    """Chooses how large pictures may be so that motion stays smooth, from how long the last ones took."""

    budget: float = 0.05  # seconds a picture, while something moves
    smallest: float = 0.35  # share of the window's side
    _per_pixel: float = 0.0  # seconds

    def scale(self, window: tuple[int, int]) -> float:
        if self._per_pixel == 0:
            return 0.5
        affordable = math.sqrt(self.budget / (self._per_pixel * window[0] * window[1]))
        return min(max(affordable, self.smallest), 1.0)

    def took(self, seconds: float, size: tuple[int, int]) -> None:
        now = seconds / (size[0] * size[1])
        self._per_pixel = now if self._per_pixel == 0 else 0.7 * self._per_pixel + 0.3 * now
