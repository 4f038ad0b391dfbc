"""The whole 4D asset as a small .sog: splats of the rest pose that any SOG viewer opens, and beside them, in entries
that viewers do not look at, bones, motion, clips and cameras.

    fourdgen.json     version, names, notes, picture sizes, colour gains, and how the numbers below are quantised
    bones.xz          per splat: four bone ids, weights of all but the heaviest (bytes), confidence (byte)
    motion.xz         per clip: second differences in time of quantised rotations and places of all bones
    frames.xz         float32: sample times, frame numbers and times, camera rotations (quaternions), places, intrinsics

Numbers stand in planes (all first bytes, then all second ones): neighbours are alike, which suits the compression.
"""

from __future__ import annotations

import io
import json
import lzma
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import Sim3, dual_quat, dual_quat_parts, quat_from_matrix, quat_rotate, quat_to_matrix
from fourdgen.report import FourdgenError, Reporter, Silent
from fourdgen.scene.formats import sog
from fourdgen.scene.motion import Motion, SampledBones, Still
from fourdgen.scene.scene4d import Scene4D, SceneClip
from fourdgen.scene.surfels import Surfels
from fourdgen.scene.vertex import splat_columns
from fourdgen.scene.whole import whole_file

VERSION = 1
POSITION_BITS = 12
LEVELS = 64  # of sizes and colours
ALPHA_STEP = 4  # of 255
TURN_STEP = 1 / 2048  # of a quaternion's components
PLACE_STEP = 4e-4  # of the largest distance that a bone is from the origin
TEXT, BONES, MOTION, FRAMES = "fourdgen.json", "bones.xz", "motion.xz", "frames.xz"
_LARGEST = 1 << 28  # bytes: nothing in such a file is larger when it is unpacked
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}]


def write(path: Path, scene: Scene4D, report: Reporter = Silent()) -> None:
    """Writes the asset. The motion must be SampledBones or Still (ValueError)."""

    def done(part: int) -> None:
        report.emit("step", stage="compress", step=part, total=4)

    motion = scene.motion
    if not isinstance(motion, SampledBones | Still):
        raise ValueError(f"a motion of type {type(motion).__name__} must be sampled before it is written")
    names, values = splat_columns(scene.surfels)
    order = sog.morton_order(np.stack([values[:, names.index(axis)] for axis in "xyz"], 1).astype(np.float64))
    surfels = scene.surfels[torch.from_numpy(order)]
    entries = sog.splat_images(names, values, POSITION_BITS, LEVELS, ALPHA_STEP)
    done(1)
    text: dict[str, Any] = {
        "version": VERSION, "reference": scene.reference, "run_folder": scene.run_folder, "notes": dict(scene.notes),
        "clips": [_clip_text(clip) for clip in scene.clips.values()],
    }  # fmt: skip
    if scene.world_from_input is not None:
        world = scene.world_from_input
        text["world"] = [world.scale, *world.rotation.double().flatten().tolist(), *world.translation.double().tolist()]
    skinned = isinstance(motion, SampledBones) and surfels.bone_ids is not None
    text["bones"] = _bones_per_surfel(surfels) if skinned else 0
    entries[BONES] = _packed(_surfel_bytes(surfels, text["bones"]))
    done(2)
    if isinstance(motion, SampledBones):
        text["centers"] = [[round(x, 7) for x in center] for center in motion.centers.tolist()]
        step = text["place_step"] = PLACE_STEP * max(float(motion.centers.norm(dim=1).max()), 1e-3)
        parts = [_quantised(motion, name, step) for name in scene.clips]
        text["samples"] = [len(part) for part in parts]
        entries[MOTION] = _packed(np.concatenate([_second_differences(part).reshape(-1) for part in parts]))
    done(3)
    times = [motion.seconds[name].numpy() for name in scene.clips] if isinstance(motion, SampledBones) else []
    frames = [_frame_numbers(clip) for clip in scene.clips.values()]
    entries[FRAMES] = _packed(
        np.concatenate([np.zeros(0), *times, *[part.T.reshape(-1) for part in frames]]).astype("<f4")
    )
    entries[TEXT] = json.dumps(text).encode("ascii")
    with whole_file(path) as part:
        sog.write_bundle(part, entries)
    done(4)


def read(path: Path) -> Scene4D:
    """Reads what `write` wrote. Raises FourdgenError for any other file, and for a damaged one."""
    try:
        with zipfile.ZipFile(path) as bundle:
            if TEXT not in bundle.namelist():
                raise FourdgenError(f"{path} holds no 4D asset", "give a scene.ply, or what export --compress wrote")
            entries = {info.filename: _entry(bundle, info) for info in bundle.infolist()}
        text = json.loads(entries[TEXT])
        if int(text["version"]) > VERSION:
            raise FourdgenError(f"{path} was written by a newer fourdgen", "update fourdgen")
        return _scene(text, entries)
    except FourdgenError:
        raise
    except OSError as error:
        raise FourdgenError(f"{path}: cannot be read: {error.strerror or error}", "check the path") from None
    # zipfile raises a RuntimeError for a packing or an encryption that it does not know.
    except (
        zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, RuntimeError, LookupError,
        ValueError, TypeError, AttributeError, OverflowError,
    ) as error:  # fmt: skip
        raise FourdgenError(f"{path} is damaged: {str(error)[:200]}", "copy it again, or write it again") from None


