"""scene.ply: one self-contained file that any splat viewer opens and that holds a Scene4D completely.

Layout: `vertex` (vertex.py), then elements of int columns that viewers skip. Column names are unique in the file,
because some viewers look columns up by name alone. Floats are stored as the bits of a float32 unless said otherwise:

    fourdgen_text     text_bytes: four bytes of a JSON text each, padded with blanks: version, names, notes (see _text)
    fourdgen_clips    clip_frames clip_samples clip_width clip_height (counts), clip_gain_* clip_bias_*
    fourdgen_frames   frame_id (a number), frame_seconds, frame_cam_* (cam_from_root, first three rows), frame_k_* (K,
                      first two rows); the frames of the first clip, then those of the second, ...
    fourdgen_samples  sample_seconds: when bone poses were sampled, clip after clip
    fourdgen_bones    rest_center_*
    fourdgen_poses    pose_*: dual quaternion, root frame from canonical; per sample all bones
    fourdgen_world    world_low world_high: halves of a float64; world_from_input's scale, rotation by rows, translation
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourdgen.geometry.camera import Cameras, intrinsics, look_at, orbit_eyes
from fourdgen.geometry.transforms import Sim3
from fourdgen.report import FourdgenError, Reporter, Silent
from fourdgen.scene import compressed
from fourdgen.scene.motion import Motion, SampledBones, Still
from fourdgen.scene.ply import Ply, is_zip, matrix, read_ply, table, write_ply
from fourdgen.scene.scene4d import Scene4D, SceneClip
from fourdgen.scene.surfels import Surfels
from fourdgen.scene.vertex import has_second_branch, surfels_from_vertex, vertex_table

VERSION = (1, 0)
MADE_UP = "cameras"  # the note of a file that holds no clips: those that are read from it were never filmed
STILL_CLIP = "still"  # the clip that a static file gets
_AGAIN = "copy it again, or write it again"
_COMMENT_LIMIT = 240  # some readers have a fixed line buffer

_CLIP = (
    "clip_frames", "clip_samples", "clip_width", "clip_height",
    *(f"clip_gain_{i}" for i in range(3)), *(f"clip_bias_{i}" for i in range(3)),
)  # fmt: skip
_FRAME = ("frame_id", "frame_seconds", *(f"frame_cam_{i}" for i in range(12)), *(f"frame_k_{i}" for i in range(6)))
_REST = tuple(f"rest_center_{i}" for i in range(3))
_POSE = tuple(f"pose_{i}" for i in range(8))
_WORLD = ("world_low", "world_high")


def write(path: Path | str, scene: Scene4D) -> None:
    """Writes a scene.ply atomically; equal scenes give equal bytes.

    The motion must be SampledBones or Still, and surfels may name at most four bones (ValueError). Raises FourdgenError
    where the place cannot be written.
    """
    bones = scene.motion if isinstance(scene.motion, SampledBones) else None
    if bones is None and not isinstance(scene.motion, Still):
        raise ValueError(f"a motion of type {type(scene.motion).__name__} must be sampled before it is written")
    elements = {"vertex": vertex_table(scene.surfels), "fourdgen_text": _pack_text(_text(scene))}
    clips = list(scene.clips.values())
    elements["fourdgen_clips"] = table(_CLIP, np.stack([_clip_row(clip, bones) for clip in clips]))
    elements["fourdgen_frames"] = table(_FRAME, np.concatenate([_frame_rows(clip) for clip in clips]))
    if bones is not None:
        times = np.concatenate([_bits(bones.seconds[clip.name]) for clip in clips])
        poses = np.concatenate([_bits(bones.dual_quats[clip.name]).reshape(-1, 8) for clip in clips])
        elements["fourdgen_samples"] = table(("sample_seconds",), times[:, None])
        elements["fourdgen_bones"] = table(_REST, _bits(bones.centers))
        elements["fourdgen_poses"] = table(_POSE, poses)
    if scene.world_from_input is not None:
        world = scene.world_from_input
        numbers = [world.scale, *world.rotation.double().flatten().tolist(), *world.translation.double().tolist()]
        elements["fourdgen_world"] = table(_WORLD, np.array(numbers, dtype="<f8").view("<i4").reshape(-1, 2))
    comments = [
        f"fourdgen scene {VERSION[0]}.{VERSION[1]}: surfels that move; y points down",
        "elements fourdgen_* hold motion and cameras; their int columns hold float32 bits except counts and frame_id",
        "run folder: " + ascii(scene.run_folder)[1:-1],
        "made by fourdgen",
    ]
    write_ply(Path(path), elements, [comment[:_COMMENT_LIMIT] for comment in comments])


def read(path: Path | str, report: Reporter = Silent()) -> Scene4D:
    """Reads a scene.ply, a compressed scene, or any uncompressed 3DGS file as a still scene with one made-up clip of
    cameras around it.

    What had to be left out is warned about, and said in the scene's notes. Raises FourdgenError for everything that is
    no such file: cut off, damaged, of a newer version.
    """
    path = Path(path)
    if is_zip(path):
        return compressed.read(path)
    ply = read_ply(path)
    if "vertex" not in ply.elements:
        raise FourdgenError(
            f"{path} has no vertices that can be read", "give a scene.ply, or a .ply of Gaussian splats"
        )
    if len(ply.elements["vertex"]) == 0:
        raise FourdgenError(f"{path} holds no surfels", "write it again")
    if "fourdgen_text" not in ply.elements:
        scene, dropped = _read_static(path, ply.elements["vertex"])
    else:
        try:
            scene, dropped = _read_scene(path, ply)
        except (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as error:
            raise FourdgenError(f"{path} is damaged: {_said(error)}", _AGAIN) from None
    if has_second_branch(ply.elements["vertex"]):
        report.warn(f"{path}: the refined branch of an earlier version (refine_0 to refine_4) is ignored")
    if dropped:
        scene = _noted(scene, "surfels", f"{dropped} of {dropped + len(scene.surfels)} were unusable and left out")
    for note in ("motion", "surfels"):
        if note in scene.notes:
            report.warn(f"{path}: {note}: {scene.notes[note]}")
    return scene


def _text(scene: Scene4D) -> dict[str, Any]:
    return {
        "version": list(VERSION),
        "clips": list(scene.clips),
        "reference": scene.reference,
        "run_folder": scene.run_folder,
        "notes": dict(scene.notes),
        "skin": scene.surfels.bone_ids is not None and scene.surfels.bone_weights is not None,
        "refinement": False,  # earlier versions of the reader ask whether there is a second branch
    }


def _pack_text(text: Mapping[str, Any]) -> np.ndarray:
    """JSON in ASCII (escapes keep any unicode, even the halves of a broken pair), four bytes to an int."""
    raw = json.dumps(text, sort_keys=True).encode("ascii")
    raw += b" " * (-len(raw) % 4)
    return table(("text_bytes",), np.frombuffer(raw, dtype="<i4")[:, None])


def _unpack_text(element: np.ndarray) -> dict[str, Any]:
    text = json.loads(_ints(element, ("text_bytes",)).astype("<i4").tobytes().decode("ascii"))
    if not isinstance(text, dict):
        raise ValueError("its text is no JSON object")
    return text


def _ints(element: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Columns [n c] int32. Raises ValueError where a program has made something else of them."""
    columns = matrix(element, names)
    if columns.dtype.kind not in "iu" or columns.dtype.itemsize > 4:
        raise ValueError(f"{names[0]} is no int")
    return columns.astype("<i4")


