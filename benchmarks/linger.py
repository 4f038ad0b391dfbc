"""A bench scene filmed by a camera that lingers: the same layout, with frames of clip a repeated and dropped.

    python benchmarks/linger.py --bench DIR --scene fox [--out build/linger/fox] [--dense 16] [--repeat 2]
        [--keep-every 4]

The first `dense` frames of clip a are there `repeat` times, of the others every `keep_every`th is left: at 16, 2 and 4
of 48 frames a third of the way holds 32 frames and the rest 8. Score it with benchmarks/quality.py --tracks alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import numpy as np


def lingering(count: int, dense: int, repeat: int, keep_every: int) -> list[int]:
    """Which frame of the source each frame shows."""
    return [i for i in range(dense) for _ in range(repeat)] + list(range(dense, count, keep_every))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=os.environ.get("FOURDGEN_BENCH"))
    parser.add_argument("--scene", default="fox")
    parser.add_argument("--out", type=Path, help="default: build/linger/SCENE")
    parser.add_argument("--dense", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--keep-every", type=int, default=4)
    given = parser.parse_args()
    if given.bench is None:
        parser.error("--bench DIR or FOURDGEN_BENCH is needed")
    given.out = given.out or Path("build/linger") / given.scene
    source = Path(given.bench) / given.scene
    (given.out / "rgba" / "a").mkdir(parents=True, exist_ok=True)
    (given.out / "truth").mkdir(exist_ok=True)

    inputs = json.loads((source / "transforms.json").read_text())
    filmed = {entry["frame"]: entry for entry in inputs["frames"] if entry["clip"] == "a"}
    shown = lingering(len(filmed), given.dense, given.repeat, given.keep_every)
    inputs["frames"] = []
    for number, frame in enumerate(shown):
        path = f"rgba/a/{number:04d}.png"
        shutil.copyfile(source / filmed[frame]["file_path"], given.out / path)
        inputs["frames"].append({**filmed[frame], "file_path": path, "frame": number})
    (given.out / "transforms.json").write_text(json.dumps(inputs))

    held_out = json.loads((source / "truth" / "transforms.json").read_text())
    kept = [entry for entry in held_out["frames"] if entry["frame"] in shown]
    for entry in kept:
        target = given.out / "truth" / entry["file_path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / "truth" / entry["file_path"], target)
    held_out["frames"] = [{**entry, "frame": shown.index(entry["frame"])} for entry in kept]
    (given.out / "truth" / "transforms.json").write_text(json.dumps(held_out))
    with np.load(source / "truth" / "mesh_a.npz") as mesh:
        np.savez(given.out / "truth" / "mesh_a.npz", **{**mesh, "verts": mesh["verts"][shown]})
    print(f"{given.out}: {len(shown)} frames, {len(kept)} held-out pictures")


if __name__ == "__main__":
    main()
