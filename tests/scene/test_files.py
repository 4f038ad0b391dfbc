"""scene.ply: what is written is read again, and what is no such file is said to be none."""

from __future__ import annotations

import os
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fourdgen.geometry.transforms import Sim3, quat_to_matrix, so3_exp
from fourdgen.report import FourdgenError, Silent
from fourdgen.scene import files
from fourdgen.scene.motion import Still
from fourdgen.scene.ply import matrix, read_ply, table, write_ply
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.surfels import Surfels, normal_axis
from tests.toy import toy_scene

FORBIDDEN = ("rot", "scale_", "f_rest_", "f_dc_", "x", "y", "z")  # what viewers look for by prefix


def full_scene() -> Scene4D:
    """A scene with everything in it, among it names that no file system would take."""
    scene = toy_scene(harmonics=4)
    scales = scene.surfels.log_scales.clone()
    scales[::7, 0] = -20.0  # thinner than the third scale that the file gives to all
    surfels = replace(scene.surfels, log_scales=scales)
    odd = "jüngste \U0001f98a/\n\udcff" * 50
    clips = {"a": scene.clips["a"], odd: replace(scene.clips["b"], name=odd)}
    motion = replace(
        scene.motion,
        seconds={"a": scene.motion.seconds["a"], odd: scene.motion.seconds["b"]},
        dual_quats={"a": scene.motion.dual_quats["a"], odd: scene.motion.dual_quats["b"]},
    )
    world = Sim3(1 / 3, so3_exp(torch.tensor([0.1, 2.0, -0.3]).double()), torch.tensor([1e5 / 3, 0.1, -7.0]).double())
    notes = {"poses": "uncertain: néant", "long": "x" * 10000}
    return Scene4D(surfels, motion, clips, odd, world, "/somewhere/" + odd, notes)


def assert_same(a: Scene4D, b: Scene4D) -> None:
    for field in fields(Surfels):
        one, other = getattr(a.surfels, field.name), getattr(b.surfels, field.name)
        assert (one is None) == (other is None), field.name
        assert one is None or (one.dtype == other.dtype and torch.equal(one, other)), field.name
    assert list(a.clips) == list(b.clips)
    for one, other in zip(a.clips.values(), b.clips.values()):
        assert one.name == other.name
        assert one.cameras.size == other.cameras.size
        pairs = [(one.cameras.cam_from_world, other.cameras.cam_from_world), (one.cameras.K, other.cameras.K)]
        pairs += [(getattr(one, key), getattr(other, key)) for key in ("seconds", "frame_ids", "gain", "bias")]
        assert all(torch.equal(x, y) for x, y in pairs)
    assert (a.reference, a.run_folder, a.notes) == (b.reference, b.run_folder, b.notes)
    if isinstance(a.motion, Still):
        assert b.motion == a.motion
    else:
        assert torch.equal(a.motion.centers, b.motion.centers)
        for name in a.clips:
            assert torch.equal(a.motion.seconds[name], b.motion.seconds[name])
            assert torch.equal(a.motion.dual_quats[name], b.motion.dual_quats[name])
    assert (a.world_from_input is None) == (b.world_from_input is None)
    if a.world_from_input is not None:
        assert a.world_from_input.scale == b.world_from_input.scale
        assert torch.equal(a.world_from_input.matrix(), b.world_from_input.matrix())


@pytest.mark.parametrize("make", [full_scene, toy_scene, lambda: replace(toy_scene(), motion=Still())])
def test_what_is_written_is_read_bit_for_bit(tmp_path: Path, make) -> None:
    scene = make()
    files.write(tmp_path / "scene.ply", scene)
    assert_same(scene, files.read(tmp_path / "scene.ply"))


def test_equal_scenes_give_equal_bytes_and_no_leftovers(tmp_path: Path) -> None:
    for name in ("one.ply", "two.ply"):
        files.write(tmp_path / name, full_scene())
    assert (tmp_path / "one.ply").read_bytes() == (tmp_path / "two.ply").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.ply", "two.ply"]