def _bits(values: torch.Tensor) -> np.ndarray:
    """float32 bits as int32, same shape."""
    return np.ascontiguousarray(values.detach().cpu().float().numpy(), dtype="<f4").view("<i4")


def _floats(bits: np.ndarray, what: str) -> torch.Tensor:
    """float32 of their bits, same shape. Raises ValueError where one is not finite."""
    values = np.ascontiguousarray(bits, dtype="<i4").view("<f4")
    if not np.isfinite(values).all():
        raise ValueError(f"{what} are not all finite")
    return torch.from_numpy(values.astype(np.float32))


def _clip_row(clip: SceneClip, bones: SampledBones | None) -> np.ndarray:
    samples = 0 if bones is None else len(bones.seconds[clip.name])
    counts = np.array([len(clip.seconds), samples, *clip.cameras.size], dtype="<i4")
    return np.concatenate([counts, _bits(clip.gain), _bits(clip.bias)])


def _frame_rows(clip: SceneClip) -> np.ndarray:
    count = len(clip.seconds)
    return np.concatenate(
        [
            clip.frame_ids.detach().cpu().numpy().astype("<i4").reshape(count, 1),
            _bits(clip.seconds).reshape(count, 1),
            _bits(clip.cameras.cam_from_world[:, :3]).reshape(count, 12),
            _bits(clip.cameras.K[:, :2]).reshape(count, 6),
        ],
        axis=1,
    )


