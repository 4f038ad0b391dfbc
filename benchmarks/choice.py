"""Which of several runs is the best, told without truth: does any signal of the asset itself agree with the truth?

    python benchmarks/quality.py --bench DIR --out DIR --seeds 0,1 ... (makes the runs)
    python benchmarks/choice.py --bench DIR --runs DIR [--track known] [--scenes fox,knight] [--all] [--json FILE]

Runs of one scene that differ in the seed (with --all: in the recipe, too) are compared in pairs. A signal picks one of
each pair; the table says how often that is the one with the higher held-out PSNR, and the one with the smaller track
error (pairs closer than 0.1 dB or 0.01 are not counted), and what the pick is worth: mean PSNR of the picked minus the
mean of both. `truth` always picks rightly: what there is to gain. The signals, each oriented so that more is better:

filmed       PSNR of filmed frames inside the subject's box
confidence   mean confidence of the asset's pixels along two paths on the least filmed sides
smooth       minus mean acceleration of the opaque surfels per mean speed
rigid        minus the spread over time of log distances between neighbouring surfels, per mean motion
opaque       share of surfels that are there or not there (opacity below 0.1 or above 0.9)
agreement    with --all: mean PSNR against all other runs of the scene along those paths (the best is the medoid);
             with known cameras only, as runs that found their own have no world in common
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections import defaultdict
from pathlib import Path

import torch
from scipy.spatial import cKDTree
from torch import Tensor

import fourdgen
from fourdgen.evaluate.pictures import draw_as_filmed
from fourdgen.evaluate.truth import matched, read_truth
from fourdgen.fit import metrics
from fourdgen.fit.confidence import pixel_confidence
from fourdgen.generate.paths import plan_paths
from fourdgen.render import pick
from fourdgen.report import FourdgenError, table
from fourdgen.scene.scene4d import Scene4D

WHITE = torch.ones(3)
RASTERIZER = pick("auto", "cpu")
CLOSE_PSNR, CLOSE_TRACK = 0.1, 0.01
NEIGHBOURS = 6


def filmed(scene: Scene4D, folder: Path) -> float:
    """Mean PSNR of every fourth filmed frame inside the subject's box, drawn by the asset's own camera, found or given.

    Raises FourdgenError where the folder has no pictures of them with alpha.
    """
    truth, scores = read_truth(folder, scene), []
    for entry, name, row in matched(scene, truth.inputs)[::4]:
        picture = truth.picture(entry)
        box = None if picture is None else metrics.mask_box((picture < 0.98).any(0))
        if picture is None or box is None:
            continue
        clip = scene.clips[name]
        camera = clip.cameras[row].resized((picture.shape[2], picture.shape[1]))
        out = draw_as_filmed(clip, scene.at(name, float(clip.seconds[row])), camera, RASTERIZER)
        drawn = out.rgb[0].permute(2, 0, 1).clamp(0, 1)
        scores.append(float(metrics.psnr(drawn[:, box[0], box[1]], picture[:, box[0], box[1]])))
    if not scores:
        raise FourdgenError(f"{folder}: no filmed frames with alpha to compare with", "transforms.json must name them")
    return sum(scores) / len(scores)


def paths_of(scene: Scene4D) -> Tensor:
    """[t n 3]: the opaque surfels at the times of the reference clip's frames."""
    solid = torch.sigmoid(scene.surfels.opacity) > 0.5
    times = scene.clips[scene.reference].seconds.tolist()
    return torch.stack([scene.at(scene.reference, t).means[solid] for t in times])


def smooth(paths: Tensor) -> float:
    speed = paths.diff(dim=0).norm(dim=-1).mean()
    return -float(paths.diff(n=2, dim=0).norm(dim=-1).mean() / speed)


def rigid(paths: Tensor) -> float:
    middle = paths.mean(0)
    near = torch.from_numpy(cKDTree(middle.numpy()).query(middle.numpy(), k=NEIGHBOURS + 1)[1][:, 1:])
    distance = (paths[:, :, None] - paths[:, near]).norm(dim=-1).clamp_min(1e-4).log()
    return -float(distance.std(0).mean() / (paths - middle).norm(dim=-1).mean())


def unfilmed(scene: Scene4D) -> list[tuple[float, fourdgen.Cameras]]:
    """Times of the reference clip with cameras on its two least filmed sides."""
    paths = plan_paths(scene, scene.reference, 2, every=4, side=128)
    return [(float(t), path.cameras[i]) for path in paths for i, t in enumerate(path.seconds)]


