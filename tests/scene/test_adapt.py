"""What every export has in common: the scene that was asked for, seen the same by cameras that move along."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fourdgen.geometry.transforms import Sim3, so3_exp
from fourdgen.render import draw
from fourdgen.report import FourdgenError
from fourdgen.scene.adapt import adapted, moved
from fourdgen.scene.motion import Still
from fourdgen.scene.options import Adapt, check
from tests.toy import toy_scene

PLACE = Sim3(2.5, so3_exp(torch.tensor([0.3, -1.0, 0.2]).double()), torch.tensor([3.0, -2.0, 0.5]).double())


def test_the_defaults_change_nothing() -> None:
    scene = toy_scene()
    assert adapted(scene, Adapt()) is scene


@pytest.mark.parametrize("harmonics", [1, 4])
def test_a_moved_scene_looks_the_same_to_moved_cameras(harmonics: int) -> None:
    scene = toy_scene(harmonics)
    other = moved(scene, PLACE)
    for seconds in (0.0, 0.3):
        one = draw(scene.at("a", seconds), scene.clips["a"].cameras[3])
        two = draw(other.at("a", seconds), other.clips["a"].cameras[3])
        assert float((one.rgb - two.rgb).abs().max()) < 2e-3
        assert torch.allclose(one.depth * 2.5, two.depth, atol=0.02)


def test_moving_keeps_the_way_to_the_users_coordinates() -> None:
    scene = replace(toy_scene(), world_from_input=PLACE)
    other = adapted(scene, Adapt(up="z", scale=3.0))
    assert other.world_from_input is not None
    back = other.world_from_input.inverse().apply(other.at("a", 0.2).means)
    assert torch.allclose(back, PLACE.inverse().apply(scene.at("a", 0.2).means), atol=1e-4)
    given = adapted(scene, Adapt(origin="input"))
    assert torch.allclose(given.surfels.means, PLACE.inverse().apply(scene.surfels.means), atol=1e-5)


@pytest.mark.parametrize(("up", "axis"), [("y", 1), ("z", 2)])
def test_feet_stand_on_the_ground(up: str, axis: int) -> None:
    scene = toy_scene()
    other = adapted(scene, Adapt(up=up, origin="feet", scale=10.0))
    heights = torch.cat([other.at("a", float(t)).means[:, axis] for t in other.clips["a"].seconds])
    assert float(heights.min()) == pytest.approx(0.0, abs=0.4)  # stray surfels may lie a little lower
    assert float(heights.max()) > 8  # the subject is about a unit high
    head, foot = scene.surfels.means[:, 1].argmin(), scene.surfels.means[:, 1].argmax()  # y points down
    assert other.surfels.means[head, axis] > other.surfels.means[foot, axis]
    centred = adapted(scene, Adapt(origin="centre"))
    middle = torch.cat([centred.at("a", float(t)).means for t in centred.clips["a"].seconds])
    assert float((middle.amin(0) + middle.amax(0)).abs().max()) < 0.1


def test_slow_motion_shows_every_state_at_its_later_time() -> None:
    scene = toy_scene()
    slow = adapted(scene, Adapt(speed=0.5))
    for seconds in (0.0, 0.25, 0.7):
        assert torch.allclose(slow.at("a", 2 * seconds).means, scene.at("a", seconds).means, atol=2e-3)
    assert float(slow.clips["a"].seconds[-1]) == pytest.approx(2 * float(scene.clips["a"].seconds[-1]))


def test_frames_a_second() -> None:
    scene = toy_scene()
    fine = adapted(scene, Adapt(fps=60, clip="a"))
    assert list(fine.clips) == ["a"]
    times = fine.clips["a"].seconds
    assert torch.allclose(times[1:] - times[:-1], torch.tensor(1 / 60), atol=1e-5)
    assert len(times) == int(float(scene.clips["a"].seconds[-1]) * 60 + 1e-3) + 1
    assert torch.allclose(fine.at("a", 0.5).means, scene.at("a", 0.5).means, atol=2e-3)


def test_a_loop_ends_where_it_begins() -> None:
    scene = toy_scene()  # the arm swings once, and ends where it began but one frame: no way back is needed
    loop = adapted(scene, Adapt(time="loop", clip="a"))
    last = float(loop.clips["a"].seconds[-1])
    assert torch.allclose(loop.at("a", last).means, scene.at("a", 0.0).means, atol=1e-5)
    assert len(loop.clips["a"].seconds) == len(scene.clips["a"].seconds) + 1
    half = adapted(scene, Adapt(time="loop", clip="a", frames="0:4"))  # up only: it has to come back
    times = half.clips["a"].seconds
    assert len(times) == 7
    assert torch.allclose(half.at("a", float(times[5])).means, scene.at("a", float(times[1])).means, atol=1e-5)


def test_one_moment_stands_still() -> None:
    scene = toy_scene()
    for text in ("0.25", "freeze:0.25"):
        frozen = adapted(scene, Adapt(time=text))
        assert list(frozen.clips) == ["a"] and len(frozen.clips["a"].seconds) == 1
        assert torch.allclose(frozen.at("a", 9.0).means, scene.at("a", 0.25).means, atol=1e-6)


@pytest.mark.parametrize(("text", "count"), [("5", 5), ("100", 12), ("2:6", 4), ("::3", 4), ("-3:", 3), ("1", 1)])
def test_frames_that_were_named(text: str, count: int) -> None:
    assert len(adapted(toy_scene(), Adapt(frames=text, clip="a")).clips["a"].seconds) == count


def test_what_was_never_seen_is_left_out() -> None:
    scene = toy_scene()
    cropped = adapted(scene, Adapt(crop_confidence=0.5))
    assert 0 < len(cropped.surfels) < len(scene.surfels)
    assert float(cropped.surfels.confidence.min()) >= 0.5
    with pytest.raises(FourdgenError, match="leaves nothing"):
        adapted(
            replace(scene, surfels=replace(scene.surfels, confidence=scene.surfels.confidence * 0)),
            Adapt(crop_confidence=1),
        )


def test_a_still_scene_can_be_adapted() -> None:
    scene = replace(toy_scene(), motion=Still())
    other = adapted(scene, Adapt(fps=10, up="y", time="loop"))
    assert torch.allclose(other.surfels.means * torch.tensor([1.0, -1.0, -1.0]), scene.surfels.means)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (Adapt(fps=0.0), "--fps 0: not a usable frame rate"),
        (Adapt(speed=-1.0), "--speed -1: time must pass"),
        (Adapt(scale=float("nan")), "--scale nan"),
        (Adapt(crop_confidence=2.0), "--crop-confidence 2"),
        (Adapt(up="x"), "--up x: no such axis"),
        (Adapt(origin="head"), "--origin head"),
        (Adapt(time="soon"), "--time soon: not understood"),
        (Adapt(frames="a:b"), "--frames a:b: not understood"),
        (Adapt(frames="0"), "--frames 0: not understood"),
        (Adapt(origin="input", scale=2.0), "--origin input keeps"),
        (Adapt(frames="3", time="0.5"), "--frames means nothing with --time 0.5"),
        (Adapt(fps=10, time="0.5"), "--fps means nothing with --time 0.5"),
    ],
)
def test_options_that_are_wrong_whatever_the_scene(wrong: Adapt, said: str) -> None:
    with pytest.raises(FourdgenError, match=said):
        check(wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (Adapt(time="99"), "runs from 0 to"),
        (Adapt(frames="50:"), "has frames 0 to"),
        (Adapt(clip="z"), "no clip 'z'"),
        (Adapt(origin="input"), "were found, not given"),
    ],
)
def test_options_that_this_scene_cannot_serve(wrong: Adapt, said: str) -> None:
    with pytest.raises(FourdgenError, match=said):
        adapted(toy_scene(), wrong)
