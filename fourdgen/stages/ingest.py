"""Stage ingest: videos and picture folders become clips with masks: upright, undistorted, of a size to train on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8

from fourdgen import weights
from fourdgen.config import check_clips, of_clip, said_of_clips
from fourdgen.data import sources
from fourdgen.data.cameras_io import CameraEntry, read_camera_entries
from fourdgen.data.capture import Capture, Clip, load_capture, save_capture, write_picture
from fourdgen.data.contact_sheet import draw_masks
from fourdgen.data.intake import (
    Intake,
    camera_errors,
    check_cameras,
    check_mask_count,
    check_mask_size,
    empty_error,
    is_empty,
    look,
    mask_errors,
)
from fourdgen.data.lens import Lens, straightened
from fourdgen.data.matching import NoCamera, match_cameras, match_masks
from fourdgen.data.sources import Source
from fourdgen.data.video import reduced, resized
from fourdgen.geometry.camera import Cameras
from fourdgen.priors import masks, plain
from fourdgen.priors.doubts import mask_doubts
from fourdgen.report import FourdgenError, Reporter, all_at_once
from fourdgen.workspace import Context, Job, Stage

SHEET = "check.png"  # the masks at a glance
Box = tuple[float, float, float, float]
CLEAR = 128  # alpha below this somewhere makes an alpha channel a mask


@dataclass(frozen=True)
class IngestConfig:
    """Settings of stage ingest."""

    size: int = 512  # longer side of the stored frames in pixels, at most; 0: as filmed
    frames: int = 400  # use at most this many frames of a clip, evenly in time; 0: all
    fps: float = 24.0  # frame rate of picture folders (a timestamps.txt beside the pictures goes before)
    # x,y,w,h of the subject in the first frame, pixels of the source; may be one for each clip, as in a=1,2,3,4
    box: Box | dict[str, Box] | None = None
    masks: Literal["auto", "alpha", "given", "plain", "u2netp", "classical"] = "auto"  # where masks come from

    def __post_init__(self) -> None:
        if self.size < 0 or 0 < self.size < 32:
            raise ValueError(f"size = {self.size}: expected at least 32 pixels (or 0: as filmed)")
        if self.frames < 0 or self.frames == 1:
            raise ValueError(f"frames = {self.frames}: expected at least 2 (or 0: all)")
        if not self.fps > 0:
            raise ValueError(f"fps = {self.fps}: expected a positive number")
        for box in said_of_clips(self.box):
            if box is not None and (box[2] <= 0 or box[3] <= 0):
                said = ",".join(f"{value:g}" for value in box)
                raise ValueError(f"box = {said}: expected X,Y,W,H in pixels, with a width and a height above 0")


def check(job: Job, config: IngestConfig) -> None:
    """All that can be known without decoding a video. Raises one FourdgenError with everything that is wrong."""
    errors: list[FourdgenError] = []
    opened: list[Intake] = []
    if not job.inputs:
        errors.append(FourdgenError("there is no input", "give video files or folders of pictures"))
    twice = sorted({str(path) for path in job.inputs if job.inputs.count(path) > 1})
    errors += [FourdgenError(f"{path} is given twice", "name each clip once") for path in twice]
    try:
        check_clips({"--box": config.box}, sources.clip_names(job.inputs))
    except FourdgenError as error:
        errors.append(error)
    for name, path in zip(sources.clip_names(job.inputs), job.inputs):
        try:
            clip = look(name, path, config.fps)
            opened.append(clip)
            _check_box(clip, config)
            if config.masks in ("auto", "alpha"):
                _check_alpha(clip, config)
        except FourdgenError as error:
            errors.append(error)
    if config.masks == "given" and job.masks is None:
        errors.append(FourdgenError("ingest.masks = given, but there is no folder of masks", "give --masks DIR"))
    if config.masks == "u2netp":
        try:
            if masks.network() is None:
                errors.append(FourdgenError("there are no mask weights on this machine", "`fourdgen doctor --fetch`"))
        except FourdgenError as error:
            errors.append(error)
    if len(opened) == len(job.inputs):  # A missing clip would make the messages below wrong.
        if job.masks is not None and config.masks in ("auto", "given"):
            errors += mask_errors(job.masks, opened, config.frames, config.fps)
        if job.cameras is not None:
            errors += camera_errors(job.cameras, opened)
    if errors:
        raise all_at_once(errors)


def _check_box(clip: Intake, config: IngestConfig) -> None:
    box = of_clip(config.box, clip.name)
    if box is not None and any(box[i] >= clip.size[i] or box[i] + box[i + 2] <= 0 for i in (0, 1)):
        raise FourdgenError(
            f"{clip.source.path}: the box lies outside its {clip.size[0]}x{clip.size[1]} picture",
            "--box X,Y,W,H, pixels from top left; CLIP=X,Y,W,H for one clip",
        )


def _check_alpha(clip: Intake, config: IngestConfig) -> None:
    """Pictures whose alpha is the mask, and empty in all of them. One that is not ends the search: mostly the first."""
    for number in sources.chosen_frames(clip.source, config.frames, config.fps) if not clip.source.is_video else ():
        picture = sources.read_picture(clip.source.pictures[number])
        if picture.shape[2] < 4 or not is_empty(picture[..., 3]):
            return
    if not clip.source.is_video:
        raise empty_error(clip.source, "alpha")


def files(job: Job) -> tuple[Path, ...]:
    """What is read, for the fingerprint. Of a COLMAP folder only the model itself: pictures may lie beside it."""
    found = list(job.inputs)
    if job.masks is not None:
        found.append(job.masks)
    if job.cameras is not None and job.cameras.is_dir():
        names = ("transforms.json", "cameras.bin", "images.bin", "cameras.txt", "images.txt")
        found += sorted(p for name in names for p in job.cameras.rglob(name))
    elif job.cameras is not None:
        found.append(job.cameras)
    return tuple(found)


def facts(job: Job, config: IngestConfig, device: str) -> tuple[str, ...]:
    """Which mask network is there, if it matters: clips with alpha, masks or a plain background do not use it."""
    if job.masks is not None or config.masks in ("alpha", "given", "plain", "classical"):
        return ()
    for path in job.inputs:
        frame = next(iter(sources.read_source(sources.open_source(path), 256)))
        if frame.picture.shape[2] == 3 and plain.find_plain(frame.picture[None]) is None:
            found = masks.network()
            return (f"mask network {weights.find(found[0]).sha256}" if found else "no mask network",)
    return ()


def run(ctx: Context, config: IngestConfig) -> Capture:
    job = ctx.job
    names = sources.clip_names(job.inputs)
    given = {} if job.masks is None else match_masks(job.masks, names)
    entries = None if job.cameras is None else read_camera_entries(job.cameras)
    clips: list[Clip] = []
    for name, path in zip(names, job.inputs):
        shutil.rmtree(ctx.folder / name, ignore_errors=True)  # a killed run may have left half a clip
        clip = _ingest(ctx, config, name, sources.open_source(path), given.get(name), entries)
        clips.append(clip)
        ctx.report.emit(
            "note",
            text=f"{name}: {len(clip)} frames of {clip.size[0]}x{clip.size[1]}, {float(clip.seconds[-1]):.2f} s, "
            f"masks: {clip.masks_from}" + ("" if clip.cameras is None else ", cameras given"),
        )
    capture = Capture(tuple(clips), ctx.folder)
    draw_masks(capture, ctx.folder / SHEET)
    return capture


@dataclass(frozen=True)
class _Pictures:
    """A clip while it is in memory: [t h w 3], [t h w] or None, seconds, frame numbers, size (w, h) in the source."""

    rgb: UInt8[np.ndarray, "t h w 3"]
    alpha: UInt8[np.ndarray, "t h w"] | None
    seconds: list[float]
    ids: list[int]
    source_size: tuple[int, int]


def _ingest(
    ctx: Context,
    config: IngestConfig,
    name: str,
    source: Source,
    given: Sequence[Path] | None,
    entries: Sequence[CameraEntry] | None,
) -> Clip:
    found: Mapping[int, CameraEntry] | None = None
    if entries is not None:
        found = _known_cameras(ctx, name, source, entries)
    pictures = _read(source, config, ctx.report, found)
    if not source.is_video and not (source.path / sources.TIMES).is_file():
        ctx.report.emit("note", text=f"{name}: pictures without times, taken as {config.fps:g} a second (ingest.fps)")
    alpha, way = pictures.alpha, "alpha"
    if given is not None and config.masks in ("auto", "given"):
        if alpha is not None and config.masks == "auto":
            ctx.report.warn(f"{name}: its own alpha channel is the mask; --masks is not used for it")
        else:
            assert ctx.job.masks is not None
            alpha, way = _read_masks(given, ctx.job.masks, name, pictures, source), "given"
    elif config.masks not in ("auto", "alpha"):
        alpha = None
    if config.masks == "alpha" and alpha is None:
        raise FourdgenError(f"{source.path}: no alpha channel", "leave --set ingest.masks=alpha away")
    rgb, cameras, known = pictures.rgb, None, None
    if found is not None:
        picked, cameras = _cameras(ctx, name, pictures, found)
        keep, lenses = picked
        pictures = _Pictures(
            rgb[keep], None, [pictures.seconds[i] for i in keep], [pictures.ids[i] for i in keep], pictures.source_size
        )
        rgb, alpha = pictures.rgb, None if alpha is None else alpha[keep]
        if any(not lens.straight for lens in lenses):
            rgb, alpha, known, cameras = straightened(rgb, alpha, lenses, cameras)
    if alpha is None:
        rgb, alpha, way = _cut(ctx, config, name, rgb, pictures.source_size)
    weight = np.full(alpha.shape, 255, np.uint8) if known is None else known
    alpha = np.where(weight > 0, alpha, 0).astype(np.uint8)
    weight = _ignore_empty(ctx, config, name, alpha, weight, pictures.ids, source, way)
    if way not in ("alpha", "given"):
        _doubt(ctx, name, alpha, way)
    weighted = bool((weight < 255).any())
    for t in range(len(rgb)):
        write_picture(ctx.folder, name, "rgb", t, rgb[t])
        write_picture(ctx.folder, name, "mask", t, alpha[t])
        if weighted:
            write_picture(ctx.folder, name, "weight", t, weight[t])
    return Clip(
        name=name,
        source=str(source.path),
        size=(rgb.shape[2], rgb.shape[1]),
        seconds=torch.tensor(pictures.seconds, dtype=torch.float32),
        frame_ids=torch.tensor(pictures.ids, dtype=torch.int64),
        cameras=cameras,
        masks_from=way,
        weighted=weighted,
    )


def _read(
    source: Source, config: IngestConfig, report: Reporter, cameras: Mapping[int, CameraEntry] | None
) -> _Pictures:
    among = None if cameras is None else sorted(cameras)
    frames = list(sources.read_source(source, config.size or None, config.frames, config.fps, report, among))
    if len(frames) < 2:
        raise FourdgenError(f"{source.path}: only one frame", "a 4D asset needs a video that moves: two frames or more")
    rgb = np.stack([frame.picture[..., :3] for frame in frames])
    alpha = None
    clear = sum(frame.picture.shape[2] == 4 for frame in frames)
    if 0 < clear < len(frames):
        report.warn(f"{source.path.name}: {clear} of {len(frames)} pictures have an alpha channel; it is not used")
    if clear == len(frames):
        alpha = np.stack([frame.picture[..., 3] for frame in frames])
        if alpha.min() >= CLEAR:
            alpha = None  # a channel that hides nothing, as in most GIFs
        else:
            rgb[alpha == 0] = 255  # nobody knows what colour lies under a fully transparent pixel
    return _Pictures(rgb, alpha, [f.seconds for f in frames], [f.index for f in frames], frames[0].size)


def _read_masks(
    paths: Sequence[Path], folder: Path, name: str, pictures: _Pictures, source: Source
) -> UInt8[np.ndarray, "t h w"]:
    if max(pictures.ids) >= len(paths):
        check_mask_count(folder, name, len(paths), max(pictures.ids) + 1)
    width, height = pictures.rgb.shape[2], pictures.rgb.shape[1]
    out = np.empty((len(pictures.ids), height, width), np.uint8)
    for row, number in enumerate(pictures.ids):
        mask = sources.read_mask(paths[number])
        check_mask_size(paths[number], (mask.shape[1], mask.shape[0]), pictures.source_size, source)
        out[row] = resized(np.repeat(mask[..., None], 3, 2), (width, height))[..., 0]
    return out


def _known_cameras(
    ctx: Context, name: str, source: Source, entries: Sequence[CameraEntry]
) -> Mapping[int, CameraEntry] | None:
    """Frame number -> camera. Only these frames are used: a limit picks among them. None: this clip has none."""
    assert ctx.job.cameras is not None
    count, alone = sources.frame_count(source), len(ctx.job.inputs) == 1
    try:
        found = match_cameras(entries, name, source, count, alone, ctx.job.cameras)
    except NoCamera:
        ctx.report.warn(f"{name}: {ctx.job.cameras.name} has no camera for this clip; its cameras are found")
        return None
    without = [number for number in range(count) if number not in found]
    if without:
        ctx.report.warn(f"{name}: no camera for frames {numbers(without)}; they are left out")
    return found


def _cameras(
    ctx: Context, name: str, pictures: _Pictures, found: Mapping[int, CameraEntry]
) -> tuple[tuple[list[int], list[Lens]], Cameras]:
    """((rows of the frames that have a camera, their lenses), their cameras in pixels of the stored pictures)."""
    assert ctx.job.cameras is not None
    keep = [row for row, number in enumerate(pictures.ids) if number in found]
    check_cameras(ctx.job.cameras, name, [found[pictures.ids[row]].size for row in keep], pictures.source_size)
    size = (pictures.rgb.shape[2], pictures.rgb.shape[1])
    poses, Ks, lenses = [], [], []
    for row in keep:
        entry = found[pictures.ids[row]]
        poses.append(entry.cam_from_input)
        Ks.append(Cameras(entry.cam_from_input[None], entry.K[None].double(), entry.size).resized(size).K[0])
        lenses.append(entry.distortion or Lens())
    return (keep, lenses), Cameras(torch.stack(poses).float(), torch.stack(Ks).float(), size)


def _cut(
    ctx: Context, config: IngestConfig, name: str, rgb: UInt8[np.ndarray, "t h w 3"], source_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, str]:
    box = of_clip(config.box, name)
    if box is not None:
        small = reduced(source_size, config.size or None)
        x, y = small[0] / source_size[0], small[1] / source_size[1]
        box = (box[0] * x, box[1] * y, box[2] * x, box[3] * y)
    way: masks.Way | None = None
    if config.masks in ("plain", "u2netp", "classical"):
        way = config.masks
    cut = masks.cut_subject(rgb, box, way, ctx.threads, ctx.report, name)
    if cut.way == "classical" and way is None:
        ctx.report.warn(
            f"{name}: no neural mask weights on this machine, using classical masks; look at check.png "
            "(better ones: `fourdgen doctor --fetch`, or --masks DIR)"
        )
    return cut.rgb, cut.mask, cut.way


def _box_of(ctx: Context, name: str) -> str:
    """What --box takes for a clip."""
    return "X,Y,W,H" if len(ctx.job.inputs) == 1 else f"{name}=X,Y,W,H"


def _doubt(ctx: Context, name: str, alpha: UInt8[np.ndarray, "t h w"], way: str) -> None:
    found = mask_doubts(alpha)
    if found:
        sheet = ctx.folder.with_suffix("") / SHEET  # where it will lie when the stage is done
        ctx.report.warn(
            f"{name}: the masks ({way}) may be wrong: they {' and '.join(found)}; look at {sheet}, and help with "
            f"--box {_box_of(ctx, name)} (which subject, in the first frame) or --masks DIR"
        )


def _ignore_empty(
    ctx: Context,
    config: IngestConfig,
    name: str,
    alpha: UInt8[np.ndarray, "t h w"],
    weight: UInt8[np.ndarray, "t h w"],
    ids: Sequence[int],
    source: Source,
    way: str,
) -> UInt8[np.ndarray, "t h w"]:
    empty = np.array([is_empty(mask) for mask in alpha])
    if empty.all():
        raise empty_error(source, way, boxed=of_clip(config.box, name) is not None)
    if empty.any():
        gone = numbers([i for i, nothing in zip(ids, empty) if nothing])
        help_ = "" if way in ("alpha", "given") else f" (--box {_box_of(ctx, name)} or --masks DIR may help)"
        ctx.report.warn(f"{name}: empty masks, so these frames do not count: {gone}{help_}")
    return np.where(empty[:, None, None], 0, weight).astype(np.uint8)


def numbers(values: Sequence[int]) -> str:
    """`3, 7-9, 12`; cut short when long."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    said = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    return ", ".join(said[:12]) + (f" and {len(said) - 12} more" if len(said) > 12 else "")


def save(capture: Capture, folder: Path) -> None:
    save_capture(capture, folder)


def load(folder: Path) -> Capture:
    return load_capture(folder)


STAGE = Stage(
    name="ingest", needs=(), config=IngestConfig, version=2, run=run, save=save, load=load,
    files=files, facts=facts, check=check,
)  # fmt: skip
