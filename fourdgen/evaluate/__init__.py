"""The verb `eval`: figures of a scene against held-out views whose cameras are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from fourdgen import disk, workspace
from fourdgen.data.cameras_io import CameraEntry, write_transforms_json
from fourdgen.evaluate import confidence, surface
from fourdgen.evaluate.in_time import flicker, interpolation
from fourdgen.evaluate.mesh import Mesh, read_mesh
from fourdgen.evaluate.pictures import PICTURES, picture_scores, shown
from fourdgen.evaluate.register import register, register_instants
from fourdgen.evaluate.tracks import track_error
from fourdgen.evaluate.truth import Truth, View, matched, read_truth
from fourdgen.fit import lpips as perceptual
from fourdgen.geometry.fit import rotation_errors, similarity_between
from fourdgen.geometry.transforms import Sim3, rotation_angle_degrees
from fourdgen.render import Rasterizer
from fourdgen.render.carried import rasterizer_on
from fourdgen.report import FourdgenError, Reporter, Silent
from fourdgen.report import table as columns
from fourdgen.scene import files
from fourdgen.scene.entries import camera_of
from fourdgen.scene.scene4d import Scene4D


def evaluate(
    scene_path: Path,
    truth_dir: Path,
    save_cameras: Path | None = None,
    report: Reporter = Silent(),
    device: str = "cpu",
    renderer: str = "auto",
) -> dict[str, Any]:
    """All figures that can be given, by key; None where there is nothing to score.

    `notes` in the result say what is missing and why. `save_cameras` gets the cameras by which the held-out views were
    drawn, as `render --cameras` takes them. Raises FourdgenError where there is nothing to compare at all.
    """
    scene = files.read(scene_path, report)
    truth = read_truth(Path(truth_dir), scene)
    rasterizer = rasterizer_on(device, renderer, report)
    judge = perceptual.load()
    notes = [] if judge is not None else ["lpips: its weights are not here; `fourdgen doctor --fetch` gets them"]
    if truth.skipped:
        notes.append(f"{truth.skipped} held-out pictures show clips that the scene does not have")
    meshes = _meshes(scene, truth)
    notes += _never_seen(scene, truth.views)
    found = matched(scene, truth.inputs)
    strict, registered = _mappings(scene, truth, found, rasterizer, report, notes)
    result: dict[str, Any] = {"lpips_net": None if judge is None else perceptual.NET, **dict.fromkeys(PICTURES)}
    if registered is not None:
        result |= picture_scores(scene, truth.views, [registered] * len(truth.views), rasterizer, judge)
    result |= dict.fromkeys(f"strict_{key}" for key in PICTURES)
    if strict is not None:
        same = strict is registered
        scores = {key: result[key] for key in PICTURES}
        scores = scores if same else picture_scores(scene, truth.views, [strict] * len(truth.views), rasterizer, judge)
        result |= {f"strict_{key}": value for key, value in scores.items()}
    result |= _instant_scores(scene, truth.views, registered, rasterizer, judge, report)
    result |= _surface_scores(scene, truth, meshes, registered, rasterizer)
    result |= {"flicker": None}
    if registered is not None:
        result["flicker"] = _flicker(scene, truth.views, registered, rasterizer)
    result["interpolation"] = interpolation(scene, truth, rasterizer, judge)
    judgement = None if registered is None else confidence.judge(scene, truth.views, registered, rasterizer)
    result |= {f"confidence_{key}": getattr(judgement, key, None) for key in ("auc", "base", "claimed")}
    result |= _camera_scores(scene, found)
    result |= _run_figures(scene)
    result |= {
        "views": len(truth.views),
        "surfels": len(scene.surfels),
        "known_cameras": scene.world_from_input is not None,
    }
    result["notes"] = notes
    if save_cameras is not None:
        if registered is None:
            raise FourdgenError(
                "there are no cameras to save: the views could not be brought into the scene's world", notes[-1]
            )
        disk.make_folder(save_cameras.parent, report)
        _save(save_cameras, scene, truth.views, registered)
    return result


def _meshes(scene: Scene4D, truth: Truth) -> dict[str, Mesh]:
    """The true surfaces of the scene's clips that have one. Raises FourdgenError for a held-out view of a frame that
    its clip's surface does not have."""
    meshes = {clip: mesh for clip in scene.clips if (mesh := read_mesh(truth.folder, clip)) is not None}
    for view in truth.views:
        mesh, frame = meshes.get(view.clip), view.entry.frame
        if mesh is not None and frame is not None and not 0 <= frame < len(mesh.vertices):
            raise FourdgenError(
                f"{truth.folder / view.entry.file_path}: it shows frame {frame} of clip {view.clip}, whose true "
                f"surface (mesh_{view.clip}.npz) has frames 0 to {len(mesh.vertices) - 1}",
                "give held-out views the numbers of frames of that surface, or take the surface away",
            )
    return meshes


