"""What a person may hand in as one clip: a video, or a folder of pictures (RGB, or RGBA: alpha is the mask)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from fourdgen.data import video
from fourdgen.data.picture_size import quick_size
from fourdgen.data.video import VideoFrame, reduced, resized
from fourdgen.report import FourdgenError, Reporter, Silent, absent
from fourdgen.workspace import alike, telling_folders

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".exr", ".avif", ".ppm"}
VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif", ".mpg", ".mpeg", ".ts", ".wmv", ".3gp", ".flv"}
TIMES = "timestamps.txt"  # beside the pictures: one time in seconds a line, in their order


@dataclass(frozen=True)
class Source:
    """One input. `pictures`: the files of a picture folder in natural order, empty for a video."""

    path: Path
    pictures: tuple[Path, ...] = ()

    @property
    def is_video(self) -> bool:
        return not self.pictures


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key in which frame_9 comes before frame_10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part.lower()) for part in re.split(r"(\d+)", name) if part]


def pictures_in(folder: Path) -> tuple[Path, ...]:
    """The pictures of a folder in natural order; hidden files do not count."""
    files = (p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".") and p.is_file())
    return tuple(sorted(files, key=lambda p: natural_key(p.name)))


def open_source(path: Path) -> Source:
    """Looks at an input without reading its frames. Raises FourdgenError: no such file, nothing usable in it."""
    if not path.exists():
        raise absent(path, "give video files or folders of pictures")
    if not path.is_dir():
        return Source(path)
    pictures = pictures_in(path)
    if pictures:
        return Source(path, pictures)
    videos = sorted(p.name for p in path.iterdir() if p.suffix.lower() in VIDEOS)
    if videos:
        raise FourdgenError(
            f"{path}: a folder of videos, not of pictures", f"give the files: {path}/*{Path(videos[0]).suffix}"
        )
    folders = sorted((p for p in path.iterdir() if p.is_dir() and pictures_in(p)), key=lambda p: natural_key(p.name))
    if folders:
        some = " ".join(str(p) for p in folders[:3]) + (" ..." if len(folders) > 3 else "")
        raise FourdgenError(f"{path}: no pictures in this folder, but in folders below it", f"give those: {some}")
    raise FourdgenError(f"{path}: no pictures in this folder", f"known kinds: {' '.join(sorted(PICTURES))}")


def count_and_size(source: Source) -> tuple[int, tuple[int, int]]:
    """(number of frames, for videos only looked for up to 2; size (w, h) in the source). Raises FourdgenError."""
    if source.is_video:
        return video.probe(source.path)
    return len(source.pictures), picture_size(source.pictures[0])


def frame_count(source: Source) -> int:
    """How many frames the source holds, without decoding them; a video's may be off by a few in rare containers."""
    return len(video.frame_ticks(source.path)) if source.is_video else len(source.pictures)


def clip_names(paths: Sequence[Path]) -> list[str]:
    """A name for each input: the stem of its file (a folder's whole name); where several have the same, with the
    folder before it that tells them apart (see `telling_folders`), and a number behind it if that does not."""
    stems = [path.name if path.is_dir() else path.stem for path in paths]
    plain = list(stems)
    for group in alike(stems):
        for i, folder in zip(group, telling_folders([paths[i] for i in group]), strict=True):
            plain[i] = f"{folder}-{stems[i]}"
    names: list[str] = []
    for wanted in plain:
        name, number = wanted, 1
        while name in names:
            number += 1
            name = f"{wanted}-{number}"
        names.append(name)
    return names


