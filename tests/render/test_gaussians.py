"""The 3dgs export drawn as other programs draw it: within 1 dB of the surfels themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fourdgen.fit.metrics import psnr
from fourdgen.geometry.camera import Cameras
from fourdgen.playback.exports import export
from fourdgen.render import draw
from fourdgen.scene.options import Adapt
from fourdgen.scene.ply import matrix, read_ply
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.surfels import SH_C0
from tests.render.gaussians import draw_gaussians
from tests.test_fused_surface import dense_toy

MOMENT = 0.25


@pytest.fixture(scope="module")
def scene() -> Scene4D:
    return dense_toy()


@pytest.fixture(scope="module")
def splats(scene: Scene4D, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What a program finds in the exported file."""
    path: Path = tmp_path_factory.mktemp("3dgs") / "out.ply"
    export(scene, path, "3dgs", Adapt(time=str(MOMENT)))
    vertex = read_ply(path).elements["vertex"]

    def columns(*names: str) -> torch.Tensor:
        return torch.from_numpy(matrix(vertex, names).astype(np.float32))

    return {
        "means": columns("x", "y", "z"),
        "quats": columns(*(f"rot_{i}" for i in range(4))),
        "scales": columns(*(f"scale_{i}" for i in range(3))).exp(),
        "opacities": torch.sigmoid(columns("opacity")[:, 0]),
        "colors": (0.5 + SH_C0 * columns(*(f"f_dc_{i}" for i in range(3)))).clamp_min(0),
    }


def loss_of_quality(scene: Scene4D, camera: Cameras, drawn: torch.Tensor) -> float:
    """By how many dB a picture (premultiplied) is farther from the truth than the surfels' own. The truth is what the
    surfels show at four times the size, averaged down: neither way of drawing one pixel has a say in it."""
    fine = camera.resized((4 * camera.size[0], 4 * camera.size[1]))
    state = scene.at("a", MOMENT)
    truth = torch.nn.functional.avg_pool2d(draw(state, fine).rgb.permute(0, 3, 1, 2), 4)
    own = draw(state, camera).rgb.permute(0, 3, 1, 2)
    return float(psnr(own, truth) - psnr(drawn.permute(2, 0, 1)[None], truth))


@pytest.mark.parametrize("frame", [0, 6])
def test_thin_gaussians_look_as_the_surfels_do(scene: Scene4D, splats: dict[str, torch.Tensor], frame: int) -> None:
    camera = scene.clips["a"].cameras[frame].resized((128, 128))
    rgb, alpha = draw_gaussians(**splats, camera=camera)
    lost = loss_of_quality(scene, camera, rgb)
    own = draw(scene.at("a", MOMENT), camera)
    between = float(psnr(rgb.permute(2, 0, 1)[None], own.rgb.permute(0, 3, 1, 2)))
    print(f"frame {frame}: {lost:.2f} dB lost, {between:.1f} dB between the two")
    assert lost < 1.0
    assert between > 32
    assert float(((alpha > 0.5) ^ (own.alpha[0] > 0.5)).float().mean()) < 0.01


@pytest.mark.gpu
@pytest.mark.parametrize("frame", [0, 4, 8])
def test_gsplat_draws_the_export_as_the_surfels_look(
    scene: Scene4D, splats: dict[str, torch.Tensor], frame: int
) -> None:
    gsplat = pytest.importorskip("gsplat")
    camera = scene.clips["a"].cameras[frame].resized((128, 128))
    there = {name: part.cuda() for name, part in splats.items()}
    rgb, _, _ = gsplat.rasterization(
        **there, viewmats=camera.cam_from_world.cuda(), Ks=camera.K.cuda(), width=128, height=128
    )
    assert loss_of_quality(scene, camera, rgb[0].cpu()) < 1.0
    oracle, _ = draw_gaussians(**splats, camera=camera)
    assert float((rgb[0].cpu() - oracle).abs().mean()) < 2e-3
