"""Every clip of the bench's real/ and generated/ goes in and comes out; input-view PSNR against the painted hull.

    python benchmarks/robustness.py --bench DIR --out DIR [--jobs 2] [-- further options of `fourdgen reconstruct`]

Prints a table, writes results.json, and sheet.png with filmed | rendered | from the side | normals of every clip.
Finished clips are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch

import fourdgen
from fourdgen.data.capture import Capture, load_capture
from fourdgen.data.records import ClipTrack
from fourdgen.fit.hull import carve, facing_quats
from fourdgen.fit.loop import HULL_EXTENT
from fourdgen.fit.views import Views
from fourdgen.geometry.camera import Cameras, intrinsics, look_at, orbit_eyes
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.surfels import Surfels, sh_from_rgb

VIDEOS = {".mp4", ".gif", ".mov", ".webm", ".mkv"}
WHITE = torch.ones(3)


def jobs_of(bench: Path) -> dict[str, list[str]]:
    """Name -> arguments: one job a generated clip, one a folder of real ones."""
    jobs = {}
    for folder in sorted((bench / "real").iterdir()):
        clips = sorted(str(path) for path in folder.iterdir() if path.suffix in VIDEOS)
        if (folder / "rgba").is_dir():
            clips = [str(folder / "rgba")]
        masks = ["--masks", str(folder / "masks")] if (folder / "masks").is_dir() else []
        jobs[f"real-{folder.name}"] = clips + masks
    for path in sorted((bench / "generated").iterdir()):
        if path.suffix in VIDEOS:
            jobs[f"generated-{path.stem}"] = [str(path)]
    return jobs


def reconstruct(name: str, arguments: list[str], out: Path, further: list[str]) -> int:
    """Exit code of the command, whose output goes to a file beside the asset."""
    command = [
        sys.executable,
        "-m",
        "fourdgen.cli",
        "reconstruct",
        *arguments,
        "-o",
        str(out / f"{name}.ply"),
        *further,
    ]
    with (out / f"{name}.log").open("w") as log:
        return subprocess.run(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode


def filmed(capture: Capture, clip: str, index: int) -> torch.Tensor:
    """The frame on white."""
    frame = capture.frame(clip, index)
    return frame.rgb * frame.mask[..., None] + 1 - frame.mask[..., None]


def painted_hull(capture: Capture, scene: Scene4D) -> Surfels:
    """Opaque points of the still visual hull in the subject's mean colour: what no reconstruction may fall behind."""
    tracks = {
        name: ClipTrack(clip.cameras.cam_from_world, clip.cameras.K, torch.ones(len(clip.seconds)))
        for name, clip in scene.clips.items()
    }
    views = Views(capture, tracks, 56.0)
    keys = [(name, t) for name, track in tracks.items() for t in range(0, len(track.K), 2)]
    seen = [views.view(*key) for key in keys]
    poses = torch.stack([tracks[name].cam_from_root[t] for name, t in keys])
    points, _, _ = carve(seen, poses, HULL_EXTENT, torch.Generator().manual_seed(0))
    color = torch.stack([v.rgb.sum((1, 2)) for v in seen]).sum(0) / sum(v.mask.sum() for v in seen)
    count = len(points)
    eye = scene.clips[scene.reference].cameras.centers()[0]
    facing = facing_quats(torch.nn.functional.normalize(eye - points, dim=-1))
    size = torch.full((count, 2), float(np.log(0.02)))
    return Surfels(
        points, facing, size, torch.full((count,), 4.0), sh_from_rgb(color.expand(count, 3)), torch.ones(count)
    )