def _read_scene(path: Path, ply: Ply) -> tuple[Scene4D, int]:
    """The scene and the number of unusable surfels. Raises ValueError, KeyError, ... for what cannot be."""
    text = _unpack_text(ply.elements["fourdgen_text"])
    major, minor = (int(number) for number in text["version"])
    if major > VERSION[0]:
        raise FourdgenError(
            f"{path} was written by a newer fourdgen (format {major}.{minor}; this one reads {VERSION[0]}.x)",
            "update fourdgen",
        )
    surfels, dropped = surfels_from_vertex(path, ply.elements["vertex"], bool(text["skin"]))
    names = [_string(name, "a clip's name") for name in text["clips"]]
    if len(set(names)) != len(names) or text["reference"] not in names:
        raise ValueError("its clips' names do not fit together")
    counts = _ints(ply.elements["fourdgen_clips"], _CLIP)
    if len(counts) != len(names):
        raise ValueError(f"{len(names)} clips are named and {len(counts)} described")
    clips = _read_clips(names, counts, _ints(ply.elements["fourdgen_frames"], _FRAME))
    notes = {_string(key, "a note"): _string(value, "a note") for key, value in text["notes"].items()}
    scene = Scene4D(
        surfels=surfels,
        motion=_read_motion(ply, names, counts[:, 1], surfels),
        clips=clips,
        reference=text["reference"],
        world_from_input=_read_world(ply),
        run_folder=_string(text["run_folder"], "the run folder"),
        notes=notes,
    )
    return scene, dropped


def _read_clips(names: list[str], counts: np.ndarray, frames: np.ndarray) -> dict[str, SceneClip]:
    lengths = counts[:, 0].astype(np.int64)
    if (lengths < 1).any() or lengths.sum() != len(frames):
        raise ValueError("the number of its frames does not fit its clips")
    if (counts[:, 2:4] < 1).any() or (counts[:, 2:4] > 1 << 16).any():
        raise ValueError("a clip has an impossible picture size")
    clips = {}
    for name, row, rows in zip(names, counts, np.split(frames, np.cumsum(lengths)[:-1])):
        seconds = _floats(rows[:, 1], "frame times")
        _check_rising(seconds)
        poses, K = torch.eye(4).repeat(len(rows), 1, 1), torch.eye(3).repeat(len(rows), 1, 1)
        poses[:, :3] = _floats(rows[:, 2:14], "cameras").reshape(-1, 3, 4)
        K[:, :2] = _floats(rows[:, 14:20], "focal lengths").reshape(-1, 2, 3)
        colors = _floats(row[4:10], "colour gains")
        clips[name] = SceneClip(
            name=name,
            seconds=seconds,
            frame_ids=torch.from_numpy(rows[:, 0].astype(np.int64)),
            cameras=Cameras(poses, K, (int(row[2]), int(row[3]))),
            gain=colors[:3],
            bias=colors[3:],
        )
    return clips


