"""What can be known of clips, masks and cameras before a video is decoded, and which of their frames are used."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fourdgen.data import sources
from fourdgen.data.cameras_io import read_camera_entries
from fourdgen.data.matching import NoCamera, match_cameras, match_masks
from fourdgen.data.sources import Source
from fourdgen.report import FourdgenError

LEAST_MASK = 1e-4  # of the picture: a mask that covers less counts as empty
ASPECT = 0.02  # by which the shapes of two pictures of the same thing may differ


@dataclass(frozen=True)
class Intake:
    """One input: its clip's name, how many frames it holds, and their size (w, h) as a viewer shows them."""

    name: str
    source: Source
    frames: int
    size: tuple[int, int]


def look(name: str, path: Path, fps: float) -> Intake:
    """Opens an input. Raises FourdgenError: no clip, fewer than two frames, pictures of several sizes, wrong times."""
    source = sources.open_source(path)
    count, size = sources.count_and_size(source)
    if count < 2:
        raise FourdgenError(f"{source.path}: only one frame", "a 4D asset needs a video that moves: two frames or more")
    if not source.is_video:
        sources.picture_times(source, fps)
        for picture in source.pictures[1:]:
            sources.check_same_size(picture, sources.picture_size(picture), size)
    return Intake(name, source, sources.frame_count(source), size)


def mask_errors(folder: Path, clips: Sequence[Intake], limit: int, fps: float) -> list[FourdgenError]:
    """What is wrong with given masks: their number, their shape, or that there is nothing on any that is used."""
    try:
        found = match_masks(folder, [clip.name for clip in clips])
    except FourdgenError as error:
        return [error]
    errors = []
    for clip in clips:
        try:
            masks = found[clip.name]
            check_mask_count(folder, clip.name, len(masks), clip.frames)
            for path in masks:
                check_mask_size(path, sources.picture_size(path), clip.size, clip.source)
            used = sources.chosen_frames(clip.source, limit, fps)
            if all(is_empty(sources.read_mask(masks[i])) for i in used if i < len(masks)):
                raise empty_error(clip.source, "given", folder)
        except FourdgenError as error:
            errors.append(error)
    return errors


def check_mask_count(folder: Path, name: str, masks: int, frames: int) -> None:
    """Raises FourdgenError unless there is one mask a frame."""
    if masks != frames:
        raise FourdgenError(
            f"{folder}: {masks} masks for the {frames} frames of clip {name}", "one mask a frame is needed"
        )


def check_mask_size(path: Path, mask: tuple[int, int], frame: tuple[int, int], source: Source) -> None:
    """A mask may be smaller or larger than the frames; its shape (w, h) must be theirs."""
    if not same_shape(mask, frame):
        raise FourdgenError(
            f"{path}: {mask[0]}x{mask[1]}, but the frames of {source.path.name} are {frame[0]}x{frame[1]}",
            "masks must show the whole frame, upright",
        )


def same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two pictures (w, h) have the same shape, whatever their size."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= ASPECT * one[0] * other[1]


def is_empty(mask: np.ndarray) -> bool:
    """Whether a mask [h w], 0..255, shows no subject."""
    return float((mask > 127).mean()) < LEAST_MASK


def empty_error(source: Source, way: str, folder: Path | None = None, boxed: bool = False) -> FourdgenError:
    """There is no subject in any frame. `way`: where the masks came from; what helps depends on it. `boxed`: whether
    somebody said where the subject is."""
    if way == "given":
        return FourdgenError(
            f"{folder or source.path}: the masks of {source.path.name} are empty in every frame",
            "a mask is white (or opaque) where the subject is and black elsewhere",
        )
    if way == "alpha":
        return FourdgenError(
            f"{source.path}: its alpha channel hides everything in every frame",
            "alpha is the mask: opaque where the subject is; or give --masks DIR with --set ingest.masks=given",
        )
    return FourdgenError(
        f"{source.path}: no subject was found in any frame (masks: {way})",
        "nothing stands out where --box says that it is: give another, or masks with --masks DIR"
        if boxed
        else "say where it is with --box X,Y,W,H, or give masks with --masks DIR",
    )


def camera_errors(cameras: Path, clips: Sequence[Intake]) -> list[FourdgenError]:
    """What is wrong with given cameras: unreadable, of no clip at all, fewer than two frames, of another shape.

    A clip without any is no mistake as long as another one has some: its cameras are found.
    """
    try:
        entries = read_camera_entries(cameras)
    except FourdgenError as error:
        return [error]
    errors: list[FourdgenError] = []
    missing: list[FourdgenError] = []
    for clip in clips:
        try:
            found = match_cameras(entries, clip.name, clip.source, clip.frames, len(clips) == 1, cameras)
            check_cameras(cameras, clip.name, [entry.size for entry in found.values()], clip.size)
        except NoCamera as error:
            missing.append(error)
        except FourdgenError as error:
            errors.append(error)
    return errors + (missing if len(missing) == len(clips) else [])


def clips_with_cameras(cameras: Path, inputs: Mapping[str, Path]) -> list[str]:
    """Which of the clips (name -> input) have cameras in the file; none where something cannot be read: `look` and
    `camera_errors` say what."""
    try:
        entries, found = read_camera_entries(cameras), []
        for name, path in inputs.items():
            source = sources.open_source(path)
            try:
                match_cameras(entries, name, source, sources.frame_count(source), len(inputs) == 1, cameras)
            except NoCamera:
                continue
            found.append(name)
    except FourdgenError:
        return []
    return found


def check_cameras(cameras: Path, name: str, sizes: Collection[tuple[int, int]], frame: tuple[int, int]) -> None:
    """`sizes` (w, h) of the cameras that a clip has; `frame`: of its frames."""
    if len(sizes) < 2:
        raise FourdgenError(
            f"{cameras}: fewer than two frames of clip {name} have a camera",
            "the others are left out, so two are needed",
        )
    for size in sizes:
        if not same_shape(size, frame):
            raise FourdgenError(
                f"{cameras}: the cameras of clip {name} are for {size[0]}x{size[1]} pictures, "
                f"its frames are {frame[0]}x{frame[1]}",
                "w and h must have the shape of the upright frames",
            )