def test_the_layout_is_what_viewers_tolerate(tmp_path: Path) -> None:
    path = tmp_path / "scene.ply"
    files.write(path, full_scene())
    raw = path.read_bytes()
    header, body = raw.split(b"end_header\n", 1)
    lines = header.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    assert all(len(line) < 250 for line in lines)
    assert "list" not in header.decode()
    elements = re.findall(r"^element (\w+) (\d+)\n((?:property \w+ \w+\n)+)", header.decode(), flags=re.MULTILINE)
    assert elements[0][0] == "vertex"
    first = re.findall(r"property (\w+) (\w+)", elements[0][2])
    assert {kind for kind, _ in first} == {"float"}
    rest = [f"f_rest_{i}" for i in range(9)]
    assert [name for _, name in first] == [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"), *rest, "opacity",
        *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
        *(f"bone_{i}" for i in range(4)), *(f"weight_{i}" for i in range(4)), "confidence",
    ]  # fmt: skip
    names = [name for _, name in first]
    for element, _, properties in elements[1:]:
        assert element.startswith("fourdgen_")
        for kind, name in re.findall(r"property (\w+) (\w+)", properties):
            assert kind == "int"
            assert not name.startswith(FORBIDDEN)
            names.append(name)
    assert len(set(names)) == len(names)
    assert len(body) == sum(int(count) * 4 * text.count("property") for _, count, text in elements)


def test_the_third_scale_is_thin_and_the_normal_is_the_third_axis(tmp_path: Path) -> None:
    scene = toy_scene()
    files.write(tmp_path / "scene.ply", scene)
    vertex = read_ply(tmp_path / "scene.ply").elements["vertex"]
    thin = 1e-4 * float(scene.surfels.log_scales.exp().median())
    assert np.allclose(np.exp(vertex["scale_2"]), thin, rtol=1e-5)
    normals = torch.from_numpy(np.stack([vertex["nx"], vertex["ny"], vertex["nz"]], 1))
    assert torch.allclose(normals, normal_axis(scene.surfels.quats), atol=1e-6)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "scene.ply"
    files.write(path, toy_scene())
    before = path.read_bytes()
    (tmp_path / f".scene.ply.{os.getpid()}.ply").mkdir()  # whoever opens it for writing fails
    with pytest.raises(FourdgenError, match="cannot be written"):
        files.write(path, full_scene())
    assert path.read_bytes() == before


# --------------------------------------------------------------------------------------------------------------
# Files of others