def seen(scene: Scene4D, sides: list[tuple[float, fourdgen.Cameras]]) -> tuple[float, Tensor]:
    """Mean confidence of the asset's pixels, and its pictures [t 3 h w]."""
    pictures, trust = [], []
    for seconds, camera in sides:
        state = scene.at(scene.reference, seconds)
        out = fourdgen.draw(state, camera, WHITE, RASTERIZER)
        pictures.append(out.rgb[0].permute(2, 0, 1).clamp(0, 1))
        trust.append(pixel_confidence(state, camera, RASTERIZER)[out.alpha[0] > 0.5])
    return float(torch.cat(trust).mean()), torch.stack(pictures)


@torch.no_grad()
def signals_of(assets: list[Path], folder: Path) -> list[dict[str, float]]:
    """The signals of all runs of a scene."""
    found, pictures, sides = [], [], None
    for path in assets:
        scene = fourdgen.load(path)
        together = scene.world_from_input is not None  # else the runs have no world in common
        if sides is None or scene.world_from_input is None:
            sides = unfilmed(scene)  # of the first run for all of them, where they share a world
        trust, drawn = seen(scene, sides)
        moved, opacity = paths_of(scene), torch.sigmoid(scene.surfels.opacity)
        found.append({"filmed": filmed(scene, folder), "confidence": trust, "smooth": smooth(moved)})
        found[-1] |= {"rigid": rigid(moved), "opaque": float(((opacity < 0.1) | (opacity > 0.9)).float().mean())}
        pictures.append(drawn)
    for i, mine in enumerate(pictures):
        others = [float(metrics.psnr(mine, other).mean()) for j, other in enumerate(pictures) if j != i]
        if len(others) > 1 and together:
            found[i]["agreement"] = sum(others) / len(others)
    return found


def judged(pairs: list[tuple[dict[str, float], dict[str, float]]]) -> str:
    """The table. Each run's figures are its signals, `psnr` and `track`."""
    names = [name for name in pairs[0][0] if name not in ("psnr", "track")]
    rows = []
    for name in [*(n for n in names if all(n in a and n in b for a, b in pairs)), "truth"]:
        right: dict[str, list[bool]] = defaultdict(list)
        gain = 0.0
        for a, b in pairs:
            key = "psnr" if name == "truth" else name
            best, other = (a, b) if a[key] >= b[key] else (b, a)
            gain += (best["psnr"] - other["psnr"]) / 2
            if abs(a["psnr"] - b["psnr"]) >= CLOSE_PSNR:
                right["psnr"].append(best["psnr"] > other["psnr"])
            if abs(a["track"] - b["track"]) >= CLOSE_TRACK:
                right["track"].append(best["track"] < other["track"])
        counts = [f"{sum(right[key])} of {len(right[key])}" for key in ("psnr", "track")]
        rows.append([name, *counts, f"{gain / len(pairs):+.2f}"])
    return table(rows, ("signal", "picks the higher PSNR", "the smaller track error", "gain, dB"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=os.environ.get("FOURDGEN_BENCH"))
    parser.add_argument("--runs", type=Path, default=Path("build/quality"), help="--out of benchmarks/quality.py")
    parser.add_argument("--track", default="known")
    parser.add_argument("--scenes", default="fox,knight,shiba,varied/wolf,varied/velociraptor,varied/robot")
    parser.add_argument("--all", action="store_true", help="compare runs of different recipes, too")
    parser.add_argument("--json", type=Path, help="also write every run's signals here")
    given = parser.parse_args()
    if given.bench is None:
        parser.error("--bench DIR or FOURDGEN_BENCH is needed")
    try:
        print(compared(given))
    except FourdgenError as error:
        sys.exit(str(error))


def compared(given: argparse.Namespace) -> str:
    """The table. Raises FourdgenError where nothing can be compared."""
    runs: dict[str, dict[str, float]] = {}
    pairs = []
    for scene in given.scenes.split(","):
        begin = f"{scene.replace('/', '_')}.{given.track}."
        results = sorted(given.runs.glob(f"{begin}*.json" if given.all else f"{begin}-.s*.json"))
        if len(results) < 2:
            continue
        signals = signals_of([path.with_suffix(".ply") for path in results], Path(given.bench) / scene)
        for path, row in zip(results, signals, strict=True):
            result = json.loads(path.read_text())["result"]
            if result["psnr"] is None or result["track"]["all"] is None:
                raise FourdgenError(f"{path}: no PSNR or track error to compare by", "leave this scene out")
            runs[path.stem] = {**row, "psnr": result["psnr"], "track": result["track"]["all"]}
            print(path.stem, ", ".join(f"{name} {value:.3f}" for name, value in runs[path.stem].items()), flush=True)
        pairs += list(itertools.combinations([runs[path.stem] for path in results], 2))
    if given.json is not None:
        given.json.write_text(json.dumps(runs, indent=1))
    if not pairs:
        raise FourdgenError(
            f"{given.runs}: no scene has two finished runs of track {given.track}", "benchmarks/quality.py makes them"
        )
    return judged(pairs)


if __name__ == "__main__":
    main()
