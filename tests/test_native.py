"""The compiled library: builds, threads, one OpenMP runtime, skinning, L1 + D-SSIM."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fourdgen import native
from fourdgen.geometry.transforms import dual_quat
from fourdgen.picture_losses import l1_dssim
from fourdgen.report import FourdgenError
from fourdgen.scene.motion import blend_dual_quats, move
from fourdgen.skinning import pose_bones, skin_gaussian, skin_sparse

ROOT = Path(__file__).parents[1]


def test_the_kernels_are_there() -> None:
    assert native.available(), native.why_not()
    assert native.why_not() == ""
    assert native.build() in ("avx512", "avx2", "base")


SCENE = """
import sys
import torch
from fourdgen import native
from fourdgen.picture_losses import l1_dssim
g = torch.Generator().manual_seed(0)
n = 500
means = torch.randn(n, 3, generator=g) * 0.4
quats = torch.randn(n, 4, generator=g)
scales = torch.rand(n, 2, generator=g) * 0.05 + 0.01
opacities, colors = torch.rand(n, generator=g), torch.rand(n, 3, generator=g)
pose = torch.eye(4)[None].clone()
pose[0, 2, 3] = 3.0
K = torch.tensor([[[80.0, 0, 32], [0, 80, 30], [0, 0, 1]]])
leaves = [t.requires_grad_(True) for t in (means, quats, scales, opacities, colors)]
out = native.raster(*leaves, pose, K, (64, 60), threads=2)
loss = l1_dssim(out.rgb[0], torch.zeros(3, 60, 64), threads=2) + out.depth.mean()
loss.backward()
torch.save([loss.detach(), *(t.grad for t in leaves)], sys.argv[1])
maps = {line.split()[-1] for line in open("/proc/self/maps")} if sys.platform == "linux" else set()
print(native.build(), sum("libgomp" in m or "libomp" in m or "libiomp" in m for m in maps))
"""


def run_build(name: str, folder: Path) -> tuple[str, int, list[Tensor]]:
    """Which build ran, how many OpenMP runtimes were mapped, and the loss and gradients of a small scene."""
    done = subprocess.run(
        [sys.executable, "-c", SCENE, str(folder / name)], cwd=ROOT, capture_output=True, text=True, check=True,
        env={"FOURDGEN_ISA": name, "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    build, runtimes = done.stdout.split()
    return build, int(runtimes), torch.load(folder / name, weights_only=True)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process map of Linux")
def test_every_build_gives_the_same_with_one_openmp_runtime(tmp_path: Path) -> None:
    best = {"AVX512": 3, "AVX2": 2}.get(torch.backends.cpu.get_cpu_capability(), 1)
    names = ("base", "avx2", "avx512")[:best]
    results = {}
    for name in names:
        build, runtimes, results[name] = run_build(name, tmp_path)
        assert build == name
        assert runtimes == 1
    for name in names[1:]:
        for a, b in zip(results["base"], results[name], strict=True):
            # float32 sums in another order
            torch.testing.assert_close(a, b, atol=1e-3 * float(a.norm()), rtol=0)


def test_a_build_of_other_sources_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def older(library: object) -> None:
        raise AttributeError("undefined symbol")

    monkeypatch.setattr(native, "_declare", older)
    native._load.cache_clear()
    try:
        assert "other sources" in native.why_not()
    finally:
        monkeypatch.undo()
        native._load.cache_clear()


def test_a_missing_build_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOURDGEN_ISA", "nonsense")
    native._load.cache_clear()
    try:
        assert not native.available()
        assert "nonsense" in native.why_not()
        assert native.build() == ""
    finally:
        monkeypatch.undo()
        native._load.cache_clear()
    assert native.available()


def test_threads_follow_torch_unless_set() -> None:
    assert native._thread_count() == torch.get_num_threads()
    native.set_threads(3)
    try:
        assert native._thread_count() == 3
        assert native._thread_count(2) == 2
    finally:
        native.set_threads(None)


def test_tensors_elsewhere_are_refused() -> None:
    elsewhere = torch.zeros(3, 8, 8, device="meta")
    with pytest.raises(ValueError, match="CPU"):
        l1_dssim(elsewhere, elsewhere)


# what a kernel cannot do


def test_more_tiles_than_can_be_numbered_are_refused() -> None:
    """131 073 surfels that cover a picture of 16 384 tiles each: the count of both does not fit into 31 bits."""
    count, side = 2**17 + 1, 128 * 64
    means = torch.tensor([[0.0, 0, 1]]).expand(count, 3).contiguous()
    quats = torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4).contiguous()
    K = torch.tensor([[[1.0, 0, side / 2], [0, 1, side / 2], [0, 0, 1]]])
    shapes = means, quats, torch.full((count, 2), 1e4), torch.full((count,), 0.5), torch.zeros(count, 1)
    with pytest.raises(FourdgenError, match="tiles"):
        native.raster(*shapes, torch.eye(4)[None], K, (side, side))


SCARCE = """
import resource
import torch
from fourdgen import native
from fourdgen.picture_losses import l1_dssim
from fourdgen.report import FourdgenError
g = torch.Generator().manual_seed(0)
means = torch.rand(2000, 3, generator=g) - 0.5 + torch.tensor([0.0, 0, 3])
quats, scales = torch.randn(2000, 4, generator=g), torch.full((2000, 2), 0.5)
opacities, colors = torch.full((2000,), 0.1), torch.rand(2000, 3, generator=g)
def draw(side):
    K = torch.tensor([[[side, 0, side / 2], [0, side, side / 2], [0, 0, 1]]])
    leaves = [t.clone().requires_grad_(True) for t in (means, quats, scales, opacities, colors)]
    rgb = native.raster(*leaves, torch.eye(4)[None], K, (side, side), threads=2).rgb
    return rgb.detach(), *torch.autograd.grad(l1_dssim(rgb[0], torch.zeros(3, side, side), threads=2), leaves)
