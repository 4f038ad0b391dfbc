"""The oracle is right: finite differences, a plane whose depth is known, and gsplat's own torch code."""

from __future__ import annotations

import math
import sys
import types
from dataclasses import replace

import pytest
import torch
from oracle import Oracle
from torch import Tensor

from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import quat_from_matrix, so3_exp
from fourdgen.render.types import ALPHA_MIN, STOP
from render.scenes import PARAMETERS, Case, shell


def test_gradients_match_finite_differences() -> None:
    case = shell(7, (9, 8), seed=2, sigma=(1.0, 2.5), tilt=0.2)
    leaves = case.leaves()

    def pictures(*tensors: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(leaves, tensors, strict=True))
        cameras = Cameras(named["cam_from_world"], named["K"], case.cameras.size)
        out = Oracle()(*(named[p] for p in PARAMETERS), cameras, distortion=True)
        return out.rgb, out.alpha, out.depth, out.median, out.normal, out.distortion

    assert torch.autograd.gradcheck(pictures, tuple(leaves.values()), eps=1e-7, atol=1e-4)


def plane(angle: float = 0.9, sigma: float = 0.4) -> tuple[Case, Tensor, Tensor]:
    """One opaque surfel, turned about y and x; its point and its normal."""
    rotation = so3_exp(torch.tensor([0.3, angle, 0.0], dtype=torch.float64))
    mean = torch.tensor([[0.1, -0.2, 3.0]], dtype=torch.float64)
    K = torch.tensor([[[60.0, 0, 24], [0, 62, 20], [0, 0, 1]]], dtype=torch.float64)
    case = Case(
        means=mean,
        quats=quat_from_matrix(rotation)[None],
        scales=torch.full((1, 2), sigma, dtype=torch.float64),
        opacities=torch.tensor([0.9], dtype=torch.float64),
        colors=torch.ones(1, 3, dtype=torch.float64),
        cameras=Cameras(torch.eye(4, dtype=torch.float64)[None], K, (48, 40)),
    )
    return case, mean[0], rotation[:, 2]


def test_depth_is_that_of_the_ray_on_the_plane() -> None:
    case, point, normal = plane()
    out = Oracle()(*case.arguments())
    y, x = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(48) + 0.5, indexing="ij")
    rays = torch.stack([(x - 24) / 60, (y - 20) / 62, torch.ones_like(x)], -1).double()
    exact = (point @ normal) / (rays @ normal)
    seen = out.alpha[0] > 0.05
    assert seen.sum() > 100
    torch.testing.assert_close((out.depth / out.alpha)[0][seen], exact[seen])
    torch.testing.assert_close(out.median[0][seen], exact[seen])


def test_center_depth_is_flat() -> None:
    case, point, _ = plane()
    out = Oracle(center_depth=True)(*case.arguments())
    seen = out.alpha[0] > 0.05
    torch.testing.assert_close((out.depth / out.alpha)[0][seen], point[2].expand(int(seen.sum())))


def test_normals_face_the_camera_and_depth_distortion_is_zero_for_one_surface() -> None:
    case, _, normal = plane()
    out = Oracle()(*case.arguments(), distortion=True)
    toward = normal * torch.where(normal[2] < 0, 1.0, -1.0)
    seen = out.alpha[0] > 0.05
    torch.testing.assert_close(
        (out.normal / out.alpha[..., None])[0][seen], toward.expand(int(seen.sum()), 3), atol=1e-9, rtol=0
    )
    assert out.distortion is not None
    assert float(out.distortion.abs().max()) < 1e-12


def test_far_surfels_are_hidden_by_near_ones() -> None:
    case, _, _ = plane(angle=0.1)
    behind = replace(
        case,
        means=torch.cat([case.means + torch.tensor([0, 0, 1.0]).double(), case.means]),
        quats=case.quats.repeat(2, 1),
        scales=case.scales.repeat(2, 1),
        opacities=torch.tensor([0.999, 1.0]).double(),
        colors=torch.tensor([[1.0, 0, 0], [0, 1, 0]]).double(),
    )
    out = Oracle()(*behind.arguments())
    center = out.rgb[0, 16, 26]
    assert center[1] > 0.99
    assert center[0] < 0.01


