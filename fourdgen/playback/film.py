"""From a request to pictures: where every camera stands, then drawing, one picture at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from fourdgen import disk
from fourdgen.data.cameras_io import read_camera_entries
from fourdgen.data.capture import write_png
from fourdgen.data.video import resized, write_exr, write_gif, write_video, write_webp
from fourdgen.playback import shots as shooting
from fourdgen.playback.channels import Look, depth_counts, layer, opaque, opaque_picture, with_alpha
from fourdgen.playback.filmed import filmed_in, filmed_picture
from fourdgen.playback.request import RenderRequest, check_kind, is_film, parse_color, parse_size
from fourdgen.playback.shots import Motion, Shot
from fourdgen.render import Rasterizer
from fourdgen.report import FourdgenError, Reporter
from fourdgen.scene.entries import clip_of
from fourdgen.scene.scene4d import Scene4D

DEFAULT_SIZE = (640, 640)
DEFAULT_FPS = 30.0
_MOVES: dict[str, Callable[..., list[Shot]]] = {
    "orbit": shooting.orbit,
    "spiral": shooting.spiral,
    "bullet": shooting.bullet,
}


@dataclass(frozen=True)
class _Plan:
    shots: list[Shot]
    fps: float
    output: Path
    look: Look
    background: torch.Tensor | None
    exr: bool = False  # depth in a folder is written as floats
    filmed: Callable[[int], UInt8[np.ndarray, "h w 3"]] | None = None  # the filmed frame beside shot number i


def film(scene: Scene4D, scene_path: Path, request: RenderRequest, report: Reporter, rasterizer: Rasterizer) -> Path:
    """Draws what was asked for and returns where it is. Raises FourdgenError for what cannot be drawn or written."""
    plan = _plan(scene, scene_path, request, report)
    report.emit("note", text=f"{len(plan.shots)} pictures, renderer {rasterizer.name}")
    with disk.clear_errors(plan.output.parent):
        disk.make_folder(plan.output.parent, report)
        kind = plan.output.suffix.lower()
        if kind == ".mp4":
            write_video(plan.output, _pictures(scene, plan, rasterizer, report), plan.fps)
        elif kind == ".gif":
            write_gif(plan.output, _pictures(scene, plan, rasterizer, report), plan.fps)
        elif kind == ".webp":
            write_webp(plan.output, _pictures(scene, plan, rasterizer, report, clear=plan.background is None), plan.fps)
        else:
            _write_folder(scene, plan, rasterizer, report)
    return plan.output


# --------------------------------------------------------------------------------------------------------------
# From the request to a plan. Everything that can be wrong with a request is found here, before a picture is drawn.


def _plan(scene: Scene4D, scene_path: Path, request: RenderRequest, report: Reporter) -> _Plan:
    size, color = parse_size(request.size), parse_color(request.background)
    fps = request.fps or DEFAULT_FPS
    filmed = None
    if request.source is not None:
        clip = clip_of(scene, request.source)
        shots, label = shooting.source(clip, size), _file_name(clip.name)
        fps = request.fps or min(round(1 / shooting.frame_time(clip), 3), 240.0)
        filmed = _filmed(scene, clip.name, shots, report)
    else:
        motion = shooting.motion_of(scene, clip_of(scene, request.clip or scene.reference), request.time, request.speed)
        shots, label = _made_up(scene, motion, request, size, fps, report)
    output = request.output or _default_output(scene_path, label, request)
    _check_output(output, shots)
    look = Look(request.channel, _depth_range(scene, shots, request.channel), clip_colors=request.source is not None)
    return _Plan(shots, fps, output, look, None if color is None else torch.tensor(color), request.exr, filmed)


def _made_up(
    scene: Scene4D, motion: Motion, request: RenderRequest, size: tuple[int, int] | None, fps: float, report: Reporter
) -> tuple[list[Shot], str]:
    if request.cameras is not None:
        entries = read_camera_entries(request.cameras)
        if any(entry.distortion is not None for entry in entries):
            report.warn(f"{request.cameras}: lens distortion is left out; pictures are those of a straight lens")
        return shooting.from_entries(scene, entries, motion, size, fps), "cameras"
    name = request.path or "orbit"
    return _MOVES[name](scene, motion, size or DEFAULT_SIZE, fps, request.elevation), name


def _default_output(scene_path: Path, label: str, request: RenderRequest) -> Path:
    channel = "" if request.channel == "rgb" else f"_{request.channel}"
    name = f"{scene_path.stem}_{label}{channel}"
    folder = request.cameras is not None or request.exr
    return scene_path.with_name(name if folder else f"{name}.mp4")


def _file_name(text: str) -> str:
    """A clip's name as part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", text)[:100] or "clip"


