"""From where an asset is first shown, in a page and in the live viewer."""

from __future__ import annotations

import math
from typing import Any

import torch

from fourdgen.scene.files import extent
from fourdgen.scene.scene4d import Scene4D

FOV_DEGREES = 35.0  # of the shorter side of the window
ELEVATION = 15.0  # degrees: the first view looks down a little
ASIDE = 35.0  # degrees from the clip's first camera: from straight ahead a long subject looks like nothing


def first_view(scene: Scene4D, clip: str) -> dict[str, Any]:
    """A three-quarter view that was filmed, as far as one was, from a distance at which the whole motion is seen.

    az, el: degrees, as in `orbit_eyes`; dist and target: root units; fov: degrees of the window's shorter side.
    """
    chosen = scene.clips[clip]
    low, high, reach = torch.full((3,), math.inf), torch.full((3,), -math.inf), 0.0
    for i in torch.linspace(0, len(chosen.seconds) - 1, 5).long().tolist():
        center, radius = extent(scene.at(clip, float(chosen.seconds[i])))
        low, high, reach = torch.minimum(low, center), torch.maximum(high, center), max(reach, radius)
    target = 0.5 * (low + high)
    reach += 0.5 * float((high - low).norm())
    away = (chosen.cameras.centers() - target).double()
    azimuths = torch.rad2deg(torch.atan2(away[:, 0], -away[:, 2]))
    turned = (azimuths - azimuths[0] - ASIDE + 180) % 360 - 180
    return {
        "az": round(float(azimuths[turned.abs().argmin()]), 3),
        "el": ELEVATION,
        "dist": float(f"{reach / math.sin(math.radians(FOV_DEGREES / 2)):.6g}"),
        "fov": FOV_DEGREES,
        "target": [float(f"{value:.6g}") for value in target.tolist()],
    }
