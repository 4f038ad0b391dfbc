"""Bones from trajectories: limbs are found by how they move, hang together where they touch, and move as before."""

from __future__ import annotations

import pytest
import torch

from fourdgen.fit.skeleton import (
    INSTANTS,
    Clusters,
    by_trajectory,
    distil,
    instants,
    k_means,
    recut,
    span,
    stands_for,
    trajectories,
)
from fourdgen.scene.bones import BoneMotion, ClipTime

SECONDS = torch.arange(48) / 24
CLIPS = {"a": ClipTime(SECONDS, "a"), "b": ClipTime(SECONDS, "b")}
BONES = 9  # three in each of three segments of 0.6


def swinging(clips: dict[str, ClipTime]) -> tuple[BoneMotion, torch.Tensor, dict[str, torch.Tensor]]:
    """Three segments in a row that swing about the joints between them; their points; the twists [t b 6] per motion."""
    g = torch.Generator().manual_seed(0)
    x = 0.2 * torch.arange(BONES)[:, None]
    motion = BoneMotion(x * torch.tensor([1.0, 0.0, 0.0]), 0.1, clips, generator=g)
    joints = (x - 0.1) * torch.tensor([1.0, 0.0, 0.0])
    motion.hang(torch.arange(BONES) - 1, joints)
    twists = {}
    for name, pace in (("a", 1.0), ("b", 2.0)):
        if name not in clips:
            continue
        wave = torch.sin(pace * torch.pi * motion.moments(name) / 2)
        twists[name] = torch.zeros(len(wave), BONES, 6)
        twists[name][:, 3, 2], twists[name][:, 6, 1] = 0.8 * wave, -0.7 * wave
        twists[name][:, 0, 3] = 0.1 * wave
    assert distil(motion, twists, g) < 0.02
    offsets = (torch.rand(900, 3, generator=g) - 0.5) * torch.tensor([0.2, 0.14, 0.14])
    return motion, motion.centers.detach().repeat_interleave(100, 0) + offsets, twists


@pytest.fixture(scope="module")
def arm() -> tuple[BoneMotion, torch.Tensor, dict[str, torch.Tensor]]:
    return swinging(CLIPS)


def test_a_network_learns_the_motion_it_is_given(arm) -> None:
    motion, _, twists = arm
    for name, target in twists.items():
        learned = motion.twists(name, SECONDS).detach()
        assert float((learned - target).norm() / target.norm()) < 0.15


def test_a_bone_lies_in_one_limb(arm) -> None:
    motion, points, _ = arm
    clusters = by_trajectory(motion, points, torch.Generator().manual_seed(1))
    segment = ((clusters.rest[:, 0] + 0.1) / 0.6).long().clamp(0, 2)
    own = torch.zeros(BONES, 3).index_put((clusters.label, segment), torch.ones(len(segment)), accumulate=True)
    assert float(own.amax(1).sum() / own.sum()) > 0.9


def test_neighbours_in_a_row_become_a_chain(arm) -> None:
    motion, points, _ = arm
    clusters = by_trajectory(motion, points, torch.Generator().manual_seed(1))
    centers = torch.stack([clusters.rest[clusters.label == b].mean(0) for b in range(BONES)])
    parents, joints = span(clusters, centers)
    assert int((parents < 0).sum()) == 1
    segment = ((centers[:, 0] + 0.1) / 0.6).long().clamp(0, 2)
    hung = (parents >= 0).nonzero()[:, 0]
    step = segment[hung] - segment[parents[hung]]
    assert int(step.abs().max()) == 1 and int((step != 0).sum()) == 2
    borders = joints[hung[step != 0], 0].sort().values
    assert torch.allclose(borders, torch.tensor([0.5, 1.1]), atol=0.12)


