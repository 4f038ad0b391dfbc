"""The verb `regenerate` on a scene that we drew: films, cameras, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fourdgen.data.cameras_io import read_camera_entries
from fourdgen.data.capture import Capture, Clip, save_capture, to_bytes, write_picture
from fourdgen.data.video import read_video
from fourdgen.generate.guide import given_paths
from fourdgen.geometry.transforms import Sim3, so3_exp
from fourdgen.playback.filmed import filmed_frames
from fourdgen.playback.regenerate import RegenerateRequest, regenerate, resolve
from fourdgen.render import draw, pick
from fourdgen.report import FourdgenError
from fourdgen.scene import files
from fourdgen.stages.regenerate import plan
from tests.toy import toy_scene

WORLD = Sim3(1.3, so3_exp(torch.tensor([0.5, -1.0, 2.0]).double()), torch.tensor([0.5, 0.2, -3.0]).double())


@pytest.fixture(scope="module")
def asset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scene.ply beside a run folder with the frames of its clips."""
    folder, scene, rasterizer = tmp_path_factory.mktemp("asset"), toy_scene(), pick("auto", "cpu")
    run, clips = folder / "scene.run", []
    ingest = run / "01-ingest"
    for name, clip in scene.clips.items():
        for t in range(len(clip.seconds)):
            out = draw(scene.at(name, float(clip.seconds[t])), clip.cameras[t], rasterizer=rasterizer)
            alpha = out.alpha[0].clamp(0, 1)
            write_picture(ingest, name, "rgb", t, to_bytes(out.rgb[0] / alpha.clamp_min(1e-4)[..., None]))
            write_picture(ingest, name, "mask", t, to_bytes(alpha))
        clips.append(Clip(name, name, clip.cameras.size, clip.seconds, clip.frame_ids))
    save_capture(Capture(tuple(clips), ingest), ingest)
    sure = replace(scene.surfels, confidence=torch.full((len(scene.surfels),), 0.6))
    files.write(folder / "scene.ply", replace(scene, surfels=sure, run_folder=str(run), world_from_input=WORLD))
    return folder / "scene.ply"


def test_every_view_has_its_films_and_its_cameras(asset: Path, tmp_path: Path) -> None:
    request = RegenerateRequest(tmp_path / "out", views=2, settings=("every=4",))
    found = regenerate(asset, request)
    assert set(found) == {"a-view1", "a-view2"}
    for name in found:
        for ending in ("", "_guide", "_mask"):
            assert len(list(read_video(tmp_path / "out" / f"{name}{ending}.mp4"))) == 3
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"coverage.png", "check.png", "cameras.json", "views.json"} <= names
    assert not any(name.startswith(".work") for name in names)
    assert json.loads((tmp_path / "out" / "views.json").read_text())["a-view1"]["frames"] == 3


def test_what_an_earlier_call_left_behind_goes(asset: Path, tmp_path: Path) -> None:
    (tmp_path / ".work-of-a-stopped-call").mkdir()
    mine = tmp_path / "mine.mp4"
    mine.write_bytes(b"of somebody")
    regenerate(asset, RegenerateRequest(tmp_path, views=2, settings=("every=6",)))
    regenerate(asset, RegenerateRequest(tmp_path, views=1, settings=("every=6",)))
    names = {path.name for path in tmp_path.iterdir()}
    assert "a-view1.mp4" in names and "a-view1_mask.mp4" in names and mine.name in names
    assert not any(name.startswith(("a-view2", ".work")) for name in names)


def test_its_cameras_give_the_same_paths_again(asset: Path, tmp_path: Path) -> None:
    request = RegenerateRequest(tmp_path, views=1, settings=("every=4",))
    regenerate(asset, request)
    scene = files.read(asset)
    first = plan(scene, resolve(request))[0]
    again = given_paths(scene, read_camera_entries(tmp_path / "cameras.json"))[0]
    assert again.name == first.name
    assert torch.allclose(again.seconds, first.seconds, atol=1e-5)
    assert torch.allclose(again.cameras.cam_from_world, first.cameras.cam_from_world, atol=1e-4)


def test_many_cameras_at_one_moment_are_a_path_too(asset: Path, tmp_path: Path) -> None:
    """A moment seen from all around: no time goes by from picture to picture."""
    regenerate(asset, RegenerateRequest(tmp_path / "first", views=1, settings=("every=4",)))
    told = json.loads((tmp_path / "first" / "cameras.json").read_text())
    for entry in told["frames"]:
        entry["frame"] = told["frames"][0]["frame"]
    (tmp_path / "moment.json").write_text(json.dumps(told))
    regenerate(asset, RegenerateRequest(tmp_path / "out", cameras=tmp_path / "moment.json"))
    assert (tmp_path / "out" / "a-view1.mp4").is_file()