before = draw(64)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
outcomes = set()
for spare in range(0, 60, 6):
    resource.setrlimit(resource.RLIMIT_AS, (used + spare * 2**20, -1))
    try:
        draw(384)
        outcomes.add("drawn")
    except FourdgenError as error:
        outcomes.add(str(error))
    except RuntimeError as error:  # torch itself had no memory for a picture
        assert "memory" in str(error), error
        outcomes.add("torch")
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    assert all(torch.equal(a, b) for a, b in zip(before, draw(64)))
print(sorted(outcomes))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory as Linux does")
def test_without_memory_a_call_fails_and_the_next_one_works() -> None:
    done = subprocess.run([sys.executable, "-c", SCARCE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the kernels ran out of memory" in done.stdout


# skinning


def bones(count: int, surfels: int, seed: int, opposite: bool = True) -> list[Tensor]:
    """Centers, precisions, dual quaternions, means, quats in float64; `opposite`: rotations of both signs."""
    g = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    turn = torch.nn.functional.normalize(randn(count, 4) + (0 if opposite else torch.tensor([6.0, 0, 0, 0])), dim=-1)
    precisions = torch.rand(count, 3, generator=g, dtype=torch.float64) * 3 + 0.1
    return [randn(count, 3), precisions, dual_quat(turn, randn(count, 3)), randn(surfels, 3), randn(surfels, 4)]


def skin_in_torch(
    centers: Tensor, precisions: Tensor, dual_quats: Tensor, means: Tensor, quats: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    weights = torch.softmax(-(precisions[:, None] * (means - centers[:, None]) ** 2).sum(-1), 0).T
    return move(blend_dual_quats(dual_quats.expand(len(means), -1, -1), weights), means, quats)


@pytest.mark.parametrize(
    ("count", "surfels", "opposite"),
    [(25, 1000, True), (25, 333, False), (64, 37, True), (3, 5, True), (1, 33, True), (90, 20, True), (70, 50, True)],
)
def test_skinning_is_that_of_torch(count: int, surfels: int, opposite: bool) -> None:
    exact = [t.requires_grad_(True) for t in bones(count, surfels, 0, opposite)]
    single = [t.detach().float().requires_grad_(True) for t in exact]
    truth, ours = skin_in_torch(*exact), skin_gaussian(*single, turned=True)
    randoms = [torch.randn(t.shape, generator=torch.Generator().manual_seed(1)) for t in truth]
    for a, b in zip(truth, ours, strict=True):
        assert float((a - b).detach().abs().max()) < 1e-5
    want = torch.autograd.grad(truth, exact, [r.double() for r in randoms])
    got = torch.autograd.grad(ours, single, randoms)
    for a, b in zip(want, got, strict=True):
        assert float((a - b).norm()) <= 1e-5 * float(a.norm()) + 1e-9


def test_skinning_gradients_do_not_depend_on_threads_and_skip_what_is_not_asked() -> None:
    inputs = [t.float() for t in bones(25, 1000, 2)]
    grads = []
    for threads in (1, 2, 3):
        leaves = [t.clone().requires_grad_(i < 3) for i, t in enumerate(inputs)]
        means, quats = skin_gaussian(*leaves, threads=threads)
        (means.square().sum() + quats[:, 0].sum()).backward()
        assert leaves[3].grad is None
        grads.append([leaf.grad for leaf in leaves[:3]])
    for other in grads[1:]:
        assert all(torch.equal(a, b) for a, b in zip(grads[0], other, strict=True))


def test_skinning_gradients_of_surfels_do_not_depend_on_threads() -> None:
    inputs = [t.float() for t in bones(25, 1000, 2)]
    grads = []
    for threads in (1, 2, 3):
        leaves = [t.clone().requires_grad_(True) for t in inputs]
        moved, spun = skin_gaussian(*leaves, threads=threads)
        grads.append(torch.autograd.grad(moved.square().sum() + spun[:, 0].sum(), leaves))
    for other in grads[1:]:
        assert all(torch.equal(a, b) for a, b in zip(grads[0], other, strict=True))


@pytest.mark.parametrize(("surfels", "kept"), [(100, 4), (37, 1), (5, 6)])
def test_sparse_skinning_is_that_of_torch(surfels: int, kept: int) -> None:
    _, _, dual_quats, means, quats = (t.float() for t in bones(12, surfels, 5))
    weights, ids = torch.softmax(2 * torch.randn(surfels, 12), 1).topk(kept, dim=1)
    weights = weights / weights.sum(1, keepdim=True)
    truth = move(blend_dual_quats(dual_quats[ids], weights), means, quats)
    moved = skin_sparse(ids, weights, dual_quats, means, quats)
    for a, b in zip(truth, moved, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)


def test_sparse_skinning_refuses_bones_that_are_not_there() -> None:
    _, _, dual_quats, means, quats = (t.float() for t in bones(4, 6, 0))
    ids = torch.zeros(6, 2, dtype=torch.int32)
    ids[5, 1] = 4
    with pytest.raises(ValueError, match="0 to 3"):
        skin_sparse(ids, torch.full((6, 2), 0.5), dual_quats, means, quats)


def test_bytes_of_a_drawing() -> None:
    g = torch.Generator().manual_seed(0)
    alpha = torch.rand(35, 53, generator=g)
    alpha[3] = 0
    straight = 1.3 * torch.rand(3, 35, 53, generator=g)  # colours above 1 are cut before they are mixed
    background = torch.tensor([0.2, 1.0, 0.0])
    mixed = straight.clamp(0, 1) * alpha + background[:, None, None] * (1 - alpha)
    ours = native.opaque_bytes(straight * alpha, alpha, background)
    want = (mixed * 255).round().byte().permute(1, 2, 0)
    assert float((ours.int() - want.int()).abs().max()) <= 1  # a tie may round either way
    assert float((ours == want).float().mean()) > 0.999


def test_skinning_refuses_wrong_shapes() -> None:
    centers, precisions, dual_quats, means, quats = (t.float() for t in bones(4, 6, 0))
    with pytest.raises(ValueError, match="expected"):
        skin_gaussian(centers.T, precisions, dual_quats, means, quats)
    parents, order = torch.full((4,), -1, dtype=torch.int32), torch.arange(4, dtype=torch.int32)
    with pytest.raises(ValueError, match="4 joints"):
        pose_bones(torch.zeros(2, 3, 6), centers, parents, order, 0.1)


# L1 + D-SSIM


def loss_in_torch(image: Tensor, target: Tensor, weight: Tensor, l1: float, dssim: float) -> Tensor:
    channels = len(image)
    x = torch.arange(11, dtype=image.dtype) - 5
    g = torch.exp(-x * x / (2 * 1.5**2))
    g = g / g.sum()
    window = (g[:, None] * g)[None, None].expand(channels, 1, 11, 11)

    def blur(t: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(t[None], window, padding=5, groups=channels)[0]

    mx, my = blur(image), blur(target)
    sx, sy, sxy = blur(image**2) - mx**2, blur(target**2) - my**2, blur(image * target) - mx * my
    ssim = (2 * mx * my + 0.01**2) * (2 * sxy + 0.03**2) / ((mx**2 + my**2 + 0.01**2) * (sx + sy + 0.03**2))
    loss = l1 * (image - target).abs() + dssim * (1 - ssim)
    return (loss * weight).sum() / (channels * weight.sum())


@pytest.mark.parametrize("shape", [(3, 40, 50), (1, 5, 7), (3, 1, 1), (4, 64, 64), (3, 130, 33), (2, 200, 11)])
@pytest.mark.parametrize("weighted", [False, True])
def test_l1_dssim_is_that_of_torch(shape: tuple[int, int, int], weighted: bool) -> None:
    g = torch.Generator().manual_seed(0)
    image = torch.rand(shape, generator=g, dtype=torch.float64).requires_grad_(True)
    target = (image.detach() + 0.2 * torch.randn(shape, generator=g, dtype=torch.float64)).clamp(0, 1)
    weight = torch.rand(shape[1:], generator=g, dtype=torch.float64) if weighted else torch.ones(shape[1:]).double()
    truth = loss_in_torch(image, target, weight, 0.7, 0.3)
    single = image.detach().float().requires_grad_(True)
    ours = l1_dssim(single, target.float(), weight.float() if weighted else None, l1=0.7, dssim=0.3)
    assert abs(float(truth.detach()) - float(ours.detach())) < 1e-6
    (want,) = torch.autograd.grad(truth, image)
    (got,) = torch.autograd.grad(2 * ours, single)
    assert float((2 * want - got).norm()) <= 1e-5 * float(want.norm())


def test_equal_pictures_lose_nothing_and_weight_zero_hides_everything() -> None:
    image = torch.rand(3, 30, 30, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert abs(float(l1_dssim(image, image).detach())) < 1e-6
    loss = l1_dssim(image, torch.zeros(3, 30, 30), torch.zeros(30, 30))
    loss.backward()
    assert float(loss.detach()) == 0
    assert image.grad is not None
    assert float(image.grad.abs().max()) == 0


def test_l1_dssim_does_not_depend_on_threads() -> None:
    g = torch.Generator().manual_seed(0)
    target = torch.rand(3, 150, 70, generator=g)
    losses, grads = [], []
    for threads in (1, 2, 3):
        image = torch.full((3, 150, 70), 0.4, requires_grad=True)
        loss = l1_dssim(image, target, threads=threads)
        loss.backward()
        losses.append(loss.detach())
        grads.append(image.grad)
    assert all(torch.equal(losses[0], other) for other in losses)
    assert all(torch.equal(grads[0], other) for other in grads)
