"""Surfels that are born and die, and what Adam remembers of them."""

from __future__ import annotations

import torch

from fourdgen.data.records import ClipTrack
from fourdgen.fit.density import Growth
from fourdgen.fit.hull import Seeds
from fourdgen.fit.model import Model, PoseCorrections, Rates
from fourdgen.geometry.camera import intrinsics, look_at, orbit_eyes
from fourdgen.scene.bones import BoneMotion, ClipTime

SECONDS = torch.arange(6) / 24


def track() -> ClipTrack:
    poses = look_at(orbit_eyes(torch.linspace(0, 100, 6), 10.0, 3.0))
    return ClipTrack(poses, intrinsics(50, (64, 64)).expand(6, 3, 3), torch.ones(6))


def model(count: int = 40, corrections: bool = False) -> Model:
    g = torch.Generator().manual_seed(0)
    seeds = Seeds(
        torch.randn(count, 3, generator=g), torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=-1),
        torch.rand(count, 3, generator=g), 0.1,
    )  # fmt: skip
    motion = BoneMotion(torch.randn(4, 3, generator=g), 0.4, {"a": ClipTime(SECONDS, "a")}, generator=g)
    return Model.from_seeds(seeds, motion, PoseCorrections({"a": track()}) if corrections else None, Rates(), 0.3)


def pull(m: Model, weights: torch.Tensor) -> None:
    """One step whose position gradients are `weights` long."""
    (m.p["means"][:, 0] * weights).sum().backward()


def test_reindexing_carries_parameters_and_moments() -> None:
    m = model()
    m.set_rates(lambda name: 1.0)
    pull(m, torch.arange(40.0))
    m.optimizer.step()
    means, moment = m.p["means"].detach().clone(), m.optimizer.state[m.p["means"]]["exp_avg"].clone()
    index = torch.tensor([5, 5, 39, 0])
    m.reindex(index)
    assert len(m) == 4 and torch.equal(m.p["means"], means[index])
    assert torch.equal(m.optimizer.state[m.p["means"]]["exp_avg"], moment[index])
    pull(m, torch.ones(4))
    m.optimizer.step()  # the optimizer still owns the new tensors
    assert not torch.equal(m.p["means"], means[index])


def test_the_most_pulled_surfels_split() -> None:
    m, growth = model(), Growth()
    weights = torch.zeros(40)
    weights[[3, 8]] = torch.tensor([5.0, 4.0])
    pull(m, weights)
    growth.after_backward(m)
    before = m.p["log_scales"].detach().clone()
    growth.update(m, 42, torch.Generator().manual_seed(0))
    assert len(m) == 42
    shrunk = (m.p["log_scales"][:40] < before - 0.1).any(1).nonzero()[:, 0]
    assert shrunk.tolist() == [3, 8]


def test_a_split_pair_covers_what_the_parent_covered() -> None:
    m, growth = model(), Growth()
    weights = torch.zeros(40)
    weights[7] = 1.0
    pull(m, weights)
    growth.after_backward(m)
    before = torch.sigmoid(m.p["opacity"])[7].item()
    growth.update(m, 41, torch.Generator().manual_seed(0))
    a, b = torch.sigmoid(m.p["opacity"]).detach()[[7, 40]].tolist()
    assert abs(1 - (1 - a) * (1 - b) - before) < 1e-5


def test_transparent_surfels_die() -> None:
    m, growth = model(), Growth()
    m.p["opacity"].data[[1, 2]] = -8.0
    pull(m, torch.ones(40))
    growth.after_backward(m)
    growth.update(m, 38, torch.Generator().manual_seed(0))
    assert len(m) == 38 and float(m.p["opacity"].detach().min()) > -8


def test_pose_corrections_start_at_exactly_the_base() -> None:
    base = track()
    corrected = PoseCorrections({"a": base}).tracks({"a": base})["a"]
    assert torch.allclose(corrected.cam_from_root, base.cam_from_root, atol=1e-6)
    assert torch.equal(corrected.K, base.K)


def test_a_focal_correction_changes_the_focal_alone() -> None:
    corrections = PoseCorrections({"a": track()})
    corrections.log_focal.data[0] = 0.1
    K, changed = track().K[0], corrections.intrinsics("a", track().K[0])
    ratio = changed.detach() / K
    assert abs(float(ratio[0, 0]) - 1.10517) < 1e-4 and abs(float(ratio[1, 1]) - 1.10517) < 1e-4
    assert torch.equal(changed[:2, 2].detach(), K[:2, 2])


def test_a_held_focal_length_is_not_corrected() -> None:
    corrections = PoseCorrections({"a": track(), "b": track()}, held=["a"])
    corrections.log_focal.data[:] = 0.1
    K = track().K[0]
    assert torch.equal(corrections.intrinsics("a", K), K)
    assert float(corrections.intrinsics("b", K).detach()[0, 0]) > 1.1 * float(K[0, 0])


def test_a_saved_model_goes_on_exactly_where_it_was(tmp_path) -> None:
    def steps(m: Model, count: int) -> None:
        for _ in range(count):
            (m.p["means"] ** 2).sum().backward()
            m.optimizer.step()
            m.optimizer.zero_grad()

    m = model(corrections=True)
    m.set_rates(lambda name: 1.0)
    steps(m, 3)
    m.reindex(torch.arange(20))
    torch.save(m.state(), tmp_path / "state.pt")
    steps(m, 2)
    other = model(corrections=True)
    other.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    other.set_rates(lambda name: 1.0)
    steps(other, 2)
    assert all(torch.equal(m.p[name], other.p[name]) for name in m.p)
