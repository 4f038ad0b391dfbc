"""Bones: zero is identity, rigid stays rigid, and the file's motion is the model's."""

from __future__ import annotations

import math

import pytest
import torch

from fourdgen import native
from fourdgen.geometry.transforms import dual_quat, dual_quat_parts, quat_exp, quat_rotate, quat_to_matrix, rigid
from fourdgen.scene.bones import (
    JOINT_SLIDE,
    BoneMotion,
    ClipTime,
    acceleration,
    compose,
    continuous_signs,
    denser,
    octaves,
    rigidity,
)
from fourdgen.scene.motion import SampledBones, Still, apply_blend, blend_dual_quats
from fourdgen.scene.surfels import Surfels, normal_axis

SECONDS = torch.arange(24) / 24


def sphere(count: int = 200, seed: int = 0) -> Surfels:
    """Surfels on the unit sphere with outward normals."""
    from fourdgen.fit.hull import facing_quats

    g = torch.Generator().manual_seed(seed)
    normals = torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=-1)
    looks = torch.full((count, 2), -3.0), torch.zeros(count), torch.zeros(count, 1, 3), torch.ones(count)
    return Surfels(normals.clone(), facing_quats(normals), *looks)


def bones(count: int = 6, moving: bool = False, seed: int = 0) -> BoneMotion:
    g = torch.Generator().manual_seed(seed)
    centers = torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=-1) * 0.7
    motion = BoneMotion(centers, 0.5, {"a": ClipTime(SECONDS, "a"), "b": ClipTime(SECONDS, "b")}, generator=g)
    if moving:
        motion.net[-1].weight.data.copy_(0.3 * torch.randn(motion.net[-1].weight.shape, generator=g))
    return motion


