"""Root poses and focal lengths found on clips whose true cameras are known, and what the acceptance tests say.

    python benchmarks/poses.py --bench DIR [--out DIR] [--json FILE] [--scenes fox,varied/wolf] [--clips a,b]
                               [--versions as_filmed,eased] [--seeds 0,1] [--effort 1.0] [--jobs 2] [--no-pairs]

Every clip of the scenes (folders with clips/ and transforms.json) is searched as filmed and re-timed: eased (slow
ends), there and back, stop and go, first third only. Errors are angles after one global rotation per clip; joint: one
for the clips of a scene, after stages align and root_pose. All solutions that a search refined are labelled: right
below 20 degrees of median error. Each is judged by the acceptance tests as if it had won. Finished searches in --out
are not run again.
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

from fourdgen import native
from fourdgen.data.cameras_io import CameraEntry, read_camera_entries
from fourdgen.data.capture import Capture, load_capture, stack
from fourdgen.geometry.fit import rotation_errors
from fourdgen.poses.accept import DISTINCT, judge, path_difference
from fourdgen.poses.search import Candidate, ClipSolution, SearchSettings, solve_clip
from fourdgen.poses.turn import turn_from_flow
from fourdgen.report import Silent
from fourdgen.stages import align, ingest, root_pose
from fourdgen.workspace import Context, Job

RIGHT = 20.0  # degrees of median error below which a path lies in the right basin


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


def search(task: dict[str, Any]) -> dict[str, Any]:
    """One clip in one version: the record for the table; the solution is kept beside it for the pair."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    native.set_threads(1)
    record_path = Path(task["path"])
    if record_path.exists():
        return dict(json.loads(record_path.read_text()))
    capture = load_capture(Path(task["capture"]))
    order = VERSIONS[task["version"]](len(capture.clip(task["clip"])))
    rgb, mask = (frames.numpy()[order] for frames in stack(capture, task["clip"]))
    true = _rotations(truth_of(Path(task["scene"]))[task["clip"]])[order]
    settings = SearchSettings(focal=align.AlignConfig().focal, seed=task["seed"], effort=task["effort"])
    refined: list[Candidate] = []

    def watch(stage: str, candidates: list[Candidate]) -> None:
        if stage == "refined":
            refined.extend(candidates)

    begun = time.process_time()
    solution = solve_clip(rgb, mask, settings, watch=watch)
    seconds = time.process_time() - begun
    record = {
        **{key: task[key] for key in ("name", "clip", "version", "seed", "effort")},
        **_figures(solution.rotation, true[solution.frames]),
        "still": solution.still, "accepted": solution.verdict.accepted, "reason": solution.verdict.reason,
        "seconds": seconds, "labelled": labelled(refined, rgb, mask, solution, true),
    }  # fmt: skip
    record_path.with_suffix(".pkl").write_bytes(pickle.dumps(solution))
    record_path.write_text(json.dumps(record, indent=1))
    return record


def labelled(
    candidates: list[Candidate], rgb: np.ndarray, mask: np.ndarray, solution: ClipSolution, true: torch.Tensor
) -> list[dict[str, Any]]:
    """Every refined solution with its error and the verdict on it. `met`: judged against its best distinct rival.
    `alone`: against its best distinct rival that is no better, as if the search had missed what beats it."""
    turn = turn_from_flow(rgb, mask)
    rows = []
    for candidate in candidates:
        mine = candidate.fit.rotations().detach()
        rivals = [
            c.loss for c in candidates if path_difference(mine, c.fit.rotations().detach()) > DISTINCT
        ]  # fmt: skip
        worse = [loss for loss in rivals if loss >= candidate.loss]
        met = judge(candidate.fit, solution.frames, turn, min(rivals, default=None))
        alone = judge(candidate.fit, solution.frames, turn, min(worse, default=None))
        rows.append({
            "median": float(rotation_errors(mine, true[solution.frames]).median()), "loss": candidate.loss,
            "gain": solution.still_loss / candidate.loss, "met": vars(met), "alone": vars(alone),
        })  # fmt: skip
    return rows


def pair(task: dict[str, Any]) -> dict[str, Any]:
    """Both clips of a scene in one root frame: errors under one rotation for both after each stage, focal errors."""
    torch.set_num_threads(1)
    capture, truth = load_capture(Path(task["capture"])), truth_of(Path(task["scene"]))
    solutions = {name: pickle.loads(Path(path).read_bytes()) for name, path in task["solutions"].items()}
    folder = Path(task["path"])
    folder.mkdir(parents=True, exist_ok=True)
    context = Context(folder, Job((), folder / "scene.ply", folder), "cpu", 1, task["seed"], Silent())
    begun = time.process_time()
    aligned = align.joined(context, align.AlignConfig(effort=task["effort"]), capture, solutions)
    (folder / "check.png").replace(folder / "align.png")
    track = root_pose.run(context, root_pose.RootPoseConfig(effort=task["effort"]), capture, aligned)
    seconds = time.process_time() - begun
    names = list(track.clips)
    true = torch.cat([_rotations(truth[name]) for name in names])
    focal = {}
    for name in names:
        entry = truth[name][0]
        found = float(track.clips[name].K[0, 0, 0]) / max(capture.clip(name).size)
        focal[name] = found / (float(entry.K[0, 0]) / max(entry.size)) - 1
    return {
        "name": task["name"], "seed": task["seed"], "left_out": dict(aligned.left_out), "certain": track.certain,
        "reason": track.reason, "seconds": seconds, "focal": focal,
        "align": _figures(torch.cat([aligned.clips[name].cam_from_root[:, :3, :3] for name in names]), true),
        "root_pose": _figures(torch.cat([track.clips[name].cam_from_root[:, :3, :3] for name in names]), true),
        "alone": {
            name: _figures(track.clips[name].cam_from_root[:, :3, :3], _rotations(truth[name])) for name in names
        },
    }  # fmt: skip


