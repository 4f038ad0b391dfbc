"""The verb render: what comes out is a video, a GIF or pictures of the right scene at the right time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import av
import cv2
import numpy as np
import pytest
import torch

from fourdgen.data.cameras_io import write_transforms_json
from fourdgen.data.capture import Capture, Clip, save_capture, write_picture
from fourdgen.data.video import read_video
from fourdgen.geometry.transforms import Sim3, so3_exp
from fourdgen.playback import RenderRequest, parse_color, parse_size, render, shots
from fourdgen.playback.channels import Look, layer, opaque, opaque_picture
from fourdgen.render import draw, pick
from fourdgen.render.carried import Carried
from fourdgen.report import FourdgenError
from fourdgen.scene import files
from fourdgen.scene.scene4d import Scene4D
from tests.toy import SIZE, entries_in, toy_scene


@pytest.fixture
def scene_path(tmp_path: Path) -> Path:
    files.write(tmp_path / "scene.ply", toy_scene())
    return tmp_path / "scene.ply"


def frames_of(path: Path) -> list[np.ndarray]:
    return [frame.picture for frame in read_video(path)]


def subject_box(picture: np.ndarray) -> tuple[int, int, int, int]:
    """Left, right, top, bottom of what is not the white background."""
    rows, columns = np.nonzero((picture[..., :3] < 200).any(-1))
    return columns.min(), columns.max(), rows.min(), rows.max()


# --------------------------------------------------------------------------------------------------------------
# Made-up cameras


def test_the_orbit_is_a_video_beside_the_scene(scene_path: Path) -> None:
    path = render(scene_path, RenderRequest(orbit=True, size="96", fps=6))
    assert path == scene_path.with_name("scene_orbit.mp4")
    frames = frames_of(path)
    assert frames[0].shape == (96, 96, 3)
    for frame in frames[::6]:
        left, right, top, bottom = subject_box(frame)
        assert min(left, top) >= 2
        assert max(right, bottom) <= 93
    widest = max(subject_box(frame)[1] - subject_box(frame)[0] for frame in frames)
    tallest = max(subject_box(frame)[3] - subject_box(frame)[2] for frame in frames)
    assert max(widest, tallest) > 60  # framed, not lost in the distance


def test_the_orbit_is_one_turn_and_whole_loops() -> None:
    scene = toy_scene()
    motion = shots.motion_of(scene, scene.clips["a"], "loop", 1.0)
    taken = shots.orbit(scene, motion, SIZE, 24.0, 15.0)
    centers = torch.cat([shot.camera.centers() for shot in taken])
    middle = shots.framing(scene, motion).center
    azimuth = torch.atan2(centers[:, 0] - middle[0], -(centers[:, 2] - middle[2]))
    steps = torch.remainder(azimuth.roll(-1) - azimuth, 2 * torch.pi)  # the step from the last to the first included
    assert torch.allclose(steps, torch.full_like(steps, 2 * torch.pi / len(taken)), atol=1e-3)
    elevation = torch.asin((middle[1] - centers[:, 1]) / (centers - middle).norm(dim=1))
    assert torch.allclose(torch.rad2deg(elevation), torch.full_like(elevation, 15.0), atol=0.1)
    loops = len(taken) / 24.0 / motion.period
    assert loops == pytest.approx(round(loops), abs=0.02)
    assert taken[0].seconds == pytest.approx(0.0)
    # The turn begins where the clip's first camera stands.
    first = scene.clips["a"].cameras.centers()[0] - middle
    assert float(azimuth[0]) == pytest.approx(float(torch.atan2(first[0], -first[2])), abs=1e-4)


def test_motion_that_does_not_meet_itself_goes_back_and_forth() -> None:
    scene = toy_scene()
    clip = scene.clips["a"]
    assert not shots.motion_of(scene, clip, "loop", 1.0).back_and_forth  # a full swing of the arm in 12 frames
    half = replace(
        clip, seconds=clip.seconds[:4], frame_ids=clip.frame_ids[:4], cameras=clip.cameras[:4]
    )  # the arm rises and is up at the end
    motion = shots.motion_of(scene, half, "loop", 1.0)
    assert motion.back_and_forth
    times = [motion.at(t) for t in np.linspace(0, motion.period, 50)]
    assert np.abs(np.diff(times)).max() < 0.03
    assert times[0] == pytest.approx(times[-1])
    assert max(times) == pytest.approx(0.25, abs=0.01)


def test_speed_is_how_fast_time_passes() -> None:
    scene = toy_scene()
    slow = shots.motion_of(scene, scene.clips["a"], "loop", 0.5)
    assert slow.at(0.4) == pytest.approx(0.2)
    assert slow.period == pytest.approx(2.0, abs=0.01)


def test_frozen_time_stands_still() -> None:
    scene = toy_scene()
    motion = shots.motion_of(scene, scene.clips["a"], "freeze:0.25", 1.0)
    taken = shots.orbit(scene, motion, SIZE, 10.0, 0.0)
    assert {shot.seconds for shot in taken} == {0.25}


def test_bullet_time_stops_in_the_middle_and_plays_to_the_end() -> None:
    scene = toy_scene()
    taken = shots.bullet(scene, shots.Motion(scene.clips["a"]), SIZE, 24.0, 10.0)
    times = [shot.seconds for shot in taken]
    middle = float(scene.clips["a"].seconds[-1]) / 2
    assert times[0] == 0
    assert times[-1] == pytest.approx(2 * middle)
    assert sum(abs(t - middle) < 1e-6 for t in times) >= 6 * 24
    assert times == sorted(times)
    moving = torch.cat([shot.camera.centers() for shot in taken])
    jumps = (moving[1:] - moving[:-1]).norm(dim=1)
    assert float(jumps[0]) == pytest.approx(0, abs=1e-5)  # the camera waits while the motion plays
    assert float(jumps.max()) < 0.4


def test_spiral_rises_and_comes_back() -> None:
    scene = toy_scene()
    motion = shots.motion_of(scene, scene.clips["a"], "loop", 1.0)
    heights = torch.tensor(
        [float(shot.camera.centers()[0, 1]) for shot in shots.spiral(scene, motion, SIZE, 6.0, 15.0)]
    )
    assert int(heights.argmin()) == pytest.approx(len(heights) / 2, abs=2)  # y points down: the highest in the middle
    assert float((heights[0] - heights[-1]).abs()) < 0.1


# --------------------------------------------------------------------------------------------------------------
# Given cameras


WORLD = Sim3(2.0, so3_exp(torch.tensor([1.0, 0.2, -0.4]).double()), torch.tensor([0.5, 1.0, -2.0]).double())


@pytest.mark.parametrize("world", [None, WORLD])
def test_given_cameras_give_one_picture_per_entry_in_their_order(tmp_path: Path, world: Sim3 | None) -> None:
    """The pictures equal what `draw` makes of the same cameras at the frames' times, in the user's coordinates."""
    scene = replace(toy_scene(), world_from_input=world)
    files.write(tmp_path / "scene.ply", scene)
    order = [7, 0, 3]
    cameras = scene.clips["a"].cameras[order]
    write_transforms_json(tmp_path / "cams.json", entries_in(world or Sim3.identity(), cameras, "a", order, "x"))
    out = render(tmp_path / "scene.ply", RenderRequest(cameras=tmp_path / "cams.json", output=tmp_path / "out"))
    assert sorted(path.name for path in out.iterdir()) == ["00000.png", "00001.png", "00002.png"]
    for number, index in enumerate(order):
        picture = cv2.imread(str(out / f"{number:05d}.png"), cv2.IMREAD_UNCHANGED)
        assert picture.shape == (96, 96, 4)
        drawn = draw(scene.at("a", float(scene.clips["a"].seconds[index])), scene.clips["a"].cameras[index])
        alpha = picture[..., 3:].astype(np.float32) / 255
        mixed = picture[..., 2::-1].astype(np.float32) / 255 * alpha
        assert np.abs(alpha[..., 0] - drawn.alpha[0].numpy()).max() < 0.01
        assert np.abs(mixed - drawn.rgb[0].numpy()).max() < 0.02


def test_given_cameras_at_another_size(scene_path: Path) -> None:
    scene = toy_scene()
    entries = entries_in(Sim3.identity(), scene.clips["b"].cameras[:1], "b", [0], "x")
    write_transforms_json(scene_path.with_name("cams.json"), entries)
    request = RenderRequest(cameras=scene_path.with_name("cams.json"), size="48x64")
    out = render(scene_path, request)
    assert out == scene_path.with_name("scene_cameras")
    assert cv2.imread(str(out / "00000.png"), cv2.IMREAD_UNCHANGED).shape == (64, 48, 4)


# --------------------------------------------------------------------------------------------------------------
# The filmed clip


def filmed_scene(folder: Path) -> Scene4D:
    """A scene whose run folder holds a capture with frames of one known colour each."""
    scene = toy_scene()
    clip = scene.clips["b"]
    capture_folder = folder / "scene.run" / "01-ingest"
    for index in range(len(clip.seconds)):
        picture = np.full((SIZE[1], SIZE[0], 3), (10 + 40 * index, 128, 60), np.uint8)
        write_picture(capture_folder, "b", "rgb", index, picture)
    save_capture(Capture((Clip("b", "b.mp4", SIZE, clip.seconds, clip.frame_ids),), capture_folder), capture_folder)
    return replace(scene, run_folder=str(folder / "scene.run"))


def test_source_plays_the_clip_beside_the_filmed_frames(tmp_path: Path) -> None:
    scene = filmed_scene(tmp_path)
    files.write(tmp_path / "scene.ply", scene)
    path = render(tmp_path / "scene.ply", RenderRequest(source="b"))
    assert path.name == "scene_b.mp4"
    frames = frames_of(path)
    assert len(frames) == 6
    for index, frame in enumerate(frames):
        assert frame.shape == (96, 192, 3)
        assert np.abs(frame[:, 8:88].mean((0, 1)) - (10 + 40 * index, 128, 60)).max() < 5
        clip = scene.clips["b"]
        drawn = draw(scene.at("b", float(clip.seconds[index])), clip.cameras[index])
        # Colours are the clip's own: gain and bias undone.
        alpha = drawn.alpha[0, ..., None]
        expected = (drawn.rgb[0] * clip.gain + clip.bias * alpha).clamp(0, 1) + 1 - alpha
        inside = drawn.alpha[0].numpy() > 0.95
        assert np.abs((frame[:, 96:] / 255 - expected.numpy())[inside].mean(0)).max() < 0.03


def test_source_without_its_run_folder_is_drawn_alone_and_says_so(scene_path: Path) -> None:
    heard: list[str] = []

    class Ear:
        def emit(self, event: str, **fields: object) -> None: ...

        def warn(self, message: str) -> None:
            heard.append(message)

    frames = frames_of(render(scene_path, RenderRequest(source="a"), Ear()))
    assert frames[0].shape == (96, 96, 3)
    assert heard == ["the filmed frames are not there: drawn alone"]


# --------------------------------------------------------------------------------------------------------------
# Channels, sizes, outputs


@pytest.mark.parametrize("channel", ["rgb", "normal", "depth", "alpha", "confidence"])
def test_every_channel_in_a_video_and_in_pictures(scene_path: Path, channel: str) -> None:
    request = RenderRequest(orbit=True, channel=channel, size="65x49", fps=0.5)
    frame = frames_of(render(scene_path, request))[0]
    assert frame.shape == (50, 66, 3)  # 4:2:0 wants even sizes
    assert frame.std() > 10
    folder = render(scene_path, replace(request, output=scene_path.with_name(channel)))
    picture = cv2.imread(str(folder / "00000.png"), cv2.IMREAD_UNCHANGED)
    kinds = {"depth": (np.uint16, 2), "alpha": (np.uint8, 2)}
    assert (picture.dtype, picture.ndim) == kinds.get(channel, (np.uint8, 3))
    assert picture.shape[:2] == (49, 65)


def test_depth_pictures_are_depths_in_the_users_units(tmp_path: Path) -> None:
    scene = replace(toy_scene(), world_from_input=WORLD)
    files.write(tmp_path / "scene.ply", scene)
    camera = scene.clips["a"].cameras[:1]
    write_transforms_json(tmp_path / "cams.json", entries_in(WORLD, camera, "a", [0], "x"))
    request = RenderRequest(cameras=tmp_path / "cams.json", channel="depth", output=tmp_path / "depth")
    out = render(tmp_path / "scene.ply", request)
    unit = json.loads((out / "depth.json").read_text())["unit"]
    counts = cv2.imread(str(out / "00000.png"), cv2.IMREAD_UNCHANGED)
    drawn = draw(scene.at("a", 0.0), camera)
    covered = drawn.alpha[0].numpy() > 0.6
    expected = (drawn.depth[0] / drawn.alpha[0].clamp_min(1e-6)).numpy() / WORLD.scale
    assert np.abs(counts * unit - expected)[covered].max() < 1e-3
    assert (counts[drawn.alpha[0].numpy() < 0.4] == 0).all()
    floats = render(tmp_path / "scene.ply", replace(request, exr=True, output=tmp_path / "floats"))
    assert [path.name for path in sorted(floats.iterdir())] == ["00000.exr"]
    with av.open(str(floats / "00000.exr")) as file:
        (frame,) = file.decode(video=0)
    values = frame.to_ndarray()
    assert (frame.format.name, values.shape) == ("grayf32le", counts.shape)
    assert np.abs(values - expected)[covered].max() < 1e-5  # no steps
    assert (values[drawn.alpha[0].numpy() < 0.4] == 0).all()


def test_normals_face_the_viewer(scene_path: Path) -> None:
    folder = render(
        scene_path, RenderRequest(orbit=True, channel="normal", size="96", fps=0.5, output=scene_path.with_name("n"))
    )
    picture = cv2.imread(str(folder / "00000.png"), cv2.IMREAD_UNCHANGED)
    solid = picture[..., 3] > 250
    assert picture[..., 0][solid].min() > 110  # blue is towards the eye: never clearly below one half
    box = np.nonzero(solid)
    top, bottom = box[0] < np.quantile(box[0], 0.1), box[0] > np.quantile(box[0], 0.9)
    green = picture[..., 1][solid].astype(int)
    assert green[top].mean() > 150 > 110 > green[bottom].mean()  # green is up


@pytest.mark.parametrize("harmonics", [1, 4])
def test_the_short_way_of_plain_colours_gives_the_same_picture(harmonics: int) -> None:
    scene, white = toy_scene(harmonics), torch.ones(3)
    look = Look("rgb")
    for background in (white, torch.tensor([0.1, 0.6, 0.3])):
        for shot in shots.orbit(scene, shots.motion_of(scene, scene.clips["a"], "loop", 1.0), (70, 51), 0.5, 10.0)[:2]:
            short = opaque_picture(scene, shot, look, pick("cpu"), background)
            long = opaque(layer(scene, shot, look, pick("cpu")), look, background)
            assert short.shape == long.shape == (51, 70, 3)
            assert int(np.abs(short.astype(int) - long.astype(int)).max()) <= 1  # ties of rounding
            assert float(long.std()) > 5


def test_a_gif(scene_path: Path) -> None:
    out = render(scene_path, RenderRequest(orbit=True, size="48", fps=2, output=scene_path.with_name("o.gif")))
    assert out.read_bytes()[:6] == b"GIF89a"


def test_an_animated_webp_is_clear_where_nothing_is(scene_path: Path) -> None:
    request = RenderRequest(orbit=True, size="48", fps=2.5, output=scene_path.with_name("o.webp"))
    read, animation = cv2.imreadanimation(str(render(scene_path, request)))
    assert read
    assert animation.loop_count == 0  # for ever
    assert np.abs(np.array(animation.durations[:-1]) - 400).max() <= 1
    assert len(animation.frames) == len(frames_of(render(scene_path, replace(request, output=None))))
    drawn = render(scene_path, replace(request, output=scene_path.with_name("pictures"))) / "00003.png"
    wanted = cv2.imread(str(drawn), cv2.IMREAD_UNCHANGED).astype(np.float32)
    shown = animation.frames[3].astype(np.float32)
    assert np.abs(shown[..., 3] - wanted[..., 3]).max() < 2
    solid = wanted[..., 3] > 200
    assert np.abs(shown - wanted)[solid].mean() < 12  # one colour for four pixels, and stripes as fine as these
    other = animation.frames[0].astype(np.float32)
    assert np.abs(other - wanted)[solid].mean() > 30  # another moment would be seen
    opaque = render(scene_path, replace(request, background="white", output=scene_path.with_name("w.webp")))
    assert (cv2.imreadanimation(str(opaque))[1].frames[0][0, 0, :3] > 250).all()


def test_a_background_that_was_asked_for(scene_path: Path) -> None:
    request = RenderRequest(orbit=True, size="48", fps=0.5, background="#204060", output=scene_path.with_name("o"))
    picture = cv2.imread(str(render(scene_path, request) / "00000.png"), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (48, 48, 3)
    assert picture[0, 0].tolist() == [0x60, 0x40, 0x20]


def test_sizes_and_colours() -> None:
    assert parse_size("640x480") == (640, 480)
    assert parse_size("512") == (512, 512)
    assert parse_size("") is None
    assert parse_color("black") == (0, 0, 0)
    assert parse_color("#ff0080") == (1, 0, 128 / 255)
    assert parse_color("") is None


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (RenderRequest(orbit=True, source="a"), "only one of"),
        (RenderRequest(source="z"), "no clip 'z'"),
        (RenderRequest(clip="z"), "no clip 'z'"),
        (RenderRequest(channel="flow"), "no such channel"),
        (RenderRequest(path="loop"), "no such path"),
        (RenderRequest(time="freeze"), "not understood"),
        (RenderRequest(time="freeze:nan"), "not understood"),
        (RenderRequest(time="freeze:9"), "runs from 0 to 0.916667 s"),
        (RenderRequest(size="big"), "not a picture size"),
        (RenderRequest(size="99999"), "not a picture size"),
        (RenderRequest(fps=0), "not a usable frame rate"),
        (RenderRequest(speed=0), "time must pass"),
        (RenderRequest(elevation=90), "not an elevation"),
        (RenderRequest(background="mauve"), "no such colour"),
        (RenderRequest(output=Path("out.avi")), "cannot write this kind"),
        (RenderRequest(exr=True), "--exr writes depth"),
        (RenderRequest(channel="depth", exr=True, output=Path("out.mp4")), "--exr writes depth"),
        (RenderRequest(cameras=Path("nowhere.json")), "nowhere.json: no such file or folder"),
    ],
)
def test_requests_that_cannot_be_met_are_refused_before_any_picture(
    scene_path: Path, request_: RenderRequest, said: str
) -> None:
    before = sorted(scene_path.parent.iterdir())
    with pytest.raises(FourdgenError, match=said):
        render(scene_path, request_)
    assert sorted(scene_path.parent.iterdir()) == before


@pytest.mark.parametrize("name", ["orbit.mp4", "orbit.gif", "orbit.webp", "pictures"])
def test_a_place_that_cannot_be_written_is_found_before_a_picture_is_drawn(scene_path: Path, name: str) -> None:
    class Listener:
        events: ClassVar[list[str]] = []

        def emit(self, event: str, **fields: object) -> None:
            self.events.append(event)

        def warn(self, message: str) -> None: ...

    with pytest.raises(FourdgenError, match="cannot write in /proc"):
        render(scene_path, RenderRequest(output=Path("/proc") / name), Listener())
    assert Listener.events == []


def test_carrying_to_a_device_changes_nothing() -> None:
    """On the same device the pictures, and the gradients that come back, are the same."""
    scene = toy_scene()
    cameras = scene.clips["a"].cameras[:2]
    gradients = []
    for rasterizer in (pick("cpu"), Carried(pick("cpu"), "cpu")):
        pose = cameras.cam_from_world.clone().requires_grad_(True)
        out = draw(scene.surfels, replace(cameras, cam_from_world=pose), torch.ones(3), rasterizer)
        out.rgb.square().mean().backward()
        gradients.append((out.rgb.detach(), pose.grad))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert torch.equal(gradients[0][1], gradients[1][1])
    assert float(gradients[0][1].abs().max()) > 0


@pytest.mark.gpu
def test_rendering_on_a_gpu_looks_the_same(scene_path: Path) -> None:
    pictures = []
    for device in ("cpu", "cuda"):
        out = scene_path.with_name(device)
        render(scene_path, RenderRequest(orbit=True, size="64", fps=0.5, output=out), device=device)
        pictures.append(cv2.imread(str(out / "00000.png"), cv2.IMREAD_UNCHANGED).astype(float))
    assert np.abs(pictures[0] - pictures[1])[..., 3].mean() < 2
