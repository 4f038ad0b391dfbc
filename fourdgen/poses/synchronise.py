"""Which clips show the motion of the reference, and how their times map to its own (docs/method.md section 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from fourdgen.data.capture import Capture, stack
from fourdgen.data.records import ClipAlignment
from fourdgen.geometry.camera import Cameras
from fourdgen.poses import timing
from fourdgen.poses.pictures import spread
from fourdgen.report import Reporter

FRAMES = 72  # of each clip are compared to find out when it was filmed


def synchronised(
    capture: Capture, clips: Mapping[str, ClipAlignment], reference: str, wanted: bool | None, report: Reporter
) -> dict[str, ClipAlignment]:
    """The clips, all in one root frame, with their offset and rate in time; both are found from the outlines.

    wanted: with True all show the reference's motion, though only a map that the outlines bear out is taken; with
    False none does; with None those that show it plainly.
    """
    if wanted is False or len(clips) < 2:
        return dict(clips)
    seen = {name: _outlines(capture, name, clip) for name, clip in clips.items()}
    out = {}
    for name, clip in clips.items():
        out[name] = clip
        if name == reference:
            continue
        apart = timing.tangency(seen[reference][1:], seen[name][1:])
        found = timing.find_time_map(apart, seen[reference][0], seen[name][0])
        if wanted is None and not found.speaks_for_itself:
            continue
        if not found.evident:
            found = replace(found, offset=0.0, rate=1.0)
            report.warn(
                f"{name}: --sync is obeyed, but the outlines do not bear it out that {name} shows the motion of "
                f"{reference}: their own times are taken (--no-sync, or --cameras)"
            )
        out[name] = replace(clip, synchronised_with=reference, time_offset=found.offset, time_rate=found.rate)
        report.emit(
            "note", text=f"{name} shows the motion of {reference} at {found.rate:.2f} x its time {found.offset:+.2f} s"
            + ("" if wanted else " (found; --no-sync if it does not)"),
            clip=name, offset=found.offset, rate=found.rate, cost=min(found.cost, 99.0), plain=min(found.plain, 99.0),
        )  # fmt: skip
    return out


def _outlines(capture: Capture, name: str, clip: ClipAlignment) -> tuple[Tensor, UInt8[np.ndarray, "t h w"], Cameras]:
    """Times, masks and cameras of a clip's frames, at most FRAMES of them."""
    chosen = spread(len(clip.K), FRAMES)
    cameras = Cameras(clip.cam_from_root[chosen], clip.K[chosen], capture.clip(name).size)
    return capture.clip(name).seconds[chosen], stack(capture, name, chosen)[1].numpy(), cameras
