"""How fast the kernels are: against peers in the same run, against the arithmetic alone, and within a training step.

    python benchmarks/speed.py [--json FILE] [--prototype DIR] [--opensplat DIR]

Every call and its peers take turns, and the least time over all turns counts: what else the machine does can only add.
Times of one thread are CPU time of the process, of two threads wall time. `--prototype` and `--opensplat` are sources
of other rasterizers, compiled in a temporary folder (OpenSplat is under the AGPL: bring your own).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peers.bounds import table
from peers.opensplat import OpenSplat
from peers.prototype import Prototype
from torch import Tensor

from fourdgen import native
from fourdgen.fit.losses import photometric
from fourdgen.fit.model import SURFEL_PARAMETERS, Model, Rates
from fourdgen.geometry.camera import Cameras, look_at
from fourdgen.geometry.transforms import quat_from_matrix
from fourdgen.render import tiled
from fourdgen.render.cpu import CpuRasterizer
from fourdgen.scene.bones import BoneMotion, ClipTime
from fourdgen.scene.surfels import rgb_from_sh, sh_from_rgb

FLOPS_PER_PAIR = 58 + 105  # multiplications and additions of one surfel at one pixel, forward and backward, by hand
BONES = 25
BOTH = " forward+backward"


@dataclass(frozen=True)
class Case:
    """Surfels on a rough sphere that fills 60 % of a square picture, and gradients of its pictures."""

    leaves: tuple[Tensor, ...]  # means, quats, scales, opacities, colors
    cameras: Cameras
    grads: tuple[Tensor, ...]  # of rgb [v 3 h w], depth, normal, alpha

    @property
    def size(self) -> tuple[int, int]:
        return self.cameras.size


def sphere(count: int, size: int, sigma: tuple[float, float], views: int = 1, seed: int = 0) -> Case:
    """`sigma`: standard deviations in pixels, drawn evenly. Several views have their own means and quats."""
    g = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    out = F.normalize(randn(count, 3), dim=-1)
    normal = F.normalize(out + 0.35 * randn(count, 3), dim=-1)
    u = F.normalize(torch.linalg.cross(normal, randn(count, 3)), dim=-1)
    quats = quat_from_matrix(torch.stack([u, torch.linalg.cross(normal, u), normal], -1))
    focal = math.sqrt(0.6 * size * size / math.pi) * math.sqrt(15.0)
    scales = (sigma[0] + (sigma[1] - sigma[0]) * torch.rand(count, 2, generator=g)) * 4 / focal
    opacities = 0.6 + 0.2 * torch.rand(count, generator=g)
    means = out * (1 + 0.03 * randn(count, 1))
    colors = 0.5 + 0.5 * torch.sin(means @ randn(3, 3) * 2 + randn(3))
    if views > 1:
        means = means + 0.01 * randn(views, count, 3)
        quats = quats + 0.01 * randn(views, count, 4)
    eyes = 4 * F.normalize(torch.tensor([0.3, -0.5, 0.8]) + 0.1 * randn(views, 3), dim=-1)
    K = torch.tensor([[focal, 0, size / 2 + 0.3], [0, focal * 1.01, size / 2 - 0.4], [0, 0, 1]])
    cameras = Cameras(look_at(eyes), K.expand(views, 3, 3).contiguous(), (size, size))
    shapes = ((views, 3, size, size), (views, size, size), (views, 3, size, size), (views, size, size))
    leaves = (means, quats, scales, opacities, colors)
    return Case(tuple(t.contiguous().requires_grad_(True) for t in leaves), cameras, tuple(randn(*s) for s in shapes))


class Native:
    """The kernels under test."""

    name = "fourdgen"

    def draw(self, case: Case, threads: int) -> list[Tensor]:
        cameras = case.cameras
        out = native.raster(*case.leaves, cameras.cam_from_world, cameras.K, cameras.size, threads=threads)
        return [out.rgb, out.depth, out.normal, out.alpha]


def calls(peer: Any, case: Case, threads: int) -> dict[str, Callable[[], object]]:
    def forward() -> object:
        with torch.no_grad():
            return peer.draw(case, threads)

    def both() -> object:
        pictures = peer.draw(case, threads)
        return torch.autograd.grad(pictures, case.leaves, case.grads[: len(pictures)], allow_unused=True)

    return {f"{peer.name} forward": forward, f"{peer.name}{BOTH}": both}


@dataclass(frozen=True)
class Times:
    """Least milliseconds of one call."""

    cpu: float
    wall: float


def take_turns(functions: Mapping[str, Callable[[], object]], seconds: float, least: int = 5) -> dict[str, Times]:
    """Least times over as many turns as fit. Two calls each: the second finds the caches its own."""
    best = dict.fromkeys(functions, (math.inf, math.inf))
    for function in functions.values():
        function()
    begin, turns = time.perf_counter(), 0
    while turns < least or time.perf_counter() - begin < seconds:
        turns += 1
        for name, function in functions.items():
            for _ in range(2):
                cpu, wall = time.process_time(), time.perf_counter()
                function()
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                best[name] = min(best[name][0], cpu), min(best[name][1], wall)
    return {name: Times(1e3 * cpu, 1e3 * wall) for name, (cpu, wall) in best.items()}


@contextmanager
def torch_threads(count: int) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measured(peers: list[Any], case: Case, threads: int, seconds: float, least: int = 5) -> dict[str, Times]:
    with torch_threads(threads):
        return take_turns({k: f for peer in peers for k, f in calls(peer, case, threads).items()}, seconds, least)


def floor(pairs: int) -> tuple[float, float]:
    """(milliseconds of one core for the arithmetic alone, its measured peak in GFLOP/s)."""
    library, rounds = native._library(), 200_000
    library.fourdgen_fma.argtypes = [ctypes.c_int64]
    best = take_turns({"fma": lambda: library.fourdgen_fma(rounds)}, 0.5)["fma"].cpu
    flops = library.fourdgen_fma(0) * rounds / best * 1e3
    return FLOPS_PER_PAIR * pairs / flops * 1e3, flops / 1e9


def count_pairs(case: Case) -> int:
    """(surfel, pixel) pairs that are composited, counted by the tiled rasterizer."""
    total, composite = 0, tiled._composite

    def counting(*inputs: Tensor) -> tuple[Tensor, ...]:
        nonlocal total
        out = composite(*inputs)
        total += int(out[3].sum())
        return out

    tiled._composite = counting
    try:
        with torch.no_grad():
            tiled.TiledRasterizer()(*case.leaves, case.cameras)
    finally:
        tiled._composite = composite
    return total


class Tiled:
    name = "tiled torch"

    def draw(self, case: Case, threads: int) -> list[Tensor]:
        out = tiled.TiledRasterizer()(*case.leaves, case.cameras)
        return [out.rgb.permute(0, 3, 1, 2), out.depth, out.normal.permute(0, 3, 1, 2), out.alpha]


class Step:
    """A training step: skinning by 25 bones, drawing, L1 + D-SSIM and silhouette, backward, Adam."""

    def __init__(self, case: Case, threads: int) -> None:
        means, quats, scales, opacities, colors = (t.detach() for t in case.leaves)
        values = (means, quats, scales.log(), torch.logit(opacities), sh_from_rgb(colors))
        g = torch.Generator().manual_seed(0)
        centers = F.normalize(torch.randn(BONES, 3, generator=g), dim=-1)
        motion = BoneMotion(centers, 0.3, {"a": ClipTime(torch.linspace(0, 1, 24), "a")}, generator=g)
        self.model = Model(dict(zip(SURFEL_PARAMETERS, values, strict=True)), motion, None, Rates())  # rates are 0
        self.cameras, self.rasterizer = case.cameras, CpuRasterizer(threads)
        self.target = torch.rand(3, *case.size, generator=g)
        self.mask = torch.ones(case.size)

    def skinned(self) -> tuple[Tensor, Tensor]:
        p, motion = self.model.p, self.model.motion
        bones = motion.dual_quats("a", torch.tensor([0.4]))
        means, quats, _ = motion.carried(bones[0], p["means"], p["quats"])
        return means, quats

    def __call__(self) -> None:
        p = self.model.p
        out = self.rasterizer(
            *self.skinned(), p["log_scales"].exp(), torch.sigmoid(p["opacity"]), rgb_from_sh(p["sh"]), self.cameras
        )
        loss = photometric(out.rgb.squeeze(0).permute(2, 0, 1), self.target, None, 0.2)
        loss = loss + 0.5 * (out.alpha.squeeze(0) - self.mask).abs().mean()
        loss.backward()
        self.model.optimizer.step()
        self.model.optimizer.zero_grad()

    def parts(self, case: Case, threads: int) -> dict[str, Callable[[], object]]:
        """The step, and what it consists of, each by itself with gradients of the same tensors."""
        image = torch.rand(3, *case.size).requires_grad_(True)
        motion, p = self.model.motion, self.model.p
        moving = [p["means"], p["quats"], motion.centers, motion.log_extents, motion.code, *motion.net.parameters()]
        grad_means, grad_quats = torch.randn_like(case.leaves[0]), torch.randn_like(case.leaves[1])

        def draw() -> object:
            rgb, _, _, alpha = Native().draw(case, threads)
            return torch.autograd.grad([rgb, alpha], case.leaves, [case.grads[0], case.grads[3]])

        def move() -> object:
            return torch.autograd.grad(self.skinned(), moving, [grad_means, grad_quats])

        def loss() -> object:
            return torch.autograd.grad(photometric(image, self.target, None, 0.2), image)

        tensors = [t for group in self.model.optimizer.param_groups for t in group["params"]]

        def adam() -> None:
            for t in tensors:
                t.grad = grads[t]
            self.model.optimizer.step()
            self.model.optimizer.zero_grad()

        grads = {t: torch.randn_like(t) for t in tensors}

        def activate() -> object:
            out = [p["log_scales"].exp(), torch.sigmoid(p["opacity"]), rgb_from_sh(p["sh"])]
            return torch.autograd.grad(out, [p["log_scales"], p["opacity"], p["sh"]], out_grads)

        def silhouette() -> object:
            return torch.autograd.grad((alpha - self.mask).abs().mean(), alpha)

        alpha = torch.rand(self.mask.shape).requires_grad_(True)
        out_grads = [torch.randn_like(case.leaves[i]) for i in (2, 3, 4)]
        return {
            "step": self, "rasterizer, same gradients": draw, "bones and skinning": move, "L1 + D-SSIM": loss,
            "silhouette": silhouette, "scales, opacities, colours": activate, "Adam": adam,
        }  # fmt: skip


@contextmanager
def inside_kernels(names: tuple[str, ...]) -> Any:
    """Yields a list of the milliseconds that each call of these entry points takes."""
    library, spent = native._library(), []
    originals = {name: getattr(library, name) for name in names}

    def timed(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            begin = time.perf_counter()
            result = function(*arguments)
            spent.append(1e3 * (time.perf_counter() - begin))
            return result

        return call

    for name, function in originals.items():
        setattr(library, name, timed(function))
    try:
        yield spent
    finally:
        for name, function in originals.items():
            setattr(library, name, function)


def sharing(step: Step, draw: Callable[[], object], threads: int, seconds: float) -> float:
    """How much longer the rasterizer's kernels take within a training step than alone, with the same gradients."""
    names = ("fourdgen_raster_forward", "fourdgen_raster_backward")
    best = {"step": [math.inf, math.inf], "alone": [math.inf, math.inf]}
    with torch_threads(threads), inside_kernels(names) as spent:
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            for name, function in (("step", step), ("alone", draw)):
                for _ in range(3):
                    spent.clear()
                    function()
                    best[name] = [min(a, b) for a, b in zip(best[name], spent, strict=True)]
    return sum(best["step"]) / sum(best["alone"])