def test_what_touches_at_rest_but_moves_apart_is_not_joined() -> None:
    """Two legs side by side under a hip, out of step: each is joined to the hip, not to the other."""
    hip, left, right = torch.tensor([0.0, 0.3, 0.0]), torch.tensor([0.0, -0.3, -0.06]), torch.tensor([0.0, -0.3, 0.06])
    g = torch.Generator().manual_seed(0)
    box = torch.rand(400, 3, generator=g) - 0.5
    rest = torch.cat([
        hip + box * torch.tensor([0.3, 0.6, 0.3]),
        left + box * torch.tensor([0.12, 0.6, 0.12]),
        right + box * torch.tensor([0.12, 0.6, 0.12]),
    ])  # fmt: skip
    label = torch.arange(3).repeat_interleave(400)
    swing = torch.zeros(48, 1200, 3)
    lever = (-rest[:, 1]).clamp_min(0)
    wave = torch.sin(2 * torch.pi * SECONDS)[:, None]
    swing[:, 400:800, 0], swing[:, 800:, 0] = wave * lever[400:800], -wave * lever[800:]
    path = rest + swing
    moves = (path - path.mean(0))[::2].transpose(0, 1).flatten(1)
    features = torch.cat([path.mean(0), moves * 2 / 12**0.5], 1)
    parents, _ = span(Clusters(rest, features, label, {"a": path}), torch.stack([hip, left, right]))
    edges = {frozenset((b, int(parent))) for b, parent in enumerate(parents) if parent >= 0}
    assert edges == {frozenset((0, 1)), frozenset((0, 2))}


def test_new_bones_move_an_articulated_body_as_the_old_ones_did(arm) -> None:
    motion, points, _ = arm
    g = torch.Generator().manual_seed(2)
    for tree in (True, False):
        again = recut(motion, points, tree, g)
        assert again.joined is tree
        with torch.no_grad():
            for name in CLIPS:
                before, after = trajectories(motion, points, name), trajectories(again, points, name)
                moved = (before - points).norm(dim=-1).mean()
                assert float((after - before).norm(dim=-1).mean()) < 0.15 * float(moved)


class Waving(BoneMotion):
    """Every bone swings along x, once a second."""

    def twists(self, clip: str, seconds: torch.Tensor) -> torch.Tensor:
        wave = torch.zeros(len(seconds), len(self.centers), 6)
        wave[..., 3] = torch.sin(2 * torch.pi * seconds)[:, None]
        return wave


def test_paths_are_smoothed_in_time_and_not_by_frame_number() -> None:
    """A frame rate that falls to a third, then a gap: frames that are far off in time hardly count, nor do the many of
    the dense side outvote the others where it ends."""
    full = torch.arange(72) / 24
    kept = torch.tensor([*range(20), *range(20, 50, 3), *range(60, 72)])
    motion = Waving(torch.zeros(1, 3), 0.1, {"full": ClipTime(full, "full"), "ragged": ClipTime(full[kept], "ragged")})
    paths = [trajectories(motion, torch.zeros(1, 3), name)[:, 0, 0].detach() for name in ("full", "ragged")]
    off = (paths[0][kept] - paths[1]).abs()
    assert float(paths[0].abs().max()) > 0.9
    assert float(off[:18].max()) < 0.002
    assert float(off[18:22].max()) < 0.12  # by frame number 0.26
    assert float(off[22:29].max()) < 0.02  # 0.41
    assert float(off[29:].max()) < 0.25  # beside the gap as at the ends of a clip; 0.33


def test_even_frames_stand_for_a_step_each_and_instants_are_every_so_many() -> None:
    for count in (1, 2, 11, 23, 24, 36, 48, 400):
        even = torch.arange(count)
        assert len(instants(even / 24)) <= INSTANTS
        assert torch.equal(stands_for(even.float()), torch.ones(count))
        assert torch.equal(instants(even / 24), even[:: -(-count // INSTANTS)])


def test_instants_are_spread_over_the_time_and_not_over_the_frames() -> None:
    seconds = torch.cat([torch.arange(40) / 40, 1 + torch.arange(8) / 8])  # the first half five times as dense
    time = seconds[instants(seconds)]
    assert 4 <= int((time >= 1).sum()) <= 8 and 4 <= int((time < 1).sum()) <= 8


def test_new_bones_move_as_the_old_ones_did_where_only_a_synchronised_clip_shows_it() -> None:
    """The second clip goes on for 0.8 s after the reference has ended, in which the arm swings to the other side."""
    motion, points, _ = swinging({"a": ClipTime(SECONDS, "a"), "late": ClipTime(SECONDS, "a", offset=0.8)})
    again = recut(motion, points, True, torch.Generator().manual_seed(2))
    quats = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(points), 4).contiguous()
    with torch.no_grad():
        for t in (36, 41, 46):
            moment = SECONDS[t : t + 1]
            before, after = (m.carried(m.dual_quats("late", moment)[0], points, quats)[0] for m in (motion, again))
            moved = (before - points).norm(dim=-1).mean()
            assert float((after - before).norm(dim=-1).mean()) < 0.25 * float(moved)


def test_clusters_are_the_same_for_the_same_seed() -> None:
    features = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    first, second = (k_means(features, 7, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second) and len(first.unique()) == 7
