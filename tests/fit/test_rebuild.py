"""Carving through a motion: what moves is found again, what the masks deny is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fourdgen.data.records import ClipTrack
from fourdgen.fit.hull import carve
from fourdgen.fit.model import Model, PoseCorrections, Rates
from fourdgen.fit.rebuild import Observed, carve_through, rebuild
from fourdgen.fit.skeleton import distil
from fourdgen.fit.views import View
from fourdgen.geometry.camera import Cameras, look_at, orbit_eyes
from fourdgen.geometry.transforms import dual_quat_parts, quat_log
from fourdgen.render import draw
from fourdgen.scene.bones import BoneMotion, ClipTime
from fourdgen.scene.motion import SampledBones
from fourdgen.scene.scene4d import Scene4D
from tests.toy import toy_scene

SHOULDER = torch.tensor([-0.3, 0.0, 0.05])


@pytest.fixture(scope="module")
def toy() -> tuple[Scene4D, Observed, BoneMotion]:
    """The toy scene, its frames with true poses, and two bones that were taught its motion."""
    scene = toy_scene()
    views, poses, clips, seconds = [], [], [], []
    for name, clip in scene.clips.items():
        for t, second in enumerate(clip.seconds):
            out = draw(scene.at(name, float(second)), clip.cameras[t])
            views.append(View(out.rgb[0].permute(2, 0, 1), out.alpha[0].clamp(0, 1), None, clip.cameras.K[t]))
            poses.append(clip.cameras.cam_from_world[t])
            clips.append(name)
            seconds.append(second)
    times = {name: ClipTime(clip.seconds, name) for name, clip in scene.clips.items()}
    g = torch.Generator().manual_seed(0)
    motion = BoneMotion(torch.tensor([[0.15, -0.1, 0.0], [-0.55, 0.0, 0.05]]), 0.35, times, generator=g)
    motion.hang(torch.tensor([-1, 0]), torch.stack([torch.zeros(3), SHOULDER]))
    assert isinstance(scene.motion, SampledBones)
    targets = {}
    for name, clip in scene.clips.items():
        swing = torch.stack([scene.motion.bones_at(name, float(second))[1] for second in clip.seconds])
        targets[name] = torch.zeros(len(swing), 2, 6)
        targets[name][:, 1, :3] = quat_log(dual_quat_parts(swing)[0])
    assert distil(motion, targets, g) < 0.02
    return scene, Observed(views, torch.stack(poses), clips, torch.stack(seconds)), motion


def model(
    scene: Scene4D, motion: BoneMotion, corrections: PoseCorrections | None = None, count: int = 2000
) -> Model:  # fmt: skip
    """Surfels in a fog around the subject: training has learned a motion and not yet a shape."""
    g = torch.Generator().manual_seed(1)
    s = scene.surfels
    low, high = s.means.amin(0) - 0.1, s.means.amax(0) + 0.1
    fog = {
        "means": low + torch.rand(count, 3, generator=g) * (high - low),
        "quats": F.normalize(torch.randn(count, 4, generator=g), dim=1),
        "log_scales": torch.full((count, 2), -3.0), "opacity": torch.zeros(count), "sh": torch.zeros(count, 1, 3),
    }  # fmt: skip
    return Model(fog, motion, corrections, Rates())


def arm_found(points: torch.Tensor) -> float:
    """Share of the outer arm that has a point nearby."""
    arm = toy_scene().surfels.means[700:]
    arm = arm[arm[:, 0] < -0.6]
    return float((torch.cdist(arm, points).amin(1) < 0.06).float().mean())


def test_a_swinging_arm_is_carved_through_its_motion_and_lost_without(toy) -> None:
    scene, observed, motion = toy
    g = torch.Generator().manual_seed(0)
    carved = carve_through(model(scene, motion), observed, g)
    still = carve(observed.views, observed.poses, 1.3, g)[0]
    assert arm_found(carved["means"]) > 0.9 and arm_found(still) < 0.5
    truth = scene.surfels.means
    assert float(torch.cdist(carved["means"], truth).amin(1).mean()) < 0.06


def test_carved_surfels_look_like_the_pictures(toy) -> None:
    scene, observed, motion = toy
    carved = carve_through(model(scene, motion), observed, torch.Generator().manual_seed(0))
    surfels = replace(scene.surfels, bone_ids=None, bone_weights=None, confidence=torch.ones(len(carved["means"])),
                      **carved)  # fmt: skip
    with torch.no_grad():
        state = motion.warp(surfels, "a", float(observed.seconds[4]))
        clip = scene.clips["a"]
        out, view = draw(state, clip.cameras[4]), observed.views[4]
        both = ((out.alpha[0] > 0.5) & (view.mask > 0.5)).sum() / ((out.alpha[0] > 0.5) | (view.mask > 0.5)).sum()
    assert float(both) > 0.85


def test_seen_from_one_side_the_shape_stays_round(toy) -> None:
    scene, observed, motion = toy
    g = torch.Generator().manual_seed(0)
    poses = look_at(orbit_eyes(torch.linspace(-6, 6, len(observed.views)), 0.0, 3.0))
    K, size = observed.views[0].K, observed.views[0].size
    views = []
    for i, pose in enumerate(poses):
        out = draw(scene.at(observed.clips[i], float(observed.seconds[i])), Cameras(pose[None], K[None], size))
        views.append(View(out.rgb[0].detach().permute(2, 0, 1), out.alpha[0].detach().clamp(0, 1), None, K))
    seen = replace(observed, views=views, poses=poses)
    fog = model(scene, motion)
    side = F.normalize(-poses[len(poses) // 2, 2, :3], dim=0)
    with torch.no_grad():
        fog.p["means"] += side * torch.randn(len(fog.p["means"]), 1, generator=g)  # a cone of debris
    depth = carve_through(fog, seen, g)["means"] @ side
    truth = scene.surfels.means @ side
    assert float(depth.abs().max()) < 2 * float(truth.abs().max())


def test_points_that_half_of_the_masks_deny_survive_where_nothing_else_does(toy) -> None:
    """The share that is asked for falls where too few points reach it, and they must not be lost on the way there."""
    scene, observed, motion = toy
    order = torch.arange(len(observed.views)) % 5
    half = [replace(v, mask=v.mask * float(order[i] > 1)) for i, v in enumerate(observed.views)]
    before = model(scene, motion)
    carved = carve_through(before, replace(observed, views=half), torch.Generator().manual_seed(0))
    assert not torch.equal(carved["means"], before.p["means"].detach())


def test_masks_that_deny_everything_leave_the_surfels_alone(toy) -> None:
    scene, observed, motion = toy
    before = model(scene, motion)
    empty = replace(observed, views=[replace(view, mask=torch.zeros_like(view.mask)) for view in observed.views])
    kept = carve_through(before, empty, torch.Generator().manual_seed(0))
    assert all(torch.equal(kept[name], before.p[name].detach()) for name in kept)


def test_a_carved_asset_of_many_surfels_keeps_about_as_many(toy) -> None:
    scene, observed, motion = toy
    some = range(0, len(observed.views), 3)
    few = Observed([observed.views[i] for i in some], observed.poses[::3], observed.clips[::3], observed.seconds[::3])
    before = model(scene, motion, count=20_000)
    carved = carve_through(before, few, torch.Generator().manual_seed(0))
    assert 0.75 * 20_000 < len(carved["means"]) <= 20_000
    truth = scene.surfels.means
    assert float(torch.cdist(carved["means"][::10], truth).amin(1).mean()) < 0.06


def test_root_poses_and_their_moments_survive_a_rebuild(toy) -> None:
    scene, observed, motion = toy
    tracks = {
        name: ClipTrack(clip.cameras.cam_from_world, clip.cameras.K, torch.ones(len(clip.seconds)))
        for name, clip in scene.clips.items()
    }
    corrections = PoseCorrections(tracks)
    before = model(scene, motion, corrections)
    before.set_rates(lambda name: 1.0)
    (corrections.pose("a", 3).sum() + before.p["means"].sum()).backward()
    before.optimizer.step()
    after = rebuild(before, observed, True, torch.Generator().manual_seed(0))
    assert after.corrections is corrections and after.motion.joined
    moved = corrections.twist_of("a")
    assert torch.equal(after.optimizer.state[moved]["exp_avg"], before.optimizer.state[moved]["exp_avg"])
    assert after.p["means"] not in before.optimizer.state and not after.optimizer.state.get(after.p["means"])


def test_the_same_seed_carves_the_same(toy) -> None:
    scene, observed, motion = toy
    first, second = (carve_through(model(scene, motion), observed, torch.Generator().manual_seed(7)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.allclose(first["quats"].norm(dim=1), torch.ones(len(first["quats"])), atol=1e-5)
