"""Root poses and focal lengths found on clips whose true cameras are known, and what the acceptance tests say.

    python benchmarks/poses.py --bench DIR [--out DIR] [--json FILE] [--scenes fox,varied/wolf] [--clips a,b]
                               [--versions as_filmed,eased] [--seeds 0,1] [--effort 1.0] [--jobs 2] [--no-pairs]
                               [--whole] [--minutes 30] [--keep]

Every clip of the scenes (folders with clips/ and transforms.json) is searched as filmed and re-timed (retimed.py):
eased (slow ends), there and back, stop and go, first third only, and uneven: frames are missing at random and in one
piece, and those that are left keep their true times. Errors are angles after one global rotation per clip; joint: one
for the clips of a scene, after stages align and root_pose, and with --whole after training. There the error of the
cameras against the asset's own body stands beside it: what is root and what is body motion is ambiguous, and a
camera that is off by just what the body is off shows the right picture. With --whole the same training runs with the
true cameras as well: what is lost against it is what unknown cameras cost.

All solutions that a search moved along its lines or refined are labelled: right below 20 degrees of median error.
Each is judged by the acceptance tests as if it had won, among those of its round.

At the end, and under "goals" of --json, stands one table of what is to be reached: the share of clips, pairs or
solutions that do, what it is to be, reached or MISSED ("not run" where nothing tells; "beside" decides nothing).

What is finished lies in --out with a digest of the code that made it, and is not run again, so that an interrupted
benchmark goes on where it was; what older code made is made anew, or taken as it is with --keep. What is made from
kept results is never taken for today's. --minutes starts nothing after so long, and the table shows what there is.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from digest import code_digest
from pose_table import acceptance, as_json, goal_table, goals, show
from pose_tasks import capture_of, finished, truth_of, work
from retimed import VERSIONS

MAKERS = tuple(Path(__file__).with_name(f"{name}.py") for name in ("pose_tasks", "retimed"))  # of the results


def is_rendered(scene: Path) -> bool:
    """Whether a scene has held-out views: those that were filmed have none, nor a true pose of every frame."""
    return (scene / "truth").is_dir()


def plan(given: argparse.Namespace, bench: Path) -> list[dict[str, Any]]:
    """All tasks in the order in which they are worth most: clips as filmed, their pairs, re-timed ones; then again with
    the next seed."""
    code = code_digest(*MAKERS)
    found = sorted(p.parent for p in bench.rglob("transforms.json") if (p.parent / "clips").is_dir())
    scenes = [bench / name for name in given.scenes.split(",")] if given.scenes else found
    until = time.time() + 60 * given.minutes if given.minutes is not None else float("inf")
    tasks = []
    for seed in map(int, given.seeds.split(",")):
        for version in given.versions.split(","):
            searches, pairs, wholes = [], [], []  # and with each whole one what it is compared with
            for scene in scenes:
                folder = given.out / scene.relative_to(bench)
                clips = [clip for clip in truth_of(scene) if not given.clips or clip in given.clips.split(",")]
                end = f"{seed}-{given.effort:g}"
                common = {"name": str(scene.relative_to(bench)), "scene": str(scene), "seed": seed,
                          "capture": str(folder / "capture"), "effort": given.effort, "until": until, "code": code,
                          "keep": given.keep}  # fmt: skip
                paths = {clip: folder / f"{clip}-{version}-{end}.json" for clip in clips}
                for clip, path in paths.items():
                    task = {"kind": "search", "clip": clip, "version": version, "path": str(path), "needs": []}
                    searches.append({**common, **task})
                if version != "as_filmed" or len(clips) < 2 or given.no_pairs:
                    continue
                solved = {clip: str(path.with_suffix(".pkl")) for clip, path in paths.items()}
                path = folder / f"pair-{end}.json"
                needs = [str(path) for path in paths.values()]
                task = {"kind": "pair", "solutions": solved, "path": str(path), "needs": needs}
                pairs.append({**common, **task})
                if not is_rendered(scene):
                    continue
                task = {"kind": "whole", "path": str(folder / f"whole-{end}.json"), "needs": [str(path)]}
                wholes.append({**common, **task})
                task = {"kind": "known", "path": str(folder / f"known-{seed}.json"), "needs": [], "clips": clips}
                wholes.append({**common, **task})
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
    parser.add_argument("--whole", action="store_true", help="train on the pairs' poses, too, and with the true ones")
    parser.add_argument("--keep", action="store_true", help="take finished results of older code as they are")
    parser.add_argument("--minutes", type=float, help="start nothing after so long")
    given = parser.parse_args()
    if given.bench is None:
        parser.error("--bench DIR or FOURDGEN_BENCH is needed")
    for version in given.versions.split(","):
        if version not in VERSIONS:
            parser.error(f"--versions {version}: choose from {', '.join(VERSIONS)}")
    tasks = plan(given, Path(given.bench))
    due = [task for task in tasks if finished(task) is None and time.time() < task["until"]]
    for task in {task["capture"]: task for task in due}.values():
        capture_of(task)
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        # One after the other comes free: a pair finds the searches done that it needs. With several processes those at
        # the seams may still be running; what is left out then, the next call does.
        for _ in pool.map(work, due):
            pass
    done: dict[str, list[dict[str, Any]]] = {"search": [], "pair": [], "whole": [], "known": []}
    for task in tasks:
        record = finished(task)
        if record is not None:
            done[task["kind"]].append(record)
    accepted = acceptance(done["search"])
    show(done["search"], done["pair"], done["whole"], accepted)
    rows = goals(done, accepted, {task["name"] for task in tasks if is_rendered(Path(task["scene"]))})
    print(f"\n{goal_table(rows)}\n")
    peak = max((r["peak_mb"] for records in done.values() for r in records if "peak_mb" in r), default=None)
    said = "not known" if peak is None else f"{peak:.0f} MB"
    print(f"peak memory of a process: {said}; {sum(map(len, done.values()))} of {len(tasks)} tasks are done")
    if given.json is not None:
        given.json.write_text(
            json.dumps({"goals": as_json(rows), "clips": done["search"], "pairs": done["pair"], "whole": done["whole"],
                        "known": done["known"], "acceptance": accepted, "peak_mb": peak}, indent=1)
        )  # fmt: skip


if __name__ == "__main__":
    main()
