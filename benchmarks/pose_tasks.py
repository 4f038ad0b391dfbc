"""What poses.py has done: searches, pairs, trainings. Each leaves a record, which says what code made it."""

from __future__ import annotations

import json
import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from retimed import retimed

from fourdgen import config, native, planning
from fourdgen.data.cameras_io import CameraEntry, read_camera_entries
from fourdgen.data.capture import Capture, load_capture, stack
from fourdgen.data.records import Alignment, RootTrack
from fourdgen.evaluate import evaluate
from fourdgen.evaluate.mesh import read_mesh
from fourdgen.evaluate.tracks import carried_points, outside
from fourdgen.geometry.fit import rotation_errors, similarity_between
from fourdgen.geometry.timeline import ticks
from fourdgen.geometry.transforms import nearest_rotation, turn_rates
from fourdgen.poses.accept import DISTINCT, judge, path_difference, verdict
from fourdgen.poses.candidates import Candidate, SearchSettings
from fourdgen.poses.search import ClipSolution, solve_clip
from fourdgen.poses.turn import Turn, turn_from_flow
from fourdgen.report import Silent, peak_memory_mb, reset_peak_memory
from fourdgen.scene import files
from fourdgen.scene.scene4d import Scene4D
from fourdgen.stages import align, ingest, root_pose, sample, train
from fourdgen.workspace import Context, Job

LABELLED = ("moved", "refined")  # rounds of a search whose solutions are labelled
MADE_BY = "made_by.json"  # beside a capture: code and seconds
MIXED = "mixed"  # instead of a digest: made from results of older code
TURNS = 0.01  # radians of all true steps together: a path that turns by less has no sense


def truth_of(scene: Path) -> dict[str, list[CameraEntry]]:
    clips: dict[str, list[CameraEntry]] = {}
    for entry in read_camera_entries(scene / "transforms.json"):
        if entry.clip is not None:
            clips.setdefault(entry.clip, []).append(entry)
    return {name: sorted(entries, key=lambda e: e.frame or 0) for name, entries in clips.items()}


def _rotations(entries: list[CameraEntry]) -> torch.Tensor:
    return torch.stack([entry.cam_from_input[:3, :3].float() for entry in entries])


def _figures(found: torch.Tensor, true: torch.Tensor) -> dict[str, float]:
    errors = rotation_errors(found, true)
    return {
        "median": float(errors.median()), "lt6": float((errors < 6).double().mean()),
        "lt8": float((errors < 8).double().mean()), "lt10": float((errors < 10).double().mean()),
        "max": float(errors.max()),
    }  # fmt: skip


def sense(found: torch.Tensor, true: torch.Tensor) -> float:
    """Whether two paths of cameras, [t 3 3] each, turn in the same sense: 1 the same way at the same pace, -1 mirrored,
    0 where the found one stands still; 1 where the true one does.

    The cosine between the steps from frame to frame, which in the camera's frame do not depend on the world.
    """
    ours, theirs = turn_rates(found.double()), turn_rates(true.double())
    if float(theirs.norm(dim=1).sum()) < TURNS:
        return 1.0
    return float((ours * theirs).sum() / (ours.norm() * theirs.norm()).clamp_min(1e-12))


# ---- what is there already


def capture_of(task: dict[str, Any]) -> Capture:
    """The scene's videos as stage ingest reads them: no mask and no camera is given. What older code has read is read
    again, unless the task keeps it."""
    folder = Path(task["capture"])
    if not (folder / "capture.json").exists() or not (task["keep"] or _capture_code(folder) == task["code"]):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        begun = time.process_time()
        clips = tuple(sorted((Path(task["scene"]) / "clips").iterdir()))
        context = Context(folder, Job(clips, folder / "scene.ply", folder), "cpu", 1, 0, Silent())
        ingest.save(ingest.run(context, ingest.IngestConfig()), folder)
        made = {"code": task["code"], "seconds": time.process_time() - begun}
        (folder / MADE_BY).write_text(json.dumps(made))
    return load_capture(folder)