class RayAccumulation(types.ModuleType):
    """The two functions of the nerfacc package that gsplat's torch code calls."""

    @staticmethod
    def render_weight_from_alpha(alphas: Tensor, ray_indices: Tensor, n_rays: int) -> tuple[Tensor, Tensor]:
        logs = torch.log1p(-alphas)
        passed = torch.cumsum(logs, 0) - logs
        first = torch.ones_like(ray_indices, dtype=torch.bool)
        first[1:] = ray_indices[1:] != ray_indices[:-1]
        start = torch.cummax(torch.where(first, torch.arange(len(first)), 0), 0)[0]
        transmittance = torch.exp(passed - passed[start])
        return alphas * transmittance, transmittance

    @staticmethod
    def accumulate_along_rays(weights: Tensor, values: Tensor | None, ray_indices: Tensor, n_rays: int) -> Tensor:
        weighted = weights[:, None] * (torch.ones_like(weights[:, None]) if values is None else values)
        return torch.zeros(n_rays, weighted.shape[1], dtype=weighted.dtype).index_add(0, ray_indices, weighted)


def visible_pairs(mean2d: Tensor, M: Tensor, opacities: Tensor, depths: Tensor, size: tuple[int, int]) -> list[Tensor]:
    """(surfel, pixel) pairs that contribute, pixel by pixel and near to far: what gsplat's CUDA code would list."""
    order = torch.argsort(depths)
    surfels, pixels = [], []
    for p in range(size[0] * size[1]):
        x, y = p % size[0] + 0.5, p // size[0] + 0.5
        crossing = torch.linalg.cross(x * M[order, 2] - M[order, 0], y * M[order, 2] - M[order, 1])
        q_plane = (crossing[:, :2] / crossing[:, 2:]).square().sum(-1)
        q_disc = 2 * (mean2d[order] - mean2d.new_tensor([x, y])).square().sum(-1)
        alpha = (opacities[order] * torch.exp(-0.5 * torch.minimum(q_plane, q_disc))).clamp_max(0.999)
        near = order[alpha >= ALPHA_MIN]
        near = near[torch.cumprod(1 - alpha[alpha >= ALPHA_MIN], 0) > STOP]
        surfels.append(near)
        pixels.append(torch.full_like(near, p))
    return [torch.cat(surfels), torch.cat(pixels)]


def test_agrees_with_the_torch_code_of_gsplat(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gsplat", reason="gsplat is not installed: pip install --no-deps gsplat==1.5.3 ninja")
    monkeypatch.setitem(sys.modules, "nerfacc", RayAccumulation("nerfacc"))
    from gsplat.cuda._torch_impl_2dgs import _fully_fused_projection_2dgs, accumulate_2dgs

    size = (26, 22)
    case = shell(60, size, seed=1, sigma=(0.8, 2.5))
    leaves = case.leaves()
    out = Oracle(center_depth=True)(*case.arguments())

    scales = torch.cat([case.scales, torch.ones_like(case.scales[:, :1])], 1)
    cameras = case.cameras
    _, mean2d, depths, M, normals = _fully_fused_projection_2dgs(
        case.means, case.quats, scales, cameras.cam_from_world, cameras.K, *size
    )
    surfels, pixels = visible_pairs(
        mean2d[0].detach(), M[0].detach(), case.opacities.detach(), depths[0].detach(), size
    )
    features = torch.cat([case.colors, depths[0, :, None]], 1)[None]
    rgbd, alpha, normal = accumulate_2dgs(
        mean2d, M, case.opacities[None], features, normals, surfels, pixels, torch.zeros_like(pixels), *size
    )
    normal = torch.einsum("vij,vhwj->vhwi", torch.linalg.inv(cameras.cam_from_world)[:, :3, :3], normal)
    theirs = [rgbd[..., :3], rgbd[..., 3], alpha[..., 0], normal]
    ours = [out.rgb, out.depth, out.alpha, out.normal]
    assert float(out.alpha.detach().mean()) > 0.2
    total_ours = total_theirs = torch.zeros(())
    g = torch.Generator().manual_seed(0)
    for mine, other in zip(ours, theirs, strict=True):
        # gsplat's sums start from float32 zeros, which rounds nothing away but its inputs' last digits
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-6)
        random = torch.randn(mine.shape, generator=g, dtype=torch.float64)
        total_ours, total_theirs = total_ours + (mine * random).sum(), total_theirs + (other * random).sum()
    tensors = list(leaves.values())
    for a, b in zip(torch.autograd.grad(total_ours, tensors), torch.autograd.grad(total_theirs, tensors), strict=True):
        if a.shape[-2:] == (4, 4):  # the fourth row is no parameter
            a, b = a[:, :3], b[:, :3]
        assert math.isfinite(float(a.norm()))
        torch.testing.assert_close(a, b, atol=1e-6 * float(a.norm()), rtol=1e-5)
