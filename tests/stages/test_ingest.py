"""Stage ingest on videos and folders that are made here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fourdgen.data import video
from fourdgen.data.capture import Capture, stack
from fourdgen.priors import masks
from fourdgen.report import FourdgenError
from fourdgen.stages import ingest
from fourdgen.stages.ingest import IngestConfig
from fourdgen.workspace import Context, Job

WIDTH, HEIGHT, FRAMES = 96, 64, 8
DEFAULT = IngestConfig()


class Listener:
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.notes: list[str] = []

    def emit(self, event: str, **fields: object) -> None:
        if event == "note":
            self.notes.append(str(fields["text"]))

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def disc_alpha(t: int) -> np.ndarray:
    """A disc that moves right, 0..255."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return ((15.5 - np.hypot(x - 30 - 4 * t, y - 32)).clip(0, 1) * 255).round().astype(np.uint8)


def disc_picture(t: int) -> np.ndarray:
    alpha = disc_alpha(t)[..., None] / 255
    return (alpha * (40, 90, 200) + (1 - alpha) * 255).round().astype(np.uint8)


def make_video(path: Path, count: int = FRAMES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    video.write_video(path, [disc_picture(t) for t in range(count)], 20)
    return path


def make_folder(path: Path, alpha: bool = True, count: int = FRAMES) -> Path:
    path.mkdir(parents=True)
    for t in range(count):
        picture = np.dstack([disc_picture(t)[..., ::-1], disc_alpha(t)]) if alpha else disc_picture(t)[..., ::-1]
        cv2.imwrite(str(path / f"{t}.png"), picture)
    return path


def make_masks(path: Path, count: int = FRAMES, empty: tuple[int, ...] = ()) -> Path:
    path.mkdir(parents=True)
    for t in range(count):
        cv2.imwrite(str(path / f"{t}.png"), disc_alpha(t) * (t not in empty))
    return path


def job(tmp_path: Path, *inputs: Path, **kwargs: Path) -> Job:
    return Job(tuple(inputs), tmp_path / "scene.ply", tmp_path / "run", **kwargs)


def run(tmp_path: Path, job: Job, config: IngestConfig = DEFAULT) -> tuple[Capture, Listener]:
    """check, run, save and load, as the pipeline does it."""
    ingest.check(job, config)
    folder, listener = tmp_path / "run" / "ingest", Listener()
    folder.mkdir(parents=True, exist_ok=True)
    capture = ingest.run(Context(folder, job, "cpu", 1, 0, listener), config)
    ingest.save(capture, folder)
    return ingest.load(folder), listener


def error_of(job: Job, config: IngestConfig = DEFAULT) -> str:
    with pytest.raises(FourdgenError) as caught:
        ingest.check(job, config)
    return caught.value.message + " / " + caught.value.hint


def test_a_video_on_white(tmp_path: Path) -> None:
    capture, listener = run(tmp_path, job(tmp_path, make_video(tmp_path / "in" / "ball.mp4")))
    (clip,) = capture.clips
    assert (clip.name, clip.size, clip.masks_from, clip.weighted, clip.cameras) == (
        "ball", (WIDTH, HEIGHT), "plain", False, None
    )  # fmt: skip
    assert clip.seconds.tolist() == pytest.approx([t / 20 for t in range(FRAMES)])
    assert clip.frame_ids.tolist() == list(range(FRAMES))
    truth = np.stack([disc_alpha(t) for t in range(FRAMES)]) / 255
    mask = stack(capture, "ball")[1].numpy() / 255
    assert np.minimum(mask, truth).sum() / np.maximum(mask, truth).sum() > 0.97
    assert (capture.folder / "check.png").is_file()
    assert not listener.warnings


def test_an_rgba_folder_keeps_its_alpha_exactly(tmp_path: Path) -> None:
    capture, listener = run(tmp_path, job(tmp_path, make_folder(tmp_path / "in" / "ball")))
    assert capture.clips[0].masks_from == "alpha"
    assert capture.clips[0].seconds.tolist() == pytest.approx([t / 24 for t in range(FRAMES)])
    assert np.array_equal(stack(capture, "ball")[1].numpy(), np.stack([disc_alpha(t) for t in range(FRAMES)]))
    assert any("taken as 24 a second" in note for note in listener.notes)


def test_clips_of_different_kinds_and_sizes_together(tmp_path: Path) -> None:
    video.write_gif(tmp_path / "b.gif", [disc_picture(t)[8:-8] for t in range(4)], 10)
    inputs = (make_video(tmp_path / "x" / "a.mp4"), make_folder(tmp_path / "y" / "a", alpha=False), tmp_path / "b.gif")
    capture, _ = run(tmp_path, job(tmp_path, *inputs))
    assert [clip.name for clip in capture.clips] == ["x-a", "y-a", "b"]
    assert [clip.masks_from for clip in capture.clips] == ["plain"] * 3
    assert capture.clip("b").size == (WIDTH, HEIGHT - 16)


def test_limits_of_size_and_frames(tmp_path: Path) -> None:
    config = IngestConfig(size=48, frames=3)
    capture, _ = run(tmp_path, job(tmp_path, make_video(tmp_path / "a.mp4", 9)), config)
    assert capture.clips[0].size == (48, 32)
    assert capture.clips[0].frame_ids.tolist() == [0, 4, 8]
    assert capture.clips[0].seconds.tolist() == pytest.approx([0, 0.2, 0.4])


def test_given_masks_and_an_empty_one(tmp_path: Path) -> None:
    given = make_masks(tmp_path / "masks", empty=(3,))
    capture, listener = run(tmp_path, job(tmp_path, make_video(tmp_path / "a.mp4"), masks=given))
    assert capture.clips[0].masks_from == "given"
    assert "do not count: 3" in listener.warnings[0]
    assert capture.frame("a", 3).weight.max() == 0 and capture.frame("a", 4).weight.min() == 1
    assert np.array_equal((capture.frame("a", 5).mask * 255).byte().numpy(), disc_alpha(5))


def test_given_masks_follow_the_frames_that_are_used(tmp_path: Path) -> None:
    given = make_masks(tmp_path / "masks")
    config = IngestConfig(frames=2)
    capture, _ = run(tmp_path, job(tmp_path, make_video(tmp_path / "a.mp4"), masks=given), config)
    assert np.array_equal(stack(capture, "a")[1][1].numpy(), disc_alpha(FRAMES - 1))


def test_empty_masks_everywhere_are_named_before_any_work(tmp_path: Path) -> None:
    given, clip = make_masks(tmp_path / "masks", empty=tuple(range(FRAMES))), make_video(tmp_path / "a.mp4")
    said = error_of(job(tmp_path, clip, masks=given))
    assert said == (
        f"{given}: the masks of a.mp4 are empty in every frame / "
        "a mask is white (or opaque) where the subject is and black elsewhere"
    )
    one = make_masks(tmp_path / "one", empty=tuple(t for t in range(FRAMES) if t != 3))
    ingest.check(job(tmp_path, clip, masks=one), DEFAULT)
    assert "empty in every frame" in error_of(job(tmp_path, clip, masks=one), IngestConfig(frames=2))  # 0 and the last


def test_masks_of_another_shape_are_named_before_any_work(tmp_path: Path) -> None:
    given, clip = make_masks(tmp_path / "masks"), make_video(tmp_path / "a.mp4")
    cv2.imwrite(str(given / "5.png"), np.full((HEIGHT * 2, WIDTH * 2), 255, np.uint8))  # larger masks are fine
    ingest.check(job(tmp_path, clip, masks=given), DEFAULT)
    cv2.imwrite(str(given / "5.png"), np.full((HEIGHT, HEIGHT), 255, np.uint8))
    said = error_of(job(tmp_path, clip, masks=given))
    assert said.startswith(f"{given / '5.png'}: 64x64, but the frames of a.mp4 are 96x64")
    (given / "5.png").write_bytes(b"no picture")
    assert f"{given / '5.png'}: this picture cannot be read" in error_of(job(tmp_path, clip, masks=given))


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_pictures_of_two_sizes_are_named_before_any_work(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    for t in range(4):
        cv2.imwrite(str(folder / f"{t}.{kind}"), np.full((40 if t == 2 else 48, 64, 3), 99, np.uint8))
    said = error_of(job(tmp_path, folder))
    assert said.startswith(f"{folder / f'2.{kind}'}: 64x40, but the first picture of its folder is 64x48")


def test_an_alpha_channel_that_hides_everything_is_named_before_any_work(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    for t in range(4):
        cv2.imwrite(str(folder / f"{t}.png"), np.full((48, 64, 4), (9, 9, 9, 0), np.uint8))
    assert "its alpha channel hides everything in every frame" in error_of(job(tmp_path, folder))
    cv2.imwrite(str(folder / "3.png"), np.full((48, 64, 4), (9, 9, 9, 255), np.uint8))
    ingest.check(job(tmp_path, folder), DEFAULT)


def test_pictures_of_which_only_some_have_alpha(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    cv2.imwrite(str(folder / "3.png"), disc_picture(3)[..., ::-1])
    capture, listener = run(tmp_path, job(tmp_path, folder))
    assert capture.clips[0].masks_from == "plain"
    assert listener.warnings == ["a: 7 of 8 pictures have an alpha channel; it is not used"]


def cameras_file(path: Path, clip: str, count: int = FRAMES, **intrinsics: float) -> Path:
    data = {"w": 2 * WIDTH, "h": 2 * HEIGHT, "fl_x": 200.0, "cx": 100.0, "cy": 60.0, **intrinsics}
    frames = []
    for t in range(count):
        matrix = np.eye(4)
        matrix[:3, 3] = (0.1 * t, 0, 3)
        frames.append({"file_path": f"{clip}/{t}.png", "clip": clip, "frame": t, "transform_matrix": matrix.tolist()})
    path.write_text(json.dumps({**data, "frames": frames}))
    return path


def test_cameras_come_at_the_size_of_the_clip(tmp_path: Path) -> None:
    cameras = cameras_file(tmp_path / "transforms.json", "a", count=FRAMES - 2)
    capture, listener = run(tmp_path, job(tmp_path, make_video(tmp_path / "a.mp4"), cameras=cameras))
    clip = capture.clips[0]
    assert clip.cameras is not None and len(clip) == FRAMES - 2
    assert clip.cameras.K[0].tolist() == [[100, 0, 50], [0, 100, 30], [0, 0, 1]]
    assert clip.cameras.centers()[4].tolist() == pytest.approx([0.4, 0, 3])
    assert "no camera for frames 6-7" in listener.warnings[0]


def test_a_limit_of_frames_picks_among_those_with_a_camera(tmp_path: Path) -> None:
    cameras = cameras_file(tmp_path / "transforms.json", "a", count=4)
    capture, _ = run(tmp_path, job(tmp_path, make_video(tmp_path / "a.mp4"), cameras=cameras), IngestConfig(frames=2))
    assert capture.clips[0].frame_ids.tolist() == [0, 3]
    assert capture.clips[0].seconds.tolist() == pytest.approx([0, 3 / 20])
    folder = make_folder(tmp_path / "f" / "a")
    capture, _ = run(tmp_path, job(tmp_path, folder, cameras=cameras), IngestConfig(frames=2))
    assert capture.clips[0].frame_ids.tolist() == [0, 3]


def test_cameras_for_some_of_the_clips(tmp_path: Path) -> None:
    cameras = cameras_file(tmp_path / "transforms.json", "a")
    clips = make_video(tmp_path / "a.mp4"), make_video(tmp_path / "b.mp4")
    capture, listener = run(tmp_path, job(tmp_path, *clips, cameras=cameras))
    assert [clip.cameras is None for clip in capture.clips] == [False, True]
    assert listener.warnings == ["b: transforms.json has no camera for this clip; its cameras are found"]
    nobody = cameras_file(tmp_path / "nobody.json", "z")
    assert "2 things are wrong" in error_of(job(tmp_path, *clips, cameras=nobody))


def test_distortion_is_undone_with_the_cameras(tmp_path: Path) -> None:
    """The disc's centre, filmed through the lens, must lie where the straight camera sees that ray."""
    from fourdgen.data.lens import Lens, undistort

    cameras = cameras_file(tmp_path / "transforms.json", "a", k1=0.4, k2=0.05)
    capture, _ = run(tmp_path, job(tmp_path, make_folder(tmp_path / "a"), cameras=cameras))
    clip = capture.clips[0]
    assert clip.cameras is not None and clip.weighted
    K = clip.cameras.K[0].double().numpy()
    for t in (0, FRAMES - 1):
        frame = capture.frame("a", t)
        y, x = torch.meshgrid(torch.arange(clip.size[1]) + 0.5, torch.arange(clip.size[0]) + 0.5, indexing="ij")
        found = np.array([float((frame.mask * axis).sum() / frame.mask.sum()) for axis in (x, y)])
        filmed = (np.array([30 + 4 * t, 32]) - (50, 30)) / 100
        wanted = undistort(Lens("polynomial", (0.4, 0.05)), filmed) * 100 + K[:2, 2]
        assert np.abs(found - wanted).max() < 0.6  # a disc's centre is not quite the centre of its picture
        assert frame.weight[0, 0] == 0 and frame.mask[frame.weight == 0].max() == 0


def test_masks_end_where_the_straightened_picture_ends(tmp_path: Path) -> None:
    cameras = cameras_file(tmp_path / "transforms.json", "a", k1=0.4, k2=0.05)
    (tmp_path / "masks").mkdir()
    for t in range(FRAMES):
        cv2.imwrite(str(tmp_path / "masks" / f"{t}.png"), np.full((HEIGHT, WIDTH), 255, np.uint8))
    asked = job(tmp_path, make_video(tmp_path / "a.mp4"), cameras=cameras, masks=tmp_path / "masks")
    frame = run(tmp_path, asked)[0].frame("a", 0)
    assert frame.mask[frame.weight > 0].min() == 1 and frame.mask[frame.weight == 0].max() == 0


def test_box_picks_the_subject(tmp_path: Path) -> None:
    two = [np.minimum(disc_picture(t), disc_picture(t)[:, ::-1]) for t in (0, 1)]  # a second disc, mirrored
    video.write_video(tmp_path / "a.mp4", two, 20)
    config = IngestConfig(box=(50, 10, 40, 44), size=48)
    capture, _ = run(tmp_path, job(tmp_path, tmp_path / "a.mp4"), config)
    mask = capture.frame("a", 0).mask
    assert mask[:, :22].max() == 0 and mask[16, 33] == 1


def test_without_network_weights_it_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "network", lambda: None)
    rng = np.random.default_rng(0)
    wall = cv2.resize(rng.integers(0, 120, (9, 9, 3), np.uint8), (WIDTH, HEIGHT))
    frames = [np.where(disc_alpha(t)[..., None] > 127, disc_picture(t), wall) for t in range(4)]
    video.write_video(tmp_path / "a.mp4", frames, 20)
    asked = job(tmp_path, tmp_path / "a.mp4")
    capture, listener = run(tmp_path, asked)
    assert capture.clips[0].masks_from == "classical"
    assert [w for w in listener.warnings if "doctor --fetch" in w] == listener.warnings and len(listener.warnings) == 1
    assert ingest.facts(asked, IngestConfig(), "cpu") == ("no mask network",)
    assert ingest.facts(job(tmp_path, make_video(tmp_path / "b.mp4")), IngestConfig(), "cpu") == ()
    assert "no mask weights" in error_of(asked, IngestConfig(masks="u2netp"))


def test_masks_that_look_wrong_are_pointed_out_with_what_helps(tmp_path: Path) -> None:
    """A subject that is mostly out of the picture: whatever cut it out, this is worth a look."""
    frames = [np.roll(disc_picture(0), -30 + t, 1) for t in range(6)]
    for picture in frames:
        picture[:, 60:] = 255
    video.write_video(tmp_path / "a.mp4", frames, 20)
    _, listener = run(tmp_path, job(tmp_path, tmp_path / "a.mp4"))
    (warning,) = listener.warnings
    assert "run out of the picture" in warning
    for word in ("--box X,Y,W,H", "--masks DIR", "check.png"):
        assert word in warning


def test_a_second_run_leaves_the_same_files(tmp_path: Path) -> None:
    asked = job(tmp_path, make_video(tmp_path / "a.mp4"))
    run(tmp_path, asked)
    folder = tmp_path / "run" / "ingest"
    first = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    (folder / "a" / "rgb" / "00099.png").write_bytes(b"left over from a killed run")
    run(tmp_path, asked)
    assert {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == first


def test_bad_inputs_are_named_before_any_work(tmp_path: Path) -> None:
    good = make_video(tmp_path / "good.mp4")
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty").mkdir()
    assert "no such file" in error_of(job(tmp_path, tmp_path / "none.mp4"))
    assert "not a video" in error_of(job(tmp_path, tmp_path / "text.mp4"))
    assert "no pictures in this folder" in error_of(job(tmp_path, tmp_path / "empty"))
    assert "only one frame" in error_of(job(tmp_path, make_video(tmp_path / "one.mp4", 1)))
    assert "only one frame" in error_of(job(tmp_path, make_folder(tmp_path / "still", count=1)))
    assert "there is no input" in error_of(job(tmp_path))
    both = error_of(job(tmp_path, tmp_path / "none.mp4", good, tmp_path / "text.mp4"))
    assert "2 things are wrong" in both and "none.mp4" in both and "text.mp4" in both


def test_bad_masks_and_cameras_are_named_before_any_work(tmp_path: Path) -> None:
    good = make_video(tmp_path / "good.mp4")
    short = make_masks(tmp_path / "masks", FRAMES - 1)
    assert f"7 masks for the {FRAMES} frames of clip good" in error_of(job(tmp_path, good, masks=short))
    assert "no such file or folder" in error_of(job(tmp_path, good, masks=tmp_path / "none"))
    assert "no folder of masks" in error_of(job(tmp_path, good), IngestConfig(masks="given"))
    other = cameras_file(tmp_path / "other.json", "somebody")
    assert "no camera for a frame of clip good (it knows somebody)" in error_of(job(tmp_path, good, cameras=other))
    (tmp_path / "bad.json").write_text("{")
    said = error_of(job(tmp_path, good, masks=short, cameras=tmp_path / "bad.json"))
    assert "7 masks" in said and "not a readable JSON" in said
    assert "the box lies outside its 96x64 picture" in error_of(job(tmp_path, good), IngestConfig(box=(200, 0, 5, 5)))


@pytest.mark.parametrize("wrong", [{"frames": 1}, {"size": 5}, {"fps": 0.0}, {"box": (0.0, 0.0, 0.0, 5.0)}])
def test_settings_that_make_no_sense(wrong: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        replace(IngestConfig(), **wrong)


def test_cameras_that_do_not_fit_are_named_before_any_work(tmp_path: Path) -> None:
    clip = make_video(tmp_path / "a.mp4")
    cameras = cameras_file(tmp_path / "transforms.json", "a", w=HEIGHT, h=WIDTH)
    assert "64x96 pictures, its frames are 96x64" in error_of(job(tmp_path, clip, cameras=cameras))
    one = cameras_file(tmp_path / "one.json", "a", count=1)
    assert "fewer than two frames of clip a have a camera" in error_of(job(tmp_path, clip, cameras=one))


def test_numbers_are_said_as_runs() -> None:
    assert ingest.numbers([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"
    assert ingest.numbers(list(range(0, 40, 2))).endswith("22 and 8 more")


def test_a_clip_given_twice_is_an_error(tmp_path: Path) -> None:
    clip = make_video(tmp_path / "a.mp4")
    assert "is given twice" in error_of(job(tmp_path, clip, clip))


def test_a_blank_video_has_no_subject(tmp_path: Path) -> None:
    pictures = [np.full((48, 64, 3), 255, np.uint8) for _ in range(6)]
    video.write_video(tmp_path / "blank.mp4", pictures, 12)
    with pytest.raises(FourdgenError, match="blank"):
        run(tmp_path, job(tmp_path, tmp_path / "blank.mp4"))