@torch.no_grad()
def score(scene: Scene4D, capture: Capture) -> tuple[float, float]:
    """Mean input-view PSNR on white, of the asset and of the painted hull, over frames spread over all clips."""
    hull = painted_hull(capture, scene)
    found: list[list[float]] = [[], []]
    for name, clip in scene.clips.items():
        for t in range(0, len(clip.seconds), max(1, len(clip.seconds) // 12)):
            target = filmed(capture, name, t)
            for errors, surfels in zip(found, (scene.at(name, float(clip.seconds[t])), hull), strict=True):
                picture = fourdgen.draw(surfels, clip.cameras[t], background=WHITE).rgb[0].clamp(0, 1)
                errors.append(-10 * float(torch.log10(((picture - target) ** 2).mean().clamp_min(1e-9))))
    return float(np.mean(found[0])), float(np.mean(found[1]))


@torch.no_grad()
def strip(scene: Scene4D, capture: Capture, height: int = 150) -> np.ndarray:
    """Filmed | rendered, twice, then two views that nobody filmed and one of normals."""
    clip = scene.clips[scene.reference]
    cells = []
    for t in (0, len(clip.seconds) // 2):
        out = fourdgen.draw(scene.at(clip.name, float(clip.seconds[t])), clip.cameras[t], background=WHITE)
        cells += [filmed(capture, clip.name, t), out.rgb[0]]
    middle = float(clip.seconds[len(clip.seconds) // 2])
    for azimuth in (90.0, 180.0):
        eye = orbit_eyes(torch.tensor([azimuth]), 15.0, 3.2)
        side = Cameras(look_at(eye), intrinsics(40.0, (height, height))[None], (height, height))
        out = fourdgen.draw(scene.at(clip.name, middle), side, background=WHITE)
        cells.append(out.rgb[0])
    cells.append(out.normal[0] * 0.5 + 0.5 * out.alpha[0][..., None] + 1 - out.alpha[0][..., None])
    row = []
    for cell in cells:
        picture = (cell.clamp(0, 1) * 255).byte().numpy()
        width = max(1, round(picture.shape[1] * height / picture.shape[0]))
        picture = cv2.resize(picture, (min(width, 267), height), interpolation=cv2.INTER_AREA)
        row.append(cv2.copyMakeBorder(picture, 0, 0, 0, 267 - picture.shape[1], cv2.BORDER_CONSTANT, value=(255,) * 3))
    return np.concatenate(row, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=os.environ.get("FOURDGEN_BENCH"))
    parser.add_argument("--out", type=Path, default=Path("build/robustness"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("further", nargs="*")
    given = parser.parse_args()
    if given.bench is None:
        parser.error("--bench DIR or FOURDGEN_BENCH is needed")
    given.out.mkdir(parents=True, exist_ok=True)
    jobs = jobs_of(Path(given.bench))
    with ThreadPoolExecutor(given.jobs) as pool:
        codes = dict(
            zip(jobs, pool.map(lambda n: reconstruct(n, jobs[n], given.out, given.further), jobs), strict=True)
        )
    results, strips = {}, []
    print(f"{'clip':24} exit  asset   hull   poses")
    for name, code in codes.items():
        results[name] = {"exit": code}
        if code == 0:
            scene = fourdgen.load(given.out / f"{name}.ply")
            capture = load_capture(next(given.out.glob(f"{name}.run/*-ingest")))
            asset, hull = score(scene, capture)
            results[name] |= {"psnr": asset, "hull_psnr": hull, "poses": scene.notes.get("poses", "")}
            picture = strip(scene, capture)
            cv2.putText(picture, name, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
            strips.append(picture)
            print(f"{name:24} {code:4}  {asset:5.1f}  {hull:5.1f}   {results[name]['poses']}"[:150], flush=True)
        else:
            print(f"{name:24} {code:4}  see {given.out / name}.log", flush=True)
    (given.out / "results.json").write_text(json.dumps(results, indent=1))
    if strips:
        cv2.imwrite(str(given.out / "sheet.png"), np.concatenate(strips)[..., ::-1])
    beaten = [name for name, r in results.items() if "psnr" in r and r["psnr"] <= r["hull_psnr"]]
    failed = [name for name, code in codes.items() if code != 0]
    print(f"{len(jobs)} jobs, {len(failed)} failed {failed}, {len(beaten)} not better than the hull {beaten}")
    sys.exit(1 if failed or beaten else 0)


if __name__ == "__main__":
    main()
