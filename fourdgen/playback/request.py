"""What `render` is asked for, and whether that makes sense. Nothing here needs torch, so that a refusal is quick."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from fourdgen import disk
from fourdgen.report import FourdgenError, absent

CHANNELS = ("rgb", "normal", "depth", "alpha", "confidence")
PATHS = ("spiral", "bullet")
FILMS = (".mp4", ".gif", ".webp")
KINDS_HINT = "give FILE.mp4, FILE.gif, FILE.webp or a folder"
COLORS = {"white": "#ffffff", "black": "#000000", "gray": "#808080", "grey": "#808080", "green": "#00b140"}


@dataclass(frozen=True)
class RenderRequest:
    """What `fourdgen render` was asked for. At most one of orbit, source, cameras and path; none means orbit.

    size: WxH or one number, "" for the default. background: a name, #rrggbb, or "" (white; transparent in PNGs).
    output: FILE.mp4, FILE.gif, FILE.webp or a folder; None puts it beside the scene. exr: depth in a folder as EXR.
    """

    orbit: bool = False
    source: str | None = None
    cameras: Path | None = None
    path: str | None = None
    clip: str | None = None
    time: str = "loop"
    size: str = ""
    fps: float | None = None
    speed: float = 1.0
    elevation: float = 15.0
    channel: str = "rgb"
    output: Path | None = None
    background: str = ""
    exr: bool = False


def check_request(request: RenderRequest) -> None:
    """Raises FourdgenError for what is wrong with a request whatever the scene holds."""
    asked = [request.orbit, request.source is not None, request.cameras is not None, request.path is not None]
    if sum(asked) > 1:
        raise FourdgenError("only one of --orbit, --source, --cameras and --path can be drawn at a time", "choose one")
    if request.channel not in CHANNELS:
        raise FourdgenError(f"--channel {request.channel}: no such channel", f"channels: {', '.join(CHANNELS)}")
    if request.path is not None and request.path not in PATHS:
        raise FourdgenError(f"--path {request.path}: no such path", f"paths: {', '.join(PATHS)}")
    if request.cameras is not None and not request.cameras.exists():
        raise absent(request.cameras, "give a transforms.json or the folder of a COLMAP model")
    if request.fps is not None and not 0.1 <= request.fps <= 240:
        raise FourdgenError(f"--fps {request.fps:g}: not a usable frame rate", "give a number from 0.1 to 240")
    if not -89 <= request.elevation <= 89:
        raise FourdgenError(f"--elevation {request.elevation:g}: not an elevation", "give degrees from -89 to 89")
    if request.exr and (request.channel != "depth" or (request.output is not None and is_film(request.output))):
        raise FourdgenError("--exr writes depth into a folder", "give --channel depth and -o FOLDER")
    parse_size(request.size)
    parse_color(request.background)
    parse_time(request.time)
    parse_speed(request.speed)
    if request.output is not None:
        check_kind(request.output)
        disk.check_writable(request.output.parent if is_film(request.output) else request.output)


def parse_size(text: str) -> tuple[int, int] | None:
    """(w, h) of `640x480` or `512`; None for an empty text. Raises FourdgenError."""
    if not text:
        return None
    match = re.fullmatch(r"(\d{1,5})(?:[xX](\d{1,5}))?", text.strip())
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not all(16 <= side <= 8192 for side in size):
        raise FourdgenError(f"--size {text}: not a picture size", "give WIDTHxHEIGHT or one number, from 16 to 8192")
    return size


def parse_color(text: str) -> tuple[float, float, float] | None:
    """sRGB 0..1 of a name or #rrggbb; None for an empty text. Raises FourdgenError."""
    if not text:
        return None
    match = re.fullmatch(r"#?([0-9a-fA-F]{6})", COLORS.get(text.lower(), text))
    if not match:
        raise FourdgenError(f"--background {text}: no such colour", f"give #rrggbb, or one of {', '.join(COLORS)}")
    red, green, blue = (int(match[1][i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue


def parse_time(text: str) -> float | None:
    """Seconds of `freeze:SECONDS`; None for `loop`. Raises FourdgenError for anything else."""
    if text == "loop":
        return None
    kind, _, value = text.partition(":")
    try:
        frozen = float(value)
    except ValueError:
        frozen = math.nan
    if kind != "freeze" or not math.isfinite(frozen):
        raise FourdgenError(f"--time {text}: not understood", "use loop, or freeze:SECONDS such as freeze:0.5")
    return frozen


def parse_speed(speed: float) -> float:
    """A speed that makes time pass. Raises FourdgenError."""
    if speed <= 0 or not math.isfinite(speed):
        raise FourdgenError(f"--speed {speed:g}: time must pass", "give a number above 0, such as 0.5")
    return speed


def check_kind(output: Path) -> None:
    """Raises FourdgenError for an output that is neither a video, nor an animation, nor a folder."""
    if is_film(output):
        if output.is_dir():
            raise FourdgenError(f"{output} is a folder", "give another name")
    elif output.suffix and not output.is_dir():
        raise FourdgenError(f"{output}: cannot write this kind of file", KINDS_HINT)
    elif output.exists() and not output.is_dir():
        raise FourdgenError(f"{output} is a file", KINDS_HINT)


def is_film(output: Path) -> bool:
    return output.suffix.lower() in FILMS