def _read_motion(ply: Ply, names: list[str], samples: np.ndarray, surfels: Surfels) -> Motion:
    if "fourdgen_poses" not in ply.elements:
        if samples.any():
            raise ValueError("its bone poses are gone")
        return Still()
    centers = _floats(_ints(ply.elements["fourdgen_bones"], _REST), "bones")
    times = _floats(_ints(ply.elements["fourdgen_samples"], ("sample_seconds",))[:, 0], "times of bone poses")
    poses = _floats(_ints(ply.elements["fourdgen_poses"], _POSE), "bone poses")
    lengths = samples.astype(np.int64)
    if (
        (lengths < 1).any()
        or lengths.sum() != len(times)
        or len(times) * len(centers) != len(poses)
        or not len(centers)
    ):
        raise ValueError("the number of its bone poses does not fit its clips")
    if bool((poses[:, :4].norm(dim=1) < 1e-6).any()):
        raise ValueError("a bone pose is no rotation")
    ids = surfels.bone_ids
    if ids is not None and (int(ids.min()) < 0 or int(ids.max()) >= len(centers)):
        raise ValueError("a surfel names a bone that is not there")
    each = [int(length) for length in lengths]
    seconds = dict(zip(names, torch.split(times, each)))
    for part in seconds.values():
        _check_rising(part)
    return SampledBones(
        seconds, dict(zip(names, torch.split(poses.reshape(len(times), len(centers), 8), each))), centers
    )


def _read_world(ply: Ply) -> Sim3 | None:
    if "fourdgen_world" not in ply.elements:
        return None
    halves = np.ascontiguousarray(_ints(ply.elements["fourdgen_world"], _WORLD), dtype="<i4")
    if halves.shape != (13, 2):
        raise ValueError("world_from_input is incomplete")
    numbers = torch.from_numpy(halves.view("<f8")[:, 0].astype(np.float64))
    if not bool(torch.isfinite(numbers).all()) or float(numbers[0]) <= 0:
        raise ValueError("world_from_input is no similarity")
    return Sim3(float(numbers[0]), numbers[1:10].reshape(3, 3), numbers[10:])


def _read_static(path: Path, vertex: np.ndarray) -> tuple[Scene4D, int]:
    surfels, dropped = surfels_from_vertex(path, vertex, skinned=False)
    clip = orbit_clip(surfels)
    scene = Scene4D(surfels, Still(), {clip.name: clip}, clip.name, notes={MADE_UP: "made up, once around the subject"})
    if "bone_0" in (vertex.dtype.names or ()):
        scene = _noted(scene, "motion", "lost: another program has dropped it from the file; the scene stands still")
    return scene, dropped


def orbit_clip(surfels: Surfels, frames: int = 48, fps: float = 12.0, fov_degrees: float = 40.0) -> SceneClip:
    """A clip of cameras once around the surfels, for scenes that were not filmed."""
    center, radius = extent(surfels)
    distance = 1.15 * radius / np.sin(np.radians(fov_degrees / 2))
    eyes = orbit_eyes(torch.arange(frames) * (360.0 / frames), 10.0, float(distance)) + center
    size = (512, 512)
    return SceneClip(
        name=STILL_CLIP,
        seconds=torch.arange(frames) / fps,
        frame_ids=torch.arange(frames),
        cameras=Cameras(look_at(eyes, center), intrinsics(fov_degrees, size).expand(frames, 3, 3).clone(), size),
        gain=torch.ones(3),
        bias=torch.zeros(3),
    )


def extent(surfels: Surfels) -> tuple[torch.Tensor, float]:
    """Centre [3] and radius of what can be seen: the middle of the box that holds all but the outermost percent."""
    visible = surfels.means[torch.sigmoid(surfels.opacity) > 0.1]
    points = (visible if len(visible) else surfels.means).double()
    bounds = torch.from_numpy(np.quantile(points.numpy(), [0.01, 0.99], axis=0))
    center = bounds.mean(0)
    radius = float(np.quantile((points - center).norm(dim=1).numpy(), 0.99))
    return center.float(), max(radius, 1e-6)


def _noted(scene: Scene4D, key: str, value: str) -> Scene4D:
    return replace(scene, notes={**scene.notes, key: value})


def _check_rising(seconds: torch.Tensor) -> None:
    if bool((seconds[1:] < seconds[:-1]).any()):
        raise ValueError("its times do not rise")


def _string(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} is no text")
    return value


def _said(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)[:200]