def picture_times(source: Source, fps: float) -> list[float]:
    """Seconds of each picture of a folder: from timestamps.txt where it lies there, else evenly by `fps`."""
    path = source.path / TIMES
    if not path.is_file():
        return [i / fps for i in range(len(source.pictures))]
    try:
        seconds = [float(line.split()[0]) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise FourdgenError(
            f"{path}: not a list of seconds ({error})", "one number a line, one line a picture"
        ) from error
    if len(seconds) != len(source.pictures) or any(b <= a for a, b in pairwise(seconds)):
        raise FourdgenError(
            f"{path}: {len(seconds)} times for {len(source.pictures)} pictures, or not ascending", "one line a picture"
        )
    return [s - seconds[0] for s in seconds]


def evenly(times: Sequence[float], limit: int) -> list[int]:
    """Indices of at most `limit` of the ascending `times`, spread evenly over time, with the first and last."""
    if limit <= 0 or len(times) <= limit:
        return list(range(len(times)))
    wanted = np.linspace(times[0], times[-1], limit)
    nearest = np.abs(np.asarray(times)[None] - wanted[:, None]).argmin(1)
    return sorted({int(i) for i in nearest})


def chosen_frames(source: Source, limit: int = 0, fps: float = 24.0, among: Sequence[int] | None = None) -> list[int]:
    """Numbers of the frames that are used: at most `limit` (0: all), evenly in time, all of them in `among`."""
    times: Sequence[float] = video.frame_ticks(source.path) if source.is_video else picture_times(source, fps)
    numbers = [i for i in (range(len(times)) if among is None else sorted(among)) if 0 <= i < len(times)]
    return [numbers[i] for i in evenly([times[i] for i in numbers], limit)]


def read_source(
    source: Source,
    longest: int | None = None,
    limit: int = 0,
    fps: float = 24.0,
    report: Reporter = Silent(),
    among: Sequence[int] | None = None,
) -> Iterator[VideoFrame]:
    """The frames of an input, in time order. `limit`, `among`: see `chosen_frames`; `longest`: see `read_video`."""
    if source.is_video:
        keep = None
        if limit > 0 or among is not None:
            ticks = video.frame_ticks(source.path)
            chosen = chosen_frames(source, limit, fps, among)
            keep = frozenset(ticks[i] for i in chosen) if len(chosen) < len(ticks) else None
        yield from video.read_video(source.path, longest, keep, report)
        return
    seconds = picture_times(source, fps)
    first: tuple[int, int] | None = None
    for index in chosen_frames(source, limit, fps, among):
        picture = read_picture(source.pictures[index])
        size = (picture.shape[1], picture.shape[0])
        first = first or size
        check_same_size(source.pictures[index], size, first)
        yield VideoFrame(resized(picture, reduced(size, longest)), seconds[index], index, size)


def check_same_size(path: Path, size: tuple[int, int], first: tuple[int, int]) -> None:
    """Raises FourdgenError when a picture is not as large as the first of its clip."""
    if size != first:
        raise FourdgenError(
            f"{path}: {size[0]}x{size[1]}, but the first picture of its folder is {first[0]}x{first[1]}",
            "all pictures of one clip must have one size",
        )


def picture_size(path: Path) -> tuple[int, int]:
    """(w, h) of a picture file, upright; decoded only where its header is of a rarer kind. Raises FourdgenError."""
    size = quick_size(path)
    if size is None:
        picture = read_picture(path)
        size = picture.shape[1], picture.shape[0]
    return size


def read_picture(path: Path) -> UInt8[np.ndarray, "h w c"]:
    """A picture file as RGB or straight RGBA, upright. Raises FourdgenError when it cannot be read."""
    how = cv2.IMREAD_COLOR if path.suffix.lower() in (".jpg", ".jpeg") else cv2.IMREAD_UNCHANGED  # EXIF turns photos
    picture = cv2.imread(str(path), how)
    if picture is None:
        raise FourdgenError(f"{path}: this picture cannot be read", "convert it to PNG or JPEG, or take it out")
    picture = _eight_bit(picture)
    if picture.ndim == 2:
        return np.repeat(picture[..., None], 3, 2)
    return np.ascontiguousarray(picture[..., [2, 1, 0, 3] if picture.shape[2] == 4 else [2, 1, 0]])


def read_mask(path: Path) -> UInt8[np.ndarray, "h w"]:
    """A mask file: its alpha where it has one that says something, else its brightness. 0/1 masks count as 0/255."""
    picture = read_picture(path)
    mask = picture[..., 3] if picture.shape[2] == 4 and picture[..., 3].min() < 255 else picture[..., :3].max(-1)
    return np.ascontiguousarray(mask * 255 if mask.max() == 1 else mask)


def _eight_bit(picture: np.ndarray) -> UInt8[np.ndarray, "h w *c"]:
    if picture.dtype == np.uint8:
        return picture
    if picture.dtype == np.uint16:
        return np.asarray((picture.astype(np.float32) / 257).round().astype(np.uint8))
    return np.asarray((picture.clip(0, 1) * 255).round().astype(np.uint8))