@pytest.fixture(params=["native", "torch"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once with the kernels, once without."""
    if request.param == "torch":
        monkeypatch.setattr(native, "serves", lambda tensor: False)


@pytest.mark.usefixtures("either")
def test_untrained_motion_is_exactly_no_motion() -> None:
    surfels = sphere()
    warped = bones().warp(surfels, "a", 0.37)
    assert torch.allclose(warped.means, surfels.means, atol=1e-6)
    assert torch.allclose(quat_to_matrix(warped.quats), quat_to_matrix(surfels.quats), atol=1e-6)


def test_one_motion_for_all_bones_keeps_distances_and_turns_normals() -> None:
    surfels, motion = sphere(), bones()
    turn = quat_exp(torch.tensor([0.2, -0.9, 0.4]))
    shift = torch.tensor([0.3, -0.1, 0.2])
    same = dual_quat(turn, shift).expand(len(surfels), len(motion.centers), 8)
    weights = torch.softmax(motion.skin_logits(surfels.means), 0).T
    warped = apply_blend(surfels, blend_dual_quats(same, weights))
    assert torch.allclose(warped.means, quat_rotate(turn, surfels.means) + shift, atol=1e-5)
    assert torch.allclose(normal_axis(warped.quats), quat_rotate(turn, normal_axis(surfels.quats)), atol=1e-5)


def test_blending_ignores_the_sign_of_a_bone() -> None:
    g = torch.Generator().manual_seed(1)
    bone = dual_quat(quat_exp(0.5 * torch.randn(5, 3, generator=g)), torch.randn(5, 3, generator=g)).expand(30, 5, 8)
    weights = torch.softmax(torch.randn(30, 5, generator=g), 1)
    flipped = bone * torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])[None, :, None]
    a, b = (apply_blend(sphere(30), blend_dual_quats(x, weights)) for x in (bone, flipped))
    assert torch.allclose(a.means, b.means, atol=1e-5)


@pytest.mark.skipif(not native.available(), reason="the native kernel is not built here")
def test_native_and_torch_blending_agree() -> None:
    surfels, motion = sphere(), bones(moving=True)
    dq = motion.dual_quats("a", torch.tensor([0.4]))[0].detach()
    means, quats, turned = (t.detach() for t in motion.carried(dq, surfels.means, surfels.quats))
    weights = torch.softmax(motion.skin_logits(surfels.means).detach(), 0).T
    plain = apply_blend(surfels, blend_dual_quats(dq.expand(len(weights), -1, -1), weights))
    assert torch.allclose(means, plain.means, atol=1e-5)
    assert torch.allclose(quat_to_matrix(quats), quat_to_matrix(plain.quats), atol=1e-5)
    assert torch.allclose(quat_to_matrix(turned), quat_to_matrix(plain.turned), atol=1e-5)


@pytest.mark.skipif(not native.available(), reason="the native kernel is not built here")
@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("size", [0.7, 1e-4])
def test_native_and_torch_poses_and_their_gradients_agree(
    tree: bool, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    motion, g = hung() if tree else bones(), torch.Generator().manual_seed(5)
    twists, grad = size * torch.randn(3, 6, 6, generator=g), torch.randn(3, 6, 8, generator=g)

    def posed(dtype: torch.dtype) -> list[torch.Tensor]:
        leaf = twists.to(dtype).requires_grad_(True)
        out = motion.to(dtype).pose(leaf)
        return [out.detach(), *torch.autograd.grad(out, [leaf, motion.joints], grad.to(dtype))]

    ours = posed(torch.float32)
    monkeypatch.setattr(native, "serves", lambda tensor: False)
    for a, b in zip(ours, posed(torch.float64), strict=True):
        assert float((a - b).norm()) <= 1e-6 * float(b.norm())


def test_written_motion_is_the_model_at_its_samples_when_all_bones_are_kept() -> None:
    surfels, motion = sphere(), bones(4, moving=True)
    written, sampled = motion.written(surfels, bones_kept=4)
    with torch.no_grad():
        for seconds in (0.0, float(SECONDS[7]), float(SECONDS[-1])):
            model, file = motion.warp(surfels, "b", seconds), sampled.warp(written, "b", seconds)
            assert torch.allclose(model.means, file.means, atol=2e-5)


def test_written_motion_between_samples_stays_close() -> None:
    surfels, motion = sphere(), bones(4, moving=True)
    written, sampled = motion.written(surfels, per_frame=4)
    seconds = float(SECONDS[5] + SECONDS[6]) / 2 + 0.003
    with torch.no_grad():
        moved = (motion.warp(surfels, "a", seconds).means - surfels.means).norm(dim=1).mean()
        error = (
            (motion.warp(surfels, "a", seconds).means - sampled.warp(written, "a", seconds).means).norm(dim=1).mean()
        )
    assert moved > 0.05 and error < 0.05 * moved


def test_fewer_bones_than_kept_ones_are_padded() -> None:
    written, _ = bones(2).written(sphere(), bones_kept=4)
    assert written.bone_ids is not None and written.bone_ids.shape[1] == 4
    assert written.bone_weights is not None and torch.allclose(written.bone_weights.sum(1), torch.ones(200), atol=1e-6)


def test_synchronised_clip_shows_the_motion_of_its_source() -> None:
    g = torch.Generator().manual_seed(0)
    clips = {"a": ClipTime(SECONDS, "a"), "c": ClipTime(SECONDS * 2, "a", rate=0.5, offset=0.1)}
    motion = BoneMotion(torch.randn(3, 3, generator=g), 0.5, clips, generator=g)
    motion.net[-1].weight.data.normal_(generator=g)
    at_source, at_copy = motion.dual_quats("a", torch.tensor([0.35])), motion.dual_quats("c", torch.tensor([0.5]))
    assert torch.allclose(at_source, at_copy, atol=1e-6)


def test_a_motion_is_known_as_long_as_any_synchronised_clip_shows_it() -> None:
    """The clips film one motion from -0.5 s to 3.5 s of a's clock: no two times of it look the same to the network."""
    seconds = torch.arange(48) / 24
    clips = {
        "a": ClipTime(seconds, "a"),
        "early": ClipTime(seconds, "a", rate=0.5, offset=-0.5),
        "late": ClipTime(seconds, "a", rate=1.2, offset=3.5 - 1.2 * 47 / 24),
        "alone": ClipTime(seconds + 3, "alone"),
        "late-view1": ClipTime(seconds + 9, "a", filmed=False),
    }
    motion = BoneMotion(torch.zeros(2, 3), 0.5, clips)
    moments = motion.moments("a")
    assert (float(moments[0]), float(moments[-1])) == (-0.5, 3.5)
    assert torch.equal(moments[12:60], seconds)
    assert float(moments.diff().max() - moments.diff().min()) < 0.15 / 24  # on at the pace of a's frames
    tau = torch.cat([motion.time_features(name, seconds)[0][:, 0] for name in ("a", "early", "late")])
    assert torch.allclose(torch.stack([tau.min(), tau.max()]), torch.tensor([-1.0, 1.0]), atol=1e-6)
    assert motion.moments("alone") is clips["alone"].seconds


def test_clips_with_their_own_codes_move_differently() -> None:
    motion = bones(moving=True)
    times = torch.tensor([0.3])
    assert not torch.allclose(motion.dual_quats("a", times), motion.dual_quats("b", times), atol=1e-4)


def test_signs_become_continuous_without_changing_the_motion() -> None:
    angle = torch.linspace(0, 3 * math.pi, 40)
    path = dual_quat(quat_exp(angle[:, None, None] * torch.tensor([0.0, 1.0, 0.0])), torch.zeros(40, 1, 3))
    path[13:20] *= -1
    smooth = continuous_signs(path)
    assert bool(((smooth[1:, :, :4] * smooth[:-1, :, :4]).sum(-1) > 0).all())
    assert torch.allclose(smooth.abs(), path.abs())


def test_sampled_bones_hold_their_ends() -> None:
    still = torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0]).expand(3, 2, 8)
    sampled = SampledBones({"a": torch.tensor([0.0, 0.5, 1.0])}, {"a": still}, torch.zeros(2, 3))
    assert torch.equal(sampled.bones_at("a", -3.0), sampled.bones_at("a", 0.0))
    assert torch.equal(sampled.bones_at("a", 9.0), sampled.bones_at("a", 1.0))