def _never_seen(scene: Scene4D, views: list[View]) -> list[str]:
    """A note for each clip of which held-out views show times that the asset was not made from."""
    notes = []
    for name, clip in scene.clips.items():
        first, last = int(clip.frame_ids.min()), int(clip.frame_ids.max())
        frames = [view.entry.frame for view in views if view.clip == name and view.entry.frame is not None]
        outside = sum(not first <= frame <= last for frame in frames)
        if outside:
            notes.append(
                f"{outside} of {len(frames)} held-out views of clip {name} show frames outside {first} to {last}, of "
                "which the asset was made: they are scored with its motion held at the nearer end"
            )
    return notes


def _mappings(
    scene: Scene4D,
    truth: Truth,
    found: list[tuple[CameraEntry, str, int]],
    rasterizer: Rasterizer,
    report: Reporter,
    notes: list[str],
) -> tuple[Sim3 | None, Sim3 | None]:
    """`root_from_truth`, strict and registered. With known cameras both are the scene's own mapping."""
    if scene.world_from_input is not None:
        return scene.world_from_input, scene.world_from_input
    if len(found) < 2:
        notes.append(
            "no picture scores: fewer than two input frames have a true camera (transforms.json beside truth/)"
        )
        return None, None
    ours = torch.stack([scene.clips[clip].cameras.cam_from_world[i].double() for _, clip, i in found])
    true = torch.stack([entry.cam_from_input.double() for entry, _, _ in found])
    strict = similarity_between(ours, true)
    return strict, register(scene, truth.views, strict, rasterizer, report)


@torch.no_grad()
def _flicker(scene: Scene4D, views: list[View], root_from_truth: Sim3, rasterizer: Rasterizer) -> float | None:
    return flicker(views, lambda view: shown(scene, view, root_from_truth, rasterizer))


def _instant_scores(
    scene: Scene4D,
    views: list[View],
    registered: Sim3 | None,
    rasterizer: Rasterizer,
    judge: perceptual.Lpips | None,
    report: Reporter,
) -> dict[str, float | None]:
    """Scores with every instant registered for itself, where cameras were found: how good shape and motion are when
    it does not count how motion was shared between camera and body. `instant_turn`: by how many degrees the instants
    turn against `registered`, the median."""
    result: dict[str, float | None] = dict.fromkeys([*(f"instant_{key}" for key in PICTURES), "instant_turn"])
    if registered is None or scene.world_from_input is not None:
        return result
    each = register_instants(scene, views, registered, rasterizer, report)
    scores = picture_scores(scene, views, each, rasterizer, judge)
    turns = rotation_angle_degrees(registered.rotation[None], torch.stack([one.rotation for one in each]))
    return {**{f"instant_{key}": value for key, value in scores.items()}, "instant_turn": float(turns.median())}


def _surface_scores(
    scene: Scene4D, truth: Truth, meshes: Mapping[str, Mesh], root_from_truth: Sim3 | None, rasterizer: Rasterizer
) -> dict[str, Any]:
    """Distance, normals and tracks of the clip that the held-out views show; tracks of every clip with a true mesh."""
    nothing = dict.fromkeys(("all", "fast", "hidden", "covered"))
    result: dict[str, Any] = dict.fromkeys(("chamfer", "chamfer_accuracy", "chamfer_completeness", "normal_deg"))
    result |= {"track": nothing, "track_by_clip": {}}
    if root_from_truth is None:
        return result
    shown = next((view.clip for view in truth.views if view.entry.frame is not None), None)
    for clip, mesh in meshes.items():
        result["track_by_clip"][clip] = asdict(track_error(scene, clip, mesh, root_from_truth, truth.inputs))
        if clip == shown:
            scores = surface.score(scene, clip, mesh, truth.views, root_from_truth, rasterizer)
            result |= {"chamfer": scores.chamfer, "chamfer_accuracy": scores.accuracy}
            result |= {"chamfer_completeness": scores.completeness, "normal_deg": scores.normal_deg}
            result["track"] = result["track_by_clip"][clip]
    return result


def _camera_scores(scene: Scene4D, found: list[tuple[CameraEntry, str, int]]) -> dict[str, Any]:
    """Rotation error of the input cameras in degrees after one global rotation; relative error of the focal length."""
    if not found:
        return {"pose": None, "focal_error": None}
    ours = torch.stack([scene.clips[clip].cameras.cam_from_world[i] for _, clip, i in found])
    true = torch.stack([entry.cam_from_input for entry, _, _ in found])
    errors = rotation_errors(ours[:, :3, :3], true[:, :3, :3])
    pose = {"median": float(errors.median()), **{f"lt{d}": float((errors < d).double().mean()) for d in (6, 8, 10)}}
    focals = []
    for entry, clip, i in found:
        cameras = scene.clips[clip].cameras
        focals.append(abs(float(cameras.K[i, 0, 0]) / cameras.size[0] / (float(entry.K[0, 0]) / entry.size[0]) - 1))
    return {"pose": {**pose, "max": float(errors.max())}, "focal_error": sum(focals) / len(focals)}


