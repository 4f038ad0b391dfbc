"""Guides: what the asset shows along a path, and how far it may be believed (docs/method.md 11.2-11.3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fourdgen.data.cameras_io import CameraEntry
from fourdgen.fit.confidence import pixel_confidence
from fourdgen.fit.sampler import view_directions
from fourdgen.generate import Footage, Guide
from fourdgen.generate.paths import Path
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import rotation_angle_degrees
from fourdgen.render import Rasterizer, draw
from fourdgen.report import FourdgenError
from fourdgen.scene.entries import camera_of, moment_of
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.surfels import Surfels

BELIEVED = 0.05  # surfels with less confidence are not drawn
EROSION = 3  # pixels: side of the window over which the least confidence counts
MOMENTS = 3  # frames of the temporal median
STEADY = 10.0  # degrees: a frame from which the camera turns by more than this has no median with its neighbours


def believed(surfels: Surfels) -> Surfels:
    """Without the surfels that nothing filmed speaks for (all of them where that would leave none)."""
    keep = surfels.confidence >= BELIEVED
    return surfels[keep] if bool(keep.any()) else surfels


@torch.no_grad()
def render_guide(footage: Footage, path: Path, rasterizer: Rasterizer, seed: int = 0) -> Guide:
    """Draws a path: colour on white, alpha, and confidence, eroded and steadied over time."""
    white = torch.ones(3)
    rgb, alpha, confidence = [], [], []
    for t, seconds in enumerate(path.seconds.tolist()):
        surfels = believed(footage.scene.at(path.clip, seconds))
        out = draw(surfels, path.cameras[t], background=white, rasterizer=rasterizer)
        rgb.append(out.rgb[0].clamp(0, 1))
        alpha.append(out.alpha[0].clamp(0, 1))
        confidence.append(pixel_confidence(surfels, path.cameras[t], rasterizer))
    return Guide(
        path.name, path.clip, path.seconds, path.cameras, torch.stack(rgb), torch.stack(alpha),
        steadied(torch.stack(confidence), path.cameras), reference_picture(footage, path), seed,
    )  # fmt: skip


def steadied(confidence: Float[Tensor, "t h w"], cameras: Cameras) -> Float[Tensor, "t h w"]:
    """The least confidence of each 3 x 3 pixels, then the median of three frames: single frames must not blink. Where
    the camera moves fast a frame keeps its own, for a pixel shows something else in the next."""
    least = -F.max_pool2d(-confidence[:, None], EROSION, 1, EROSION // 2)[:, 0]
    if len(least) < MOMENTS:
        return least
    padded = torch.cat([least[:1], least, least[-1:]])
    steady = torch.stack([padded[i : i + len(least)] for i in range(MOMENTS)]).median(0).values
    turn = cameras.cam_from_world[:, :3, :3]
    step = F.pad(rotation_angle_degrees(turn[1:], turn[:-1]), (1, 1))
    slow = torch.maximum(step[1:], step[:-1]) < STEADY
    return torch.where(slow[:, None, None], steady, least)


def reference_picture(footage: Footage, path: Path) -> Float[Tensor, "h w 3"]:
    """The filmed frame, on white, whose camera looks most as the path does at its end."""
    wanted = view_directions(path.cameras.cam_from_world[-1:])[0]
    clips = footage.scene.clips
    best = max(
        footage.frames(),
        key=lambda row: float(view_directions(clips[row[0]].cameras.cam_from_world[row[1], None])[0] @ wanted),
    )
    frame = footage.capture.frame(*best)
    return frame.rgb * frame.mask[..., None] + 1 - frame.mask[..., None]


def check_entries(entries: Sequence[CameraEntry], clips: Sequence[str]) -> None:
    """Raises FourdgenError: an entry without a frame, a clip that is none of `clips` (where there are any), pictures of
    one view in different sizes."""
    sizes: dict[tuple[str, str | None], tuple[int, int]] = {}
    for number, entry in enumerate(entries):
        if entry.frame is None:
            raise FourdgenError(
                f"entry {number} of the cameras has no frame", "each needs `frame`, and `view` where there are several"
            )
        if clips and entry.clip and entry.clip not in clips:
            raise FourdgenError(
                f"entry {number} of the cameras: the scene has no clip {entry.clip!r}", f"its clips: {', '.join(clips)}"
            )
        view = entry.view or "view1"
        if sizes.setdefault((view, entry.clip), entry.size) != entry.size:
            raise FourdgenError(f"view {view} has pictures of different sizes", "one size for each view")


def given_paths(scene: Scene4D, entries: Sequence[CameraEntry], side: int = 0) -> list[Path]:
    """Paths of a cameras file: entries with the same `view` (and clip) are one path, in the order of their frames.

    `frame` counts the frames of the clip's source, at any rate. Raises what `check_entries` raises.
    """
    check_entries(entries, list(scene.clips))
    groups: dict[tuple[str, str], list[tuple[float, Cameras]]] = defaultdict(list)
    for entry in entries:
        clip, seconds = moment_of(scene, entry)
        assert seconds is not None  # checked
        groups[entry.view or "view1", clip].append((seconds, camera_of(scene, entry)))
    paths = []
    for (view, clip), moments in groups.items():
        moments.sort(key=lambda moment: moment[0])
        cameras = Cameras(
            torch.cat([camera.cam_from_world for _, camera in moments]),
            torch.cat([camera.K for _, camera in moments]),
            moments[0][1].size,
        )
        if side and side < max(cameras.size):
            scale = side / max(cameras.size)
            cameras = cameras.resized((round(cameras.size[0] * scale), round(cameras.size[1] * scale)))
        times = torch.tensor([moment for moment, _ in moments], dtype=torch.float32)
        paths.append(Path(f"{clip}-{view}", clip, times, cameras))
    return paths