def test_rigidity_is_zero_for_one_common_motion_and_not_for_two() -> None:
    motion = bones()
    common = dual_quat(quat_exp(torch.tensor([0.1, 0.7, 0.0])), torch.tensor([0.2, 0.0, 0.1])).expand(1, 6, 8).clone()
    assert float(rigidity(motion, common).max()) < 1e-10
    common[0, 0] = dual_quat(quat_exp(torch.zeros(3)), torch.zeros(3))
    assert float(rigidity(motion, common).max()) > 1e-3


def hung(seed: int = 0) -> BoneMotion:
    """Six bones: 2 is the root, 0 and 5 hang from it, 1 and 4 from 5, 3 from 1."""
    motion = bones(seed=seed)
    g = torch.Generator().manual_seed(seed + 1)
    motion.hang(torch.tensor([2, 5, -1, 1, 5, 2]), torch.randn(6, 3, generator=g))
    return motion


@pytest.mark.usefixtures("either")
def test_a_tree_without_twists_is_no_motion() -> None:
    still = torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0]).expand(2, 6, 8)
    assert torch.allclose(hung().pose(torch.zeros(2, 6, 6)), still, atol=1e-6)


@pytest.mark.usefixtures("either")
def test_a_bone_is_carried_by_its_parents_up_to_the_root() -> None:
    motion, g = hung(), torch.Generator().manual_seed(3)
    twists = 0.7 * torch.randn(3, 6, 6, generator=g)
    free = BoneMotion(motion.centers.detach(), 0.5, motion.clips)
    free.joints.data.copy_(motion.joints)
    slide = torch.where(motion.parents < 0, 1.0, JOINT_SLIDE)[:, None]
    turn, shift = dual_quat_parts(free.pose(torch.cat([twists[..., :3], slide * twists[..., 3:]], -1)))
    local = rigid(quat_to_matrix(turn), shift)
    expected = local[:, 2] @ local[:, 5] @ local[:, 1] @ local[:, 3]
    turn, shift = dual_quat_parts(motion.pose(twists))
    assert torch.allclose(rigid(quat_to_matrix(turn), shift)[:, 3], expected, atol=1e-5)


