"""The search on a figure that turns by a known path: right sense, honest doubt, stillness, registration."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fourdgen import native
from fourdgen.geometry.camera import look_at, orbit_eyes
from fourdgen.geometry.transforms import rotation_angle_degrees, so3_exp
from fourdgen.poses import search
from fourdgen.poses.accept import Verdict, global_turn, judge, judge_still, path_difference, small_turn_doubted
from fourdgen.poses.candidates import Candidate, SearchSettings, first_fit
from fourdgen.poses.compare import Fit, Nodes, Pace, facing, hats
from fourdgen.poses.course import course_of
from fourdgen.poses.hypotheses import azimuths, orbit_starts, returning_starts, tidied
from fourdgen.poses.level import tilt
from fourdgen.poses.pictures import Pictures, cut
from fourdgen.poses.register import Solved, register
from fourdgen.poses.search import _chosen, _solution, mean_path, proven, solve_clip, with_body
from fourdgen.poses.tracks import places_of
from fourdgen.poses.turn import Turn, turn_from_flow
from fourdgen.side_by_side import same_sums
from tests.poses.subject import film, orbit

TINY = SearchSettings(side=32, surfels=300, effort=0.2)
AZIMUTH = torch.linspace(0, -190, 16)


def _solved(rgb, mask, cameras) -> Solved:  # type: ignore[no-untyped-def]
    """What a search that was right about everything would hand on."""
    pictures = cut(rgb, mask, 32)
    focal = float(cameras.K[0, 0, 0]) / max(cameras.size)
    rotation = cameras.cam_from_world[:, :3, :3]
    place = places_of(cameras.cam_from_world, focal, float(pictures.extent))
    fit = Fit(pictures, rotation, torch.tensor([focal]), 400, 0, place=place)
    fit.run(80, Pace(turn=0.0, smooth=0.0))
    return Solved(pictures, rotation, place, focal, {k: v.detach() for k, v in fit.model.items()}, fit.score())


@pytest.mark.skipif(not native.available(), reason="needs the compiled kernels")
def test_a_fit_draws_with_the_threads_that_there_are_and_ends_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    cameras = orbit(AZIMUTH)
    rgb, mask = film(cameras)
    used, count = set(), native._thread_count
    monkeypatch.setattr(native, "_thread_count", lambda given=None: used.add(count(given)) or count(given))
    before, ends = native.threads(), []
    for threads in (1, 3):
        used.clear()
        native.set_threads(threads)
        try:
            with same_sums():
                ends.append(_solved(rgb, mask, cameras))
        finally:
            native.set_threads(before)
        assert used == {threads}
    assert all(torch.equal(ends[0].model[key], ends[1].model[key]) for key in ends[0].model)


@pytest.fixture(scope="module")
def turning() -> tuple:  # type: ignore[type-arg]
    cameras = orbit(AZIMUTH)
    return cameras, *film(cameras)


def test_an_unknown_turn_is_found(turning: tuple) -> None:  # type: ignore[type-arg]
    cameras, rgb, mask = turning
    solution = solve_clip(rgb, mask, TINY)
    truth = cameras.cam_from_world[:, :3, :3]
    assert not solution.still
    assert solution.loss * 1.5 < solution.still_loss
    error = rotation_angle_degrees(solution.rotation @ global_turn(solution.rotation, truth), truth)
    assert "of the usual effort" in solution.verdict.reason and not solution.verdict.accepted
    # The mirrored path would be about 60 degrees off, a sweep that is 20 % wrong about 10. Settings are tiny here.
    assert float(error.median()) < 12
    assert solution.verdict.flow > 0.8
    assert solution.verdict.margin > 1.15


def test_a_mirrored_path_is_refused(turning: tuple) -> None:  # type: ignore[type-arg]
    cameras, rgb, mask = turning
    turn, right = turn_from_flow(rgb, mask), _solved(rgb, mask, cameras)
    mirror = orbit(-AZIMUTH)
    wrong = _solved(rgb, mask, mirror)
    verdict = judge(wrong.fit(), wrong.pictures.frame, turn, right.loss)
    assert not verdict.accepted
    assert "--turn" in verdict.reason  # which option helps
    assert verdict.margin < 1
    good = judge(right.fit(), right.pictures.frame, turn, wrong.loss)
    assert good.accepted, good.reason


def test_a_still_view_of_a_moving_body_is_still() -> None:
    cameras = orbit(torch.full((12,), 40.0))
    rgb, mask = film(cameras, waves=0.5 + 0.5 * torch.sin(torch.arange(12) * 0.8))
    solution = solve_clip(rgb, mask, replace(TINY, effort=0.1))
    assert solution.still
    assert torch.equal(solution.rotation, torch.eye(3).expand(12, 3, 3))


def test_a_short_search_on_few_frames_is_never_confident() -> None:
    """At a fifth of the effort 8 frames passed every test with a path that was 22 degrees off."""
    passed = Verdict(True, "", 1.0, 2.0, 0.9, 0.9)
    short = proven(passed, 0.2, 8)
    assert (
        not short.accepted and "0.2 of the usual effort on 8 frames" in short.reason and "align.effort" in short.reason
    )
    for effort, frames in ((1.0, 8), (0.5, 48), (2.0, 3)):
        assert proven(passed, effort, frames) == passed
    failed = Verdict(False, "its outlines fit badly", 1.0, 2.0, 0.9, 0.9)
    assert proven(failed, 0.2, 8).reason.startswith("its outlines fit badly; ")


def test_a_still_view_is_doubted_where_a_turn_explains_far_more() -> None:
    doubted = judge_still(loss=0.1, rival_loss=0.08)
    assert not doubted.accepted and "--turn" in doubted.reason and doubted.margin == pytest.approx(0.8)
    assert not judge_still(loss=0.1, rival_loss=0.088).accepted
    assert judge_still(loss=0.1, rival_loss=0.095).accepted
    assert judge_still(loss=0.1, rival_loss=None).accepted  # nothing else was tried


@pytest.mark.parametrize("course", [torch.linspace(0, 1, 12), torch.sin(torch.linspace(0, 6, 12)) / 2])
def test_a_turn_is_doubted_that_a_body_may_have_made(course: Tensor) -> None:
    """One way, or to and fro about the first frame: what counts is how far the outermost views lie apart."""
    passed = Verdict(True, "", 1.0, 2.0, 0.9, 0.9)
    small, large = (small_turn_doubted(passed, orbit(a * course).cam_from_world[:, :3, :3]) for a in (25.0, 60.0))
    assert not small.accepted and "--turn none" in small.reason
    assert large == passed


def test_the_mean_of_paths_that_err_apart_is_nearer_the_truth() -> None:
    """Each in its own root frame, one to the left, one to the right; the mirrored path has no say."""
    truth = orbit(AZIMUTH).cam_from_world[:, :3, :3]
    swing = torch.sin(torch.linspace(0, 6, len(truth)))[:, None] * torch.tensor([0.0, 0.3, 0.0])
    secret = so3_exp(torch.tensor([0.3, 1.1, -0.2]))
    left, right = so3_exp(swing) @ truth, so3_exp(-swing) @ truth @ secret
    mirror = orbit(-AZIMUTH).cam_from_world[:, :3, :3]
    mean = mean_path([(left, 0.1), (right, 0.1), (mirror, 0.1)])
    assert mean is not None
    assert path_difference(left, truth) > 8 and path_difference(mean, truth) < 1
    worse = mean_path([(left, 0.1), (right, 0.13)])
    assert worse is not None and path_difference(worse, left) < path_difference(worse, right) / 5
    assert mean_path([(left, 0.1), (mirror, 0.1)]) is None


def test_none_is_obeyed_and_doubted_where_the_view_turns(turning: tuple) -> None:  # type: ignore[type-arg]
    _, rgb, mask = turning
    solution = solve_clip(rgb, mask, replace(TINY, turn="none", effort=0.1))
    assert solution.still
    assert not solution.verdict.accepted and "it may turn after all" in solution.verdict.reason


def test_none_is_believed_where_only_the_body_moves() -> None:
    rgb, mask = film(orbit(torch.full((12,), 40.0)), waves=0.5 + 0.5 * torch.sin(torch.arange(12) * 0.8))
    solution = solve_clip(rgb, mask, replace(TINY, turn="none", effort=0.1))
    assert solution.still and solution.verdict.accepted, solution.verdict


def test_a_given_sense_is_obeyed_against_the_flow(turning: tuple) -> None:  # type: ignore[type-arg]
    """The view turns the other way, so a still one would fit better than most; whoever says cw gets a path that is."""
    _, rgb, mask = turning
    solution = solve_clip(rgb, mask, replace(TINY, turn="cw", sweep=150, effort=0.05))
    angle = torch.rad2deg(azimuths(solution.rotation))
    assert not solution.still
    assert float(angle[-1] - angle[0]) > 90
    assert solution.turn_sign == -1 and not solution.verdict.accepted


def test_a_given_sweep_is_held_and_contradicted(turning: tuple) -> None:  # type: ignore[type-arg]
    """190 degrees, and somebody says 80: the result turns by about 80, and says that more fits better."""
    _, rgb, mask = turning
    solution = solve_clip(rgb, mask, replace(TINY, turn="ccw", sweep=80, effort=0.15))
    angle = torch.rad2deg(azimuths(solution.rotation))
    assert 66 < float(angle.max() - angle.min()) < 94
    assert solution.other_sweep is not None and solution.other_sweep > 110
    assert not solution.verdict.accepted and "(--sweep)" in solution.verdict.reason


def test_a_view_with_a_given_sweep_or_sense_is_not_still(turning: tuple) -> None:  # type: ignore[type-arg]
    """Even where a still view fits better by far."""
    cameras, rgb, mask = turning
    pictures, turn = cut(rgb, mask, 24), turn_from_flow(rgb, mask)
    path = cameras.cam_from_world[:, :3, :3]
    found = Candidate("found", first_fit(pictures, path, TINY, None, 0, 3), 0.2)
    still = Candidate("still", first_fit(pictures, path[:1].expand_as(path), TINY, None, 0, 3), 0.1)
    assert _chosen([found], still, pictures, turn, TINY).still
    for told in ({"sweep": 90.0}, {"turn": "cw"}):
        assert not _chosen([found], still, pictures, turn, replace(TINY, **told)).still  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sweep", "back", "small", "large"),  # back: share of the clip in which the path turns against the flow
    [(40, 0.0, 1.04, 1.08), (40, 0.2, 1.18, 1.26), (40, 0.5, 1.4, 1.6), (40, 1.0, 1.8, 2.0),
     (190, 0.0, 1.04, 1.08), (190, 0.2, 1.04, 1.08), (190, 0.5, 1.45, 1.55), (190, 1.0, 1.45, 1.55)],
)  # fmt: skip
def test_the_less_flow_agrees_the_better_a_turn_must_fit(
    turning: tuple, sweep: float, back: float, small: float, large: float,  # type: ignore[type-arg]
) -> None:  # fmt: skip
    """All the more where the view turns by no more than bodies do."""
    pictures = cut(*turning[1:], 24)
    turn = Turn(torch.full((15,), -0.2), torch.ones(15, dtype=torch.bool), torch.zeros(15))
    step = torch.full((15,), -sweep / 15)
    step[: round(15 * back)] *= -1
    path = orbit(torch.cat([torch.zeros(1), step.cumsum(0)])).cam_from_world[:, :3, :3]
    found = Candidate("found", first_fit(pictures, path, TINY, None, 0, 3), 0.1)
    for gain, still in ((small, True), (large, False)):
        rival = Candidate("still", first_fit(pictures, path[:1].expand_as(path), TINY, None, 0, 3), 0.1 * gain)
        assert _chosen([found], rival, pictures, turn, TINY).still is still


@pytest.mark.parametrize(("reach", "believed"), [(20.0, True), (80.0, False)])
def test_a_still_view_is_doubted_for_a_turn_that_matters(reach: float, believed: bool) -> None:
    """The rival fits better by a fifth either way: turning by 20 degrees it may be the body, by 80 it is the view."""
    cameras = orbit(reach * torch.linspace(0, 1, 8))
    rgb, mask = film(cameras)
    pictures, turn = cut(rgb, mask, 32), turn_from_flow(rgb, mask)
    path = cameras.cam_from_world[:, :3, :3]
    found = Candidate("found", first_fit(pictures, path, TINY, None, 0, 3), 0.1)
    still = Candidate("still", first_fit(pictures, path[:1].expand_as(path), TINY, None, 0, 3), 0.12)
    assert _solution(still, pictures, turn, [found], still.loss).verdict.accepted is believed


def test_two_frames_tell_nothing_of_a_turn(turning: tuple) -> None:  # type: ignore[type-arg]
    _, rgb, mask = turning
    solution = solve_clip(rgb[::12], mask[::12], replace(TINY, effort=0.05))
    assert len(solution.frames) == 2 and solution.still
    assert not solution.verdict.accepted and "only 2 of its frames" in solution.verdict.reason


@pytest.mark.parametrize(
    ("turn", "sweep", "kept"),
    [("ccw", None, True), ("auto", 190, True), ("ccw", 175, True), ("cw", None, False), ("auto", 120, False)],
)
def test_a_course_costs_what_it_breaks(turn: str, sweep: float | None, kept: bool) -> None:
    rotations = orbit(AZIMUTH).cam_from_world[:, :3, :3]
    course = course_of(turn, sweep)
    assert course is not None
    turns = torch.zeros(len(rotations), 3, requires_grad=True)
    cost = course.strain(so3_exp(turns) @ rotations)
    assert (float(cost.detach()) == 0) is kept
    if not kept:
        cost.backward()
        better = so3_exp(-1e-2 * turns.grad / turns.grad.norm()) @ rotations  # type: ignore[union-attr]
        assert float(course.strain(better)) < float(cost.detach())
    assert course_of("auto", None) is None and course_of("none", None) is None


def test_registration_finds_a_known_rotation(turning: tuple) -> None:  # type: ignore[type-arg]
    """The second clip shows other views, and its own root frame is turned, shifted and larger."""
    cameras, rgb, mask = turning
    others = orbit(torch.linspace(100, 260, 14), elevation=25.0)
    reference, other = _solved(rgb, mask, cameras), _solved(*film(others), others)
    secret = so3_exp(torch.tensor([0.3, 2.4, -0.2]))
    model = {**other.model, "means": other.model["means"] @ secret}  # x_other = secret^T x_reference
    other = replace(other, rotation=other.rotation @ secret, model=model, focal=other.focal)
    found = register(reference, other, seed=0, effort=0.35)
    assert found.fits
    assert found.margin > 1.03
    assert float(rotation_angle_degrees(found.rotation, others.cam_from_world[:, :3, :3]).median()) < 8
    assert found.stranger < 1.5


def test_a_body_that_pitches_in_the_second_clip_does_not_tip_its_cameras(turning: tuple) -> None:  # type: ignore[type-arg]
    """Level cameras filmed it both times; pictures alone would say that the second ones stood 12 degrees lower."""
    cameras, rgb, mask = turning
    others = orbit(torch.linspace(100, 280, 14), elevation=25.0)
    pitch = so3_exp(torch.tensor([0.21, 0.0, 0.0]))
    reference, other = _solved(rgb, mask, cameras), _solved(*film(others, turned=pitch), others)
    found = register(reference, other, seed=0, effort=0.35)
    assert found.fits
    assert float(tilt(found.rotation)) < math.sin(math.radians(3)) ** 2
    assert float(rotation_angle_degrees(found.rotation, others.cam_from_world[:, :3, :3]).median()) < 7


def test_registration_finds_another_exposure(turning: tuple) -> None:  # type: ignore[type-arg]
    cameras, rgb, mask = turning
    others = orbit(torch.linspace(100, 280, 14), elevation=25.0)
    picture, alpha = film(others)
    gain, bias = np.array([0.7, 0.6, 0.75]), np.array([0.02, 0.1, 0.05])
    darker = np.clip(picture * gain + 255 * bias, 0, 255).astype(np.uint8)
    reference, other = _solved(rgb, mask, cameras), _solved(darker, alpha, others)
    found = register(reference, other, seed=0, effort=0.35)
    assert found.fits, found.reason
    # What counts is what the correction does to the middle of the range; gain and bias trade against each other.
    middle = found.gain * 0.5 + found.bias
    assert np.allclose(middle.numpy(), 0.5 * gain + bias, atol=0.06)
    same = register(reference, _solved(picture, alpha, others), seed=0, effort=0.35)
    assert np.allclose((same.gain * 0.5 + same.bias).numpy(), 0.5, atol=0.04)


def test_another_subject_does_not_fit(turning: tuple) -> None:  # type: ignore[type-arg]
    """A figure in other paint that lies on its side: neither its colours nor its shape are the reference's."""
    cameras, rgb, mask = turning
    others = orbit(torch.linspace(100, 280, 14), elevation=25.0)
    lying, alpha = film(others, turned=so3_exp(torch.tensor([0.0, 0.0, math.pi / 2])))
    painted = np.ascontiguousarray(255 - lying[..., [1, 2, 0]] // 2)
    found = register(_solved(rgb, mask, cameras), _solved(painted, alpha, others), seed=0, effort=0.35)
    assert not found.fits
    assert "another subject" in found.reason


def test_nodes_swing_but_neither_shift_nor_turn_for_good(turning: tuple) -> None:  # type: ignore[type-arg]
    cameras, rgb, mask = turning
    fit = _solved(rgb, mask, cameras).fit()
    index = torch.arange(4)
    nodes = Nodes(fit, 8, 3)
    means = fit.model["means"].detach()
    assert torch.equal(nodes.bent(means, index), means.expand(4, -1, 3))
    with torch.no_grad():  # a small rotation of all nodes is the root's business
        nodes.shifts[0] = torch.linalg.cross(torch.tensor([[0.1, 0.2, -0.1]]), nodes.centers) + 0.3
    assert float(nodes.at(index).detach().abs().max()) < 1e-5
    swing = torch.linalg.cross(torch.tensor([[0.1, 0.2, -0.1]]), nodes.centers - nodes.centers.mean(0))
    with torch.no_grad():  # a body that swings is not a camera that swings
        nodes.shifts[1] = swing + 0.3
    assert torch.allclose(nodes.at(index).detach(), nodes.basis[index, 1, None, None] * swing, atol=1e-5)


def test_a_body_that_swings_is_not_read_as_a_camera_that_swings() -> None:
    """Cameras start at the truth; the body pitches by 14 degrees, three times back and forth while the view turns."""
    cameras = orbit(torch.linspace(0, 160, 20), elevation=20.0)
    pitch = torch.zeros(20, 3)
    pitch[:, 0] = 0.24 * torch.sin(torch.linspace(0, 6 * math.pi, 20))
    solved = _solved(*film(cameras, turned=so3_exp(pitch)), cameras)
    fit = with_body(solved.pictures, solved.rotation, solved.place, replace(TINY, focal=solved.focal, effort=0.6))
    truth = cameras.cam_from_world[:, :3, :3]
    error = rotation_angle_degrees(fit.rotations().detach() @ global_turn(fit.rotations().detach(), truth), truth)
    assert float(error.max()) < 1.5  # 2 with nodes that cannot turn together, 4 with cameras that need not be smooth


def test_the_orbit_next_to_a_path_keeps_its_course_and_has_no_roll() -> None:
    count = 24
    time = torch.arange(count).float()
    azimuth = 180 * torch.sin(time / 12)  # there and part of the way back
    height = 15 + 10 * torch.cos(math.pi * time / (count - 1))
    eyes = orbit_eyes(azimuth, height, 1.0)
    center = torch.stack([0.1 * torch.sin(time / 5), torch.full((count,), -0.05)], 1)
    path = facing(center, 1.2) @ look_at(eyes)[:, :3, :3]
    secret = so3_exp(torch.tensor([0.0, 1.1, 0.0]))  # which way the root faces is open

    def off(rotations: torch.Tensor) -> float:
        return float(rotation_angle_degrees(rotations @ global_turn(rotations, path), path).max())

    assert off(tidied(path @ secret, center, 1.2, time)) < 1.5
    shaken = torch.stack([0.12 * torch.sin(2.5 * time), torch.zeros(count), 0.15 * torch.sin(1.7 * time)], 1)
    swung = so3_exp(shaken) @ path @ secret
    assert off(swung) > 9
    assert off(tidied(swung, center, 1.2, time)) < 4
    even = tidied(path, center, 1.2, time, around=1, up=1)
    assert float(torch.diff(azimuths(facing(center, 1.2).transpose(1, 2) @ even), n=2).abs().max()) < 0.02


def test_starts_and_tidied_orbits_are_even_in_time() -> None:
    """Every frame of the first half of a clip, every third of the other."""
    frames = torch.tensor([i for i in range(48) if i < 24 or i % 3 == 0])
    time, count = frames.float(), len(frames)
    rate = torch.full((count - 1,), 0.1) * time.diff()
    turn = Turn(rate, torch.ones(count - 1, dtype=torch.bool), rate, time.diff())
    starts = [*orbit_starts(turn, torch.arange(count), time, "cw", 200.0), *returning_starts(time, "cw", (0.0,))]
    for start in starts:
        speed = start.azimuth.diff().abs() / time.diff()
        inner = speed.isclose(speed.median(), rtol=1e-3).sum()
        assert inner >= count - 2, start.name  # one frame may stand on either side of where it turns back
    eyes = orbit_eyes(200 * time / 47, 12.0, 1.0)
    path, center = look_at(eyes)[:, :3, :3], torch.zeros(count, 2)
    even = tidied(path, center, 1.2, time, around=1, up=1)
    assert float(rotation_angle_degrees(even @ global_turn(even, path), path).max()) < 0.5
    by_frame = tidied(path, center, 1.2, torch.arange(count).float(), around=1, up=1)
    assert float(rotation_angle_degrees(by_frame @ global_turn(by_frame, path), path).max()) > 3


def test_the_search_works_in_the_time_of_the_clip(turning: tuple, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[type-arg]
    """Windows know when they were filmed, and so does the cost of acceleration of every fit to them."""
    _, rgb, mask = turning
    number = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 14, 17, 20, 23, 26, 29])

    def seen(seconds: torch.Tensor | None) -> Pictures:
        found: list[Pictures] = []

        def stop(pictures: Pictures, settings: SearchSettings) -> Candidate:
            found.append(pictures)
            raise InterruptedError

        monkeypatch.setattr(search, "_still", stop)
        with pytest.raises(InterruptedError):
            solve_clip(rgb, mask, replace(TINY, frames=14), seconds=seconds)
        return found[0]

    pictures = seen(number / 24)
    assert torch.equal(pictures.time, number[pictures.frame].float())
    step = Fit(pictures, torch.eye(3).expand(14, 3, 3), torch.tensor([1.2]), 50, 0).spacing.step
    assert torch.allclose(step, pictures.time.diff() / pictures.time.diff().mean())
    even = seen(None)
    assert torch.equal(even.time, even.frame.float()) and len(even.time.diff().unique()) == 2


def test_hats_are_one_a_frame_when_short_and_sum_to_one() -> None:
    assert torch.allclose(hats(torch.tensor([0.0, 1, 2, 7, 9]), 64), torch.eye(5), atol=1e-6)
    assert torch.allclose(hats(torch.arange(5.0), 64), torch.eye(5), atol=1e-6)
    assert torch.allclose(hats(torch.arange(50.0), 9).sum(1), torch.ones(50), atol=1e-5)
