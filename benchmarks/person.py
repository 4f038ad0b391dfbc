"""A man filmed by two still cameras: his outline in the one that did not train, and a side that nobody filmed.

    python benchmarks/person.py --bench DIR [--out DIR] [--found] [-- further words for reconstruct]

First cam01 trains alone, with its true camera, and the silhouette is held against cam03's masks (the cameras are
synchronised; the masks are good to a few pixels); then both train and both outlines are compared. The masks are given,
or found (--found). --out gets one sheet for each: six instants; filmed and drawn in cam01, filmed and drawn in cam03,
then from both sides of the line between the cameras. Finished reconstructions are not run again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from masks import files_of, truth
from torch import Tensor

import fourdgen
from fourdgen.data.cameras_io import CameraEntry, read_camera_entries
from fourdgen.data.video import read_video
from fourdgen.fit import metrics
from fourdgen.geometry.camera import Cameras, look_at
from fourdgen.geometry.transforms import rigid_inverse
from fourdgen.scene.entries import camera_of, seconds_of
from fourdgen.scene.scene4d import Scene4D

TRAINED = {"cam01 alone": ("cam01",), "both cameras": ("cam01", "cam03")}
SHOWN = 6
WHITE = torch.ones(3)


def aside(scene: Scene4D, first: CameraEntry, second: CameraEntry) -> list[Cameras]:
    """From both sides of the line between two cameras, level, at their mean distance."""
    ours = [camera_of(scene, entry) for entry in (first, second)]
    eyes = torch.stack([rigid_inverse(camera.cam_from_world)[0, :3, 3] for camera in ours])
    line = eyes[0] - eyes[1]
    across = torch.nn.functional.normalize(torch.stack([line[2], torch.tensor(0.0), -line[0]]), dim=0)
    eye = eyes.norm(dim=1).mean() * across
    return [Cameras(look_at(way * eye[None]), ours[0].K, ours[0].size) for way in (1.0, -1.0)]


def cell(picture: np.ndarray | Tensor) -> np.ndarray:
    """[h w 3] 0..1 as a part of the sheet, RGB."""
    return cv2.resize((np.asarray(picture).clip(0, 1) * 255).astype(np.uint8), (135, 240), interpolation=cv2.INTER_AREA)


@torch.no_grad()
def judge(asset: Path, bench: Path, sheet: Path) -> dict[str, float]:
    """Mean IoU of the outline in each camera; draws the sheet."""
    scene = fourdgen.load(asset)
    clip = scene.clips[scene.reference]
    entries = read_camera_entries(bench / "person" / "transforms.json")
    shown = {int(i) for i in np.linspace(0, len(clip.seconds) - 1, SHOWN).round()}
    found: dict[str, float] = {}
    first: dict[str, CameraEntry] = {}
    rows = []
    for name in ("cam01", "cam03"):
        video, paths = files_of(bench, f"person/{name}")
        filmed = [frame.picture[..., :3] for frame in read_video(video)]
        scores, cells = [], []
        for entry in sorted((e for e in entries if e.clip == name), key=lambda e: e.frame or 0):
            first.setdefault(name, entry)
            frame = entry.frame or 0
            out = fourdgen.draw(scene.at(scene.reference, seconds_of(clip, frame)), camera_of(scene, entry), WHITE)
            mask = truth(paths[frame], entry.size) > 127
            scores.append(float(metrics.iou(out.alpha > 0.5, torch.from_numpy(mask)[None])[0]))
            if frame in shown:
                cells.append((np.where(mask[..., None], filmed[frame] / 255, 1), out.rgb[0]))
        found[name] = float(np.mean(scores))
        rows += [[cell(pair[i]) for pair in cells] for i in (0, 1)]
    for camera in aside(scene, first["cam01"], first["cam03"]):
        states = [scene.at(scene.reference, seconds_of(clip, frame)) for frame in sorted(shown)]
        rows.append([cell(fourdgen.draw(state, camera, WHITE).rgb[0]) for state in states])
    cv2.imwrite(str(sheet), np.concatenate([np.concatenate(row, 1) for row in rows])[..., ::-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=os.environ.get("FOURDGEN_BENCH"))
    parser.add_argument("--out", type=Path, default=Path("build/person"))
    parser.add_argument("--found", action="store_true", help="with found masks")
    parser.add_argument("further", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if given.bench is None:
        parser.error("--bench DIR or FOURDGEN_BENCH is needed")
    person = Path(given.bench) / "person"
    given.out.mkdir(parents=True, exist_ok=True)
    for label, clips in TRAINED.items():
        asset = given.out / f"{'_'.join(clips)}{'_found' if given.found else ''}.ply"
        masks = [] if given.found else ["--masks", str(person / "masks")]
        videos = [str(person / "clips" / f"{clip}.mp4") for clip in clips]
        command = [
            sys.executable, "-m", "fourdgen.cli", "reconstruct", *videos, "-o", str(asset), *masks,
            "--cameras", str(person / "transforms.json"), *(["--sync"] if len(clips) > 1 else []),
            "-p", "fast", "--threads", "1", *(word for word in given.further if word != "--"),
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        scores = judge(asset, Path(given.bench), asset.with_suffix(".png"))
        print(f"{label}: outline IoU " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()), flush=True)


if __name__ == "__main__":
    main()