SMALL = (0.6, 1.5)
SCENES = (  # surfels, side of the picture, standard deviations in pixels: small surfels, then training scenes
    (20_000, 256, SMALL), (50_000, 512, SMALL),
    (10_000, 256, (0.8, 1.2)), (5_000, 128, (0.8, 1.2)), (2_000, 64, (0.8, 1.2)),
    (10_000, 256, (1.6, 2.2)), (5_000, 128, (1.6, 2.2)), (2_000, 64, (1.6, 2.2)),
    (10_000, 256, (3.5, 5.5)), (5_000, 128, (3.5, 5.5)), (2_000, 64, (3.5, 5.5)),
)  # fmt: skip


def table_of_scenes(peers: list[Any], seconds: float) -> list[dict[str, Any]]:
    rows = []
    print("\nsurfels  side  px/surfel | ms forward+backward: 1 thread, 2 threads, speed-up | ns/px | peers, times ours")
    for count, size, sigma in SCENES:
        case = sphere(count, size, sigma)
        with torch.no_grad():
            drawn = native.raster(*case.leaves, case.cameras.cam_from_world, case.cameras.K, (size, size), weights=True)
        assert drawn.pixels is not None
        covered = float(drawn.pixels.sum())
        one, two = measured(peers, case, 1, seconds), measured(peers, case, 2, seconds)
        ours, ours_2t = one[f"fourdgen{BOTH}"], two[f"fourdgen{BOTH}"]
        row = {
            "surfels": count, "side": size, "px_per_surfel": covered / max(int((drawn.pixels > 0).sum()), 1),
            "ms_1t": ours.cpu, "ms_2t": ours_2t.wall,
            "speedup": ours.wall / ours_2t.wall, "ns_per_px": 1e6 * ours.cpu / covered,
            "peers_1t": {p.name: one[f"{p.name}{BOTH}"].cpu / ours.cpu for p in peers[1:]},
            "peers_2t": {p.name: two[f"{p.name}{BOTH}"].wall / ours_2t.wall for p in peers[1:]},
        }  # fmt: skip
        rows.append(row)
        others = ", ".join(f"{k} {v:.2f} / {row['peers_2t'][k]:.2f}" for k, v in row["peers_1t"].items())
        print(
            f"{count:7d} {size:5d} {row['px_per_surfel']:10.0f} | {row['ms_1t']:8.2f} {row['ms_2t']:8.2f} "
            f"{row['speedup']:8.2f} | {row['ns_per_px']:5.1f} | {others}", flush=True,
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--prototype", type=Path, help="sources of an earlier rasterizer, with its build.sh")
    parser.add_argument("--opensplat", type=Path, help="sources of OpenSplat")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each comparison takes")
    parser.add_argument("--brief", action="store_true", help="without the table of scenes and the tiled rasterizer")
    parser.add_argument("--bench", help=argparse.SUPPRESS)  # what other benchmarks take
    given = parser.parse_args()
    native._library()
    peers: list[Any] = [Native()]
    peers += [Prototype(given.prototype)] if given.prototype else []
    others = [OpenSplat(given.opensplat)] if given.opensplat else []
    figures: dict[str, Any] = {"build": native.build(), "torch": torch.__version__}

    case, batch = sphere(20_000, 256, SMALL), sphere(20_000, 256, SMALL, views=2)
    two = measured(peers, case, 2, given.seconds)
    one = measured(peers, case, 1, given.seconds)
    batch_two, batch_one = measured(peers[:1], batch, 2, given.seconds), measured(peers[:1], batch, 1, given.seconds)
    both = f"fourdgen{BOTH}"
    figures |= {
        "raster_fwd_ms_1t": one["fourdgen forward"].cpu,
        "raster_fwd_bwd_ms_1t": one[both].cpu,
        "raster_fwd_bwd_ms_2t": two[both].wall,
        "batch2_fwd_bwd_ms_2t": batch_two[both].wall,
        "speedup_2t": one[both].wall / two[both].wall,
        "speedup_batch2_2t": batch_one[both].wall / batch_two[both].wall,
    }
    if given.prototype:
        figures["prototype_fwd_bwd_ms_1t"] = one[f"prototype{BOTH}"].cpu
        figures["prototype_fwd_bwd_ms_2t"] = two[f"prototype{BOTH}"].wall
        figures["vs_prototype_1t"] = one[both].cpu / one[f"prototype{BOTH}"].cpu
        figures["vs_prototype_2t"] = two[both].wall / two[f"prototype{BOTH}"].wall
    figures["pairs"] = count_pairs(case)
    figures["floor_ms_1t"], figures["peak_gflops_1t"] = floor(figures["pairs"])
    figures["vs_floor_1t"] = one[both].cpu / figures["floor_ms_1t"]

    for threads in (2, 1):
        step = Step(case, threads)
        parts = step.parts(case, threads)
        with torch_threads(threads):
            times = take_turns(parts, given.seconds)
        ms = {name: t.wall if threads > 1 else t.cpu for name, t in times.items()}
        figures[f"step_ms_{threads}t"] = ms["step"]
        figures[f"step_parts_ms_{threads}t"] = ms
        figures[f"step_vs_raster_{threads}t"] = ms["step"] / ms["rasterizer, same gradients"]
        figures[f"raster_in_step_{threads}t"] = sharing(
            step, parts["rasterizer, same gradients"], threads, given.seconds
        )

    print(table(figures), flush=True)
    if not given.brief:
        slow = [Tiled(), *others]
        for name, times in measured(slow, case, 1, 0, least=1).items():
            figures[f"{name} ms_1t"] = times.cpu
            ours = one[name.replace(name.split(" forward")[0], "fourdgen")].cpu
            print(f"{name}: {times.cpu:.0f} ms of one thread, {times.cpu / ours:.1f} times ours", flush=True)
        figures["scenes"] = table_of_scenes(peers, given.seconds / 4)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
