"""Scores of pictures: identities, known values, and the strict reading of LPIPS weights."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from fourdgen import weights
from fourdgen.fit import lpips, metrics
from fourdgen.report import FourdgenError


def pictures(count: int = 2, side: int = 40) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_psnr_of_a_known_difference() -> None:
    a = pictures()
    assert torch.allclose(metrics.psnr(a, a + 0.1), torch.tensor([20.0, 20.0]), atol=1e-4)
    assert torch.equal(metrics.psnr(a, a), torch.tensor([100.0, 100.0]))


def test_ssim_of_a_picture_with_itself_is_one() -> None:
    a = pictures()
    assert torch.allclose(metrics.ssim(a, a), torch.ones(2), atol=1e-6)


def test_ssim_is_symmetric_and_falls_with_noise() -> None:
    a = pictures(1) * 0.2 + 0.4
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(1))
    little, much = metrics.ssim(a, a + 0.01 * noise), metrics.ssim(a, a + 0.1 * noise)
    assert torch.allclose(little, metrics.ssim(a + 0.01 * noise, a), atol=1e-6)
    assert 1 > float(little) > float(much)


def test_ssim_of_flat_pictures_is_the_luminance_term() -> None:
    a, b = torch.full((1, 3, 20, 20), 0.5), torch.full((1, 3, 20, 20), 0.6)
    expected = (2 * 0.5 * 0.6 + 1e-4) / (0.25 + 0.36 + 1e-4)
    assert float(metrics.ssim(a, b)) == pytest.approx(expected, rel=1e-3)


def test_ssim_of_one_window_by_hand() -> None:
    """11 x 11 pixels hold one window: its weighted moments, computed plainly in float64."""
    random = np.random.default_rng(2)
    a, b = random.random((2, 11, 11))
    at = np.arange(11) - 5
    kernel = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
    kernel /= kernel.sum()
    ma, mb = (kernel * a).sum(), (kernel * b).sum()
    va, vb, cov = (kernel * a * a).sum() - ma**2, (kernel * b * b).sum() - mb**2, (kernel * a * b).sum() - ma * mb
    expected = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
    found = metrics.ssim(torch.from_numpy(a)[None, None], torch.from_numpy(b)[None, None])
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_ssim_refuses_small_pictures() -> None:
    with pytest.raises(ValueError, match="11 x 11"):
        metrics.ssim(pictures(1, 10), pictures(1, 10))


def test_iou() -> None:
    a = torch.zeros(3, 4, 4, dtype=torch.bool)
    b = a.clone()
    a[0, :2], b[0, 1:3] = True, True  # 4 pixels in common, 12 together
    a[1, 0], b[1, 3] = True, True
    assert torch.allclose(metrics.iou(a, b), torch.tensor([1 / 3, 0.0, 1.0]))


def test_mask_box_is_the_smallest() -> None:
    mask = torch.zeros(10, 12, dtype=torch.bool)
    assert metrics.mask_box(mask) is None
    mask[2, 5] = mask[6, 3] = True
    assert metrics.mask_box(mask) == (slice(2, 7), slice(3, 6))


# --------------------------------------------------------------------------------------------------------------
# LPIPS


def weights_file(path: Path) -> dict:
    """Random weights in the layout of the published file."""
    random = np.random.default_rng(0)
    sizes = [(11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 256), (3, 256, 256)]
    trunk, data = {}, {}
    for i, (kernel, source, channels) in enumerate(sizes):
        scale = (2 / (kernel * kernel * source)) ** 0.5
        array = (random.normal(size=(kernel, kernel, source, channels)) * scale).astype(np.float32)
        trunk[f"Conv_{i}"] = {"kernel": array, "bias": np.zeros(channels, np.float32)}
        data[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": random.random((1, 1, channels, 1)).astype(np.float32)}}
    data["AlexNet_0"] = trunk
    path.write_bytes(pickle.dumps(data, protocol=3))
    return data


def test_lpips_is_zero_for_equal_pictures_and_grows(tmp_path: Path) -> None:
    weights_file(tmp_path / "w")
    network = lpips.from_file(tmp_path / "w")
    a = pictures(2, 64)
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(network(a, a), torch.zeros(2))
    assert bool((network(a, a + 0.05 * noise) < network(a, a + 0.2 * noise)).all())


def test_lpips_kernels_stand_as_in_the_file(tmp_path: Path) -> None:
    """The first convolution of the file, [height width in out], applied by hand at one place."""
    data = weights_file(tmp_path / "w")
    network = lpips.from_file(tmp_path / "w")
    a = pictures(1, 64)
    kernel = torch.from_numpy(data["AlexNet_0"]["Conv_0"]["kernel"])
    x = (2 * a - 1 - network.shift) / network.scale
    window = x[0, :, 14:25, 18:29]  # output (4, 5): stride 4, padding 2
    by_hand = torch.einsum("chw,hwco->o", window, kernel).clamp_min(0)
    found = network.features(a)[0][0, :, 4, 5]
    assert torch.allclose(found, by_hand / by_hand.norm(), atol=1e-5)


def test_lpips_weights_are_read_strictly(tmp_path: Path) -> None:
    data = weights_file(tmp_path / "w")
    for name, change in {
        "less": lambda d: d.pop("NetLinLayer_4"),
        "more": lambda d: d.update(other=np.zeros(3)),
        "shape": lambda d: d["NetLinLayer_0"]["Conv_0"].update(kernel=np.zeros((1, 1, 3, 1), np.float32)),
    }.items():
        broken = pickle.loads(pickle.dumps(data))
        change(broken)
        (tmp_path / name).write_bytes(pickle.dumps(broken))
        with pytest.raises(FourdgenError, match="not the weights of LPIPS"):
            lpips.from_file(tmp_path / name)


class Evil:
    def __reduce__(self):
        return print, ("this must not be printed",)


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evil").write_bytes(pickle.dumps({"AlexNet_0": Evil()}))
    with pytest.raises(FourdgenError, match=r"it asks for builtins\.print"):
        lpips.from_file(tmp_path / "evil")
    assert capsys.readouterr().out == ""


def test_lpips_of_the_published_weights() -> None:
    """Only where `fourdgen doctor --fetch` has brought them; the value was taken when they were first read."""
    if weights.locate(lpips.WEIGHTS) is None:
        pytest.skip("the published weights are not on this machine (fourdgen doctor --fetch)")
    network = lpips.load()
    assert network is not None
    a = pictures(1, 64)
    assert float(network(a, a * 0.5)) == pytest.approx(PUBLISHED, rel=1e-3)


PUBLISHED = 0.0754
