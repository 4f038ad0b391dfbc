"""Export: cameras in the user's coordinates, static splats that look like the scene at that time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from fourdgen.data.cameras_io import read_camera_entries
from fourdgen.data.capture import Capture, Clip, save_capture, write_picture
from fourdgen.geometry.transforms import Sim3, quat_to_matrix, so3_exp
from fourdgen.playback.exports import WRITERS, export
from fourdgen.playback.formats import FORMATS, choose, describe
from fourdgen.render import draw
from fourdgen.report import FourdgenError, Silent
from fourdgen.scene import files
from fourdgen.scene.adapt import adapted
from fourdgen.scene.entries import camera_of, moment_of, seconds_of
from fourdgen.scene.formats.splats import at_moment
from fourdgen.scene.options import Adapt
from tests.toy import SIZE, toy_scene

WORLD = Sim3(0.4, so3_exp(torch.tensor([0.3, -1.0, 0.2]).double()), torch.tensor([3.0, -2.0, 0.5]).double())


@pytest.mark.parametrize("world", [None, WORLD])
def test_exported_cameras_lead_back_to_the_scene(tmp_path: Path, world: Sim3 | None) -> None:
    scene = replace(toy_scene(), world_from_input=world)
    export(scene, tmp_path / "cameras.json")
    entries = read_camera_entries(tmp_path / "cameras.json")
    assert len(entries) == sum(len(clip.seconds) for clip in scene.clips.values())
    for entry in entries:
        name, seconds = moment_of(scene, entry)
        clip = scene.clips[name]
        index = clip.frame_ids.tolist().index(entry.frame)
        camera = camera_of(scene, entry)
        assert seconds == pytest.approx(float(clip.seconds[index]))
        assert torch.allclose(camera.cam_from_world[0], clip.cameras.cam_from_world[index], atol=1e-5)
        assert torch.allclose(camera.K[0], clip.cameras.K[index])
    if world is not None:
        centre = torch.linalg.inv(entries[0].cam_from_input)[:3, 3]
        there = world.apply(centre)  # the camera's centre, from the user's world into ours
        assert torch.allclose(there, scene.clips["a"].cameras.centers()[0].double(), atol=1e-5)


def test_exported_cameras_name_pictures_that_are_there_and_no_others(tmp_path: Path) -> None:
    scene = toy_scene()
    export(scene, tmp_path / "cameras.json")
    assert {entry.file_path for entry in read_camera_entries(tmp_path / "cameras.json")} == {""}
    run = tmp_path / "scene.run" / "01-ingest"
    clips = []
    for clip in scene.clips.values():
        for index in range(len(clip.seconds)):
            write_picture(run, clip.name, "rgb", index, np.full((SIZE[1], SIZE[0], 3), 9, np.uint8))
        clips.append(Clip(clip.name, "", SIZE, clip.seconds, clip.frame_ids))
    save_capture(Capture(tuple(clips), run), run)
    scene = replace(scene, run_folder=str(tmp_path / "scene.run"))
    for place in (tmp_path, tmp_path / "elsewhere"):
        export(scene, place / "cameras.json")
        entries = read_camera_entries(place / "cameras.json")
        pictures = [(place / entry.file_path).resolve() for entry in entries]
        assert all(picture.is_file() for picture in pictures)
        assert len(set(pictures)) == len(entries)
    assert Path(read_camera_entries(tmp_path / "cameras.json")[0].file_path).parts[0] == "scene.run"  # can be moved
    # The pictures of other frames than those that the scene has are not named.
    short = {"b": replace(scene.clips["b"], frame_ids=scene.clips["b"].frame_ids + 1)}
    export(replace(scene, clips=short, reference="b"), tmp_path / "b.json")
    assert {entry.file_path for entry in read_camera_entries(tmp_path / "b.json")} == {""}


def test_exported_cameras_name_no_folder_of_this_machine(tmp_path: Path) -> None:
    scene, run = toy_scene(), tmp_path / "here" / "scene.run"
    clip = scene.clips["a"]
    for index in range(len(clip.seconds)):
        write_picture(run / "01-ingest", "a", "rgb", index, np.full((SIZE[1], SIZE[0], 3), 9, np.uint8))
    save_capture(Capture((Clip("a", "", SIZE, clip.seconds, clip.frame_ids),), run / "01-ingest"), run / "01-ingest")
    scene = replace(scene, run_folder=str(run), clips={"a": clip}, reference="a")
    for place, begins in (("here/sub", "../scene.run/01-ingest/"), ("there", "scene.run/01-ingest/")):
        export(scene, tmp_path / place / "cameras.json")
        named = [entry.file_path for entry in read_camera_entries(tmp_path / place / "cameras.json")]
        assert all(name.startswith(begins) for name in named) and str(tmp_path) not in "".join(named)


def test_frame_numbers_between_frames() -> None:
    clip = toy_scene().clips["b"]  # frames 0, 2, 4, ... at 12 a second
    assert seconds_of(clip, 3) == pytest.approx(1.5 / 12)
    assert seconds_of(clip, 99) == pytest.approx(float(clip.seconds[-1]))


@pytest.mark.parametrize("harmonics", [1, 4])
def test_static_splats_look_like_the_scene_at_that_time(tmp_path: Path, harmonics: int) -> None:
    scene = toy_scene(harmonics)
    export(scene, tmp_path / "out.ply", "3dgs", Adapt(clip="a", time="0.25"))
    camera = scene.clips["a"].cameras[0]  # sees the arm
    truth = draw(scene.at("a", 0.25), camera).rgb
    again = draw(files.read(tmp_path / "out.ply").surfels, camera).rgb
    elsewhen = draw(scene.at("a", 0.0), camera).rgb
    assert float((truth - again).abs().max()) < 1e-3
    assert float((truth - elsewhen).abs().max()) > 0.1


def test_the_scene_itself(tmp_path: Path) -> None:
    files.write(tmp_path / "one.ply", toy_scene())
    export(files.read(tmp_path / "one.ply"), tmp_path / "two.ply")
    assert (tmp_path / "one.ply").read_bytes() == (tmp_path / "two.ply").read_bytes()


@pytest.mark.parametrize(
    ("file", "format_"), [("a.USDA", "usd"), ("a.usd", "usd"), ("a.usdz", "usdz"), ("a.sog", "sog"), ("a.glb", "glb")]
)
def test_the_extension_chooses_the_format(file: str, format_: str) -> None:
    assert choose(Path(file)).name == format_


def test_formats_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FourdgenError, match=r"out\.xyz: no export format has this extension") as caught:
        choose(Path("out.xyz"))
    assert all(f"{name} ({end})" in caught.value.hint for name, end in (("scene", ".ply"), ("glb", ".glb")))
    with pytest.raises(FourdgenError, match="no such export format: abc"):
        choose(Path("out.ply"), "abc")
    with pytest.raises(FourdgenError, match="no clip 'z'"):
        export(toy_scene(), tmp_path / "out.ply", "3dgs", Adapt(clip="z"))


@pytest.mark.parametrize(
    ("file", "format_", "said", "hint"),
    [
        ("s.html", "compressed", "--compress does not write .html", "s.sog"),
        ("s.json", "compressed", "--compress does not write .json", "s.sog"),
        ("s.spz", "sog", "--format sog does not write .spz", "s.sog"),
        ("s", "3dgs", "--format 3dgs does not write files without an extension", "s.ply"),
        ("s.glb", "usd-splats", "--format usd-splats does not write .glb", "s.usdc"),
        ("s.ply", "ply-seq", "--format ply-seq writes a folder", "name a folder"),
        ("s.obj", None, "no export format has this extension", "--format obj-seq -o FOLDER"),
        ("s.gltf", None, "no export format has this extension", "name it .glb"),
        ("s.abc", None, "no export format has this extension", "Alembic is not written"),
    ],
)
def test_a_name_that_promises_another_format_is_refused(
    tmp_path: Path, file: str, format_: str | None, said: str, hint: str
) -> None:
    with pytest.raises(FourdgenError, match=said) as caught:
        export(toy_scene(), tmp_path / file, format_)
    assert hint in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [row.name for row in FORMATS if row.moment])
@pytest.mark.parametrize(
    ("adapt", "flag"),
    [
        (Adapt(time="loop"), "--time loop"),
        (Adapt(frames="3"), "--frames"),
        (Adapt(fps=10), "--fps"),
        (Adapt(speed=0.5), "--speed"),
    ],
)
def test_options_of_time_mean_nothing_to_one_moment(tmp_path: Path, name: str, adapt: Adapt, flag: str) -> None:
    row = next(row for row in FORMATS if row.name == name)
    with pytest.raises(FourdgenError, match=f"{flag} means nothing to the format {name}") as caught:
        export(toy_scene(), tmp_path / f"out{row.extensions[0]}", name, adapt)
    assert "--time SECONDS" in caught.value.hint and "ply-seq" in caught.value.hint


@pytest.mark.parametrize(
    ("file", "adapt", "flag"),
    [
        ("out.json", Adapt(crop_confidence=0.5), "--crop-confidence"),
        ("out.json", Adapt(fps=5), "--fps"),
        ("out.html", Adapt(up="z"), "--up"),
    ],
)
def test_options_that_mean_nothing_to_a_format_are_refused(tmp_path: Path, file: str, adapt: Adapt, flag: str) -> None:
    with pytest.raises(FourdgenError, match=f"{flag} means nothing to the format"):
        export(toy_scene(), tmp_path / file, adapt=adapt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "format_", "adapt", "said"),
    [
        ("own.ply", None, Adapt(crop_confidence=0.1), "would be replaced by what --crop-confidence makes of it"),
        ("own.ply", None, Adapt(frames="2"), "--frames"),
        ("own.ply", "3dgs", Adapt(), "as 3dgs it would lose: all motion"),
        ("own.sog", "compressed", Adapt(), "as compressed it would lose: digits"),
    ],
)
def test_the_only_asset_is_not_replaced_by_less(
    tmp_path: Path, file: str, format_: str | None, adapt: Adapt, said: str
) -> None:
    own = tmp_path / file
    export(toy_scene(), own, format_ if file.endswith("sog") else None)
    before = own.read_bytes()
    with pytest.raises(FourdgenError, match=said):
        export(own, own, format_, adapt)
    assert own.read_bytes() == before


def test_what_was_written_is_said(tmp_path: Path) -> None:
    class Heard(Silent):
        facts: ClassVar[list[str]] = []

        def emit(self, event: str, **fields: Any) -> None:
            if event == "fact":
                self.facts.append(fields["text"])

    scene = toy_scene()
    confidence = torch.linspace(0, 1, len(scene.surfels))
    scene = replace(scene, surfels=replace(scene.surfels, confidence=confidence))
    export(scene, tmp_path / "out.splat", adapt=Adapt(clip="b", crop_confidence=0.6), report=Heard())
    kept = int((confidence >= 0.6).sum())
    moment = f"clip b at {float(scene.clips['b'].seconds[0]):g} s"
    size = f"{32 * kept / 1000:.0f} kB"  # 32 bytes a splat
    assert Heard.facts == [size, f"kept {kept} of {len(confidence)} surfels", moment]


def test_a_sequence_has_a_file_for_every_frame(tmp_path: Path) -> None:
    scene = toy_scene()
    export(scene, tmp_path / "frames", "ply-seq", Adapt(fps=24, clip="a"))
    said = json.loads((tmp_path / "frames" / "sequence.json").read_text())["seconds"]
    assert len(said) == 23 and said[1] == pytest.approx(1 / 24, abs=1e-4)
    for number in (0, 9):
        read = files.read(tmp_path / "frames" / f"{number:05d}.ply")
        assert torch.allclose(read.surfels.means, scene.at("a", said[number]).means, atol=2e-3)
    assert len(list((tmp_path / "frames").glob("*.ply"))) == 23
    export(scene, tmp_path / "frames", "ply-seq", Adapt(frames="3", clip="a"))  # ours: replaced as a whole
    assert len(list((tmp_path / "frames").glob("*.ply"))) == 3
    (tmp_path / "frames" / "letter.txt").write_text("dear")
    with pytest.raises(FourdgenError, match="holds other files"):
        export(scene, tmp_path / "frames", "ply-seq")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames"]


@pytest.mark.parametrize("name", ["splat", "spz", "sog", "3dgs", "glb-splats"])
def test_equal_scenes_give_equal_bytes(tmp_path: Path, name: str) -> None:
    row = next(row for row in FORMATS if row.name == name)
    one, two = (tmp_path / f"{file}{row.extensions[0]}" for file in ("one", "two"))
    for path in (one, two):
        export(toy_scene(4), path, name, Adapt(time="0.3"))
    assert one.read_bytes() == two.read_bytes()
    assert sorted(tmp_path.iterdir()) == [one, two]


def test_splats_in_gltf_are_those_of_the_moment(tmp_path: Path) -> None:
    """Every attribute under its name in the extension, in its units."""
    export(toy_scene(harmonics=4), tmp_path / "out.glb", "glb-splats", Adapt(time="0.3"))
    data = (tmp_path / "out.glb").read_bytes()
    length = int.from_bytes(data[12:16], "little")
    root, binary = json.loads(data[20 : 20 + length]), data[28 + length :]
    (primitive,) = root["meshes"][0]["primitives"]
    assert primitive["mode"] == 0
    assert primitive["extensions"]["KHR_gaussian_splatting"] == {
        "kernel": "ellipse", "colorSpace": "srgb_rec709_display", "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }  # fmt: skip
    read = {}
    for name, number in primitive["attributes"].items():
        accessor = root["accessors"][number]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        kind = {5126: "<f4", 5123: "<u2"}[accessor["componentType"]]
        offset = root["bufferViews"][accessor["bufferView"]]["byteOffset"]
        values = np.frombuffer(binary, kind, accessor["count"] * width, offset).reshape(-1, width)
        read[name.removeprefix("KHR_gaussian_splatting:")] = torch.from_numpy(values.astype(np.float32))
    scene = adapted(toy_scene(harmonics=4), Adapt(time="0.3"), "y")
    wanted = at_moment(scene, 0.3)
    assert torch.allclose(read["POSITION"], wanted.means, atol=1e-6)
    assert float(read["POSITION"][:, 1].max()) > 0.5  # y is up
    assert torch.allclose(quat_to_matrix(read["ROTATION"][:, [3, 0, 1, 2]]), quat_to_matrix(wanted.quats), atol=1e-5)
    assert torch.allclose(read["SCALE"][:, :2], wanted.log_scales.exp(), atol=1e-6)
    assert float(read["SCALE"][:, 2].max()) < 1e-4
    assert torch.allclose(read["OPACITY"][:, 0], torch.sigmoid(wanted.opacity), atol=1e-6)
    coefficients = [read[f"SH_DEGREE_{degree}_COEF_{k}"] for degree in (0, 1) for k in range(2 * degree + 1)]
    assert torch.allclose(torch.stack(coefficients, 1), wanted.sh, atol=1e-6)
    assert torch.allclose(read["COLOR_0"][:, 3] / 65535, torch.sigmoid(wanted.opacity), atol=1e-4)


def test_every_format_says_what_it_loses() -> None:
    said = describe()
    for row in FORMATS:
        assert row.name in said and row.about in said and row.loses in said


@pytest.mark.parametrize("world", [None, WORLD])
def test_the_colmap_model_has_the_cameras_of_cameras_json(tmp_path: Path, world: Sim3 | None) -> None:
    scene = replace(toy_scene(), world_from_input=world)
    export(scene, tmp_path / "cameras.json")
    export(scene, tmp_path / "sparse", "colmap")
    ours, theirs = (read_camera_entries(tmp_path / name) for name in ("cameras.json", "sparse"))
    assert len({entry.file_path for entry in theirs}) == len(ours) == len(theirs)
    assert theirs[1].file_path == "a/00001.png"
    for one, other in zip(ours, theirs):
        assert torch.allclose(one.cam_from_input, other.cam_from_input, atol=1e-6)
        assert torch.allclose(one.K, other.K, atol=1e-4) and one.size == other.size
    rows = [line.split() for line in (tmp_path / "sparse" / "points3D.txt").read_text().splitlines()[1:]]
    points = torch.tensor([[float(x) for x in row[1:4]] for row in rows])
    wanted = scene.at("a", 0.0).means
    assert torch.allclose(points, wanted if world is None else world.inverse().apply(wanted), atol=1e-5)


def test_every_format_of_the_table_is_written_by_something() -> None:
    assert list(WRITERS) == [row.name for row in FORMATS]
