"""One sentence says how sure the poses are."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import torch

import fourdgen
from fourdgen.config import by_clip
from fourdgen.data.records import Alignment, ClipAlignment, ClipTrack, RootTrack
from fourdgen.geometry.camera import look_at, orbit_eyes
from fourdgen.poses.advice import for_clip
from fourdgen.poses.standing import EQUAL, standing


def said(
    turns: dict[str, float],
    given: str = "",
    reason: str = "",
    left_out: dict[str, str] | None = None,
    aligned_reason: str = "",
) -> str:
    """Of clips that turn by so many degrees; `given`: the names of those whose cameras were given."""
    poses = {name: look_at(orbit_eyes(torch.linspace(0, turn, 3), 10.0, 3.0)) for name, turn in turns.items()}
    K, one = torch.eye(3).expand(3, 3, 3), torch.ones(3)
    aligned = {
        name: ClipAlignment(pose, K, one, torch.ones(3), torch.zeros(3), given=name in given, reason=aligned_reason)
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


def test_given_cameras_that_do_not_fit_are_not_plainly_given() -> None:
    assert said({"a": 90}, given="a", reason="they fit backwards (--cameras)").startswith("given; uncertain: they fit")


def test_a_still_clip_is_said_with_what_to_do() -> None:
    words = said({"a": 90, "b": 0})
    assert words.startswith("confident; b is still")
    assert "--turn" in words
    assert "a is still" not in words
    assert "is still" not in said({"a": 90, "b": 0}, given="b")  # by the user's own cameras: no news


def test_advice_for_one_of_several_clips_names_it() -> None:
    """In brackets, and nowhere else: an option without a name would hold for the other clips, too."""
    assert said({"a": 90, "b": 0}).endswith("(--turn b=cw or b=ccw if it does turn)")
    assert said({"a": 0}).endswith("(--turn cw or ccw if it does turn)")
    for text, named in (
        ("it may turn the other way (--turn cw)", "it may turn the other way (--turn b=cw)"),
        ("after all (--turn cw, ccw or none)", "after all (--turn b=cw, b=ccw or b=none)"),
        ("as well (--turn, --sweep)", "as well (--turn b=cw or b=ccw, --sweep b=DEGREES)"),
        ("only (--fov, --masks); --turn none is obeyed", "only (--fov b=DEGREES, --masks); --turn none is obeyed"),
    ):
        assert for_clip(text, "b") == named


@pytest.mark.parametrize(
    "name", ["my clip", "cw", "ccw none", "it's cw (1)", "$(b) & a,b --turn cw", "b (--turn cw)", r"\1 b"]
)
def test_advice_takes_every_name_as_it_is(name: str) -> None:
    """In the sentence as it is, in the option as one word of a shell that means this clip."""
    sentence = f"confident; {name} is still, so one side of the subject was filmed ("
    words = said({"a": 90, name: 0})
    assert words.startswith(sentence)
    asked = [f"{name}=cw", "or", f"{name}=ccw", "if", "it", "does", "turn)"]
    assert shlex.split(words.removeprefix(sentence)) == ["--turn", *asked]
    assert by_clip(asked[0]) == {name: "cw"}
    assert shlex.split(for_clip("(--turn, --sweep)", name))[:4] == ["(--turn", *asked[:2], f"{name}=ccw,"]


def test_every_advice_of_the_package_can_be_given_for_one_clip() -> None:
    """No sentence has an option for one clip in brackets in a form that gets no name."""
    package = Path(fourdgen.__file__).parent
    files = [path for room in ("poses", "stages") for path in sorted((package / room).glob("*.py"))]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    texts += [
        "".join(part.value if isinstance(part, ast.Constant) else "cw" for part in node.values)
        for node in nodes
        if isinstance(node, ast.JoinedStr)
    ]
    advice = [found for text in texts for found in re.findall(r"\(--[^()]*\)", for_clip(text, "b"))]
    options = [option for text in advice for option in re.findall(r"--(?:turn|sweep|fov)\b.*?(?=, --|$)", text)]
    assert len(options) > 5
    for option in options:
        assert re.fullmatch(r"--\w+ b=(cw|ccw|none|DEGREES)((, | or )b=(cw|ccw|none))*( if .*)?\)?", option), option


def test_equal_frames_get_no_advice_that_cannot_help() -> None:
    assert "--turn" not in said({"a": 0}, aligned_reason=EQUAL)


def test_with_a_clip_left_out_the_poses_are_not_plainly_confident() -> None:
    words = said({"a": 90}, left_out={"b": "another subject"})
    assert words.startswith("confident for a; b is left out: another subject (--")
