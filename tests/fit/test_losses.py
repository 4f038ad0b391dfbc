"""Geometric losses on surfaces where the right answer is known."""

from __future__ import annotations

import pytest
import torch

from fourdgen import native
from fourdgen.fit import losses
from fourdgen.fit.loop import TrainConfig, normal_weight
from fourdgen.geometry.camera import Cameras, intrinsics, look_at, orbit_eyes
from fourdgen.geometry.timeline import Spacing
from fourdgen.geometry.transforms import rigid, so3_exp
from fourdgen.render import RenderOut


def camera(size: tuple[int, int] = (64, 48), azimuth: float = 40.0) -> Cameras:
    eye = orbit_eyes(torch.tensor([azimuth]), 20.0, 3.0)
    return Cameras(look_at(eye), intrinsics(45.0, size)[None], size)


def sphere_depth(cameras: Cameras, radius: float = 0.8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Exact depth, coverage and outward normals (world) of a sphere at the origin."""
    width, height = cameras.size
    K, pose = cameras.K[0], cameras.cam_from_world[0]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    ray = torch.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], torch.ones_like(x)], -1)
    center = pose[:3, 3]
    a, b, c = (ray * ray).sum(-1), (ray @ center), center @ center - radius**2
    root = b * b - a * c
    hit = root > 0
    z = (b - root.clamp_min(0).sqrt()) / a
    point = ray * z[..., None]
    normal = ((point - center) / radius) @ pose[:3, :3]
    return torch.where(hit, z, torch.zeros(())), hit.float(), normal


def drawn(depth: torch.Tensor, alpha: torch.Tensor, normal: torch.Tensor) -> RenderOut:
    """A picture with this surface; loss and colour do not meet."""
    return RenderOut(normal[None], alpha[None], (depth * alpha)[None], depth[None], (normal * alpha[..., None])[None])


def inside(alpha: torch.Tensor) -> torch.Tensor:
    """Pixels well away from the silhouette, where central differences see the sphere alone."""
    return torch.nn.functional.max_pool2d(1 - alpha[None], 9, 1, 4)[0] == 0


@pytest.fixture(params=["native", "torch"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once with the kernels, once without."""
    if request.param == "torch":
        monkeypatch.setattr(native, "serves", lambda tensor: False)


@pytest.mark.usefixtures("either")
def test_consistency_is_zero_on_the_truth_and_large_on_a_flat_lie() -> None:
    cameras = camera((200, 160))
    depth, alpha, normal = sphere_depth(cameras)
    towards = -cameras.cam_from_world[0, 2, :3].expand_as(normal)
    right = losses.normal_consistency(drawn(depth, alpha, normal), cameras)[0][inside(alpha)].mean()
    wrong = losses.normal_consistency(drawn(depth, alpha, towards), cameras)[0][inside(alpha)].mean()
    assert float(right) < 2e-3 and float(wrong) > 0.1


@pytest.mark.usefixtures("either")
def test_uncovered_pixels_do_not_count() -> None:
    cameras = camera()
    depth, alpha, normal = sphere_depth(cameras)
    loss = losses.normal_consistency(drawn(depth, 0.4 * alpha, 0 * normal), cameras)
    assert float(loss.abs().max()) == 0


@pytest.mark.skipif(not native.available(), reason="the native kernel is not built here")
@pytest.mark.parametrize("size", [(64, 48), (37, 5), (2, 3)])
def test_native_and_torch_consistency_and_their_gradients_agree(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two views of a rough sphere, partly transparent; against float64, and bitwise the same for any threads."""
    g = torch.Generator().manual_seed(0)
    views = [camera(size, azimuth) for azimuth in (40.0, 200.0)]
    depth, alpha, normal = (torch.stack(each) for each in zip(*map(sphere_depth, views), strict=True))
    alpha = alpha * (0.3 + 0.7 * torch.rand(alpha.shape, generator=g))
    depth = alpha * depth * (1 + 0.002 * torch.randn(depth.shape, generator=g))
    poses, K = (torch.cat([getattr(c, name) for c in views]) for name in ("cam_from_world", "K"))
    leaves, weight = (depth, alpha, (0.9 * normal).permute(0, 3, 1, 2), poses, K), torch.randn(depth.shape, generator=g)

    def measured(dtype: torch.dtype) -> list[torch.Tensor]:
        d, a, n, pose, k = (t.to(dtype).clone().requires_grad_(True) for t in leaves)
        out = RenderOut(n.permute(0, 2, 3, 1), a, d, d, n.permute(0, 2, 3, 1))
        loss = losses.normal_consistency(out, Cameras(pose, k, size))
        return [loss.detach(), *torch.autograd.grad(loss, [d, a, n, pose, k], weight.to(dtype), allow_unused=True)]

    ours = measured(torch.float32)
    for threads in (2, 3):
        native.set_threads(threads)
        again = measured(torch.float32)
        native.set_threads(None)
        assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))
    monkeypatch.setattr(native, "serves", lambda tensor: False)
    for a, b in zip(ours, measured(torch.float64), strict=True):
        assert float((a - b).norm()) <= 1e-4 * float(b.norm())


@pytest.mark.parametrize(("aspect", "counts"), [(1.0, False), (5.9, False), (12.0, True)])
def test_only_needles_are_punished(aspect: float, counts: bool) -> None:
    logs = torch.tensor([[0.0, 0.0]]) + torch.tensor([[aspect, 1.0]]).log()
    for order in ([0, 1], [1, 0]):
        assert (float(losses.needle(logs[:, order], 6.0)) > 0) == counts


@pytest.mark.parametrize("weighted", [False, True])
def test_colour_loss_without_the_kernel_is_the_same(monkeypatch: pytest.MonkeyPatch, weighted: bool) -> None:
    if not native.available():
        pytest.skip("the native kernel is not built here")
    g = torch.Generator().manual_seed(0)
    image, target = torch.rand(3, 160, 120, generator=g), torch.rand(3, 160, 120, generator=g)
    weight = None
    if weighted:
        weight = torch.ones(160, 120)
        weight[:, 60:] = 0
    fused = losses.photometric(image, target, weight, 0.2)
    monkeypatch.setattr(native, "available", lambda: False)
    plain = losses.photometric(image, target, weight, 0.2)
    # The kernel pads with zeros and torch leaves the border out; at a weight's edge windows see other neighbours.
    assert float(plain) == pytest.approx(float(fused), rel=0.04)


def test_normals_count_little_while_the_motion_is_sought() -> None:
    config = TrainConfig(normal=0.03, normal_late=0.17)
    weights = [normal_weight(config, progress) for progress in (0.0, 0.29, 0.5, 0.6, 0.65, 0.7, 1.0)]
    assert weights == pytest.approx([0, 0, 0.03, 0.03, 0.115, 0.2, 0.2])
    assert normal_weight(TrainConfig(normal=0.0, normal_late=0.0), 1.0) == 0


def test_camera_acceleration_is_of_turns_and_of_travel() -> None:
    time = torch.arange(6.0)
    spacing = Spacing.of(time)
    even = rigid(so3_exp(0.1 * time[:, None] * torch.tensor([0.0, 1.0, 0.0])), 0.2 * time[:, None] * torch.ones(3))
    assert float(losses.camera_acceleration(even, spacing, 1.0, 1.0)) < 1e-10
    some = torch.tensor([0, 1, 2, 5])  # the same camera, filmed at uneven times
    assert float(losses.camera_acceleration(even[some], Spacing.of(time[some]), 1.0, 1.0)) < 1e-5
    assert float(losses.camera_acceleration(even[some], Spacing.of(time[:4]), 1.0, 1.0)) > 1e-2
    jerk = torch.tensor([0.0, 0.0, 0.05, 0.05, 0.05, 0.05])[:, None] * torch.tensor([0.0, 1.0, 0.0])
    turned = even.clone()
    turned[:, :3, :3] = so3_exp(jerk) @ even[:, :3, :3]
    moved = even.clone()
    moved[:, :3, 3] += jerk
    # One step of .05 in six frames: rates change by +.05 and -.05 among four changes.
    assert float(losses.camera_acceleration(turned, spacing, 2.0, 0.0)) == pytest.approx(2 * 0.05**2 / 2, rel=0.02)
    assert float(losses.camera_acceleration(turned, spacing, 0.0, 1.0)) < 1e-10
    assert float(losses.camera_acceleration(moved, spacing, 0.0, 3.0)) == pytest.approx(3 * 0.05**2 / 2, rel=1e-3)