def _check_output(output: Path, shots: list[Shot]) -> None:
    check_kind(output)
    if is_film(output) and len({shot.camera.size for shot in shots}) > 1:
        raise FourdgenError("the cameras have pictures of different sizes", "write a folder, or give --size")
    disk.check_writable(output.parent if is_film(output) else output)


def _filmed(
    scene: Scene4D, name: str, shots: list[Shot], report: Reporter
) -> Callable[[int], UInt8[np.ndarray, "h w 3"]] | None:
    """The filmed frames of a clip, where the run folder still has them."""
    clip, capture = scene.clips[name], filmed_in(scene.run_folder, [name])
    if capture is None:
        where = f" ({scene.run_folder})" if scene.run_folder else ""
        report.warn(f"the filmed frames are not there{where}: drawn alone")
        return None

    def frame(number: int) -> UInt8[np.ndarray, "h w 3"]:
        width, height = shots[number].camera.size
        picture = filmed_picture(capture, clip, number)
        return np.full((height, width, 3), 255, np.uint8) if picture is None else resized(picture, (width, height))

    return frame


def _depth_range(scene: Scene4D, shots: list[Shot], channel: str) -> tuple[float, float]:
    """Nearest and farthest depth over all shots, from some of them: one range for all, or the colours would flicker."""
    if channel != "depth":
        return (0.0, 1.0)
    depths = []
    for shot in shots[:: max(1, len(shots) // 12)]:
        surfels = scene.at(shot.clip, shot.seconds)
        depth = shot.camera.project(surfels.means)[1][0]
        depths.append(depth[(torch.sigmoid(surfels.opacity) > 0.1) & (depth > 0)])
    everything = torch.cat(depths).numpy()
    if everything.size == 0:
        return (0.0, 1.0)
    near, far = np.quantile(everything, [0.005, 0.995])
    return float(near), float(max(far, near + 1e-6))


# --------------------------------------------------------------------------------------------------------------
# Drawing, one picture at a time.


def _pictures(
    scene: Scene4D, plan: _Plan, rasterizer: Rasterizer, report: Reporter, clear: bool = False
) -> Iterator[UInt8[np.ndarray, "h w c"]]:
    """Opaque pictures; `clear`: RGBA, where nothing stands beside them and the channel has colours."""
    clear = clear and plan.filmed is None and plan.look.channel != "alpha"
    background = torch.ones(3) if plan.background is None else plan.background
    for number, shot in enumerate(plan.shots):
        if clear:
            drawn = with_alpha(layer(scene, shot, plan.look, rasterizer), plan.look)
        else:
            drawn = opaque_picture(scene, shot, plan.look, rasterizer, background)
        if plan.filmed is not None:
            drawn = np.concatenate([plan.filmed(number), drawn], axis=1)
        report.emit("step", stage="render", step=number + 1, total=len(plan.shots))
        yield drawn


def _write_folder(scene: Scene4D, plan: _Plan, rasterizer: Rasterizer, report: Reporter) -> None:
    """PNGs 00000.png, 00001.png, ...: straight colour with alpha, or opaque before a background that was asked for.

    Depth is 16 bit; depth.json says how long one count is, in the user's units where the scene knows them. As EXR
    (00000.exr, ...) depth is in these units itself.
    """
    plan.output.mkdir(parents=True, exist_ok=True)
    unit = plan.look.depth_range[1] * 1.25 / 65535
    scale = 1.0 if scene.world_from_input is None else scene.world_from_input.scale
    if plan.look.channel == "depth" and not plan.exr:
        about = {"unit": unit / scale, "about": "depth = value * unit; 0: nothing there"}
        (plan.output / "depth.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    for number, shot in enumerate(plan.shots):
        drawn = layer(scene, shot, plan.look, rasterizer)
        report.emit("step", stage="render", step=number + 1, total=len(plan.shots))
        if plan.exr:
            write_exr(plan.output / f"{number:05d}.exr", (drawn.depth / scale * (drawn.alpha >= 0.5)).numpy())
            continue
        if plan.look.channel == "depth":
            picture = depth_counts(drawn, unit)
        elif plan.background is not None:
            picture = opaque(drawn, plan.look, plan.background)
        else:
            picture = with_alpha(drawn, plan.look)
        write_png(plan.output / f"{number:05d}.png", picture)
