"""When two still cameras filmed the same moments: offset and rate found from outlines, against what was done to a clip.

    python benchmarks/sync.py --bench DIR [--found] [--apart]

Person's two clips are synchronous. Of the second one the first seven frames are taken away, or it is played at another
speed, or both; its cameras are the given ones. `--found`: masks as the product finds them, instead of the given ones.
`--apart`: instead, what the best line leaves between clips that show different motions, under true cameras and masks.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from masks import files_of, truth

from fourdgen.data.cameras_io import read_camera_entries
from fourdgen.data.video import read_video
from fourdgen.geometry.camera import Cameras
from fourdgen.poses.timing import find_time_map, tangency
from fourdgen.priors import masks, neural, still
from fourdgen.priors.subject import follow

CASES = {"as filmed": (0, 1.0), "begins 7 frames late": (7, 1.0), "at 80 % of its time": (0, 0.8), "both": (7, 0.8)}


PAIRS = ("fox", "knight", "shiba", "clutter", "varied/wolf", "varied/robot", "varied/velociraptor")
SHORT, LASTS = 12, (6.0, 12.0, 24.0)  # frames that are left of a second clip; seconds that it is said to last


def apart(bench: Path) -> None:
    """The second clip as it is, its middle half second, and all its frames spread over longer times."""
    print(f"{'two motions':34} pairs   cost  asked  unasked")
    for name in PAIRS:
        first, second = (_true(bench / name, clip) for clip in "ab")
        matrix, count = tangency(first, second), len(second[0])
        middle = slice((count - SHORT) // 2, (count + SHORT) // 2)
        cases = {
            "": (matrix, torch.arange(count) / 24),
            f", {SHORT} frames": (matrix[:, middle], torch.arange(SHORT) / 24),
        }
        cases |= {f", lasting {lasts:.0f} s": (matrix, torch.linspace(0, lasts, count)) for lasts in LASTS}
        for label, (some, seconds) in cases.items():
            found = find_time_map(some, torch.arange(len(matrix)) / 24, seconds)
            print(
                f"{name + label:34} {found.pairs:5} {found.cost:6.2f}  {found.evident!s:5}  {found.speaks_for_itself}"
            )


def _true(folder: Path, clip: str) -> tuple[np.ndarray, Cameras]:
    rows = sorted(
        (e for e in read_camera_entries(folder / "transforms.json") if e.clip == clip), key=lambda e: e.frame or 0
    )
    poses, K = (torch.stack([getattr(e, part) for e in rows]).float() for part in ("cam_from_input", "K"))
    pictures = [cv2.imread(str(folder / "rgba" / clip / f"{e.frame:04d}.png"), cv2.IMREAD_UNCHANGED) for e in rows]
    return np.stack([picture[..., 3] for picture in pictures]), Cameras(poses, K, rows[0].size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=os.environ.get("FOURDGEN_BENCH"))
    parser.add_argument("--found", action="store_true")
    parser.add_argument("--apart", action="store_true")
    given = parser.parse_args()
    if given.bench is None:
        parser.error("--bench DIR or FOURDGEN_BENCH is needed")
    bench = Path(given.bench)
    if given.apart:
        return apart(bench)
    entries = read_camera_entries(bench / "person" / "transforms.json")
    seen = []
    for name in ("cam01", "cam03"):
        video, paths = files_of(bench, f"person/{name}")
        rgb = np.stack([frame.picture[..., :3] for frame in read_video(video)])
        size = (rgb.shape[2], rgb.shape[1])
        mask = np.stack([truth(path, size) for path in paths])
        if given.found:
            weights = masks.network()
            if weights is None:
                parser.error("there are no mask weights on this machine: fourdgen doctor --fetch")
            mask = follow(still.correct(rgb, neural.track(rgb, neural.open_network(weights[1]))))
        rows = sorted((e for e in entries if e.clip == name), key=lambda e: e.frame or 0)[: len(mask)]
        poses, K = (torch.stack([getattr(e, part) for e in rows]).float() for part in ("cam_from_input", "K"))
        seen.append((mask[: len(rows)], Cameras(poses, K, size)))
    seconds = torch.arange(len(seen[0][0])) / 20
    print(f"{'the second clip':22} offset, frames   (true)   rate   (true)   cost")
    for label, (late, speed) in CASES.items():
        mask, cameras = seen[1]
        second = (mask[late:], replace(cameras, cam_from_world=cameras.cam_from_world[late:], K=cameras.K[late:]))
        found = find_time_map(tangency(seen[0], second), seconds, speed * seconds[: len(mask) - late])
        print(f"{label:22} {20 * found.offset:14.2f} {late:8} {found.rate:7.3f} {1 / speed:8.3f} {found.cost:6.2f}")


if __name__ == "__main__":
    main()
