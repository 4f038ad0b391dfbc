"""Root poses and focal lengths found on clips whose true cameras are known, and what the acceptance tests say.

    python benchmarks/poses.py --bench DIR [--out DIR] [--json FILE] [--scenes fox,varied/wolf] [--clips a,b]
                               [--versions as_filmed,eased] [--seeds 0,1] [--effort 1.0] [--jobs 2] [--no-pairs]
                               [--whole] [--minutes 30]

Every clip of the scenes (folders with clips/ and transforms.json) is searched as filmed and re-timed: eased (slow
ends), there and back, stop and go, first third only. Errors are angles after one global rotation per clip; joint: one
for the clips of a scene, after stages align and root_pose, and with --whole after training. There the error of the
cameras against the asset's own body stands beside it: what is root and what is body motion is ambiguous, and a
camera that is off by just what the body is off shows the right picture.

All solutions that a search moved along its lines or refined are labelled: right below 20 degrees of median error.
Each is judged by the acceptance tests as if it had won, among those of its round.

What is finished lies in --out and is not run again, so that an interrupted benchmark goes on where it was; --minutes
starts nothing after so long, and the table shows what there is.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourdgen import config, native, planning
from fourdgen.data.cameras_io import CameraEntry, read_camera_entries
from fourdgen.data.capture import Capture, load_capture, stack
from fourdgen.evaluate import evaluate
from fourdgen.evaluate.mesh import read_mesh
from fourdgen.evaluate.tracks import carried_points, outside
from fourdgen.geometry.fit import rotation_errors, similarity_between
from fourdgen.geometry.transforms import nearest_rotation
from fourdgen.poses.accept import DISTINCT, judge, path_difference, verdict
from fourdgen.poses.candidates import Candidate, SearchSettings
from fourdgen.poses.search import ClipSolution, solve_clip
from fourdgen.poses.turn import Turn, turn_from_flow
from fourdgen.report import Silent
from fourdgen.scene import files
from fourdgen.scene.scene4d import Scene4D
from fourdgen.stages import align, ingest, root_pose, sample, train
from fourdgen.workspace import Context, Job

RIGHT = 20.0  # degrees of median error below which a path lies in the right basin
LABELLED = ("moved", "refined")  # rounds of a search whose solutions are labelled


def _eased(count: int) -> np.ndarray:
    share = np.linspace(0, 1, count)
    return (share * share * (3 - 2 * share) * (count - 1)).round().astype(int)


def _there_and_back(count: int) -> np.ndarray:
    return np.concatenate([np.arange(0, count, 2), np.arange(count - 1, -1, -2)])


def _stop_and_go(count: int) -> np.ndarray:
    """Twice as fast as filmed, with a pause of a quarter of the clip after each half."""
    half, pause = np.arange(0, count, 2), count // 4
    first, second = half[: len(half) // 2], half[len(half) // 2 :]
    return np.concatenate([first, np.full(pause, first[-1]), second, np.full(pause, second[-1])])


VERSIONS: dict[str, Callable[[int], np.ndarray]] = {
    "as_filmed": np.arange,
    "eased": _eased,
    "there_and_back": _there_and_back,
    "stop_and_go": _stop_and_go,
    "first_third": lambda count: np.arange(max(8, count // 3)),
}


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


def capture_of(scene: Path, folder: Path) -> Capture:
    """The scene's videos as stage ingest reads them: no mask and no camera is given."""
    if not (folder / "capture.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        clips = tuple(sorted((scene / "clips").iterdir()))
        context = Context(folder, Job(clips, folder / "scene.ply", folder), "cpu", 1, 0, Silent())
        ingest.save(ingest.run(context, ingest.IngestConfig()), folder)
    return load_capture(folder)


def _finished(task: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a task that was done before."""
    path = Path(task["path"])
    return dict(json.loads(path.read_text())) if path.exists() else None


def _record(task: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """Kept, whole or not at all."""
    path = Path(task["path"])
    path.with_suffix(".partial").write_text(json.dumps(record, indent=1))
    path.with_suffix(".partial").replace(path)
    return record


def work(task: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a task; None if it would have begun too late, or what it needs is not there."""
    done = _finished(task)
    if done is not None or time.time() > task["until"] or not all(Path(p).exists() for p in task["needs"]):
        return done
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    native.set_threads(1)
    begun = time.process_time()
    figures = {"search": search, "pair": pair, "whole": whole}[task["kind"]](task)
    named = {key: task[key] for key in ("name", "seed", "effort")}
    return _record(task, {**named, "seconds": time.process_time() - begun, **figures})


def search(task: dict[str, Any]) -> dict[str, Any]:
    """One clip in one version; the solution is kept beside the record, for the pair."""
    capture = load_capture(Path(task["capture"]))
    order = VERSIONS[task["version"]](len(capture.clip(task["clip"])))
    rgb, mask = (frames.numpy()[order] for frames in stack(capture, task["clip"]))
    true = _rotations(truth_of(Path(task["scene"]))[task["clip"]])[order]
    settings = SearchSettings(focal=align.AlignConfig().focal, seed=task["seed"], effort=task["effort"])
    rounds: dict[str, list[Candidate]] = {}
    begun = time.process_time()
    solution = solve_clip(rgb, mask, settings, watch=lambda stage, candidates: rounds.update({stage: candidates}))
    seconds = time.process_time() - begun
    Path(task["path"]).with_suffix(".pkl").write_bytes(pickle.dumps(solution))
    turn, true = turn_from_flow(rgb, mask), true[solution.frames]
    labels = [
        {"stage": stage, **row} for stage in LABELLED for row in labelled(rounds.get(stage, []), turn, solution, true)
    ]
    verdict_on_it = {**vars(solution.verdict), "margin": min(solution.verdict.margin, 99.0)}
    return {
        "clip": task["clip"], "version": task["version"], "seconds": seconds, **_figures(solution.rotation, true),
        "still": solution.still, "start": solution.name, "loss": solution.loss, **verdict_on_it,
        "gain": solution.still_loss / solution.loss, "labelled": labels,
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
    focal = {}
    for name in names:
        entry = truth[name][0]
        found = float(track.clips[name].K[0, 0, 0]) / max(capture.clip(name).size)
        focal[name] = found / (float(entry.K[0, 0]) / max(entry.size)) - 1
    return {
        "left_out": dict(aligned.left_out), "certain": track.certain, "reason": track.reason, "focal": focal,
        "align": _figures(torch.cat([aligned.clips[name].cam_from_root[:, :3, :3] for name in names]), true),
        "root_pose": _figures(torch.cat([track.clips[name].cam_from_root[:, :3, :3] for name in names]), true),
        "alone": {
            name: _figures(track.clips[name].cam_from_root[:, :3, :3], _rotations(truth[name])) for name in names
        },
    }  # fmt: skip


def whole(task: dict[str, Any]) -> dict[str, Any]:
    """The rest of the reconstruction on the pair's poses, and what `fourdgen eval` says of it."""
    capture = load_capture(Path(task["capture"]))
    folder = Path(task["path"]).with_suffix("")
    context = _context(task, folder)
    aligned, track = pickle.loads(Path(task["needs"][0]).read_bytes())
    recipe = config.load_recipe("fast")
    settings = config.resolve(recipe, {stage.name: stage.config for stage in planning.stages_of(recipe)})
    frames = sample.run(context, settings["sample"], capture, track)
    scene = train.run(context, settings["train"], capture, aligned, track, frames)
    files.write(folder / "scene.ply", scene)
    figures = evaluate(folder / "scene.ply", Path(task["scene"]))
    truth = truth_of(Path(task["scene"]))
    true = {name: _rotations(truth[name]) for name in scene.clips}
    found = {name: clip.cameras.cam_from_world[:, :3, :3] for name, clip in scene.clips.items()}
    body = {name: against_body(scene, name, Path(task["scene"]), truth) for name in scene.clips}
    kept = ("psnr", "strict_psnr", "instant_psnr", "instant_turn", "ssim", "lpips", "iou", "focal_error", "track")
    return {
        **{key: figures[key] for key in kept},
        "joint": _figures(torch.cat([*found.values()]), torch.cat([*true.values()])),
        "alone": {name: _figures(found[name], true[name]) for name in found},
        "joint_body": _figures(torch.cat([*body.values()]), torch.cat([*true.values()])),
        "alone_body": {name: _figures(body[name], true[name]) for name in body},
    }  # fmt: skip


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


def acceptance(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of labelled solutions, and of what the searches chose: a clip that turns and is called still without doubt
    is a wrong one that was accepted."""
    rows = [row for record in records for row in record["labelled"]]
    wrong = [row for row in rows if row["median"] >= RIGHT]
    # Before its refinement nothing is accepted or refused in earnest: only wrong ones count there.
    right = [row for row in rows if row["median"] < RIGHT and row["stage"] == "refined"]
    return {
        "labelled": len(rows), "right": len(right), "wrong": len(wrong),
        "wrong_accepted": sum(row["met"]["accepted"] for row in wrong),
        "wrong_accepted_unbeaten": sum(row["alone"]["accepted"] for row in wrong),
        "right_refused_unbeaten": sum(not row["alone"]["accepted"] for row in right),
        "winners": len(records),
        "winners_wrong_accepted": sum(r["accepted"] and r["median"] >= RIGHT for r in records),
        "winners_right": sum(r["median"] < RIGHT for r in records),
        "winners_right_refused": sum(not r["accepted"] and r["median"] < RIGHT for r in records),
    }  # fmt: skip


def _focals(errors: dict[str, float]) -> str:
    return ", ".join(f"{name} {100 * error:+.1f} %" for name, error in errors.items())


def show(
    records: list[dict[str, Any]], pairs: list[dict[str, Any]], wholes: list[dict[str, Any]], accepted: dict[str, Any]
) -> None:
    print(f"{'clip':22} {'version':15} seed  median  <10 deg    max  accepted  CPU s")
    for r in records:
        verdict = ("still, " if r["still"] else "") + ("yes" if r["accepted"] else f"no: {r['reason']}")
        print(
            f"{r['name'] + ' ' + r['clip']:22} {r['version']:15} {r['seed']:4} {r['median']:7.1f} {r['lt10']:8.0%} "
            f"{r['max']:6.1f} {r['seconds']:6.0f}  {verdict}"
        )
    if records:
        basin = sum(r["median"] < RIGHT for r in records)
        print(f"right basin: {basin} of {len(records)}\n")
    for p in pairs:
        a, b = p["align"], p["root_pose"]
        out = f"; left out: {', '.join(p['left_out'])}" if p["left_out"] else ""
        print(
            f"{p['name']:22} seed {p['seed']}, joint: median {a['median']:.1f} after align, {b['median']:.1f} after "
            f"root_pose, {b['lt8']:.0%} below 8; focal {_focals(p['focal'])}; "
            f"{'certain' if p['certain'] else 'uncertain: ' + p['reason']}; {p['seconds']:.0f} CPU s{out}"
        )
    for w in wholes:
        a, b = w["joint"], w["joint_body"]
        each = ", ".join(f"{n} {f['median']:.1f} ({w['alone_body'][n]['median']:.1f})" for n, f in w["alone"].items())
        print(
            f"{w['name']:22} seed {w['seed']}, trained: joint median {a['median']:.1f} ({b['median']:.1f} against the "
            f"body), {a['lt8']:.0%} ({b['lt8']:.0%}) below 8; {each}; focal {100 * w['focal_error']:.1f} % off; "
            f"registered {w['psnr']:.2f} dB (each instant {w['instant_psnr']:.2f}), "
            f"strict {w['strict_psnr']:.2f} dB; {w['seconds']:.0f} CPU s"
        )
    print(json.dumps(accepted, indent=1))


def plan(given: argparse.Namespace, bench: Path) -> list[dict[str, Any]]:
    """All tasks in the order in which they are worth most: clips as filmed, their pairs, re-timed ones; then again with
    the next seed."""
    found = sorted(p.parent for p in bench.rglob("transforms.json") if (p.parent / "clips").is_dir())
    scenes = [bench / name for name in given.scenes.split(",")] if given.scenes else found
    until = time.time() + 60 * given.minutes if given.minutes else float("inf")
    tasks = []
    for seed in map(int, given.seeds.split(",")):
        for version in given.versions.split(","):
            searches, pairs, wholes = [], [], []
            for scene in scenes:
                folder = given.out / scene.relative_to(bench)
                clips = [clip for clip in truth_of(scene) if not given.clips or clip in given.clips.split(",")]
                end = f"{seed}-{given.effort:g}"
                common = {"name": str(scene.relative_to(bench)), "scene": str(scene), "seed": seed,
                          "capture": str(folder / "capture"), "effort": given.effort, "until": until}  # fmt: skip
                paths = {clip: folder / f"{clip}-{version}-{end}.json" for clip in clips}
                for clip, path in paths.items():
                    task = {"kind": "search", "clip": clip, "version": version, "path": str(path), "needs": []}
                    searches.append({**common, **task})
                if version != "as_filmed" or len(clips) < 2 or given.no_pairs:
                    continue
                solved = {clip: str(path.with_suffix(".pkl")) for clip, path in paths.items()}
                path = folder / f"pair-{end}.json"
                task = {"kind": "pair", "solutions": solved, "path": str(path), "needs": list(solved.values())}
                pairs.append({**common, **task})
                if not (scene / "truth").is_dir():  # no held-out view to compare with
                    continue
                poses = str(path.with_suffix("") / "poses.pkl")
                wholes.append({**common, "kind": "whole", "path": str(folder / f"whole-{end}.json"), "needs": [poses]})
            tasks += searches + pairs + (wholes if given.whole else [])
    return tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=os.environ.get("FOURDGEN_BENCH"))
    parser.add_argument("--out", type=Path, default=Path("build/poses"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--scenes", help="comma-separated; default: all with clips/ and transforms.json")
    parser.add_argument("--clips", help="comma-separated names; default: all, and then their pairs")
    parser.add_argument("--versions", default=",".join(VERSIONS))
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--effort", type=float, default=1.0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--no-pairs", action="store_true")
    parser.add_argument("--whole", action="store_true", help="train on the pairs' poses, too")
    parser.add_argument("--minutes", type=float, help="start nothing after so long")
    given = parser.parse_args()
    if given.bench is None:
        parser.error("--bench DIR or FOURDGEN_BENCH is needed")
    tasks = plan(given, Path(given.bench))
    for task in {task["capture"]: task for task in tasks}.values():
        capture_of(Path(task["scene"]), Path(task["capture"]))
    done: dict[str, list[dict[str, Any]]] = {"search": [], "pair": [], "whole": []}
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        # One after the other comes free: a pair finds the searches done that it needs. With several processes those at
        # the seams may still be running; what is left out then, the next call does.
        for task, record in zip(tasks, pool.map(work, tasks), strict=True):
            if record is not None:
                done[task["kind"]].append(record)
    accepted = acceptance(done["search"])
    show(done["search"], done["pair"], done["whole"], accepted)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"peak memory of a process: {peak:.0f} MB; {sum(map(len, done.values()))} of {len(tasks)} tasks are done")
    if given.json is not None:
        given.json.write_text(
            json.dumps({"clips": done["search"], "pairs": done["pair"], "whole": done["whole"],
                        "acceptance": accepted, "peak_mb": peak}, indent=1)
        )  # fmt: skip


if __name__ == "__main__":
    main()
