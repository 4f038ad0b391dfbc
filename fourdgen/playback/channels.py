"""Pictures of one shot: colour, normals, depth, alpha, confidence, as bytes for a video or with alpha for a PNG."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8, UInt16
from torch import Tensor

from fourdgen import native
from fourdgen.data.capture import to_bytes
from fourdgen.fit.confidence import pixel_confidence
from fourdgen.playback.shots import Shot
from fourdgen.render import Rasterizer, RenderOut, draw
from fourdgen.scene.scene4d import Scene4D


@dataclass(frozen=True)
class Look:
    """What to draw and how: the channel, the depths that span the colours, the clip's own colours or the asset's."""

    channel: str
    depth_range: tuple[float, float] = (0.0, 1.0)
    clip_colors: bool = False


@dataclass(frozen=True)
class Layer:
    """One drawn picture: values 0..1 that are valid where alpha > 0, alpha, and depth (root units)."""

    values: Float[Tensor, "h w 3"]
    alpha: Float[Tensor, "h w"]
    depth: Float[Tensor, "h w"]


@torch.no_grad()
def layer(scene: Scene4D, shot: Shot, look: Look, rasterizer: Rasterizer) -> Layer:
    """Draws a shot."""
    surfels = scene.at(shot.clip, shot.seconds)
    out = draw(surfels, shot.camera, rasterizer=rasterizer)
    alpha = out.alpha[0].clamp(0, 1)
    weight = alpha.clamp_min(1e-6)
    depth = out.depth[0] / weight
    straight = (out.rgb[0] / weight[..., None]).clamp(0, 1)
    if look.channel == "rgb" and look.clip_colors:
        clip = scene.clips[shot.clip]
        straight = (straight * clip.gain + clip.bias).clamp(0, 1)
    if look.channel == "normal":
        straight = _normal_colors(out, shot)
    elif look.channel == "depth":
        near, far = look.depth_range
        straight = _mapped(1 - (depth - near) / max(far - near, 1e-9), "turbo")
    elif look.channel == "alpha":
        straight = torch.ones_like(straight)
    elif look.channel == "confidence":
        straight = _mapped(pixel_confidence(surfels, shot.camera, rasterizer), "viridis")
    return Layer(straight, alpha, depth)


def _normal_colors(out: RenderOut, shot: Shot) -> Float[Tensor, "h w 3"]:
    """Unit normals in the axes of the viewer (x right, y up, z towards the eye), as 0.5 + n / 2."""
    in_camera = out.normal[0] @ shot.camera.cam_from_world[0, :3, :3].T
    unit = torch.nn.functional.normalize(in_camera, dim=-1)
    return 0.5 + 0.5 * unit * unit.new_tensor([1.0, -1.0, -1.0])


def _mapped(values: Float[Tensor, "h w"], name: str) -> Float[Tensor, "h w 3"]:
    import cv2

    table = {"turbo": cv2.COLORMAP_TURBO, "viridis": cv2.COLORMAP_VIRIDIS}[name]
    colored = cv2.applyColorMap((values.clamp(0, 1) * 255).byte().numpy(), table)
    return torch.from_numpy(np.ascontiguousarray(colored[..., ::-1])).float() / 255


def opaque(drawn: Layer, look: Look, background: Float[Tensor, "3"]) -> UInt8[np.ndarray, "h w 3"]:
    """A layer before a background. Alpha itself is shown white on black, whatever the background."""
    if look.channel == "alpha":
        background = torch.zeros(3)
    mixed = drawn.values * drawn.alpha[..., None] + background * (1 - drawn.alpha[..., None])
    return to_bytes(mixed)


@torch.no_grad()
def opaque_picture(
    scene: Scene4D, shot: Shot, look: Look, rasterizer: Rasterizer, background: Float[Tensor, "3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """`opaque` of a shot's `layer`. Plain colours take a short way: most of a video is made of them."""
    if look.channel != "rgb" or look.clip_colors or not native.serves(background):
        return opaque(layer(scene, shot, look, rasterizer), look, background)
    out = draw(scene.at(shot.clip, shot.seconds), shot.camera, rasterizer=rasterizer)
    return native.opaque_bytes(out.rgb[0].permute(2, 0, 1), out.alpha[0], background).numpy()


def with_alpha(drawn: Layer, look: Look) -> UInt8[np.ndarray, "h w *c"]:
    """RGBA with straight colour; for the channel alpha one grey channel."""
    if look.channel == "alpha":
        return to_bytes(drawn.alpha)
    return to_bytes(torch.cat([drawn.values, drawn.alpha[..., None]], -1))


def depth_counts(drawn: Layer, unit: float) -> UInt16[np.ndarray, "h w"]:
    """Depth in multiples of `unit` root units; 0 where less than half of the pixel is covered."""
    counts = (drawn.depth / unit).round().clamp(1, 65535) * (drawn.alpha >= 0.5)
    return counts.numpy().astype(np.uint16)
