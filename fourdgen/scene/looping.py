"""Whether a clip's motion can be repeated from its start, and how long one of its frames lasts."""

from __future__ import annotations

from dataclasses import replace

import torch

from fourdgen.scene.scene4d import Scene4D, SceneClip

ENOUGH = 2000  # surfels tell how far a motion goes


def frame_time(clip: SceneClip) -> float:
    """Seconds between two frames of a clip (median)."""
    gaps = clip.seconds[1:] - clip.seconds[:-1]
    gaps = gaps[gaps > 0]
    return float(gaps.median()) if len(gaps) else 1 / 24


def meets_itself(scene: Scene4D, clip: SceneClip) -> bool:
    """Whether going from the last frame straight to the first is hardly a larger step than the clip makes anyway."""
    if len(clip.seconds) < 4:
        return False
    some = torch.arange(0, len(scene.surfels), max(1, len(scene.surfels) // ENOUGH))
    scene = replace(scene, surfels=scene.surfels[some])
    steps = torch.linspace(0, len(clip.seconds) - 2, min(8, len(clip.seconds) - 1)).long().tolist()
    own = [_moved(scene, clip, i, i + 1) for i in steps]
    return _moved(scene, clip, len(clip.seconds) - 1, 0) <= 1.5 * max(own) + 1e-6


def _moved(scene: Scene4D, clip: SceneClip, one: int, other: int) -> float:
    a, b = (scene.at(clip.name, float(clip.seconds[i])).means for i in (one, other))
    return float((a - b).norm(dim=1).mean())
