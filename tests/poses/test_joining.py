"""Clips that join one root frame: in which order, beside which other clip, and which of them are left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fourdgen.data.capture import Capture, Clip, write_picture
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import rotation_angle_degrees, so3_exp
from fourdgen.poses import joining, register
from fourdgen.poses.accept import Verdict
from fourdgen.poses.candidates import SearchSettings
from fourdgen.poses.compare import Fit, Pace
from fourdgen.poses.joining import by_certainty, join_clips
from fourdgen.poses.pictures import cut
from fourdgen.poses.search import ClipSolution
from fourdgen.poses.tracks import places_of
from tests.poses.subject import film, orbit
from tests.stages.test_poses import Heard

TINY = SearchSettings(side=32, surfels=300, effort=0.15)


class Shelf:
    """Clips, each with what a search that was right about everything would hand on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clips: list[Clip] = []
        self.solutions: dict[str, ClipSolution] = {}

    def add(
        self, name: str, cameras: Cameras, accepted: bool = True, stranger: bool = False, light: float = 1.0
    ) -> None:
        """`stranger`: it shows the figure in other paint, lying on its side. `light`: factor on all its colours."""
        lying = so3_exp(torch.tensor([0.0, 0.0, torch.pi / 2]))
        rgb, mask = film(cameras, turned=lying if stranger else None)
        rgb = (light * (255 - rgb[..., [1, 2, 0]] // 2 if stranger else rgb)).astype(np.uint8)
        for i in range(len(mask)):
            write_picture(self.folder, name, "rgb", i, rgb[i])
            write_picture(self.folder, name, "mask", i, mask[i])
        count = len(mask)
        self.clips.append(Clip(name, name, cameras.size, torch.arange(count) / 24, torch.arange(count)))
        pictures = cut(rgb, mask, TINY.side)
        # Each in a root frame of its own.
        rotation = cameras.cam_from_world[:, :3, :3] @ so3_exp(torch.tensor([0.0, 0.7 * len(self.clips), 0.0]))
        focal = float(cameras.K[0, 0, 0]) / max(cameras.size)
        place = places_of(cameras.cam_from_world, focal, float(pictures.extent))
        fit = Fit(pictures, rotation, torch.tensor([focal]), TINY.surfels, 0, place=place)
        fit.run(60, Pace(turn=0.0, smooth=0.0))
        self.solutions[name] = ClipSolution(
            frames=torch.arange(count), rotation=rotation, place=place, focal=focal,
            model={key: value.detach() for key, value in fit.model.items()}, loss=fit.score(), still=False, name="",
            verdict=Verdict(accepted, "" if accepted else "it is unsure", 1.0, 2.0, 0.9, 0.9), turn_sign=1,
            frame_loss=fit.frame_scores(), still_loss=1.0,
        )  # fmt: skip

    def join(self, wanted: str | None = None) -> tuple[joining.Joined, Heard]:
        heard = Heard()
        return join_clips(Capture(tuple(self.clips), self.folder), self.solutions, wanted, TINY, heard), heard


def _apart(found: joining.Joined, names: str, cameras: dict[str, Cameras]) -> float:
    """By how many degrees (median) the second clip is off in the frame of the first."""
    first, second = names
    a, b = (found.clips[name].cam_from_root[:, :3, :3] for name in names)
    root = a[0].T @ cameras[first].cam_from_world[0, :3, :3]  # world from root, read backwards
    return float(rotation_angle_degrees(b @ root, cameras[second].cam_from_world[:, :3, :3]).median())


def test_the_most_clips_that_fit_together_stay(tmp_path: Path) -> None:
    """A stranger comes first and turns as far as the others do: nobody said whose subject is meant."""
    shelf = Shelf(tmp_path)
    shelf.add("x", orbit(torch.linspace(0, 180, 8)), stranger=True)
    shelf.add("a", orbit(torch.linspace(0, 180, 8)))
    shelf.add("b", orbit(torch.linspace(60, 240, 8), elevation=25.0))
    found, heard = shelf.join()
    assert (found.reference, list(found.clips)) == ("a", ["a", "b"])
    assert found.left_out == {"x": "it looks like another subject than a and b (--reference)"}
    assert heard.warnings == ["x is left out: it looks like another subject than a and b (--reference)"]
    assert [block.name for block in found.blocks] == ["x", "a", "b"] and "LEFT OUT" in found.blocks[0].text
    told, heard = shelf.join("x")  # whoever names the reference wants that subject
    assert (told.reference, list(told.clips), list(told.left_out)) == ("x", ["x"], ["a", "b"])


def test_a_clip_joins_by_one_that_shares_its_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """c sees hardly a side that a does, and many of b's, which was filmed in less light; b's views are looked at
    twice and drawn once."""
    filmed = {
        "a": orbit(torch.linspace(0, 150, 10)),
        "c": orbit(torch.linspace(205, 310, 8), elevation=25.0),
        "b": orbit(torch.linspace(90, 290, 12), elevation=20.0),
    }
    shelf = Shelf(tmp_path)
    for name, cameras in filmed.items():
        shelf.add(name, cameras, light=0.7 if name == "b" else 1.0)
    banks: list[int] = []
    view_bank = register.view_bank
    monkeypatch.setattr(register, "view_bank", lambda fit: banks.append(1) or view_bank(fit))
    found, heard = shelf.join("a")
    assert not found.left_out
    said = [fields["text"] for event, fields in heard.events if event == "note"]
    assert said == ["b joins a", "c joins b"]
    assert _apart(found, "ab", filmed) < 12 and _apart(found, "ac", filmed) < 15
    middle = {name: float((0.5 * clip.gain + clip.bias).mean()) for name, clip in found.clips.items()}
    assert middle["a"] == 0.5 and middle["b"] < 0.42 and middle["c"] > 0.45  # against a, not against b
    assert len(banks) == 4  # of each clip in its own frame, and of b anew in that of a


def test_a_clip_whose_path_was_refused_joins_last_and_leads_nobody(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.add("doubted", orbit(torch.linspace(0, 350, 10)), accepted=False)
    shelf.add("short", orbit(torch.linspace(0, 60, 8)))
    shelf.add("long", orbit(torch.linspace(0, 200, 10)))
    assert by_certainty(shelf.solutions) == ["long", "short", "doubted"]
    still = {name: replace(one, rotation=one.rotation[:1]) for name, one in shelf.solutions.items()}
    assert by_certainty(still) == ["short", "long", "doubted"]  # equals as they come
    found, heard = shelf.join()
    said = [str(fields["text"]) for event, fields in heard.events if event == "note"]
    assert said[0] == "short joins long" and said[-1].startswith("doubted joins")
    assert not any(text.endswith("joins doubted") for text in said)
    assert not found.clips["doubted"].accepted and found.clips["doubted"].reason.startswith("it is unsure")
    assert list(found.clips) == ["doubted", "short", "long"]
