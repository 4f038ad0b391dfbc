"""Found masks against true ones: mean IoU frame by frame, and after the whole clip has corrected them.

    python benchmarks/masks.py --bench DIR [--clips clutter/a,person/cam01] [--size 512] [--frames 17]

The clips bring their own truth: alpha of clutter, fox and shiba, masks of person (good to a few pixels), camel and dog.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from fourdgen.data.video import read_video
from fourdgen.priors import masks, neural, still
from fourdgen.priors.subject import follow

CLIPS = ("clutter/a", "clutter/b", "person/cam01", "person/cam03", "camel/camel", "dog/dog")


def files_of(bench: Path, name: str) -> tuple[Path, list[Path]]:
    """A clip's video and its true masks in order."""
    scene, clip = name.split("/")
    if scene in ("camel", "dog"):
        folder = bench / "real" / scene
        return folder / f"{clip}.mp4", sorted((folder / "masks").rglob("*.png"))
    if scene == "person":
        return bench / scene / "clips" / f"{clip}.mp4", sorted((bench / scene / "masks" / clip).glob("*.png"))
    return bench / scene / "clips" / f"{clip}.mp4", sorted((bench / scene / "rgba" / clip).glob("*.png"))


def truth(path: Path, size: tuple[int, int]) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    mask = image if image.ndim == 2 else image[..., 3] if image.shape[2] == 4 else image.max(-1)
    return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_AREA))


def iou(found: np.ndarray, true: np.ndarray) -> float:
    both, either = ((found > 127) & (true > 127)).sum((1, 2)), ((found > 127) | (true > 127)).sum((1, 2))
    return float((both / np.maximum(either, 1)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=os.environ.get("FOURDGEN_BENCH"))
    parser.add_argument("--clips", default=",".join(CLIPS))
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--frames", type=int, default=17)
    given = parser.parse_args()
    if given.bench is None:
        parser.error("--bench DIR or FOURDGEN_BENCH is needed")
    found = masks.network()
    if found is None:
        sys.exit("there are no mask weights on this machine: fourdgen doctor --fetch")
    network = neural.open_network(found[1])
    print(f"{'clip':16} {found[0]:>8}  whole clip   CPU s")
    for name in given.clips.split(","):
        video, paths = files_of(Path(given.bench), name)
        frames = [frame.picture[..., :3] for frame in read_video(video)]
        height, width = frames[0].shape[:2]
        scale = min(1.0, given.size / max(height, width))
        size = (round(width * scale), round(height * scale))
        which = np.unique(np.linspace(0, min(len(frames), len(paths)) - 1, given.frames).round().astype(int))
        rgb = np.stack([cv2.resize(frames[i], size, interpolation=cv2.INTER_AREA) for i in which])
        true = np.stack([truth(paths[i], size) for i in which])
        begin = time.process_time()
        mask = neural.track(rgb, network)
        line = f"{name:16} {iou(mask, true):8.3f}"
        if still.is_still(rgb, mask):
            line += f"  {iou(follow(still.correct(rgb, mask)), true):10.3f}"
        else:
            line += f"  {'moves':>10}"
        print(f"{line}  {time.process_time() - begin:6.1f}", flush=True)


if __name__ == "__main__":
    main()
