"""How fast a moving scene is drawn: pictures alone, and the whole command with its H.264.

    python benchmarks/playback.py [--surfels 50000] [--size 512] [--frames 240] [--json FILE]

The scene is made up: a rough sphere of surfels on 25 bones that turn, as scene.ply.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from speed import sphere, take_turns

import fourdgen
from fourdgen import native
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import dual_quat, quat_exp, quat_rotate
from fourdgen.playback import shots
from fourdgen.playback.channels import Look, opaque_picture
from fourdgen.render import draw, pick
from fourdgen.scene import files
from fourdgen.scene.motion import SampledBones
from fourdgen.scene.scene4d import Scene4D, SceneClip
from fourdgen.scene.surfels import Surfels, sh_from_rgb

BONES, FRAMES = 25, 48


def made_up(count: int, size: int) -> Scene4D:
    """Two seconds of a sphere whose bones swing to and fro; it ends as it begins."""
    g = torch.Generator().manual_seed(0)
    case = sphere(count, size, (0.6, 1.5))
    means, quats, scales, opacities, colors = (t.detach() for t in case.leaves)
    centers = F.normalize(torch.randn(BONES, 3, generator=g), dim=-1)
    weights, ids = torch.softmax(-((torch.cdist(means, centers) / 0.5) ** 2), 1).topk(4, dim=1)
    surfels = Surfels(
        means, quats, scales.log(), torch.logit(opacities), sh_from_rgb(colors), torch.ones(count), bone_ids=ids.int(),
        bone_weights=weights / weights.sum(1, keepdim=True),
    )  # fmt: skip
    seconds = torch.arange(FRAMES) / 24
    swing = 0.2 * torch.sin(2 * math.pi * seconds / 2)[:, None, None] * F.normalize(centers.roll(1, 0), dim=-1)
    rotation = quat_exp(swing)
    poses = dual_quat(rotation, centers - quat_rotate(rotation, centers.expand(FRAMES, -1, -1)))
    every = Cameras(case.cameras.cam_from_world.expand(FRAMES, 4, 4), case.cameras.K.expand(FRAMES, 3, 3), (size, size))
    clip = SceneClip("a", seconds, torch.arange(FRAMES), every, torch.ones(3), torch.zeros(3))
    return Scene4D(surfels, SampledBones({"a": seconds}, {"a": poses}, centers), {"a": clip}, "a")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--surfels", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--frames", type=int, default=240)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long the pictures alone are timed")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--bench", help=argparse.SUPPRESS)  # what other benchmarks take
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    files.write(folder / "scene.ply", made_up(given.surfels, given.size))
    scene = fourdgen.load(str(folder / "scene.ply"))
    rasterizer, look = pick("cpu"), Look("rgb")
    motion = shots.motion_of(scene, scene.clips["a"], "loop", 1.0)
    plan = shots.orbit(scene, motion, (given.size, given.size), 24, 10.0)
    white, turn = torch.ones(3), iter(range(10**9))

    def picture() -> None:
        opaque_picture(scene, plan[next(turn) % len(plan)], look, rasterizer, white)

    def state() -> None:
        scene.at("a", plan[next(turn) % len(plan)].seconds)

    still = scene.at("a", 0.3)

    def drawing() -> None:
        with torch.no_grad():
            draw(still, plan[next(turn) % len(plan)].camera, rasterizer=rasterizer)

    times = take_turns({"picture": picture, "of it: bones": state, "of it: drawing": drawing}, given.seconds)
    fps = given.frames / (len(plan) / 24)
    command = [
        sys.executable, "-m", "fourdgen.cli", "render", str(folder / "scene.ply"), "--orbit", "--size", str(given.size),
        "--fps", f"{fps:.3f}", "-o", str(folder / "orbit.mp4"),
    ]  # fmt: skip
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    whole = time.perf_counter() - begin
    figures = {
        "build": native.build(),
        "threads": torch.get_num_threads(),
        "picture_ms": times["picture"].wall,
        "bones_ms": times["of it: bones"].wall,
        "drawing_ms": times["of it: drawing"].wall,
        "render_fps": 1e3 / times["picture"].wall,
        "command_seconds": whole,
        "command_fps": given.frames / whole,
    }
    for name, value in figures.items():
        print(f"{name:18} {value:.2f}" if isinstance(value, float) else f"{name:18} {value}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