@pytest.mark.usefixtures("either")
def test_a_joint_holds_while_its_bone_turns() -> None:
    motion, g = hung(), torch.Generator().manual_seed(4)
    twists = torch.cat([torch.randn(1, 6, 3, generator=g), torch.zeros(1, 6, 3)], -1)
    turn, shift = dual_quat_parts(motion.pose(twists)[0])
    for bone, parent in ((0, 2), (1, 5), (3, 1)):
        joint = motion.joints[bone]
        ends = [quat_rotate(turn[b], joint) + shift[b] for b in (bone, parent)]
        assert torch.allclose(*ends, atol=1e-5)


def test_parents_in_a_circle_are_refused() -> None:
    with pytest.raises(ValueError, match="circle"):
        compose(torch.zeros(1, 3, 8), (-1, 2, 1))
    motion = bones(3)
    motion.hang(torch.tensor([-1, 2, 1]), motion.joints)
    with pytest.raises(ValueError, match="circle"):
        motion.pose(torch.zeros(1, 3, 6))


def test_acceleration_does_not_depend_on_the_frame_rate() -> None:
    class Waving(BoneMotion):
        def twists(self, clip: str, seconds: torch.Tensor) -> torch.Tensor:
            return torch.sin(2 * math.pi * seconds)[:, None, None].expand(-1, 6, 6)

    clips = {"a": ClipTime(SECONDS, "a"), "b": ClipTime(torch.linspace(0, 23 / 24, 93), "b")}
    waving = Waving(torch.zeros(6, 3), 0.5, clips)
    slow, fast = acceleration(waving, "a").mean(), acceleration(waving, "b").mean()
    assert float(fast / slow) == pytest.approx(1, abs=0.1)
    expected = 6 * (2 * math.pi / 24) ** 4 / 2  # mean square of the sine's second derivative, six numbers a bone
    assert float(fast) == pytest.approx(expected, rel=0.1)
    some = torch.tensor([i for i in range(93) if i < 30 or i % 3 == 0])
    waving.clips["c"] = ClipTime(clips["b"].seconds[some], "c")
    assert float(acceleration(waving, "c").mean() / fast) == pytest.approx(1, abs=0.1)
    assert clips["a"].even_seconds is clips["a"].seconds
    assert float(acceleration(bones(), "a").detach().max()) == 0


def test_motion_bandwidth_follows_the_number_of_frames() -> None:
    even = torch.arange(300) / 24
    assert octaves(even[:48]) == 5 and octaves(even) == 8 and octaves(even[:2]) == 1
    assert octaves(even[:48:2]) == 4


def test_motion_bandwidth_is_that_of_the_frames_that_train() -> None:
    """Of 48 frames every fourth trains: no period is shorter than six of those."""
    seconds = torch.arange(48) / 24
    assert octaves(seconds, 4) == 3
    widths = [
        BoneMotion(torch.zeros(2, 3), 0.5, {"a": ClipTime(seconds, "a", every=every)}).time_features("a", seconds)[0]
        for every in (1, 4)
    ]
    assert [w.shape[1] for w in widths] == [1 + 2 * 5, 1 + 2 * 3]


def test_motion_bandwidth_is_that_of_the_filmed_time_where_frames_are_missing() -> None:
    even = torch.arange(48) / 24
    gap = torch.cat([even[:14], even[-14:]])
    slowing = torch.cat([even[:16], even[16::3]])
    assert octaves(gap) == octaves(slowing) == octaves(even)
    burst = torch.cat([even[:5] / 100, torch.tensor([50.0])])  # the frames that are there tell no motion so quick
    assert octaves(burst) <= octaves(even[:12])


def test_denser_times_keep_the_frames() -> None:
    times = denser(torch.tensor([0.0, 1.0, 3.0]), 2)
    assert times.tolist() == [0.0, 0.5, 1.0, 2.0, 3.0]


def test_still_returns_what_it_gets() -> None:
    surfels = sphere()
    assert Still().warp(surfels, "a", 0.5) is surfels
