"""Choosing a rasterizer, drawing a scene's surfels, normals of a depth picture."""

from __future__ import annotations

import pytest
import torch

from fourdgen import native, render
from fourdgen.geometry.camera import Cameras, intrinsics, look_at, orbit_eyes
from fourdgen.geometry.transforms import quat_exp, quat_multiply, quat_rotate
from fourdgen.render.carried import rasterizer_on
from fourdgen.report import FourdgenError, Silent
from fourdgen.scene.surfels import Surfels, sh_from_rgb
from render.scenes import shell


class Heard(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.notes: list[str] = []

    def emit(self, event: str, **fields: object) -> None:
        self.notes.append(str(fields.get("text")))

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_load", lambda: "the kernels are not built for this machine (base)")


def test_auto_takes_the_kernels_and_says_so() -> None:
    heard = Heard()
    assert render.pick(report=heard).name == "cpu"
    assert heard.notes == [f"rasterizer: cpu ({native.build()})"]
    assert heard.warnings == []


def test_auto_without_kernels_warns_and_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    without_kernels(monkeypatch)
    heard = Heard()
    assert render.pick(report=heard).name == "tiled"
    assert "not built" in heard.warnings[0]
    assert "pip install" in heard.warnings[0]


def test_tiled_says_that_it_is_slow_only_when_picked() -> None:
    heard = Heard()
    tiled = render.pick("tiled", report=heard)
    assert "slower" in heard.warnings[0]
    case = shell(10, (8, 8)).to(torch.float32)
    tiled(*case.arguments())
    assert len(heard.warnings) == 1


def test_a_named_rasterizer_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    without_kernels(monkeypatch)
    with pytest.raises(FourdgenError, match="cannot be used") as caught:
        render.pick("cpu")
    assert "pip install" in caught.value.hint


def test_cpu_does_not_draw_on_another_device() -> None:
    with pytest.raises(FourdgenError, match="on cuda"):
        render.pick("cpu", "cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_says_what_it_needs() -> None:
    with pytest.raises(FourdgenError, match="NVIDIA GPU") as caught:
        render.pick("cuda", "cuda")
    assert "--device cpu" in caught.value.hint


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(FourdgenError, match="vulkan") as caught:
        render.pick("vulkan")
    assert "tiled" in caught.value.hint


def ball(count: int = 3000, size: int = 96) -> tuple[Surfels, Cameras]:
    """An opaque unit sphere of surfels (Fibonacci points), coloured by degree-1 harmonics, and two cameras."""
    i = torch.arange(count) + 0.5
    height, angle = 1 - 2 * i / count, i * 2.399963
    ring = (1 - height**2).sqrt()
    points = torch.stack([ring * angle.cos(), height, ring * angle.sin()], 1)
    z = torch.tensor([0.0, 0, 1]).expand_as(points)
    axis = torch.nn.functional.normalize(torch.linalg.cross(z, points), dim=-1)
    quats = quat_exp(axis * torch.acos(points[:, 2:].clamp(-1, 1)))
    sh = torch.cat([sh_from_rgb(torch.full_like(points, 0.5)), 0.3 * torch.ones(count, 3, 3)], 1)
    surfels = Surfels(points, quats, torch.full((count, 2), -2.9), torch.full((count,), 6.0), sh, torch.ones(count))
    eyes = orbit_eyes(torch.tensor([0.0, 130.0]), torch.tensor([10.0, -30.0]), 4.0)
    cameras = Cameras(look_at(eyes), intrinsics(40, (size, size)).expand(2, 3, 3), (size, size))
    return surfels, cameras


def test_depth_and_normals_of_a_sphere() -> None:
    surfels, cameras = ball()
    out = render.draw(surfels, cameras)
    y, x = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    focal = cameras.K[0, 0, 0]
    rays = torch.stack([(x - 48) / focal, (y - 48) / focal, torch.ones_like(x)], -1)
    a, b = (rays * rays).sum(-1), 4 * rays[..., 2]
    under = b * b - a * (16 - 1)
    exact = (b - under.clamp_min(0).sqrt()) / a
    for view in range(2):
        inner = under > 0.35 * under.max()  # away from the silhouette
        torch.testing.assert_close((out.depth / out.alpha)[view][inner], exact[inner], atol=0.03, rtol=0)
        torch.testing.assert_close(out.median[view][inner], exact[inner], atol=0.03, rtol=0)
        point = (exact[..., None] * rays) @ cameras.cam_from_world[view, :3, :3] + cameras.centers()[view]
        smooth = torch.nn.functional.normalize(out.normal[view], dim=-1)
        assert float((smooth * point).sum(-1)[inner].mean()) > 0.995
        of_depth = render.surface_normal(out.depth, out.alpha, cameras)[view]
        assert float((of_depth * point).sum(-1)[inner].mean()) > 0.98
        torch.testing.assert_close(of_depth[inner].norm(dim=-1), torch.ones(int(inner.sum())))


def test_surface_normals_are_zero_where_nothing_is() -> None:
    surfels, cameras = ball(300)
    out = render.draw(surfels, cameras)
    normal = render.surface_normal(out.depth, out.alpha, cameras)
    assert float(normal[:, 0].abs().max()) == 0  # the border
    assert float(normal[out.alpha == 0].abs().max()) == 0


def test_colors_turn_with_the_surface() -> None:
    """A turned object seen by a turned camera looks the same, directional colours included."""
    surfels, cameras = ball(800, 48)
    turn = quat_exp(torch.tensor([0.3, 1.1, -0.4]))
    moved = Surfels(
        quat_rotate(turn.expand(800, 4), surfels.means), quat_multiply(turn.expand(800, 4), surfels.quats),
        surfels.log_scales, surfels.opacity, surfels.sh, surfels.confidence, turned=turn.expand(800, 4),
    )  # fmt: skip
    rotation = torch.stack([quat_rotate(turn, axis) for axis in torch.eye(3)], 1)
    pose = cameras.cam_from_world.clone()
    pose[:, :3, :3] = pose[:, :3, :3] @ rotation.T
    plain = render.draw(surfels, cameras)
    turned = render.draw(moved, Cameras(pose, cameras.K, cameras.size))
    assert float(plain.rgb.std()) > 0.1
    close = ((plain.rgb - turned.rgb).abs().amax(-1) < 1e-3).float().mean()
    assert float(close) > 0.999  # rounding may flip a pixel's threshold


def test_the_slow_way_is_said_where_scenes_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    without_kernels(monkeypatch)
    heard = Heard()
    assert rasterizer_on("cpu", report=heard).name == "tiled"
    assert len(heard.warnings) == 1 and "C++ compiler" in heard.warnings[0]


def test_a_screen_gradient_of_another_type_is_refused() -> None:
    case = shell(6, (16, 16)).to(torch.float32)
    arguments = case.arguments()
    with pytest.raises(ValueError, match="float32"):
        render.pick("cpu")(*arguments, screen_grad=torch.zeros(len(arguments[0]), dtype=torch.float64))
