"""Which camera of a file belongs to which frame of which clip, and which mask pictures to which clip."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import torch

from fourdgen.data.cameras_io import CameraEntry
from fourdgen.data.sources import Source, natural_key, pictures_in
from fourdgen.report import FourdgenError, absent

HINT = "give each entry of the file `clip` (the video's name without its ending) and `frame` (its number from 0)"


class NoCamera(FourdgenError):
    """A file of cameras has none for a clip: the others may have theirs all the same."""


def match_cameras(
    entries: Sequence[CameraEntry], name: str, source: Source, frames: int, alone: bool, where: Path
) -> dict[int, CameraEntry]:
    """Frame number in the source -> camera, for one clip of `frames` frames.

    Entries with `clip` and `frame` are taken at their word; else `file_path` decides: for a folder of pictures by the
    picture's name, for a video by the folder or stem that bears its name, in sorted order. `alone`: the run has one
    clip, which then owns all entries whatever their folder is called. Raises NoCamera when none is of this clip, and
    FourdgenError when it is not sure which is whose.
    """
    keyed = [e for e in entries if e.clip is not None and e.frame is not None]
    if keyed:
        found: dict[int, CameraEntry] = {}
        for e in keyed:
            if e.clip != name or e.frame is None or not 0 <= e.frame < frames:
                continue
            if e.frame in found and not torch.equal(found[e.frame].cam_from_input, e.cam_from_input):
                raise FourdgenError(f"{where}: two cameras for frame {e.frame} of clip {name}", "keep the right one")
            found[e.frame] = e
        if not found:
            others = sorted({str(e.clip) for e in keyed}, key=natural_key)
            theirs = [e for e in keyed if e.clip == name]
            said = f"its frames are {theirs[0].frame} ..." if theirs else f"it knows {', '.join(others[:8])}"
            kind = FourdgenError if theirs else NoCamera
            raise kind(f"{where}: no camera for a frame of clip {name} ({said})", HINT)
        return found
    mine = _by_path(entries, name, source) or (list(entries) if alone else [])
    if not mine:
        raise NoCamera(
            f"{where}: no camera for clip {name}; its paths are such as {entries[0].file_path or '(empty)'}", HINT
        )
    if source.pictures:
        numbers = {_stem(str(p)): i for i, p in enumerate(source.pictures)}
        found = {numbers[_stem(e.file_path)]: e for e in mine if _stem(e.file_path) in numbers}
        if found:
            return found
    mine = sorted(mine, key=lambda e: natural_key(e.file_path))
    if len(mine) == frames:
        return dict(enumerate(mine))
    return _by_number(mine, name, frames, where)


def _stem(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).stem


def _by_path(entries: Sequence[CameraEntry], name: str, source: Source) -> list[CameraEntry]:
    """Entries whose path names the clip: one of its folders, or the video itself."""
    wanted = {name, source.path.name if source.pictures else source.path.stem}
    return [
        e
        for e in entries
        if wanted & set(PurePosixPath(e.file_path.replace("\\", "/")).parts[:-1]) or _stem(e.file_path) in wanted
    ]


def _by_number(mine: Sequence[CameraEntry], name: str, frames: int, where: Path) -> dict[int, CameraEntry]:
    """By the numbers in the picture names, which say something only if some are missing in between (COLMAP leaves out
    pictures that it could not place): 1..80 for a video of 300 frames may be any 80 of them."""
    digits = [re.findall(r"\d+", _stem(e.file_path)) for e in mine]
    numbers = [int(d[-1]) for d in digits if d]
    first = 0 if 0 in numbers else 1
    gapless = len(numbers) == max(numbers, default=0) + 1 - first
    unique = len(numbers) == len(mine) == len(set(numbers))
    if not unique or gapless or max(numbers) >= frames + first:
        raise FourdgenError(f"{where}: {len(mine)} cameras for the {frames} frames of clip {name}", HINT)
    return {number - first: e for number, e in zip(numbers, mine)}


def match_masks(folder: Path, names: Sequence[str]) -> Mapping[str, tuple[Path, ...]]:
    """Mask pictures of each clip in natural order: FOLDER/CLIP/*.png, or FOLDER/*.png for a single clip.

    Raises FourdgenError: no such folder, no masks for a clip.
    """
    hint = "masks are FOLDER/CLIP/*.png, or FOLDER/*.png for a single clip, one picture a frame"
    if not folder.exists():
        raise absent(folder, hint)
    if not folder.is_dir():
        raise FourdgenError(f"{folder}: a file, not a folder of masks", hint)
    found = {}
    for name in names:
        pictures = pictures_in(folder / name) if (folder / name).is_dir() else ()
        if not pictures and len(names) == 1:
            pictures = pictures_in(folder)
        if not pictures:
            raise FourdgenError(f"{folder}: no masks for clip {name}", hint)
        found[name] = pictures
    return found
