"""cameras.json: the cameras used or found for the input frames, in nerfstudio's layout, with `clip` and `frame`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from fourdgen.data.cameras_io import CameraEntry, write_transforms_json
from fourdgen.data.capture import load_capture, picture_path
from fourdgen.report import FourdgenError
from fourdgen.scene.entries import entries_of
from fourdgen.scene.scene4d import Scene4D

INGEST = "01-ingest"  # the folder of a run that holds the pictures


def write(path: Path, scene: Scene4D) -> None:
    """Writes the cameras in the user's coordinates when cameras were given, in the root frame when not.

    `file_path` names the frame's picture in the run folder (straightened, of the camera's size) where it is there, and
    is empty where it is not: `clip` and `frame` say which frame of the source is meant. It is relative to `path` where
    that stands beside the run folder, or anywhere below its parent; else it begins with the run folder's name, because
    the folders of this machine concern nobody else.
    """
    pictures = _pictures(scene)
    beside, run = path.absolute().parent, Path(scene.run_folder).absolute()
    write_transforms_json(path, [_named(entry, pictures, beside, run) for entry in entries_of(scene)])


def _pictures(scene: Scene4D) -> dict[tuple[str, int], tuple[Path, tuple[int, int]]]:
    """(clip, frame number) -> picture and its size (w, h), as far as the run folder has them."""
    folder = Path(scene.run_folder) / INGEST
    try:
        capture = load_capture(folder)
    except FourdgenError:
        return {}
    return {
        (clip.name, int(number)): (picture_path(folder, clip.name, "rgb", index), clip.size)
        for clip in capture.clips
        for index, number in enumerate(clip.frame_ids.tolist())
    }


def _named(
    entry: CameraEntry, pictures: dict[tuple[str, int], tuple[Path, tuple[int, int]]], beside: Path, run: Path
) -> CameraEntry:
    picture, size = pictures.get((entry.clip or "", entry.frame or 0), (None, None))
    if picture is None or size != entry.size or not picture.is_file():
        return replace(entry, file_path="")
    picture = picture.absolute()
    near = beside.is_relative_to(run.parent) or run.is_relative_to(beside)
    return replace(entry, file_path=os.path.relpath(picture, beside if near else run.parent))