def _entry(bundle: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.file_size > _LARGEST:
        raise ValueError(f"{info.filename} is absurdly large")
    return bundle.read(info)


def _scene(text: dict[str, Any], entries: dict[str, bytes]) -> Scene4D:
    columns = sog.read_splats(entries)
    count = len(columns["means"])
    bones = int(text["bones"])
    raw = _unpacked(entries[BONES], np.uint8, count * (2 * bones - 1 + 1 if bones else 1))
    raw = raw.reshape(-1, count)
    surfels = Surfels(
        means=columns["means"], quats=columns["quats"], log_scales=columns["log_scales"][:, :2],
        opacity=columns["opacity"], sh=columns["sh"], confidence=torch.from_numpy(raw[-1] / 255.0).float(),
    )  # fmt: skip
    clips_text = text["clips"]
    frames = [int(clip["frames"]) for clip in clips_text]
    samples = [int(number) for number in text.get("samples", [])]
    if any(number < 1 for number in (*frames, *samples)) or (samples and len(samples) != len(frames)):
        raise ValueError("its clips do not fit together")
    numbers = _unpacked(entries[FRAMES], "<f4", sum(samples) + 13 * sum(frames))
    if not np.isfinite(numbers).all():
        raise ValueError("not all of its numbers are finite")
    names = [str(clip["name"]) for clip in clips_text]
    motion: Motion = Still()
    at = sum(samples)
    if samples:
        centers = torch.tensor(text["centers"], dtype=torch.float32).reshape(-1, 3)
        fixed = _unpacked(entries[MOTION], "<i2", sum(samples) * len(centers) * 7)
        seconds, poses, done, begin = {}, {}, 0, 0
        for name, length in zip(names, samples):
            seconds[name] = torch.from_numpy(numbers[begin : begin + length].astype(np.float32))
            size = length * len(centers) * 7
            part = _summed(fixed[done : done + size].reshape(length, len(centers), 7))
            poses[name] = _dual_quats(part, centers, float(text["place_step"]))
            begin, done = begin + length, done + size
        motion = SampledBones(seconds, poses, centers)
    if bones:
        weights = raw[bones : 2 * bones - 1].T.astype(np.float32) / 255
        first = 1 - weights.sum(1, keepdims=True)
        ids = torch.from_numpy(raw[:bones].T.astype(np.int32).copy())
        if not samples or int(ids.max()) >= len(motion.centers) or (first < -1e-3).any():  # type: ignore[attr-defined]
            raise ValueError("a surfel names a bone that is not there")
        surfels = replace(surfels, bone_ids=ids, bone_weights=torch.from_numpy(np.concatenate([first, weights], 1)))
    clips = {}
    for name, row, length in zip(names, clips_text, frames):
        part = numbers[at : at + 13 * length].reshape(13, length).T
        clips[name] = _clip(name, row, torch.from_numpy(part.astype(np.float32)))
        at += 13 * length
    if text["reference"] not in clips or len(clips) != len(names):
        raise ValueError("its clips' names do not fit together")
    world = None
    if "world" in text:
        parts = torch.tensor(text["world"], dtype=torch.float64)
        world = Sim3(float(parts[0]), parts[1:10].reshape(3, 3), parts[10:13])
    notes = {str(key): str(value) for key, value in text["notes"].items()}
    return Scene4D(surfels, motion, clips, text["reference"], world, str(text["run_folder"]), notes)


# --------------------------------------------------------------------------------------------------------------
# Numbers


def _clip_text(clip: SceneClip) -> dict[str, Any]:
    colors = {"gain": clip.gain.tolist(), "bias": clip.bias.tolist()}
    return {"name": clip.name, "frames": len(clip.seconds), "size": list(clip.cameras.size), **colors}


def _frame_numbers(clip: SceneClip) -> np.ndarray:
    """[t 13]: number, time, camera rotation (4) and translation (3), fx fy cx cy."""
    poses, K = clip.cameras.cam_from_world, clip.cameras.K
    parts = [
        clip.frame_ids[:, None].float(), clip.seconds[:, None], quat_from_matrix(poses[:, :3, :3]), poses[:, :3, 3],
        K[:, 0, :1], K[:, 1, 1:2], K[:, 0, 2:], K[:, 1, 2:],
    ]  # fmt: skip
    return torch.cat(parts, 1).numpy()


def _clip(name: str, row: dict[str, Any], numbers: torch.Tensor) -> SceneClip:
    poses, K = torch.eye(4).repeat(len(numbers), 1, 1), torch.eye(3).repeat(len(numbers), 1, 1)
    poses[:, :3, :3], poses[:, :3, 3] = quat_to_matrix(numbers[:, 2:6]), numbers[:, 6:9]
    K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2] = numbers[:, 9:].unbind(1)
    size = (int(row["size"][0]), int(row["size"][1]))
    if not all(1 <= side <= 1 << 16 for side in size):
        raise ValueError("a clip has an impossible picture size")
    gain, bias = (torch.tensor(row[key], dtype=torch.float32).reshape(3) for key in ("gain", "bias"))
    return SceneClip(name, numbers[:, 1].clone(), numbers[:, 0].round().long(), Cameras(poses, K, size), gain, bias)


