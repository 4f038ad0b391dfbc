"""The figures of speed.py as a table: each beside the bound that was set and the goal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Figures of the table: what they are, the bound that was set and the goal. Smaller is better, but for speed-ups.
FIGURES: tuple[tuple[str, str, float | None, float | None], ...] = (
    ("raster_fwd_ms_1t", "forward, 1 thread, ms", None, None),
    ("raster_fwd_bwd_ms_1t", "forward + backward, 1 thread, ms", None, None),
    ("raster_fwd_bwd_ms_2t", "forward + backward, 2 threads, ms", None, None),
    ("batch2_fwd_bwd_ms_2t", "two pictures at once, 2 threads, ms", None, None),
    ("prototype_fwd_bwd_ms_1t", "prototype, 1 thread, ms", None, None),
    ("prototype_fwd_bwd_ms_2t", "prototype, 2 threads, ms", None, None),
    ("vs_prototype_1t", "1 thread, times the prototype", None, None),
    ("vs_prototype_2t", "2 threads, times the prototype", 1.3, 0.9),
    ("vs_floor_1t", "1 thread, times the arithmetic alone", 18.0, 12.0),
    ("speedup_2t", "speed-up by 2 threads", 1.6, None),
    ("speedup_batch2_2t", "speed-up by 2 threads, two pictures", 1.85, None),
    ("step_ms_2t", "training step, 2 threads, ms", None, None),
    ("step_ms_1t", "training step, 1 thread, ms", None, None),
    ("step_vs_raster_2t", "training step, 2 threads, times its drawing", 2.2, 1.75),
    ("step_vs_raster_1t", "training step, 1 thread, times its drawing", None, None),
    ("raster_in_step_2t", "drawing within a step, 2 threads, times alone", 1.15, None),
    ("raster_in_step_1t", "drawing within a step, 1 thread, times alone", None, None),
)


def verdict(name: str, value: float, bound: float | None, goal: float | None) -> str:
    """Whether a figure keeps its bound and reaches its goal; empty where neither was set."""
    sign = -1 if name.startswith("speedup") else 1
    if bound is not None and sign * value > sign * bound:
        return "MISSED"
    if goal is not None:
        return "goal reached" if sign * value <= sign * goal else "within the bound"
    return "" if bound is None else "kept"


def table(figures: Mapping[str, Any]) -> str:
    """The figures that were measured, each beside its bound and its goal."""
    lines = [f"{'20 000 surfels, 256 x 256':46} {'measured':>8} {'bound':>6} {'goal':>6}"]
    for name, words, bound, goal in FIGURES:
        if name not in figures:
            continue
        limits = " ".join("      " if limit is None else f"{limit:6.2f}" for limit in (bound, goal))
        lines.append(f"{words:46} {figures[name]:8.2f} {limits} {verdict(name, figures[name], bound, goal)}".rstrip())
    for threads in (2, 1):
        parts = ", ".join(f"{name} {ms:.2f}" for name, ms in figures[f"step_parts_ms_{threads}t"].items())
        lines.append(f"parts of a step, {threads} thread{'s' if threads > 1 else ''}, ms: {parts}")
    build = f"{figures['build']} kernels, torch {figures['torch']}"
    floor = f"{figures['floor_ms_1t']:.3f} ms for {figures['pairs']} pairs at {figures['peak_gflops_1t']:.0f} GFLOP/s"
    return "\n".join([*lines, f"the arithmetic alone: {floor}; {build}"])
