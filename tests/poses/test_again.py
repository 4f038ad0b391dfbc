"""The second look at a clip whose path is uncertain."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fourdgen.geometry.transforms import rotation_angle_degrees
from fourdgen.poses import search
from fourdgen.poses.accept import global_turn
from fourdgen.poses.again import look_again
from fourdgen.poses.candidates import Candidate, SearchSettings
from fourdgen.poses.hypotheses import returning_starts
from fourdgen.poses.pictures import cut
from fourdgen.poses.turn import Turn
from tests.poses.subject import film, orbit

TINY = SearchSettings(side=32, surfels=300, effort=0.25)
COUNT = 16
TIME = torch.linspace(0, 1, COUNT)
THERE_AND_BACK = 150 * (1 - (2 * TIME - 1).abs())


def test_starts_turn_back_where_they_say_and_obey_the_sign() -> None:
    starts = returning_starts(torch.arange(41.0), "auto", (10.0, 20.0))
    assert {start.elevation for start in starts} == {10.0, 20.0}
    assert {float(start.azimuth.sign()[1]) for start in starts} == {1.0, -1.0}
    for start in starts:
        course = start.azimuth.abs()
        peak = int(course.argmax())
        assert course[0] == 0
        assert peak in (20, 30)
        assert f"after {peak / 40:.0%}" in start.name
        steps = torch.diff(start.azimuth).abs()
        assert torch.allclose(steps, steps[:1].expand_as(steps), atol=1e-3)  # as fast back as there
    assert all(float(s.azimuth[1]) < 0 for s in returning_starts(torch.arange(9.0), "ccw", (0.0,)))
    given = returning_starts(torch.arange(41.0), "auto", (0.0,), sweep=100)
    assert {round(float(s.azimuth.max() - s.azimuth.min())) for s in given} == {100}


def test_a_view_that_turns_back_is_found_although_the_flow_says_nothing() -> None:
    cameras = orbit(THERE_AND_BACK)
    rgb, mask = film(cameras, waves=0.4 + 0.4 * torch.sin(torch.arange(COUNT) * 0.8))
    silent = Turn(torch.zeros(COUNT - 1), torch.zeros(COUNT - 1, dtype=torch.bool), torch.zeros(COUNT - 1))
    told: list[int] = []
    candidates = look_again(cut(rgb, mask, 32), silent, TINY, lambda done, total: told.append(done))
    truth = cameras.cam_from_world[:, :3, :3]
    found = candidates[0].fit.rotations().detach()
    assert float(rotation_angle_degrees(found @ global_turn(found, truth), truth).median()) < 20
    assert candidates[0].name.startswith("back")
    assert [c.loss for c in candidates] == sorted(c.loss for c in candidates)
    assert told == sorted(told) and told[-1] <= 100


@pytest.mark.parametrize("accepted", [True, False])
def test_only_an_uncertain_clip_is_looked_at_again(accepted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rgb, mask = film(orbit(torch.linspace(0, -190, COUNT)))
    looked: list[Candidate] = []

    def again(pictures, turn, settings, step):  # type: ignore[no-untyped-def]
        looked.extend(look_again(pictures, turn, settings, step))
        return looked

    def verdict(*args: object) -> search.Verdict:
        return search.Verdict(accepted, "" if accepted else "doubt", 1.0, 2.0, 1.0, 1.0)

    monkeypatch.setattr(search, "look_again", again)
    monkeypatch.setattr(search, "judge", verdict)
    monkeypatch.setattr(search, "mean_path", lambda paths: None)  # it would be one more
    seen: dict[str, list[Candidate]] = {}
    search.solve_clip(rgb, mask, replace(TINY, effort=0.05), watch=seen.__setitem__)
    assert bool(looked) != accepted
    assert len(seen["refined"]) == search.FINALISTS + len(looked)