def static_columns(surfels: Surfels, thin_axis: int) -> tuple[list[str], np.ndarray]:
    """The columns of a 3DGS file of degree 3 whose Gaussians are thin along the given axis."""
    count = len(surfels)
    random = np.random.default_rng(0)
    rest = random.normal(size=(count, 45)) * 0.1
    scales = np.full((count, 3), -3.0) + random.normal(size=(count, 3)) * 0.1
    scales[:, thin_axis] = -9.0
    names = [*"xyz", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(45)), "opacity"]
    names += [*(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    parts = [
        surfels.means,
        torch.zeros(count, 3),
        surfels.sh[:, 0],
        rest,
        surfels.opacity[:, None],
        scales,
        surfels.quats,
    ]
    return names, np.concatenate([np.asarray(part, dtype=np.float32) for part in parts], axis=1)


@pytest.mark.parametrize("thin_axis", [0, 1, 2])
def test_a_static_3dgs_file_loads_as_a_still_scene(tmp_path: Path, thin_axis: int) -> None:
    source = toy_scene().surfels
    names, values = static_columns(source, thin_axis)
    write_ply(tmp_path / "point_cloud.ply", {"vertex": table(names, values)})
    scene = files.read(tmp_path / "point_cloud.ply")
    assert isinstance(scene.motion, Still)
    assert torch.equal(scene.surfels.means, source.means)
    # The surfel lies across the thin axis, and what it spans is what the Gaussian spanned.
    axes = quat_to_matrix(source.quats)
    assert torch.allclose(
        (normal_axis(scene.surfels.quats) * axes[:, :, thin_axis]).sum(1).abs(), torch.ones(len(source)), atol=1e-5
    )
    mine = quat_to_matrix(scene.surfels.quats)[:, :, :2] * scene.surfels.log_scales.exp()[:, None]
    wide = [axis for axis in range(3) if axis != thin_axis]
    theirs = (
        axes[:, :, wide] * torch.from_numpy(np.exp(values[:, [names.index(f"scale_{axis}") for axis in wide]]))[:, None]
    )
    assert torch.allclose(mine @ mine.transpose(1, 2), theirs @ theirs.transpose(1, 2), atol=1e-6)
    # Harmonics: the first three of each colour are degree 1.
    rest = values[:, [names.index(f"f_rest_{i}") for i in range(45)]].reshape(-1, 3, 15)
    assert np.array_equal(scene.surfels.sh[:, 1:].numpy(), rest[:, :, :3].transpose(0, 2, 1))
    # All surfels are before the made-up cameras, and in their pictures.
    cameras = scene.clips[scene.reference].cameras
    pixels, depth = cameras.project(scene.surfels.means)
    assert bool((depth > 0).all())
    assert float(((pixels > 0) & (pixels < 512)).all(-1).float().mean()) > 0.98


def test_a_file_that_lost_its_elements_stands_still_and_says_so(tmp_path: Path) -> None:
    scene = full_scene()
    files.write(tmp_path / "scene.ply", scene)
    vertex = read_ply(tmp_path / "scene.ply").elements["vertex"]
    write_ply(tmp_path / "edited.ply", {"vertex": vertex[::2]})
    heard: list[str] = []

    class Ear:
        def emit(self, event: str, **fields: object) -> None: ...

        def warn(self, message: str) -> None:
            heard.append(message)

    edited = files.read(tmp_path / "edited.ply", Ear())
    assert isinstance(edited.motion, Still)
    assert edited.surfels.bone_ids is None
    assert torch.equal(edited.surfels.log_scales, scene.surfels.log_scales[::2])  # ours: no axes are exchanged
    assert "lost" in edited.notes["motion"]
    assert len(heard) == 1


@pytest.mark.parametrize("form", ["ascii", "binary_big_endian"])
def test_other_byte_orders_are_read(tmp_path: Path, form: str) -> None:
    scene = full_scene()
    files.write(tmp_path / "scene.ply", scene)
    ply = read_ply(tmp_path / "scene.ply")
    header = (
        (tmp_path / "scene.ply")
        .read_bytes()
        .split(b"end_header\n", 1)[0]
        .replace(b"binary_little_endian", form.encode())
    )
    if form == "ascii":
        rows = [" ".join(repr(v.item()) for v in row) for element in ply.elements.values() for row in element]
        body = ("\n".join(rows) + "\n").encode()
    else:
        body = b"".join(element.astype(element.dtype.newbyteorder(">")).tobytes() for element in ply.elements.values())
    (tmp_path / "other.ply").write_bytes(header + b"end_header\n" + body)
    assert_same(scene, files.read(tmp_path / "other.ply"))


def test_further_columns_and_elements_do_no_harm(tmp_path: Path) -> None:
    scene = full_scene()
    files.write(tmp_path / "scene.ply", scene)
    elements = dict(read_ply(tmp_path / "scene.ply").elements)
    vertex = elements["vertex"]
    more = np.zeros(len(vertex), dtype=[("label", "<i4"), *vertex.dtype.descr])
    for name in vertex.dtype.names:
        more[name] = vertex[name]
    elements["vertex"] = more
    write_ply(
        tmp_path / "more.ply", {**elements, "foreign": table(["label_color"], np.arange(7, dtype=np.int32)[:, None])}
    )
    assert_same(scene, files.read(tmp_path / "more.ply"))


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_the_refined_branch_of_older_files_is_ignored_and_named_where_there_is_one(
    tmp_path: Path, value: float
) -> None:
    scene = full_scene()
    files.write(tmp_path / "scene.ply", scene)
    elements = dict(read_ply(tmp_path / "scene.ply").elements)
    names = list(elements["vertex"].dtype.names)
    values = np.concatenate([matrix(elements["vertex"], names), np.full((len(scene.surfels), 5), value, "<f4")], 1)
    elements["vertex"] = table([*names, *(f"refine_{i}" for i in range(5))], values)
    text = elements["fourdgen_text"]["text_bytes"].tobytes()
    older = text.replace(b'"refinement": false', b'"refinement": true ')
    assert older != text
    elements["fourdgen_text"] = table(["text_bytes"], np.frombuffer(older, "<i4")[:, None])
    write_ply(tmp_path / "older.ply", elements)
    warned: list[str] = []

    class Listening(Silent):
        def warn(self, message: str) -> None:
            warned.append(message)

    assert_same(scene, files.read(tmp_path / "older.ply", Listening()))
    assert [("refine_0 to refine_4" in said, "is ignored" in said) for said in warned] == [(True, True)] * bool(value)


def test_broken_surfels_are_left_out(tmp_path: Path) -> None:
    scene = toy_scene()
    means, quats, scales = scene.surfels.means.clone(), scene.surfels.quats.clone(), scene.surfels.log_scales.clone()
    means[3, 1], quats[5], scales[7, 0], means[9, 0] = float("nan"), 0.0, 80.0, float("inf")
    files.write(
        tmp_path / "scene.ply",
        replace(scene, surfels=replace(scene.surfels, means=means, quats=quats, log_scales=scales)),
    )
    read = files.read(tmp_path / "scene.ply")
    keep = [i for i in range(len(scene.surfels)) if i not in (3, 5, 7, 9)]
    assert torch.equal(read.surfels.means, means[keep])
    assert read.notes["surfels"] == f"4 of {len(means)} were unusable and left out"


# --------------------------------------------------------------------------------------------------------------
# What is no scene


def test_a_newer_version_is_refused_and_a_newer_minor_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ((1, 7), (2, 0)):
        monkeypatch.setattr(files, "VERSION", version)
        files.write(tmp_path / f"{version[0]}.ply", toy_scene())
    monkeypatch.undo()
    files.read(tmp_path / "1.ply")
    with pytest.raises(FourdgenError, match=r"newer fourdgen \(format 2\.0; this one reads 1\.x\)"):
        files.read(tmp_path / "2.ply")


BAD = {
    "nothing": (b"", "not a PLY"),
    "text": (b"hello\n", "not a PLY"),
    "half a header": (b"ply\nformat ascii 1.0\nelement vertex 3\n", "cut off"),
    "no format": (b"ply\nelement vertex 0\nend_header\n", "names no format"),
    "negative": (
        b"ply\nformat binary_little_endian 1.0\nelement vertex -4\nproperty float x\nend_header\n",
        "damaged header",
    ),
    "absurd": (
        b"ply\nformat binary_little_endian 1.0\nelement vertex 999999999999999999\nproperty float x\nend_header\n1234",
        "cut off",
    ),
    "absurd ascii": (
        b"ply\nformat ascii 1.0\nelement vertex 99999999999999\nproperty float x\nend_header\n1\n",
        "cut off",
    ),
    "words": (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\nfox\n", "no number"),
    "points": (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n", "no Gaussian splats"),
    "empty": (b"ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nend_header\n", "no surfels"),
    "mesh": (b"ply\nformat ascii 1.0\nelement face 1\nproperty list uchar int v\nend_header\n3 0 1 2\n", "no vertices"),
    "twice": (
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty int x\nproperty int x\nend_header\n1 1\n",
        "damaged header",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_scene_is_said_to_be_none(tmp_path: Path, name: str) -> None:
    content, said = BAD[name]
    (tmp_path / "bad.ply").write_bytes(content)
    with pytest.raises(FourdgenError, match=said):
        files.read(tmp_path / "bad.ply")


def test_no_file_and_a_folder() -> None:
    for path in ("nowhere.ply", "."):
        with pytest.raises(FourdgenError, match=r"no such file or folder|a folder, where a scene.ply is wanted"):
            files.read(path)


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    files.write(tmp_path / "scene.ply", toy_scene())
    raw = (tmp_path / "scene.ply").read_bytes()
    for length in [*range(0, 2600, 37), *range(2600, len(raw), 4999), len(raw) - 1]:
        (tmp_path / "cut.ply").write_bytes(raw[:length])
        with pytest.raises(FourdgenError):
            files.read(tmp_path / "cut.ply")


@pytest.mark.parametrize(
    ("element", "column", "value", "said"),
    [
        ("fourdgen_clips", "clip_frames", 13, "number of its frames"),
        ("fourdgen_clips", "clip_frames", -1, "number of its frames"),
        ("fourdgen_clips", "clip_samples", 2**31 - 1, "number of its bone poses"),
        ("fourdgen_clips", "clip_width", 0, "picture size"),
        ("fourdgen_frames", "frame_cam_3", 0x7FC00000, "cameras are not all finite"),
        ("fourdgen_poses", "pose_0", 0x7F800000, "bone poses are not all finite"),
        ("fourdgen_samples", "sample_seconds", 0x7F000000, "do not rise"),
        ("vertex", "bone_1", 2.0, "names a bone that is not there"),
        ("fourdgen_world", "world_low", None, "no similarity"),
    ],
)
def test_contradictions_are_noticed(tmp_path: Path, element: str, column: str, value: float | None, said: str) -> None:
    world = Sim3(2.0, torch.eye(3).double(), torch.zeros(3).double())
    files.write(tmp_path / "scene.ply", replace(toy_scene(), world_from_input=world))
    elements = {name: part.copy() for name, part in read_ply(tmp_path / "scene.ply").elements.items()}
    if value is None:
        elements[element].view("<f8")[0] = -1.0
    else:
        elements[element][column][0] = value
    write_ply(tmp_path / "bad.ply", elements)
    with pytest.raises(FourdgenError, match=said):
        files.read(tmp_path / "bad.ply")


def test_damaged_files_never_crash(tmp_path: Path) -> None:
    """Seeded damage: every file either reads and can be warped, or is a FourdgenError."""
    files.write(tmp_path / "scene.ply", full_scene())
    raw = (tmp_path / "scene.ply").read_bytes()
    random = np.random.default_rng(0)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(400):
        data = bytearray(raw)
        kind = random.integers(4)
        if kind == 0:
            for _ in range(random.integers(1, 30)):
                data[random.integers(len(data))] = random.integers(256)
        elif kind == 1:
            for _ in range(random.integers(1, 6)):
                data[random.integers(3000)] = random.integers(256)
        elif kind == 2:
            begin = random.integers(len(data) - 600)
            del data[begin : begin + random.integers(1, 600)]
        else:
            begin, end = random.integers(3000, len(data) - 600, 2)
            data[begin : begin + 500] = data[end : end + 500]
        (tmp_path / "bad.ply").write_bytes(bytes(data))
        try:
            scene = files.read(tmp_path / "bad.ply")
            state = scene.at(seconds=0.2)
            assert len(state) == len(scene.surfels)
            outcomes["read"] += 1
        except FourdgenError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 20, outcomes


@pytest.mark.filterwarnings("error")
def test_a_signalling_nan_in_a_mixed_table_is_no_warning() -> None:
    element = np.zeros(1, dtype=[("a", "<f4"), ("b", "<f8")])
    element["a"].view("<u4")[0] = 0x7F800001
    assert np.isnan(matrix(element, ("a", "b"))[0, 0])
