"""USD (.usdc, .usda, .usdz) with moving Gaussian splats: OpenUSD's schema ParticleField3DGaussianSplat, one time sample
for each frame of the reference clip. Needs usd-core 25.11 or later, the first with the schema."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourdgen.report import FourdgenError, Reporter, Silent
from fourdgen.scene.formats import usd
from fourdgen.scene.formats.splats import at_moment
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.surfels import Surfels
from fourdgen.scene.vertex import flat_scales

NEEDED = "usd-core 25.11"


def load_schema() -> Any:
    """The package pxr with the schema. Raises FourdgenError where it is not installed, or is older than the schema."""
    pxr = usd.load_usd()
    importlib.import_module("pxr.UsdVol")
    if not hasattr(pxr.UsdVol, "ParticleField3DGaussianSplat"):
        raise FourdgenError(
            f"Gaussian splats in USD need {NEEDED} or later", "pip install --upgrade usd-core, or write a .usdz mesh"
        )
    return pxr


def write(path: Path, scene: Scene4D, up: str, report: Reporter = Silent()) -> None:
    """Writes the reference clip; times are in seconds * TICKS from its start. up: "y" or "z". Colour is sRGB."""
    pxr = load_schema()
    usd.packed(pxr, path, lambda part: _stage(pxr, part, scene, up, report))


def _stage(pxr: Any, path: Path, scene: Scene4D, up: str, report: Reporter) -> None:
    Usd, UsdVol, Vt = pxr.Usd, pxr.UsdVol, pxr.Vt
    stage = usd.new_stage(pxr, path, up)
    root = pxr.UsdGeom.Xform.Define(stage, "/subject")
    stage.SetDefaultPrim(root.GetPrim())
    splats = UsdVol.ParticleField3DGaussianSplat.Define(stage, "/subject/splats")
    Usd.ColorSpaceAPI.Apply(splats.GetPrim()).CreateColorSpaceNameAttr().Set("srgb_rec709_display")
    splats.CreateProjectionModeHintAttr().Set("perspective")
    splats.CreateSortingModeHintAttr().Set("cameraDistance")
    clip = scene.clips[scene.reference]
    seconds = [float(time) for time in clip.seconds]
    first = at_moment(scene, seconds[0])
    harmonics = first.sh.shape[1] > 1
    # Attributes that do not change have one value; the others a sample for each frame.
    splats.CreateScalesAttr(_vectors(Vt, flat_scales(first).exp()))
    splats.CreateOpacitiesAttr(Vt.FloatArray.FromNumpy(torch.sigmoid(first.opacity).numpy().astype(np.float32)))
    splats.CreateRadianceSphericalHarmonicsDegreeAttr(int(harmonics))
    splats.CreateRadianceSphericalHarmonicsCoefficientsAttr(_coefficients(Vt, first))
    positions, turns = splats.CreatePositionsAttr(), splats.CreateOrientationsAttr()
    extent = splats.CreateExtentAttr()
    colors = splats.GetRadianceSphericalHarmonicsCoefficientsAttr()
    for number, time in enumerate(seconds):
        state = at_moment(scene, time)
        code = Usd.TimeCode((time - seconds[0]) * usd.TICKS)
        if number == 0:  # whoever asks without a time gets the first frame
            _set(pxr, positions, turns, extent, state, Usd.TimeCode.Default())
        if len(seconds) > 1:
            _set(pxr, positions, turns, extent, state, code)
            if harmonics:  # they turn with the surfels
                colors.Set(_coefficients(Vt, state), code)
        report.emit("step", stage="export", step=number + 1, total=len(seconds))
    stage.SetStartTimeCode(0)
    stage.SetEndTimeCode((seconds[-1] - seconds[0]) * usd.TICKS)
    stage.GetRootLayer().Save()


def _set(pxr: Any, positions: Any, turns: Any, extent: Any, state: Surfels, code: Any) -> None:
    Vt = pxr.Vt
    positions.Set(_vectors(Vt, state.means), code)
    unit = torch.nn.functional.normalize(state.quats, dim=1)[
        :, [1, 2, 3, 0]
    ]  # an array of theirs has the real part last
    turns.Set(Vt.QuatfArray.FromNumpy(np.ascontiguousarray(unit.numpy(), dtype=np.float32)), code)
    reach = 3 * state.log_scales.exp().amax(1, keepdim=True)
    box = torch.stack([(state.means - reach).amin(0), (state.means + reach).amax(0)])
    extent.Set(_vectors(Vt, box), code)


def _vectors(Vt: Any, values: torch.Tensor) -> Any:
    return Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(values.detach().numpy(), dtype=np.float32))


def _coefficients(Vt: Any, surfels: Surfels) -> Any:
    """All coefficients of the first splat, then those of the second, ..."""
    return _vectors(Vt, surfels.sh.reshape(-1, 3))