def _made_by(folder: Path) -> dict[str, Any]:
    path = folder / MADE_BY
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _capture_code(folder: Path) -> str | None:
    return _made_by(folder).get("code")


def finished(task: dict[str, Any], path: str | None = None) -> dict[str, Any] | None:
    """The record of a task that was done before, or of another one (by its path) that it needs: of the same code, or
    of any code if the task keeps it. Records without a digest are of older code."""
    record = Path(path or task["path"])
    if not record.exists():
        return None
    known = dict(json.loads(record.read_text()))
    return known if task["keep"] or known.get("code") == task["code"] else None


def _record(task: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """Kept, whole or not at all."""
    path = Path(task["path"])
    path.with_suffix(".partial").write_text(json.dumps(record, indent=1))
    path.with_suffix(".partial").replace(path)
    return record


def work(task: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a task; None if it would have begun too late, or what it needs is not there."""
    done = finished(task)
    if done is not None or time.time() > task["until"]:
        return done
    needed = [finished(task, path) for path in task["needs"]]
    if not all(needed):
        return None
    codes = {task["code"], *(record.get("code") for record in needed if record)}
    if task["kind"] != "known":  # which reads the videos by itself
        codes.add(_capture_code(Path(task["capture"])))
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    native.set_threads(1)
    reset_peak_memory()
    begun = time.process_time()
    figures = {"search": search, "pair": pair, "whole": whole, "known": known}[task["kind"]](task)
    named = {key: task[key] for key in ("name", "seed", "effort")}
    named["code"] = task["code"] if len(codes) == 1 else MIXED
    spent = {"seconds": time.process_time() - begun, "peak_mb": peak_memory_mb()}
    return _record(task, {**named, **spent, **figures})


# ---- the tasks


def search(task: dict[str, Any]) -> dict[str, Any]:
    """One clip in one version; the solution is kept beside the record, for the pair."""
    capture = load_capture(Path(task["capture"]))
    order, seconds = retimed(task["version"], capture.clip(task["clip"]).seconds)
    rgb, mask = (frames.numpy()[order] for frames in stack(capture, task["clip"]))
    true = _rotations(truth_of(Path(task["scene"]))[task["clip"]])[order]
    settings = SearchSettings(
        focal=align.AlignConfig().focal_of(task["clip"]), seed=task["seed"], effort=task["effort"]
    )
    rounds: dict[str, list[Candidate]] = {}
    begun = time.process_time()
    solution = solve_clip(
        rgb, mask, settings, watch=lambda stage, candidates: rounds.update({stage: candidates}), seconds=seconds
    )
    spent = time.process_time() - begun
    Path(task["path"]).with_suffix(".pkl").write_bytes(pickle.dumps(solution))
    turn, true = turn_from_flow(rgb, mask, ticks(seconds)), true[solution.frames]
    labels = [
        {"stage": stage, **row} for stage in LABELLED for row in labelled(rounds.get(stage, []), turn, solution, true)
    ]
    verdict_on_it = {**vars(solution.verdict), "margin": min(solution.verdict.margin, 99.0)}
    return {
        "clip": task["clip"], "version": task["version"], "seconds": spent, **_figures(solution.rotation, true),
        "sense": sense(solution.rotation, true), "still": solution.still, "start": solution.name,
        "loss": solution.loss, **verdict_on_it, "gain": solution.still_loss / solution.loss, "labelled": labels,
    }  # fmt: skip


def labelled(
    candidates: list[Candidate], turn: Turn, solution: ClipSolution, true: torch.Tensor
) -> list[dict[str, Any]]:
    """Every solution of a round with its error and the verdict on it. `met`: judged against its best distinct rival.
    `alone`: against its best distinct rival that is no better, as if the search had missed what beats it."""
    rows = []
    for candidate in candidates:
        mine = candidate.fit.rotations().detach()
        rivals = [
            c.loss for c in candidates if path_difference(mine, c.fit.rotations().detach()) > DISTINCT
        ]  # fmt: skip
        worse = [loss for loss in rivals if loss >= candidate.loss]
        met = judge(candidate.fit, solution.frames, turn, min(rivals, default=None))
        margin = min(worse) / candidate.loss if worse else 99.0
        alone = verdict(met.flow, margin, met.overlap, met.relocated)
        rows.append({
            "median": float(rotation_errors(mine, true).median()), "loss": candidate.loss,
            "gain": solution.still_loss / candidate.loss, "met": {**vars(met), "margin": min(met.margin, 99.0)},
            "alone": vars(alone),
        })  # fmt: skip
    return rows


def _context(task: dict[str, Any], folder: Path) -> Context:
    folder.mkdir(parents=True, exist_ok=True)
    return Context(folder, Job((), folder / "scene.ply", folder), "cpu", 1, task["seed"], Silent())


def pair(task: dict[str, Any]) -> dict[str, Any]:
    """The clips of a scene in one root frame: errors under one rotation for all after each stage, focal errors."""
    capture, truth = load_capture(Path(task["capture"])), truth_of(Path(task["scene"]))
    solutions = {name: pickle.loads(Path(path).read_bytes()) for name, path in task["solutions"].items()}
    folder = Path(task["path"]).with_suffix("")
    context = _context(task, folder)
    aligned = align.joined(context, align.AlignConfig(effort=task["effort"]), capture, solutions)
    (folder / "check.png").replace(folder / "align.png")
    track = root_pose.run(context, root_pose.RootPoseConfig(effort=task["effort"]), capture, aligned)
    (folder / "poses.pkl").write_bytes(pickle.dumps((aligned, track)))
    names = list(track.clips)
    true = torch.cat([_rotations(truth[name]) for name in names])
    focal = {
        name: _focal_error(float(track.clips[name].K[0, 0, 0]) / max(capture.clip(name).size), truth[name][0])
        for name in names
    }
    return {
        "left_out": dict(aligned.left_out), "certain": track.certain, "reason": track.reason, "focal": focal,
        "align": _figures(torch.cat([aligned.clips[name].cam_from_root[:, :3, :3] for name in names]), true),
        "root_pose": _figures(torch.cat([track.clips[name].cam_from_root[:, :3, :3] for name in names]), true),
        "alone": {
            name: _figures(track.clips[name].cam_from_root[:, :3, :3], _rotations(truth[name])) for name in names
        },
    }  # fmt: skip


def _focal_error(found: float, entry: CameraEntry) -> float:
    """Of a focal length in longer sides of the picture, against the true one: 0.05 is 5 % too long."""
    return found / (float(entry.K[0, 0]) / max(entry.size)) - 1


def _settings() -> dict[str, Any]:
    recipe = config.load_recipe("fast")
    return config.resolve(recipe, {stage.name: stage.config for stage in planning.stages_of(recipe)})


def _trained(context: Context, capture: Capture, aligned: Alignment, track: RootTrack) -> Scene4D:
    """The rest of recipe fast; the asset lies in the context's folder."""
    settings = _settings()
    frames = sample.run(context, settings["sample"], capture, track)
    scene = train.run(context, settings["train"], capture, aligned, track, frames)
    files.write(context.folder / "scene.ply", scene)
    return scene


def whole(task: dict[str, Any]) -> dict[str, Any]:
    """The rest of the reconstruction on the pair's poses, and what `fourdgen eval` says of it."""
    capture = load_capture(Path(task["capture"]))
    folder = Path(task["path"]).with_suffix("")
    begun = time.process_time()
    aligned, track = pickle.loads((Path(task["needs"][0]).with_suffix("") / "poses.pkl").read_bytes())
    scene = _trained(_context(task, folder), capture, aligned, track)
    spent = time.process_time() - begun
    figures = evaluate(folder / "scene.ply", Path(task["scene"]))
    truth = truth_of(Path(task["scene"]))
    true = {name: _rotations(truth[name]) for name in scene.clips}
    found = {name: clip.cameras.cam_from_world[:, :3, :3] for name, clip in scene.clips.items()}
    body = {name: against_body(scene, name, Path(task["scene"]), truth) for name in scene.clips}
    errors = rotation_errors(torch.cat([*found.values()]), torch.cat([*true.values()]))
    together = errors.split([len(path) for path in found.values()])  # clip by clip, after the one rotation for all
    kept = ("psnr", "strict_psnr", "instant_psnr", "instant_turn", "ssim", "lpips", "iou", "focal_error", "track")
    return {
        **{key: figures[key] for key in kept},
        "focal": {
            name: _focal_error(float(clip.cameras.K[0, 0, 0]) / max(clip.cameras.size), truth[name][0])
            for name, clip in scene.clips.items()
        },
        "ingest_seconds": _made_by(Path(task["capture"])).get("seconds", 0.0), "train_seconds": spent,
        "joint": _figures(torch.cat([*found.values()]), torch.cat([*true.values()])),
        "joint_medians": {name: float(part.median()) for name, part in zip(found, together, strict=True)},
        "alone": {name: _figures(found[name], true[name]) for name in found},
        "joint_body": _figures(torch.cat([*body.values()]), torch.cat([*true.values()])),
        "alone_body": {name: _figures(body[name], true[name]) for name in body},
    }  # fmt: skip


def known(task: dict[str, Any]) -> dict[str, Any]:
    """The same reconstruction with the true cameras: what unknown ones cost. Masks are found, as there."""
    folder, scene = Path(task["path"]).with_suffix(""), Path(task["scene"])
    settings = _settings()
    (folder / "capture").mkdir(parents=True, exist_ok=True)
    clips = tuple(path for path in sorted((scene / "clips").iterdir()) if path.stem in task["clips"])
    job = Job(clips, folder / "scene.ply", folder, cameras=scene / "transforms.json")
    reading = Context(folder / "capture", job, "cpu", 1, task["seed"], Silent())
    ingest.save(ingest.run(reading, ingest.IngestConfig()), folder / "capture")
    capture = load_capture(folder / "capture")
    context = Context(folder, job, "cpu", 1, task["seed"], Silent())
    aligned = align.run(context, settings["align"], capture)
    track = root_pose.run(context, settings["root_pose"], capture, aligned)
    _trained(context, capture, aligned, track)
    figures = evaluate(folder / "scene.ply", scene)
    return {key: figures[key] for key in ("psnr", "strict_psnr", "instant_psnr", "ssim", "lpips", "iou", "track")}


def against_body(scene: Scene4D, name: str, folder: Path, truth: dict[str, list[CameraEntry]]) -> torch.Tensor:
    """Rotations of a clip's cameras against the body: those found, turned by the rotation that takes points of the true
    surface, as the asset carries them, to where they are in each frame."""
    clip, mesh = scene.clips[name], read_mesh(folder / "truth", name)
    found = torch.cat([c.cameras.cam_from_world for c in scene.clips.values()])
    true = torch.cat([torch.stack([e.cam_from_input.float() for e in truth[n]]) for n in scene.clips])
    root_from_truth = similarity_between(found, true)
    rotations = (clip.cameras.cam_from_world[:, :3, :3].double() @ root_from_truth.rotation).float()
    if mesh is None:
        return rotations
    frames = list(range(len(clip.cameras)))
    points = outside(mesh, [0])
    at = np.stack([points.at(mesh, frame) for frame in frames])
    carried = carried_points(scene, name, frames, at[0], root_from_truth)
    offset, wanted = (torch.from_numpy(p - p.mean(1, keepdims=True)) for p in (carried, at))
    body = nearest_rotation(torch.einsum("tni,tnj->tij", wanted, offset)).float()  # true point = body @ carried point
    return rotations @ body.transpose(1, 2)
