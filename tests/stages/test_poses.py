"""Stages align and root_pose as a run calls them, on a filmed figure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from fourdgen.data.cameras_io import CameraEntry, write_transforms_json
from fourdgen.data.capture import Capture, Clip, save_capture, write_picture
from fourdgen.data.records import Alignment, ClipAlignment, RootTrack
from fourdgen.geometry.camera import Cameras, look_at, orbit_eyes
from fourdgen.geometry.transforms import Sim3, rotation_angle_degrees, so3_exp
from fourdgen.poses import side_by_side, tracks
from fourdgen.poses.accept import global_turn, outlines_doubt
from fourdgen.poses.course import course_of
from fourdgen.poses.hypotheses import azimuths
from fourdgen.poses.pictures import Pictures, cut
from fourdgen.report import FourdgenError
from fourdgen.stages import align, root_pose
from fourdgen.workspace import Context, Job
from tests.poses.subject import film, orbit

ROOT_FROM_UP = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)


class Heard:
    """Keeps what the stages say."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.events: list[tuple[str, dict[str, object]]] = []

    def emit(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def _context(folder: Path, name: str, threads: int = 1) -> Context:
    (folder / name).mkdir()
    return Context(folder / name, Job((), folder / "scene.ply", folder), "cpu", threads, 0, Heard())


def _clip(folder: Path, name: str, cameras: Cameras, empty: tuple[int, ...] = ()) -> Clip:
    rgb, mask = film(cameras)
    for i in range(len(mask)):
        if i in empty:
            mask[i] = 0
        write_picture(folder, name, "rgb", i, rgb[i])
        write_picture(folder, name, "mask", i, mask[i])
    count = len(mask)
    return Clip(name, name, cameras.size, torch.arange(count) / 24, torch.arange(count))


def _capture(folder: Path, clips: list[Clip]) -> Capture:
    capture = Capture(tuple(clips), folder)
    save_capture(capture, folder)
    return capture


def _same(a: Alignment | RootTrack, b: Alignment | RootTrack) -> None:
    assert list(a.clips) == list(b.clips)
    for name in a.clips:
        for key, value in vars(a.clips[name]).items():
            other = getattr(b.clips[name], key)
            assert torch.equal(other, value) if isinstance(value, torch.Tensor) else other == value, key


def test_that_one_clip_is_synchronised_with_nothing_is_said(tmp_path: Path) -> None:
    cameras = orbit(torch.linspace(0, 120, 6))
    capture = _capture(tmp_path, [replace(_clip(tmp_path, "a", cameras), cameras=cameras)])
    heard = []
    for sync in (None, True):
        context = _context(tmp_path, f"align-{sync}")
        align.STAGE.run(context, align.AlignConfig(sync=sync), capture)
        heard.append([said for said in context.report.warnings if "--sync" in said])  # type: ignore[attr-defined]
    assert heard == [[], ["a is the only clip, so --sync changes nothing"]]


def test_given_cameras_pass_through_and_map_back(tmp_path: Path) -> None:
    filmed = [orbit(torch.linspace(0, 120, 6)), orbit(torch.linspace(150, 300, 5))]
    input_from_root = Sim3(4.0, ROOT_FROM_UP.T, torch.tensor([10.0, 2.0, 1.0], dtype=torch.float64))
    clips = []
    for name, cameras in zip("ab", filmed, strict=True):
        users = Cameras(input_from_root.move_cameras(cameras.cam_from_world), cameras.K, cameras.size)
        clips.append(replace(_clip(tmp_path, name, cameras), cameras=users))
    capture = _capture(tmp_path, clips)
    aligned = align.STAGE.run(_context(tmp_path, "align"), align.AlignConfig(), capture)
    track = root_pose.STAGE.run(_context(tmp_path, "root"), root_pose.RootPoseConfig(), capture, aligned)
    assert aligned.given
    assert track.given
    assert track.certain
    assert track.world_from_input is not None
    for clip in clips:
        assert clip.cameras is not None
        back = track.world_from_input.inverse().move_cameras(track.clips[clip.name].cam_from_root)
        assert torch.allclose(back, clip.cameras.cam_from_world, atol=2e-4)
        assert torch.equal(track.clips[clip.name].K, clip.cameras.K)
    assert (tmp_path / "align" / "check.png").exists()
    context = _context(tmp_path, "told")
    align.STAGE.run(context, align.AlignConfig(turn="cw", fov=40), capture)
    heard = context.report.warnings  # type: ignore[attr-defined]
    assert len(heard) == 1 and "--fov and --turn change nothing" in heard[0]


def test_given_cameras_that_do_not_fit_are_said_at_the_end(tmp_path: Path) -> None:
    share = torch.linspace(0, 1, 9)
    rising = look_at(orbit_eyes(230 * share**1.5, 70 * share - 10, 4.0))
    cameras = Cameras(rising, orbit(share).K, (96, 96))
    users = Cameras(cameras.cam_from_world.flip(0), cameras.K, cameras.size)
    capture = _capture(tmp_path, [replace(_clip(tmp_path, "a", cameras), cameras=users)])
    context = _context(tmp_path, "align")
    aligned = align.STAGE.run(context, align.AlignConfig(side=32), capture)
    (warning,) = context.report.warnings  # type: ignore[attr-defined]
    assert "in reversed order (--cameras" in warning
    align.STAGE.save(aligned, context.folder)
    context = _context(tmp_path, "root")
    loaded = align.STAGE.load(tmp_path / "align")
    track = root_pose.STAGE.run(context, root_pose.RootPoseConfig(), capture, loaded)
    said = [fields["text"] for event, fields in context.report.events if event == "fact"]  # type: ignore[attr-defined]
    assert said == [f"given; uncertain: {warning}"]
    assert (track.given, track.certain) == (True, False)
    assert torch.equal(track.clips["a"].cam_from_root, aligned.clips["a"].cam_from_root)  # obeyed all the same


@pytest.mark.parametrize("light", [1.0, 0.6])
def test_a_darker_clip_with_given_cameras_is_told_by_gain_and_bias(tmp_path: Path, light: float) -> None:
    """Where both clips have one exposure nothing is made up: exactly 1 and 0."""
    filmed = [orbit(torch.linspace(0, 200, 12)), orbit(torch.linspace(60, 260, 12), elevation=25.0)]
    clips = [replace(_clip(tmp_path, name, cameras), cameras=cameras) for name, cameras in zip("ab", filmed)]
    for i, picture in enumerate(film(filmed[1])[0]):
        write_picture(tmp_path, "b", "rgb", i, (light * picture).round().astype("uint8"))
    config = align.AlignConfig(side=32, effort=0.6)
    aligned = align.STAGE.run(_context(tmp_path, "align"), config, _capture(tmp_path, clips))
    a, b = aligned.clips["a"], aligned.clips["b"]
    assert torch.equal(a.gain, torch.ones(3)) and torch.equal(a.bias, torch.zeros(3))
    if light == 1:
        assert torch.equal(b.gain, torch.ones(3)) and torch.equal(b.bias, torch.zeros(3))
    for color in (0.3, 0.5, 0.8):
        assert torch.allclose(b.gain * color + b.bias, torch.full((3,), light * color), atol=0.05)


def test_cameras_for_some_clips_only(tmp_path: Path) -> None:
    """The clip without cameras is found in the world of the clip with; the given ones stay as they are."""
    first, second = orbit(torch.linspace(0, 200, 16)), orbit(torch.linspace(60, 230, 14), elevation=25.0)
    input_from_root = Sim3(4.0, ROOT_FROM_UP.T, torch.tensor([10.0, 2.0, 1.0], dtype=torch.float64))
    users = Cameras(input_from_root.move_cameras(first.cam_from_world), first.K, first.size)
    capture = _capture(tmp_path, [replace(_clip(tmp_path, "a", first), cameras=users), _clip(tmp_path, "b", second)])
    config = align.AlignConfig(side=32, surfels=300, effort=0.25, turn="cw", sweep=170, fov=35)
    with pytest.raises(FourdgenError, match="it has no cameras"):
        align.STAGE.run(_context(tmp_path, "refused"), replace(config, reference="b"), capture)
    aligned = align.STAGE.run(_context(tmp_path, "align"), config, capture)
    assert (aligned.clips["a"].given, aligned.clips["b"].given, aligned.given) == (True, False, False)
    small = root_pose.RootPoseConfig(side=40, surfels=400, effort=0.25, batch=4)
    context = _context(tmp_path, "root")
    track = root_pose.STAGE.run(context, small, capture, aligned)
    root_pose.STAGE.save(track, context.folder)
    _same(root_pose.STAGE.load(context.folder), track)
    assert track.world_from_input is not None
    back = track.world_from_input.inverse()
    assert torch.allclose(back.move_cameras(track.clips["a"].cam_from_root), users.cam_from_world, atol=2e-4)
    truth = input_from_root.move_cameras(second.cam_from_world)
    found = back.move_cameras(track.clips["b"].cam_from_root)
    error = rotation_angle_degrees(found[:, :3, :3], truth[:, :3, :3])  # no rotation is fitted: it is the user's world
    assert float(error.median()) < 12
    far = truth[:, 2, 3]
    assert float(((found[:, 2, 3] - far) / far).abs().median()) < 0.15  # and the user's scale


def test_an_unknown_reference_is_an_error(tmp_path: Path) -> None:
    job = Job((tmp_path / "a.mp4",), tmp_path / "scene.ply", tmp_path / "run")
    assert align.STAGE.check is not None
    with pytest.raises(FourdgenError, match="no clip is called 'z'"):
        align.STAGE.check(job, align.AlignConfig(reference="z"))
    align.STAGE.check(job, align.AlignConfig(reference="a"))


def test_a_reference_without_cameras_is_refused_before_any_work(tmp_path: Path) -> None:
    cameras = orbit(torch.linspace(0, 90, 3))
    for name in "ab":
        (tmp_path / name).mkdir()
        for i, picture in enumerate(film(cameras)[0]):
            cv2.imwrite(str(tmp_path / name / f"{i}.png"), picture)
    entries = [
        CameraEntry(f"a/{i}.png", pose.double(), cameras.K[0].double(), cameras.size, "a", i)
        for i, pose in enumerate(cameras.cam_from_world)
    ]
    write_transforms_json(tmp_path / "transforms.json", entries)
    inputs = (tmp_path / "a", tmp_path / "b")
    job = Job(inputs, tmp_path / "scene.ply", tmp_path / "run", cameras=tmp_path / "transforms.json")
    assert align.STAGE.check is not None
    align.STAGE.check(job, align.AlignConfig(reference="a"))
    with pytest.raises(FourdgenError, match="--reference b: it has no cameras") as raised:
        align.STAGE.check(job, align.AlignConfig(reference="b"))
    assert raised.value.hint == "choose one of a"
    align.STAGE.check(replace(job, cameras=None), align.AlignConfig(reference="b"))


def test_both_stages_know_when_frames_were_filmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame rate that falls to a third in the middle of a clip, and an empty frame."""
    number = torch.tensor([0, 1, 2, 3, 4, 5, 6, 9, 12, 15, 18])
    cameras = orbit(180.0 * number / 18)
    clip = replace(_clip(tmp_path, "a", cameras, empty=(2,)), seconds=number / 24)
    capture = _capture(tmp_path, [clip])
    shown = number[number != 2]
    searched: list[torch.Tensor] = []

    def solve_clip(*args: object, seconds: torch.Tensor) -> None:
        searched.append(seconds)
        raise InterruptedError

    monkeypatch.setattr(side_by_side, "solve_clip", solve_clip)
    with pytest.raises(InterruptedError):
        align.STAGE.run(_context(tmp_path, "align"), align.AlignConfig(), capture)
    assert torch.equal(searched[0], clip.seconds)

    refined: list[Pictures] = []

    def refine_together(pictures: Pictures, *rest: object) -> None:
        refined.append(pictures)
        raise InterruptedError

    monkeypatch.setattr(root_pose, "refine_together", refine_together)
    clip = ClipAlignment(cameras.cam_from_world, cameras.K, torch.ones(11), torch.ones(3), torch.zeros(3))
    found = Alignment({"a": clip}, "a", None, given=False)
    with pytest.raises(InterruptedError):
        root_pose.STAGE.run(_context(tmp_path, "root"), root_pose.RootPoseConfig(side=16), capture, found)
    assert torch.equal(refined[0].time, shown.float())


def test_poses_of_a_turning_clip_with_an_empty_frame(tmp_path: Path) -> None:
    """Found by the whole path of both stages, at settings far below the recipe's; --turn and --sweep halve the work."""
    cameras = orbit(torch.linspace(0, 170, 14))
    capture = _capture(tmp_path, [_clip(tmp_path, "a", cameras, empty=(5,))])
    config = align.AlignConfig(side=32, surfels=300, effort=0.25, sweep=150, turn="cw")
    context = _context(tmp_path, "align")
    aligned = align.STAGE.run(context, config, capture)
    align.STAGE.save(aligned, context.folder)
    _same(align.STAGE.load(context.folder), aligned)
    small = root_pose.RootPoseConfig(side=40, surfels=400, effort=0.25, batch=4)
    context = _context(tmp_path, "root")
    # Outlines that align found wanting are judged anew; what this stage cannot judge stays.
    doubted = replace(aligned.clips["a"], accepted=False, reason=f"{outlines_doubt(0.5)}; its legs are lost")
    track = root_pose.STAGE.run(context, small, capture, replace(aligned, clips={"a": doubted}))
    assert (track.certain, track.reason) == (False, "a: its legs are lost")
    assert context.report.warnings == ["the cameras are uncertain: a: its legs are lost"]  # type: ignore[attr-defined]
    root_pose.STAGE.save(track, context.folder)
    _same(root_pose.STAGE.load(context.folder), track)
    found, truth = track.clips["a"].cam_from_root[:, :3, :3], cameras.cam_from_world[:, :3, :3]
    error = rotation_angle_degrees(found @ global_turn(found, truth), truth)
    assert float(error.median()) < 10  # the recipe's settings reach 3 to 5 on real subjects
    assert float(track.clips["a"].confidence[5]) == 0
    assert float(error[5]) < 20  # between its neighbours
    distance = track.clips["a"].cam_from_root[:, :3, 3].norm(dim=-1)
    assert float(distance.min()) > 1.9
    picture = cv2.imread(str(context.folder / "check.png"))
    assert picture.shape[1] == 1280
    steps = [fields for event, fields in context.report.events if event == "step"]  # type: ignore[attr-defined]
    assert steps[-1]["step"] == steps[-1]["total"]


def test_a_given_sweep_holds_in_the_joint_fit_too(tmp_path: Path) -> None:
    """A path that comes from align with a turn by 140 degrees, of which 180 were said: a tenth below is obeyed, too."""
    cameras = orbit(torch.linspace(0, 140, 10))
    capture = _capture(tmp_path, [_clip(tmp_path, "a", cameras)])
    K, one = cameras.K, torch.ones(3)
    plain = {"a": ClipAlignment(cameras.cam_from_world, K, torch.ones(10), one, torch.zeros(3), turn="cw", sweep=180.0)}
    config = root_pose.RootPoseConfig(side=24, surfels=200, effort=0.2, batch=5, focal=False)
    found = Alignment(plain, "a", None, given=False)
    track = root_pose.STAGE.run(_context(tmp_path, "root"), config, capture, found)
    angle = torch.rad2deg(azimuths(track.clips["a"].cam_from_root[:, :3, :3]))
    assert float(angle.max() - angle.min()) > 156
    assert "(--sweep)" not in track.reason


def test_what_is_said_of_one_clip_holds_for_it_alone(tmp_path: Path) -> None:
    """Both turn by 140 degrees the same way; of b somebody said the sweep and the field of view."""
    cameras = orbit(torch.linspace(0, 140, 8))
    capture = _capture(tmp_path, [_clip(tmp_path, name, cameras) for name in "ab"])
    config = align.AlignConfig(sweep={"b": 200.0}, fov={"b": 60.0}, turn={"b": "cw", "a": "auto"})
    settings = {name: align._settings(_context(tmp_path, name + "x"), config, name) for name in "ab"}
    assert (settings["a"].sweep, settings["a"].turn, settings["b"].sweep, settings["b"].turn) == (
        None, "auto", 200.0, "cw",
    )  # fmt: skip
    assert settings["a"].focal == pytest.approx(1.207, abs=1e-3) and settings["b"].focal == pytest.approx(
        0.866, abs=1e-3
    )
    aligned = {
        name: ClipAlignment(
            cameras.cam_from_world, cameras.K, torch.ones(8), torch.ones(3), torch.zeros(3), sweep=config.sweep_of(name)
        )
        for name in "ab"
    }
    small = root_pose.RootPoseConfig(side=24, surfels=200, effort=0.2, batch=5, focal={"b": False})
    found = Alignment(aligned, "a", None, given=False)
    track = root_pose.STAGE.run(_context(tmp_path, "root"), small, capture, found)
    reach = {}
    for name, clip in track.clips.items():
        angle = torch.rad2deg(azimuths(clip.cam_from_root[:, :3, :3]))
        reach[name] = float(angle.max() - angle.min())
    assert reach["b"] > reach["a"] + 10
    assert torch.allclose(track.clips["b"].K[:, 0, 0], cameras.K[:, 0, 0], rtol=1e-5)
    assert not torch.allclose(track.clips["a"].K[:, 0, 0], cameras.K[:, 0, 0], rtol=1e-3)


def test_a_path_that_breaks_its_word_for_all_that_is_said() -> None:
    path = orbit(torch.linspace(0, 140, 10)).cam_from_world[:, :3, :3]
    for turn, sweep, words in (
        ("cw", 140.0, ""),
        ("auto", 160.0, ""),
        ("cw", 200.0, "it ends with a turn by 140 degrees, not the given 200 (--sweep)"),
        ("ccw", None, "it ends turning against the given sense (--turn)"),
    ):
        course = course_of(turn, sweep)
        assert course is not None and course.broken(path) == words


def test_a_subject_that_nothing_shows_for_a_while_crosses_the_gap(tmp_path: Path) -> None:
    """It moves evenly to the right, frames 10 to 19 are empty: no jump at either end of the gap."""
    shown = torch.tensor([i for i in range(40) if not 10 <= i < 20])
    center = torch.stack([torch.linspace(-0.3, 0.3, 40), torch.zeros(40)], 1)
    place = torch.cat([center, torch.zeros(40, 1)], 1)
    poses = tracks.poses_of(torch.eye(3).expand(40, 3, 3), place, 1.2, 0.3)
    clip = Clip("a", "a", (64, 64), torch.arange(40) / 24, torch.arange(40))
    rgb, mask = film(orbit(torch.zeros(1)))
    pictures = cut(rgb.repeat(len(shown), 0), mask.repeat(len(shown), 0), 16)
    pictures = replace(pictures, center=center[shown], frame=shown, extent=torch.tensor([0.3]))
    K = tracks.intrinsics_of(1.2, clip.size, 40)
    aligned = ClipAlignment(poses, K, torch.ones(40), torch.ones(3), torch.zeros(3))
    track = root_pose._track(
        Capture((clip,), tmp_path), "a", aligned, shown, poses[shown], 1.2, torch.ones(len(shown)), pictures, False
    )
    across = track.cam_from_root[:, 0, 3]
    wanted = tracks.steadied(poses[:, :3, 3], clip.seconds, torch.ones(40))[:, 0]  # had it been seen all the time
    assert torch.allclose(across, wanted, atol=0.1)  # it moves by 3.4 in all
    assert torch.equal(track.confidence == 0, ~torch.isin(torch.arange(40), shown))
    assert torch.allclose(track.bobbing().cam_from_root[shown, :2, 3], poses[shown, :2, 3], atol=1e-6)


def test_frames_that_hardly_show_the_subject_are_named(tmp_path: Path) -> None:
    rgb, mask = film(orbit(torch.linspace(0, 60, 8)))
    context = _context(tmp_path, "root")
    root_pose._say_what_is_guessed(context, "a", cut(rgb, mask, 16))
    assert context.report.warnings == []  # type: ignore[attr-defined]
    for frames in (rgb, mask):  # in the last two it is nearly out on the left
        frames[6:, :, :36], frames[6:, :, 36:] = frames[6:, :, 60:].copy(), 0
    root_pose._say_what_is_guessed(context, "a", cut(rgb, mask, 16))
    assert len(context.report.warnings) == 1 and "a: 2 frames from 6 to 7 show" in context.report.warnings[0]  # type: ignore[attr-defined]


def test_a_still_clip_stays_still_and_two_processes_change_nothing(tmp_path: Path) -> None:
    cameras = orbit(torch.full((6,), 30.0))
    clips = [_clip(tmp_path, "a", cameras), _clip(tmp_path, "b", cameras)]
    config = align.AlignConfig(side=24, surfels=150, effort=0.05, turn="none")
    capture = _capture(tmp_path, clips)
    alone = align.STAGE.run(_context(tmp_path, "one"), config, capture)
    beside = align.STAGE.run(_context(tmp_path, "two", threads=2), config, capture)
    _same(alone, beside)
    small = root_pose.RootPoseConfig(side=24, surfels=150, effort=0.05)
    track = root_pose.STAGE.run(_context(tmp_path, "root"), small, capture, alone)
    for clip in track.clips.values():
        rotation = clip.cam_from_root[:, :3, :3]
        assert float(rotation_angle_degrees(rotation[:1], rotation).max()) < 0.1
        # One view cannot measure perspective: the focal length stays what it was.
        assert torch.allclose(clip.K, alone.clips["a"].K)


def test_a_finished_search_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by a run that was killed afterwards, nor where only the joining of the clips changed."""
    cameras = orbit(torch.full((4,), 30.0))
    capture = _capture(tmp_path, [_clip(tmp_path, name, cameras) for name in "ab"])
    config = align.AlignConfig(side=24, surfels=100, effort=0.03, turn="none")
    context = _context(tmp_path, "align")
    searched: list[int] = []
    solve = side_by_side.solve_clip

    def counted(rgb: Any, *rest: Any, **more: Any) -> Any:
        searched.append(len(rgb))
        return solve(rgb, *rest, **more)

    monkeypatch.setattr(side_by_side, "solve_clip", counted)
    first = align.STAGE.run(context, config, capture)
    assert len(searched) == 1  # the clips are one picture for picture, and so is their search
    _same(align.STAGE.run(context, config, capture), first)
    other = align.STAGE.run(context, replace(config, reference="b"), capture)
    assert (other.reference, len(searched)) == ("b", 1)
    # Another setting of the search, another picture, or a file that was cut off: the search is made anew.
    align.STAGE.run(context, replace(config, fov=40.0), capture)
    assert len(searched) == 2
    (kept_file,) = context.folder.glob(align.STAGE.keeps)
    kept_file.write_bytes(kept_file.read_bytes()[:100])
    align.STAGE.run(context, replace(config, fov=40.0), capture)
    assert len(searched) == 3
    rgb = capture.read("b", "rgb", 1)
    write_picture(tmp_path, "b", "rgb", 1, 255 - rgb)
    align.STAGE.run(context, replace(config, fov=40.0), capture)
    assert len(searched) == 4


def test_turn_against_the_flow_is_obeyed_with_a_warning(tmp_path: Path) -> None:
    capture = _capture(tmp_path, [_clip(tmp_path, "a", orbit(torch.linspace(0, 90, 10)))])
    context = _context(tmp_path, "align")
    config = align.AlignConfig(side=24, surfels=150, effort=0.05, turn="ccw", sweep=90)
    aligned = align.STAGE.run(context, config, capture)
    assert any("--turn ccw is obeyed" in warning for warning in context.report.warnings)  # type: ignore[attr-defined]
    angle = azimuths(aligned.clips["a"].cam_from_root[:, :3, :3])
    assert float(angle[-1] - angle[0]) < -0.5
    assert not aligned.clips["a"].accepted


def test_equal_frames_are_still_with_a_warning(tmp_path: Path) -> None:
    cameras = orbit(torch.full((5,), 30.0))
    capture = _capture(tmp_path, [_clip(tmp_path, "a", cameras)])
    context = _context(tmp_path, "align")
    aligned = align.STAGE.run(context, align.AlignConfig(side=24, surfels=100, effort=0.03), capture)
    heard = context.report.warnings  # type: ignore[attr-defined]
    assert heard == ["a: all its frames are the same picture, so the view counts as still"]
    assert not aligned.clips["a"].accepted and aligned.clips["a"].reason == "all its frames are the same picture"
    rotation = aligned.clips["a"].cam_from_root[:, :3, :3]
    assert torch.equal(rotation, rotation[:1].expand_as(rotation))
    told, small = _context(tmp_path, "told"), align.AlignConfig(side=24, surfels=100, effort=0.03, turn={"a": "cw"})
    align.STAGE.run(told, small, capture)
    assert told.report.warnings[0].endswith("still, whatever --turn and --sweep say")  # type: ignore[attr-defined]


def test_given_cameras_and_sync_find_when_a_clip_began(tmp_path: Path) -> None:
    """The figure moves; b began 4 frames after a."""
    clips = []
    for name, azimuth, late in (("a", 0.0, 0), ("b", 75.0, 4)):
        cameras = orbit(torch.full((20,), azimuth))
        height = 0.25 * torch.sin(0.3 * (torch.arange(20) + late) + 0.01 * (torch.arange(20) + late) ** 2)
        moved = cameras.cam_from_world.clone()
        moved[:, :3, 3] += moved[:, :3, 1] * height[:, None]
        clip = _clip(tmp_path, name, replace(cameras, cam_from_world=moved))
        clips.append(replace(clip, cameras=cameras))
    capture = _capture(tmp_path, clips)
    aligned = align.STAGE.run(_context(tmp_path, "align"), align.AlignConfig(sync=True), capture)
    assert aligned.clips["a"].synchronised_with is None
    b = aligned.clips["b"]
    assert b.synchronised_with == "a"
    middle = float(clips[1].seconds.mean())
    assert abs(b.time_rate * middle + b.time_offset - (middle + 4 / 24)) < 1 / 24
    assert b.time_rate == pytest.approx(1, abs=0.05)
    plain = align.STAGE.run(_context(tmp_path, "plain"), align.AlignConfig(), capture)
    assert plain.clips["b"].synchronised_with == "a"  # it plainly does, so nobody needs to say so
    assert plain.clips["b"].time_offset == b.time_offset
    apart = align.STAGE.run(_context(tmp_path, "apart"), align.AlignConfig(sync=False), capture)
    assert apart.clips["b"].synchronised_with is None


def test_sync_that_nothing_bears_out_is_obeyed_with_a_warning(tmp_path: Path) -> None:
    """Both stand still: outlines tell nothing of time, so each clip keeps its own; who did not ask is not told."""
    clips = []
    for name, azimuth in (("a", 0.0), ("b", 75.0)):
        cameras = orbit(torch.full((13,), azimuth))
        clips.append(replace(_clip(tmp_path, name, cameras), cameras=cameras))
    capture = _capture(tmp_path, clips)
    context = _context(tmp_path, "asked")
    b = align.STAGE.run(context, align.AlignConfig(sync=True), capture).clips["b"]
    assert (b.synchronised_with, b.time_offset, b.time_rate) == ("a", 0.0, 1.0)
    heard = context.report.warnings  # type: ignore[attr-defined]
    assert len(heard) == 1 and heard[0].startswith("b: --sync is obeyed, but the outlines do not bear it out")
    context = _context(tmp_path, "unasked")
    assert align.STAGE.run(context, align.AlignConfig(), capture).clips["b"].synchronised_with is None
    assert not context.report.warnings  # type: ignore[attr-defined]


def test_settings_out_of_range_are_refused() -> None:
    for bad in ({"fov": 200.0}, {"sweep": 0.0}, {"effort": 0.0}, {"effort": 1e9}, {"side": 100_000}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            align.AlignConfig(**bad)  # type: ignore[arg-type]
    for bad in ({"effort": 1e9}, {"batch": 10**6}, {"surfels": 10**7}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            root_pose.RootPoseConfig(**bad)  # type: ignore[arg-type]


def test_more_clips_than_find_their_place_are_refused(tmp_path: Path) -> None:
    """Unless their cameras are given: those need no search."""
    job = Job(tuple(tmp_path / f"{i}.mp4" for i in range(9)), tmp_path / "scene.ply", tmp_path / "run")
    assert align.STAGE.check is not None
    with pytest.raises(FourdgenError, match="9 clips: at most 8"):
        align.STAGE.check(job, align.AlignConfig())
    align.STAGE.check(replace(job, inputs=job.inputs[:8]), align.AlignConfig())
    align.STAGE.check(replace(job, cameras=tmp_path / "transforms.json"), align.AlignConfig())


def test_given_cameras_are_held_and_the_others_placed_against_them(tmp_path: Path) -> None:
    """The given clip zooms, its lens is off the middle, and the found clip begins 12 degrees and a length off."""
    first, second = orbit(torch.linspace(0, 200, 12)), orbit(torch.linspace(60, 230, 12), elevation=25.0)
    K = first.K.clone()
    K[:, 0, 0], K[:, 1, 1] = K[:, 0, 0] * torch.linspace(0.9, 1.2, 12), K[:, 1, 1] * torch.linspace(0.9, 1.2, 12)
    K[:, :2, 2] += torch.tensor([7.0, -5.0])
    first = replace(first, K=K)
    capture = _capture(tmp_path, [_clip(tmp_path, "a", first), _clip(tmp_path, "b", second)])
    tilted = so3_exp(torch.tensor([0.15, 0.15, 0.0]))
    moved = second.cam_from_world.clone()
    moved[:, :3, :3] = moved[:, :3, :3] @ tilted
    moved[:, 2, 3] *= 1.15

    def clip(poses: torch.Tensor, K: torch.Tensor, given: bool) -> ClipAlignment:
        return ClipAlignment(poses, K, torch.ones(12), torch.ones(3), torch.zeros(3), given=given)

    clips = {"a": clip(first.cam_from_world, K, True), "b": clip(moved, second.K, False)}
    context = _context(tmp_path, "root")
    small = root_pose.RootPoseConfig(side=40, surfels=500, effort=0.5, batch=4)
    track = root_pose.STAGE.run(context, small, capture, Alignment(clips, "a", Sim3.identity(), False))
    assert torch.equal(track.clips["a"].cam_from_root, first.cam_from_world)
    assert torch.equal(track.clips["a"].K, K)
    notes = [fields for event, fields in context.report.events if event == "note"]  # type: ignore[attr-defined]
    assert notes[0]["focal"] == pytest.approx(float(K[:, 0, 0].median()) / 96, rel=1e-5)
    found, truth = track.clips["b"].cam_from_root, second.cam_from_world
    error = rotation_angle_degrees(found[:, :3, :3], truth[:, :3, :3])

    assert float(error.median()) < 8  # it began 12 off