def test_a_stopped_call_goes_on_but_not_with_what_other_code_has_made(
    asset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
from fourdgen.generate import Generated
class Mine:
    def generate(self, guide, footage, report):
        if guide.name.endswith("2"):
            raise OSError("no answer")
        return Generated(guide.rgb, guide.alpha)
"""
    monkeypatch.syspath_prepend(str(tmp_path))
    request = RegenerateRequest(tmp_path / "out", views=2, generator="of_somebody:Mine", settings=("every=6",))
    made = []
    for text in (code, code, code + "# mended\n"):
        (tmp_path / "of_somebody.py").write_text(text)
        with pytest.raises(FourdgenError, match="no answer"):
            regenerate(asset, request)
        made += [path.stat().st_mtime_ns for path in (tmp_path / "out").glob(".work-*/made/a-view1.pt")]
    assert len(made) == 3 and made[0] == made[1] < made[2]


def test_what_it_refuses_before_any_work(asset: Path, tmp_path: Path) -> None:
    with pytest.raises(FourdgenError, match="is a file"):
        resolve(RegenerateRequest(asset))
    assert resolve(RegenerateRequest(tmp_path, model="some/where", settings=("fetch=true",))).generator == "video"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"views": 0}, "--views: 0 is too few"),
        ({"prompt": "a fox"}, "--prompt: only a video model is told that"),
        ({"settings": ("every=0",)}, "--set every: 0 is too few"),
        ({"settings": ("regenerate.every=x",)}, "--set every = x: expected a whole number"),
        ({"settings": ("wievs=3",)}, r"--set wievs: no such setting \(did you mean views\?\)"),
        ({"settings": ("wievs=3", "every=0.5")}, r"(?s)--set wievs: .*--set every = 0.5: "),
        ({"settings": ("every",)}, "--set every: expected key=value"),
        ({"settings": ("size=1",)}, "--set size: 1 pixels show nothing"),
        ({"settings": ("rounds=3",)}, "--set rounds: views are made once here, and nothing is trained"),
        ({"views": 2, "cameras": Path("c.json")}, "--views beside --cameras: that file says"),
        ({"clip": "a", "cameras": Path("c.json"), "settings": ("every=2",)}, "--clip and --set every beside --cameras"),
        ({"settings": ("options={colour = 1}",)}, "the generator fill cannot be made: .*'colour'"),
    ],
)
def test_errors_name_the_option_and_not_the_setting(tmp_path: Path, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(FourdgenError, match=f"{said}") as caught:
        resolve(RegenerateRequest(tmp_path, **asked))
    assert "regenerate." not in caught.value.message + caught.value.hint
    with pytest.raises(FourdgenError) as without:
        resolve(RegenerateRequest(tmp_path, generator="video"))
    assert without.value.hint.startswith("--model FOLDER")


def test_without_the_filmed_frames_it_says_what_is_missing(asset: Path, tmp_path: Path) -> None:
    with pytest.raises(FourdgenError, match="the filmed frames are not there"):
        filmed_frames(replace(files.read(asset), run_folder=str(tmp_path)))
    with pytest.raises(FourdgenError, match="--clip: the scene has no clip 'c'"):
        regenerate(asset, RegenerateRequest(tmp_path, clip="c"))


def test_filtering_can_be_turned_off_and_a_view_past_the_subject_is_no_error(asset: Path, tmp_path: Path) -> None:
    everything = RegenerateRequest(tmp_path, views=1, settings=("every=4", "filtering=false"))
    assert regenerate(asset, everything)["a-view1"]["weight"] == pytest.approx(0.5)
    entries = json.loads((tmp_path / "cameras.json").read_text())
    for frame in entries["frames"]:
        x, y, z, place = torch.tensor(frame["transform_matrix"]).T
        frame["transform_matrix"] = torch.stack([-x, y, -z, place]).T.tolist()
    turned = tmp_path / "turned.json"
    turned.write_text(json.dumps(entries))
    found = regenerate(asset, RegenerateRequest(tmp_path, cameras=turned))
    assert found["a-view1"]["weight"] == 0 and "NaN" not in (tmp_path / "views.json").read_text()
