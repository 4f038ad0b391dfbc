"""Is a camera that stands still called still? The held-out views of the bench stand still while the subject moves.

    python benchmarks/still.py --bench DIR [--scenes fox,varied/wolf] [--views val0,val1] [--cut 12] [--seed 0]

Each view's pictures are searched like a clip whose cameras are unknown. Printed: still, or how far the outermost views
of the found path lie apart, and whether that is called certain. A still view that is called turning, certainly, is the
mistake. What is decided by stands beside it: of the path that turns and fits best by how much it fits better than a
still view, the share of the flow that turns with it, and its swing. With --cut it is the first frames of the filmed
clips, few as they are, whose views do turn.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from fourdgen import native
from fourdgen.poses.accept import flow_agreement, widest
from fourdgen.poses.candidates import Candidate, SearchSettings
from fourdgen.poses.search import ClipSolution, solve_clip
from fourdgen.poses.turn import turn_from_flow
from fourdgen.report import table
from fourdgen.stages.align import AlignConfig


def pictures(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Colours on white [t h w 3] and masks [t h w] of a view's pictures, uint8."""
    rgb, mask = [], []
    for path in sorted(folder.glob("*.png")):
        bgra = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        alpha = bgra[..., 3:].astype(np.float32) / 255
        straight = bgra[..., 2::-1].astype(np.float32)
        rgb.append((straight * alpha + 255 * (1 - alpha)).round().astype(np.uint8))
        mask.append(bgra[..., 3])
    return np.stack(rgb), np.stack(mask)


def told(found: ClipSolution, best: Candidate, rgb: np.ndarray, mask: np.ndarray) -> tuple[str, ...]:
    """Gain, flow and swing of the path that turns and fits best, beside what was made of it."""
    turn, path = turn_from_flow(rgb, mask, torch.arange(len(mask)).float()), best.fit.rotations().detach()
    flow = flow_agreement(path, found.frames, turn)
    return (
        "still" if found.still else f"swings by {widest(found.rotation):.0f}",
        "certain" if found.verdict.accepted else f"uncertain: {found.verdict.reason}",
        f"{100 * (found.still_loss / best.loss - 1):.1f} %", f"{100 * flow:.0f} %", f"{widest(path):.0f}",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=os.environ.get("FOURDGEN_BENCH"))
    parser.add_argument("--scenes", help="comma-separated; default: all with held-out views")
    parser.add_argument("--views", default="val0,val1,val2,val3")
    parser.add_argument("--cut", type=int, help="instead: so many first frames of each filmed clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--effort", type=float, default=1.0)
    given = parser.parse_args()
    if given.bench is None:
        parser.error("--bench DIR or FOURDGEN_BENCH is needed")
    bench = Path(given.bench)
    names = given.scenes.split(",") if given.scenes else []
    scenes = [bench / name for name in names] or sorted(path.parent.parent for path in bench.rglob("truth/val0"))
    torch.set_num_threads(1)
    native.set_threads(1)
    settings = SearchSettings(focal=AlignConfig().focal_of(""), seed=given.seed, effort=given.effort)
    rows = []
    for scene in scenes:
        folder = scene / ("rgba" if given.cut else "truth")
        for view in sorted(p.name for p in folder.iterdir()) if given.cut else given.views.split(","):
            begun, rounds = time.process_time(), dict[str, list[Candidate]]()
            rgb, mask = pictures(folder / view)
            shown = rgb[: given.cut], mask[: given.cut]
            found = solve_clip(*shown, settings, watch=rounds.__setitem__)
            rows.append((
                str(scene.relative_to(bench)), view, *told(found, rounds["refined"][0], *shown),
                f"{time.process_time() - begun:.0f}",
            ))  # fmt: skip
            print(*rows[-1], sep="  ", flush=True)
    wrong = sum(row[2] != "still" and row[3] == "certain" for row in rows)
    print("\n" + table(rows, ("scene", "view", "found", "verdict", "gain", "flow", "swing", "CPU-s")))
    print(f"\n{sum(row[2] == 'still' for row in rows)} of {len(rows)} still, {wrong} certainly turning")


if __name__ == "__main__":
    main()
