"""One sentence says how sure the poses are."""

from __future__ import annotations

import torch

from fourdgen.data.records import Alignment, ClipAlignment, ClipTrack, RootTrack
from fourdgen.geometry.camera import look_at, orbit_eyes
from fourdgen.poses.standing import standing


def said(turns: dict[str, float], given: str = "", reason: str = "", left_out: dict[str, str] | None = None) -> str:
    """Of clips that turn by so many degrees; `given`: the names of those whose cameras were given."""
    poses = {name: look_at(orbit_eyes(torch.linspace(0, turn, 3), 10.0, 3.0)) for name, turn in turns.items()}
    K, one = torch.eye(3).expand(3, 3, 3), torch.ones(3)
    aligned = {
        name: ClipAlignment(pose, K, one, torch.ones(3), torch.zeros(3), given=name in given)
        for name, pose in poses.items()
    }
    tracked = {name: ClipTrack(pose, K, one, given=name in given) for name, pose in poses.items()}
    all_given = set(turns) == set(given)
    return standing(
        Alignment(aligned, min(turns), None, all_given, left_out or {}),
        RootTrack(tracked, None, all_given, not reason, reason),
    )


def test_plain_words_only_where_nothing_is_in_doubt() -> None:
    assert said({"a": 90, "b": 200}) == "confident"
    assert said({"a": 90, "b": 0}, given="ab") == "given"
    assert said({"a": 90, "b": 200}, given="a") == "given for a; confident for b"


def test_doubts_name_the_reason() -> None:
    assert said({"a": 90}, reason="a: sides look alike (--sweep)") == "uncertain: a: sides look alike (--sweep)"


def test_a_still_clip_is_said_with_what_to_do() -> None:
    words = said({"a": 90, "b": 0})
    assert words.startswith("confident; b is still")
    assert "--turn" in words
    assert "a is still" not in words
    assert "is still" not in said({"a": 90, "b": 0}, given="b")  # by the user's own cameras: no news


def test_with_a_clip_left_out_the_poses_are_not_plainly_confident() -> None:
    words = said({"a": 90}, left_out={"b": "another subject"})
    assert words.startswith("confident for a; b is left out: another subject (--")