def _run_figures(scene: Scene4D) -> dict[str, float | None]:
    """Seconds and peak memory of the reconstruction, from the records in its run folder."""
    seconds, peaks = [], []
    folder = Path(scene.run_folder)
    if scene.run_folder and folder.is_dir():
        for stage in workspace.stage_folders(folder):
            if (stage / workspace.SEAL).is_file():
                record = disk.read_json(stage / workspace.SEAL)
                seconds.append(float(record.get("seconds") or 0))
                peaks.append(float(record.get("peak_mb") or 0))
    return {"seconds": sum(seconds) if seconds else None, "peak_mb": max(peaks) if peaks else None}


def _save(path: Path, scene: Scene4D, views: list[View], root_from_truth: Sim3) -> None:
    entries = [view.entry for view in views]
    if scene.world_from_input is None:  # then the scene's coordinates are those of its root frame
        poses = [camera_of(scene, entry, root_from_truth).cam_from_world[0].double() for entry in entries]
        entries = [replace(entry, cam_from_input=pose) for entry, pose in zip(entries, poses)]
    try:
        write_transforms_json(path, entries)
    except OSError as error:
        raise FourdgenError(f"{path} cannot be written: {error.strerror or error}", "choose another place") from None


def table(result: Mapping[str, Any]) -> str:
    """The figures as people read them."""
    known = result["known_cameras"]
    net = f" ({result['lpips_net']})" if result["lpips_net"] is not None else ""
    head = ("", "PSNR", "SSIM", f"LPIPS{net}", "IoU", "box PSNR", "box SSIM", "box LPIPS", "box IoU")
    formats = ("{:.2f}", "{:.4f}", "{:.4f}", "{:.3f}") * 2

    def row(label: str, prefix: str) -> tuple[str, ...]:
        return (label, *(_cell(result[prefix + key], form) for key, form in zip(PICTURES, formats)))

    rows = [row("known cameras", "")] if known else [
        row("registered", ""), row("each instant", "instant_"), row("strict", "strict_"),
    ]  # fmt: skip
    track, pose = result["track"], result["pose"] or {}
    distance, angle = _cell(result["chamfer"], "{:.1f} %"), _cell(result["normal_deg"], "{:.1f}")
    near, whole = (_cell(result[f"chamfer_{part}"], "{:.1f}") for part in ("accuracy", "completeness"))
    more = [
        (
            "surface",
            f"Chamfer {distance} of the radius (accuracy {near}, completeness {whole}), normals {angle} degrees",
        ),
        (
            "tracks",
            "error / motion: " + ", ".join(f"{_cell(track[k], '{:.0%}')} {k}" for k in ("all", "fast", "hidden")),
        ),
    ]
    more.append(("in time", f"flicker {_cell(result['flicker'], '{:.2f}')} grey levels"))
    middle = result["interpolation"]
    if middle is not None:
        cells = [_cell(middle[key], form) for key, form in zip(("psnr", "ssim", "lpips"), formats)]
        gain = f"nearest frame {_cell(middle['nearest_psnr'], '{:.2f}')} dB"
        more.append(("in between", f"{cells[0]} dB, SSIM {cells[1]}, LPIPS {cells[2]} ({gain})"))
    if not known:
        shares = ", ".join(f"{_cell(pose.get(f'lt{d}'), '{:.0%}')} below {d}" for d in (6, 8, 10))
        middle, worst = _cell(pose.get("median"), "{:.1f}"), _cell(pose.get("max"), "{:.1f}")
        more.append(("poses", f"median {middle} degrees, {shares}, worst {worst}"))
        turned = _cell(result["instant_turn"], "{:.1f}")
        more.append(("body", f"turns by {turned} degrees against the true one, the median of the instants"))
        more.append(("focal length", f"{_cell(result['focal_error'], '{:.1%}')} off"))
    found, base = _cell(result["confidence_auc"], "{:.3f}"), _cell(result["confidence_base"], "{:.0%}")
    claimed = _cell(result["confidence_claimed"], "{:.0%}")
    more.append(("confidence", f"AUC {found}, {base} of the pixels wrong, {claimed} expected to be"))
    more.append(("run", f"{_cell(result['seconds'], '{:.0f}')} s, peak {_cell(result['peak_mb'], '{:.0f}')} MB"))
    lines = [f"{result['views']} held-out views, {result['surfels']} surfels", columns(rows, head), "", columns(more)]
    return "\n".join([*lines, *(f"note: {note}" for note in result["notes"])])


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
