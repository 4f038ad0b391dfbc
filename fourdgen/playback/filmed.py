"""The frames that an asset was made of, where its run folder still has them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fourdgen import workspace
from fourdgen.data.capture import Capture, load_capture
from fourdgen.report import FourdgenError
from fourdgen.scene.scene4d import Scene4D, SceneClip

_INGEST = "-ingest"  # how the name of the stage's folder ends


def filmed_in(run: Path | str, clips: Collection[str] = ()) -> Capture | None:
    """The filmed frames in a run folder, if they are those of all these clips; None where they are not there."""
    for folder in workspace.stage_folders(Path(run)) if run else []:
        if not folder.name.endswith(_INGEST):
            continue
        try:
            capture = load_capture(folder)
        except FourdgenError:
            continue
        if set(clips) <= {clip.name for clip in capture.clips}:
            return capture
    return None


def filmed_frames(scene: Scene4D) -> Capture:
    """The frames of all clips of a scene. Raises FourdgenError where they have gone."""
    capture = filmed_in(scene.run_folder, scene.clips)
    if capture is None:
        where = scene.run_folder or "its run folder, which the file does not name"
        raise FourdgenError(
            f"the filmed frames are not there: {where}",
            "new views need the run folder that reconstruct left beside the asset",
        )
    return capture


def filmed_picture(capture: Capture, clip: SceneClip, index: int) -> UInt8[np.ndarray, "h w 3"] | None:
    """The filmed picture of frame `index` of a scene's clip; None where it is not there or cannot be read."""
    try:
        number = int(clip.frame_ids[index])
        at = [int(value) for value in capture.clip(clip.name).frame_ids.tolist()].index(number)
        return capture.read(clip.name, "rgb", at)
    except (FourdgenError, KeyError, ValueError):
        return None
