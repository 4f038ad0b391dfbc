"""A folder with a file for every frame of a clip."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fourdgen.report import Reporter
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.whole import whole_folder


def write_frames(
    folder: Path, scene: Scene4D, kind: str, replaces: str, write: Callable[[Path, float], None], report: Reporter
) -> None:
    """00000.KIND, 00001.KIND, ...: every frame of the reference clip; sequence.json says when each is shown (seconds).

    `write` is given a path and the seconds, one frame after the other, so one frame is in memory at a time.
    `replaces`: a regular expression of the kinds that an older folder may hold and still be replaced. Raises
    FourdgenError as `whole_folder` does.
    """
    clip = scene.clips[scene.reference]
    times = [float(seconds) for seconds in clip.seconds]
    with whole_folder(folder, rf"\d{{5,}}\.({replaces})|sequence\.json") as part:
        for number, seconds in enumerate(times):
            write(part / f"{number:05d}.{kind}", seconds)
            report.emit("step", stage="export", step=number + 1, total=len(times))
        about = {"clip": clip.name, "seconds": [round(seconds, 6) for seconds in times]}
        (part / "sequence.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