def acceptance(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares over all labelled solutions of clips whose view turns."""
    rows = [row for record in records for row in record["labelled"]]
    right = [row for row in rows if row["median"] < RIGHT]
    wrong = [row for row in rows if row["median"] >= RIGHT]
    winners = [record for record in records if not record["still"]]
    return {
        "labelled": len(rows), "right": len(right), "wrong": len(wrong),
        "wrong_accepted": sum(row["met"]["accepted"] for row in wrong),
        "wrong_accepted_unbeaten": sum(row["alone"]["accepted"] for row in wrong),
        "right_refused_unbeaten": sum(not row["alone"]["accepted"] for row in right),
        "winners": len(winners),
        "winners_wrong_accepted": sum(r["accepted"] and r["median"] >= RIGHT for r in winners),
        "winners_right": sum(r["median"] < RIGHT for r in winners),
        "winners_right_refused": sum(not r["accepted"] and r["median"] < RIGHT for r in winners),
    }  # fmt: skip


def show(records: list[dict[str, Any]], pairs: list[dict[str, Any]], accepted: dict[str, Any]) -> None:
    print(f"{'clip':22} {'version':15} seed  median  <10 deg    max  accepted  seconds")
    for r in records:
        verdict = "still" if r["still"] else "yes" if r["accepted"] else "no"
        print(
            f"{r['name'] + ' ' + r['clip']:22} {r['version']:15} {r['seed']:4} {r['median']:7.1f} {r['lt10']:8.0%} "
            f"{r['max']:6.1f}  {verdict:8}  {r['seconds']:7.0f}"
        )
    for p in pairs:
        focal = ", ".join(f"{name} {100 * error:+.1f} %" for name, error in p["focal"].items())
        a, b = p["align"], p["root_pose"]
        print(
            f"{p['name']:22} joint: median {a['median']:.1f} after align, {b['median']:.1f} after root_pose, "
            f"{b['lt8']:.0%} below 8; focal {focal}; {'certain' if p['certain'] else 'uncertain'}; {p['seconds']:.0f} s"
        )
    if records:
        basin = sum(r["median"] < RIGHT and not r["still"] for r in records)
        print(f"\nright basin: {basin} of {len(records)}")
    print(json.dumps(accepted, indent=1))


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
    given = parser.parse_args()
    if given.bench is None:
        parser.error("--bench DIR or FOURDGEN_BENCH is needed")
    bench = Path(given.bench)
    found = sorted(p.parent for p in bench.rglob("transforms.json") if (p.parent / "clips").is_dir())
    scenes = [bench / name for name in given.scenes.split(",")] if given.scenes else found
    tasks, joins = [], []
    for scene in scenes:
        name = str(scene.relative_to(bench))
        folder = given.out / name
        capture_of(scene, folder / "capture")
        clips = [clip for clip in truth_of(scene) if not given.clips or clip in given.clips.split(",")]
        for seed in map(int, given.seeds.split(",")):
            common = {"name": name, "scene": str(scene), "capture": str(folder / "capture"), "seed": seed,
                      "effort": given.effort}  # fmt: skip
            for version in given.versions.split(","):
                paths = {clip: folder / f"{clip}-{version}-{seed}-{given.effort:g}.json" for clip in clips}
                tasks += [
                    {**common, "clip": clip, "version": version, "path": str(path)} for clip, path in paths.items()
                ]
                if version == "as_filmed" and len(clips) > 1 and not given.no_pairs:
                    solutions = {clip: str(path.with_suffix(".pkl")) for clip, path in paths.items()}
                    joins.append({**common, "solutions": solutions, "path": str(folder / f"pair-{seed}")})
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        records = list(pool.map(search, tasks))
        pairs = list(pool.map(pair, joins))
    accepted = acceptance(records)
    show(records, pairs, accepted)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"peak memory of a process: {peak:.0f} MB")
    if given.json is not None:
        given.json.write_text(
            json.dumps({"clips": records, "pairs": pairs, "acceptance": accepted, "peak_mb": peak}, indent=1)
        )


if __name__ == "__main__":
    main()
