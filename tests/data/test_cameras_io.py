"""Camera files: one convention inside, whatever stood in the file."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from fourdgen.data.cameras_io import CameraEntry, read_camera_entries, write_transforms_json
from fourdgen.data.lens import Lens
from fourdgen.data.matching import match_cameras, match_masks
from fourdgen.data.sources import Source
from fourdgen.geometry.camera import intrinsics, look_at, orbit_eyes
from fourdgen.report import FourdgenError


def entries(count: int = 4, lens: Lens | None = None, **keys: str) -> list[CameraEntry]:
    poses = look_at(orbit_eyes(torch.arange(count) * 30.0, 20.0, 3.0)).double()
    K = intrinsics(40.0, (64, 48)).double()
    return [
        CameraEntry(
            f"images/{i:04d}.png", poses[i], K, (64, 48), frame=i if "clip" in keys else None, distortion=lens, **keys
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(
    "lens", [None, Lens("polynomial", (0.1, -0.02, 0.0, 0.0), (0.001, 0.002)), Lens("fisheye", (0.1, 0.0, 0.0, 0.0))]
)
def test_transforms_json_round_trip(tmp_path: Path, lens: Lens | None) -> None:
    written = entries(lens=lens, clip="a", view="val0")
    write_transforms_json(tmp_path / "t.json", written)
    read = read_camera_entries(tmp_path / "t.json")
    for a, b in zip(written, read):
        assert torch.allclose(a.cam_from_input, b.cam_from_input, atol=1e-6)  # poses began as float32
        assert torch.allclose(a.K, b.K)
        assert (a.file_path, a.clip, a.frame, a.view, a.size, a.distortion) == (
            b.file_path, b.clip, b.frame, b.view, b.size, b.distortion
        )  # fmt: skip


def test_opengl_axes_become_opencv_axes(tmp_path: Path) -> None:
    """A camera at z = 3 of an OpenGL world that looks down -z: the origin is 3 ahead, +y is up (OpenCV: negative)."""
    matrix = np.eye(4)
    matrix[2, 3] = 3
    data = {"fl_x": 50, "w": 64, "h": 48, "frames": [{"file_path": "0.png", "transform_matrix": matrix.tolist()}]}
    (tmp_path / "transforms.json").write_text(json.dumps(data))
    entry = read_camera_entries(tmp_path)[0]
    seen = entry.cam_from_input @ torch.tensor([0.5, 1.0, 0.0, 1.0], dtype=torch.float64)
    assert seen[:3].tolist() == pytest.approx([0.5, -1.0, 3.0])
    assert entry.K.tolist() == [[50, 0, 32], [0, 50, 24], [0, 0, 1]]


def write_colmap(folder: Path, suffix: str) -> None:
    """Two cameras (one with a lens), two images, the second with points."""
    folder.mkdir(parents=True)
    quaternion, translation = (0.5, 0.5, -0.5, 0.5), (1.0, 2.0, 3.0)
    if suffix == "txt":
        (folder / "cameras.txt").write_text(
            "# comment\n1 PINHOLE 64 48 50 51 32 24\n7 OPENCV 64 48 50 51 32 24 .1 .2 .3 .4\n"
        )
        pose = " ".join(map(str, quaternion + translation))
        (folder / "images.txt").write_text(
            f"# comment\n1 {pose} 1 a/0 0.png\n\n2 {pose} 7 a/1.png\n1.0 2.0 -1 3.0 4.0 5\n"
        )
        return
    camera = struct.pack("<iiQQ4d", 1, 1, 64, 48, 50, 51, 32, 24)
    camera += struct.pack("<iiQQ8d", 7, 4, 64, 48, 50, 51, 32, 24, 0.1, 0.2, 0.3, 0.4)
    (folder / "cameras.bin").write_bytes(struct.pack("<Q", 2) + camera)
    first = struct.pack("<i7di", 1, *quaternion, *translation, 1) + b"a/0 0.png\0" + struct.pack("<Qddq", 1, 9, 9, 9)
    second = (
        struct.pack("<i7di", 2, *quaternion, *translation, 7)
        + b"a/1.png\0"
        + struct.pack("<Qddqddq", 2, 1, 2, -1, 3, 4, 5)
    )
    (folder / "images.bin").write_bytes(struct.pack("<Q", 2) + first + second)


@pytest.mark.parametrize("suffix", ["txt", "bin"])
def test_colmap_model(tmp_path: Path, suffix: str) -> None:
    write_colmap(tmp_path / "sparse" / "0", suffix)
    first, second = read_camera_entries(tmp_path)
    assert (first.file_path, second.file_path) == ("a/0 0.png", "a/1.png")
    assert first.distortion is None
    assert second.distortion == Lens("polynomial", (0.1, 0.2), (0.3, 0.4))
    assert second.K.tolist() == [[50, 0, 32], [0, 51, 24], [0, 0, 1]]
    # scipy's quaternions are xyzw.
    assert torch.allclose(
        second.cam_from_input[:3, :3], torch.from_numpy(Rotation.from_quat([0.5, -0.5, 0.5, 0.5]).as_matrix())
    )
    assert second.cam_from_input[:3, 3].tolist() == [1, 2, 3]


def test_unreadable_files_say_why(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    for text, said in (
        ("{", "not a readable JSON"),
        ('{"frames": []}', "no list of frames"),
        ('{"fl_x": 1, "frames": [{"w": 4, "h": 4}]}', "entry 0 of frames: transform_matrix is missing"),
        ('{"w": 4, "h": 4, "frames": [{"transform_matrix": [[1,0,0,0],[0,1,0,0],[0,0,1,0]]}]}', "fl_x is missing"),
        (
            '{"w": 4, "h": 4, "fl_x": 9, "frames": [{"transform_matrix": [[0,0,0,0],[0,0,0,0],[0,0,0,0]]}]}',
            "no rotation",
        ),
    ):
        path.write_text(text)
        with pytest.raises(FourdgenError, match=said):
            read_camera_entries(path)
    with pytest.raises(FourdgenError, match="no such file or folder"):
        read_camera_entries(tmp_path / "none.json")
    with pytest.raises(FourdgenError, match="no cameras in this folder"):
        read_camera_entries(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"transform_matrix": [[1, 0, 0, 0], [0, 5, 0, 0], [0, 0, 1, 3]]}, "its axes differ in length"),
        ({"fl_x": 1e-9}, "fl_x = 1e-09: no focal length for a picture of 64x48"),
        ({"fl_x": "abc"}, 'fl_x = "abc": expected a number'),
        ({"cx": 1e6}, "cx = 1e\\+06: far outside of a picture of 64x48"),
        ({"k1": 50}, "no lens moves the corners of a picture 33 times as far out"),
        ({"frame": "abc"}, 'frame = "abc": expected a whole number'),
        ({"frame": 1.5}, "frame = 1.5: expected a whole number"),
        ({"w": "wide"}, 'w = "wide": expected a number'),
        (None, "entry 1 of frames: it is no table"),
    ],
)
def test_what_no_camera_has_is_refused_in_words(tmp_path: Path, wrong: dict[str, object] | None, said: str) -> None:
    sound = {"transform_matrix": [[1.001, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0.999, 3]], "file_path": "a/0.png"}
    data = {"w": 64, "h": 48, "fl_x": 50, "k1": 0.1}
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps({**data, "frames": [sound, sound]}))
    assert len(read_camera_entries(path)) == 2  # rounded, as files are
    path.write_text(json.dumps({**data, "frames": [sound, None if wrong is None else {**sound, **wrong}]}))
    with pytest.raises(FourdgenError, match=said):
        read_camera_entries(path)


def test_two_cameras_for_one_frame_are_refused() -> None:
    first, second = entries(2, clip="walk")
    again = replace(second, frame=0)
    with pytest.raises(FourdgenError, match="two cameras for frame 0 of clip walk"):
        match_cameras([first, again], "walk", VIDEO, 3, False, Path("t.json"))
    assert sorted(match_cameras([first, first, second], "walk", VIDEO, 3, False, Path("t.json"))) == [0, 1]


VIDEO = Source(Path("/somewhere/walk.mp4"))


def paths(*names: str) -> list[CameraEntry]:
    base = entries(1)[0]
    return [CameraEntry(name, base.cam_from_input, base.K, base.size) for name in names]


def test_matching_by_clip_and_frame() -> None:
    found = match_cameras(entries(4, clip="walk"), "walk", VIDEO, 3, False, Path("t.json"))
    assert sorted(found) == [0, 1, 2]  # the fourth has no frame
    with pytest.raises(FourdgenError, match="no camera for a frame of clip run"):
        match_cameras(entries(4, clip="walk"), "run", VIDEO, 3, False, Path("t.json"))


def test_matching_by_path() -> None:
    named = paths("walk/f10.png", "walk/f9.png", "run/f1.png")
    found = match_cameras(named, "walk", VIDEO, 2, False, Path("t.json"))
    assert [found[i].file_path for i in (0, 1)] == ["walk/f9.png", "walk/f10.png"]
    folder = Source(Path("/x/images"), tuple(Path(f"/x/images/{n}.jpg") for n in ("a", "b", "c")))
    found = match_cameras(paths("./images/c.png", "./images/a.png"), "images", folder, 3, True, Path("t.json"))
    assert {i: e.file_path for i, e in found.items()} == {2: "./images/c.png", 0: "./images/a.png"}
    with pytest.raises(FourdgenError, match="no camera for clip walk"):
        match_cameras(paths("other/1.png"), "walk", VIDEO, 1, False, Path("t.json"))


def test_matching_by_number_only_where_it_is_sure() -> None:
    some = paths("images/frame_00001.png", "images/frame_00002.png", "images/frame_00005.png")
    assert sorted(match_cameras(some, "walk", VIDEO, 5, True, Path("t.json"))) == [0, 1, 4]
    chosen = paths("images/frame_00001.png", "images/frame_00002.png", "images/frame_00003.png")
    with pytest.raises(FourdgenError, match="3 cameras for the 5 frames of clip walk"):
        match_cameras(chosen, "walk", VIDEO, 5, True, Path("t.json"))


def test_matching_masks(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(b"")
    (tmp_path / "1.png").write_bytes(b"")
    assert match_masks(tmp_path, ["b"])["b"] == (tmp_path / "1.png",)
    assert match_masks(tmp_path, ["a"])["a"] == (tmp_path / "a" / "0.png",)
    with pytest.raises(FourdgenError, match="no masks for clip b"):
        match_masks(tmp_path, ["a", "b"])
    with pytest.raises(FourdgenError, match="no such file or folder"):
        match_masks(tmp_path / "none", ["a"])
