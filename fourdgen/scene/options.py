"""What can be asked of a scene that goes out; adapt.py does it.

Nothing here needs torch, so that a refusal is quick.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from fourdgen.report import FourdgenError

ORIGINS = ("", "feet", "centre", "input")


@dataclass(frozen=True)
class Adapt:
    """The defaults change nothing but the axes, and these only for formats with a convention of their own."""

    clip: str | None = None  # only this clip; else all, the reference first in line
    frames: str = ""  # N: at most so many; A:B or A:B:STEP: those of the clip's frames, counted from 0
    fps: float | None = None  # frames a second; else the clip's own frames
    time: str = ""  # loop: the end meets the beginning; SECONDS or freeze:SECONDS: one moment
    speed: float = 1.0  # 0.5: slow motion
    crop_confidence: float = 0.0  # leave out surfels of less confidence: what was never seen
    up: str | None = None  # y or z
    scale: float = 1.0  # lengths are multiplied by this
    origin: str = ""  # feet or centre of the subject at 0; input: coordinates of the cameras that were given


def check(adapt: Adapt) -> None:
    """Raises FourdgenError for what is wrong with the options whatever the scene."""
    if adapt.fps is not None and not 0.1 <= adapt.fps <= 240:
        raise FourdgenError(f"--fps {adapt.fps:g}: not a usable frame rate", "give a number from 0.1 to 240")
    if not (math.isfinite(adapt.speed) and 1e-3 <= adapt.speed <= 1e3):
        raise FourdgenError(f"--speed {adapt.speed:g}: time must pass", "give a number above 0, such as 0.5")
    if not (math.isfinite(adapt.scale) and 1e-6 <= adapt.scale <= 1e6):
        raise FourdgenError(f"--scale {adapt.scale:g}: not a usable scale", "give a number above 0, such as 100")
    if not 0 <= adapt.crop_confidence <= 1:
        raise FourdgenError(f"--crop-confidence {adapt.crop_confidence:g}: not a confidence", "give a number 0 to 1")
    if adapt.up not in (None, "y", "z"):
        raise FourdgenError(f"--up {adapt.up}: no such axis", "give y or z")
    if adapt.origin not in ORIGINS:
        raise FourdgenError(f"--origin {adapt.origin}: no such origin", "give feet, centre or input")
    if adapt.origin == "input" and (adapt.up or adapt.scale != 1):
        raise FourdgenError("--origin input keeps the axes and lengths of your cameras", "leave --up and --scale out")
    chosen(adapt.frames, 1)
    if moment_of(adapt.time) is not None:
        for flag, given in (("frames", adapt.frames), ("fps", adapt.fps), ("speed", adapt.speed != 1)):
            if given:
                raise FourdgenError(
                    f"--{flag} means nothing with --time {adapt.time}, which is one moment", "leave one of them out"
                )


def moment_of(text: str) -> float | None:
    """Seconds of `0.5` or `freeze:0.5`; None for "" and loop."""
    if text in ("", "loop"):
        return None
    with_number = re.fullmatch(r"(?:freeze:)?(-?\d+(?:\.\d*)?|-?\.\d+)", text)
    if with_number is None:
        raise FourdgenError(f"--time {text}: not understood", "use loop, or a number of seconds such as 0.5")
    return float(with_number[1])


def chosen(text: str, count: int) -> list[int]:
    """Indices of the frames that `--frames` names."""
    numbers = re.fullmatch(r"(\d{1,9})|(-?\d{0,9}):(-?\d{0,9})(?::(\d{1,9}))?", text)
    if text == "":
        return list(range(count))
    if numbers is None or numbers[1] == "0" or numbers[4] == "0":
        raise FourdgenError(f"--frames {text}: not understood", "give a number such as 24, or first:end:step")
    if numbers[1]:
        return sorted({int(i) for i in np.linspace(0, count - 1, min(int(numbers[1]), count)).round()})
    begin, end, step = (int(part) if part else None for part in numbers.groups()[1:])
    return list(range(count))[begin:end:step]