def _bones_per_surfel(surfels: Surfels) -> int:
    assert surfels.bone_ids is not None
    if int(surfels.bone_ids.max()) > 255:
        raise FourdgenError("more than 256 bones do not fit into this format", "export scene.ply without --compress")
    return surfels.bone_ids.shape[1]


def _surfel_bytes(surfels: Surfels, bones: int) -> np.ndarray:
    """[rows n]: bone ids, the heaviest first, weights of the others, confidence in steps of 1/32."""
    rows = [np.round(surfels.confidence.clamp(0, 1).numpy() * 32) / 32 * 255]
    if bones:
        assert surfels.bone_ids is not None and surfels.bone_weights is not None
        weights, order = surfels.bone_weights.sort(dim=1, descending=True)
        fixed = np.round(weights.numpy()[:, 1:] * 127) * 2  # in steps of 2/255
        ids = surfels.bone_ids.gather(1, order).numpy()
        ids[:, 1:] = np.where(fixed > 0, ids[:, 1:], 0)
        rows = [*ids.T, *fixed.T, *rows]
    return np.stack(rows).astype(np.uint8)


def _quantised(motion: SampledBones, clip: str, step: float) -> np.ndarray:
    """[t b 7] int: quaternions (continuous signs) and how far each bone's centre has moved."""
    rotation, translation = dual_quat_parts(motion.dual_quats[clip])
    shift = quat_rotate(rotation, motion.centers.expand_as(translation)) + translation - motion.centers
    turns = np.round(rotation.numpy().astype(np.float64) / TURN_STEP)
    places = np.round(shift.numpy().astype(np.float64) / step)
    whole = np.concatenate([turns, places], -1)
    if np.abs(whole).max() > 8000:  # second differences are up to four times as large
        raise FourdgenError("the motion is too large for this format", "export scene.ply without --compress")
    return whole.astype(np.int64)


def _dual_quats(fixed: np.ndarray, centers: torch.Tensor, step: float) -> torch.Tensor:
    rotation = torch.from_numpy(fixed[..., :4] * TURN_STEP).float()
    if bool((rotation.norm(dim=-1) < 0.1).any()):
        raise ValueError("a bone pose is no rotation")
    rotation = torch.nn.functional.normalize(rotation, dim=-1)
    shift = torch.from_numpy(fixed[..., 4:] * step).float()
    return dual_quat(rotation, shift + centers - quat_rotate(rotation, centers.expand_as(shift)))


def _second_differences(values: np.ndarray) -> np.ndarray:
    """Along the first axis; the first two rows are kept as they are and as a difference."""
    padded = np.concatenate([np.zeros_like(values[:1]), values])
    first = np.diff(padded, axis=0)
    return np.concatenate([first[:1], first[1:2], np.diff(first[1:], axis=0)])[: len(values)].astype("<i2")


def _summed(differences: np.ndarray) -> np.ndarray:
    """What `_second_differences` came from."""
    first = differences.astype(np.int64).copy()
    first[1:] = np.cumsum(first[1:], axis=0)
    return np.cumsum(first, axis=0)


def _packed(values: np.ndarray) -> bytes:
    """xz of numbers in planes of bytes; whole numbers are made positive first (zigzag), so that upper bytes are 0."""
    flat = np.ascontiguousarray(values).reshape(-1)
    if flat.dtype.kind == "i":
        wide = flat.astype(np.int64)
        flat = np.where(wide < 0, -2 * wide - 1, 2 * wide).astype("<u2")
    planes = flat.view(np.uint8).reshape(len(flat), -1).T
    return lzma.compress(np.ascontiguousarray(planes).tobytes(), format=lzma.FORMAT_XZ, filters=_FILTERS)


def _unpacked(data: bytes, kind: Any, count: int) -> np.ndarray:
    """`count` numbers. Raises ValueError where there are not as many; unpacks no more than that."""
    dtype = np.dtype(kind)
    wanted = count * dtype.itemsize
    if not 0 <= wanted <= _LARGEST:
        raise ValueError("a count is absurd")
    with lzma.open(io.BytesIO(data)) as file:
        raw = file.read(wanted + 1)
    if len(raw) != wanted:
        raise ValueError("a part of it has another length than it should")
    planes = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, count)
    flat = np.ascontiguousarray(planes.T).view("<u2" if dtype.kind == "i" else dtype).reshape(count)
    if dtype.kind == "i":
        wide = flat.astype(np.int64)
        flat = np.where(wide & 1, -(wide + 1) // 2, wide // 2)
    return flat
