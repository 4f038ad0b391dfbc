"""Short movements that a model does not know of: the search finds them, and what is not missed stays as it was."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fourdgen import native
from fourdgen.data.capture import Capture, Clip, write_picture
from fourdgen.data.records import ClipTrack, FrameSet
from fourdgen.fit import gestures, loop, sampler
from fourdgen.fit.density import Growth
from fourdgen.fit.loop import TrainConfig
from fourdgen.fit.model import SURFEL_PARAMETERS, Model, PoseCorrections, Rates
from fourdgen.fit.views import Views
from fourdgen.geometry.camera import Cameras, intrinsics, look_at, orbit_eyes
from fourdgen.geometry.transforms import quat_conjugate, quat_exp, quat_log, quat_multiply
from fourdgen.render import draw, pick
from fourdgen.report import Silent
from fourdgen.scene.bones import BoneMotion, ClipTime
from tests.toy import ellipsoid, joined

FRAMES, SIZE, ARM = 24, (64, 64), 1
RAISED = range(9, 14)
SECONDS = torch.arange(FRAMES) / 24
STRIPES = [[0.9, 0.2, 0.1], [0.2, 0.3, 0.8]]
RASTERIZER = pick("auto", "cpu", 1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Pictures this small gain nothing from two, and lose much where another job holds a core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    native.set_threads(1)
    yield
    torch.set_num_threads(threads)
    native.set_threads(None)


class Heard(Silent):
    def __init__(self) -> None:
        self.notes: list[dict[str, Any]] = []

    def emit(self, event: str, **fields: Any) -> None:
        if event == "note":
            self.notes.append(fields)


def surfels():
    """A body, a head and an arm that points to the left, towards -x."""
    parts = [([0.0, 0.1, 0.0], [0.3, 0.4, 0.25], 400), ([-0.6, 0.0, 0.0], [0.32, 0.1, 0.1], 200),
             ([0.1, -0.5, 0.0], [0.18, 0.18, 0.18], 150)]  # fmt: skip
    return joined([ellipsoid(center, radii, count, STRIPES) for center, radii, count in parts])


def at_rest(times: dict[str, ClipTime]) -> BoneMotion:
    """Body, arm and head, with arm and head hung from the body; a fresh network says that nothing moves."""
    centers = torch.tensor([[0.0, 0.1, 0.0], [-0.6, 0.0, 0.0], [0.1, -0.5, 0.0]])
    motion = BoneMotion(centers, 0.25, times, generator=torch.Generator().manual_seed(0))
    joints = torch.tensor([[0.0, 0.0, 0.0], [-0.3, 0.0, 0.0], [0.1, -0.3, 0.0]])
    motion.hang(torch.tensor([-1, 0, 0]), joints)
    return motion


def raised(when: Tensor) -> Tensor:
    """Twists of the truth [t 3 6]: the arm is up, by 70 degrees about the z axis, in the frames of RAISED."""
    frame = when * 24
    share = ((frame - RAISED.start + 1) / 2).clamp(0, 1) * ((RAISED.stop - frame) / 2).clamp(0, 1)
    twists = torch.zeros(len(when), 3, 6)
    twists[:, ARM, 2] = math.radians(70) * share
    return twists


@torch.no_grad()
def filmed(
    folder: Path, times: dict[str, ClipTime], moving: tuple[str, ...] = ("a",), turned: float = 0.0
) -> tuple[Capture, dict[str, ClipTrack]]:  # fmt: skip
    """Clips of the truth: the arm goes up in those that show one of `moving`; `turned`: radians at all times."""
    truth, clips, tracks, shapes = at_rest(times), [], {}, surfels()
    for place, (name, time) in enumerate(times.items()):
        eyes = orbit_eyes(torch.linspace(-15, 15, len(time.seconds)) + 30 * place, 5.0, 3.2)
        cameras = Cameras(look_at(eyes), intrinsics(38.0, SIZE).expand(len(eyes), 3, 3).clone(), SIZE)
        twists = raised(time.rate * time.seconds + time.offset) * (time.code_of in moving)
        twists[:, ARM, 2] += turned
        for t, bones in enumerate(truth.pose(twists)):
            means, quats, _ = truth.carried(bones, shapes.means, shapes.quats)
            out = draw(replace(shapes, means=means, quats=quats), cameras[t], rasterizer=RASTERIZER)
            alpha = out.alpha[0].clamp(0, 1)
            rgb = (out.rgb[0] / alpha.clamp_min(1e-4)[..., None]).clamp(0, 1)
            write_picture(folder, name, "rgb", t, (rgb * 255).round().byte().numpy())
            write_picture(folder, name, "mask", t, (alpha * 255).round().byte().numpy())
        clips.append(Clip(name, name, SIZE, time.seconds, torch.arange(len(time.seconds))))
        tracks[name] = ClipTrack(cameras.cam_from_world, cameras.K, torch.ones(len(time.seconds)))
    return Capture(tuple(clips), folder), tracks


def model(times: dict[str, ClipTime], corrections: PoseCorrections | None = None) -> Model:
    """The right shape in colours that are off everywhere, as in training; and nothing moves."""
    g, shapes = torch.Generator().manual_seed(1), surfels()
    parts = {name: getattr(shapes, name) for name in SURFEL_PARAMETERS}
    parts["sh"] = parts["sh"] + 0.4 * torch.randn(parts["sh"].shape, generator=g)
    return Model(parts, at_rest(times), corrections, Rates())


def frames_of(times: dict[str, ClipTime], every: int = 1) -> FrameSet:
    names = tuple(times)
    index = [torch.arange(0, len(times[name].seconds), every) for name in names]
    clip = torch.cat([torch.full((len(rows),), i) for i, rows in enumerate(index)])
    seconds = torch.cat([times[name].seconds[rows] for name, rows in zip(names, index, strict=True)])
    return FrameSet(names, clip, torch.cat(index), seconds, sampler.uniform(len(clip)), every)


def find(m: Model, capture: Capture, tracks: dict[str, ClipTrack], frames: FrameSet) -> list[dict[str, Any]]:
    heard = Heard()
    views = Views(capture, tracks, 40.0)
    gestures.find(m, views, tracks, frames, RASTERIZER, torch.Generator().manual_seed(3), heard)
    return heard.notes


@torch.no_grad()
def off(m: Model, when: Tensor = SECONDS) -> Tensor:
    """Degrees between the arm's rotation and the truth, at each time of clip a."""
    found, truth = quat_exp(m.motion.twists("a", when)[:, ARM, :3]), quat_exp(raised(when)[:, ARM, :3])
    return quat_log(quat_multiply(quat_conjugate(truth), found)).norm(dim=1).rad2deg()


@torch.no_grad()
def error(m: Model, capture: Capture, tracks: dict[str, ClipTrack], frames: FrameSet) -> float:
    views = Views(capture, tracks, 40.0)
    shots = gestures._shots(m, views, tracks, frames, "a")
    twists = m.motion.twists("a", torch.tensor([shot.seconds for shot in shots]))
    losses = [gestures._losses(m, shot, now[None], RASTERIZER) for shot, now in zip(shots, twists, strict=True)]
    return float(torch.cat(losses).mean())


ALONE = {"a": ClipTime(SECONDS, "a")}
SHIFTED = {**ALONE, "b": ClipTime(SECONDS / 2 - 0.1, "a", rate=2.0, offset=0.2)}
MADE_UP = {**ALONE, "b": ClipTime(SECONDS, "a", filmed=False)}


@pytest.mark.parametrize(
    ("times", "every", "refined"),
    [(ALONE, 1, False), (ALONE, 2, False), (ALONE, 1, True), (SHIFTED, 1, False), (MADE_UP, 1, False)],
    ids=["plain", "every second frame held out", "refined cameras", "synchronised", "made-up views"],
)
def test_a_missed_arm_is_raised_where_it_was_filmed(
    tmp_path: Path, times: dict[str, ClipTime], every: int, refined: bool
) -> None:  # fmt: skip
    capture, tracks = filmed(tmp_path, times)
    corrections = None
    if refined:  # as if the given cameras had been off to the side, which training has mended by now
        right, tracks = tracks, {"a": replace(tracks["a"], cam_from_root=tracks["a"].cam_from_root.clone())}
        tracks["a"].cam_from_root[:, 0, 3] += 0.6
        corrections = PoseCorrections(tracks)
        corrections.twist_of("a").data[:, 3:] = right["a"].cam_from_root[:, :3, 3] - tracks["a"].cam_from_root[:, :3, 3]
    m, frames = model(times, corrections), frames_of(times, every)
    before = error(m, capture, tracks, frames)
    missed = off(m)
    notes = find(m, capture, tracks, frames)
    assert len(notes) == 1 and notes[0]["bones"] == [ARM] and "a limb turned by up to" in notes[0]["text"]
    assert abs(notes[0]["first"] - RAISED.start) <= 3 and abs(notes[0]["last"] - RAISED.stop) <= 3
    assert float(missed.max()) == pytest.approx(70, abs=0.1)
    assert float(off(m)[RAISED.start : RAISED.stop].max()) < 25 and float(off(m).max()) < 40  # on the way up and down
    assert float(off(m)[: RAISED.start - 4].max()) < 5 and float(off(m)[RAISED.stop + 4 :].max()) < 5
    assert error(m, capture, tracks, frames) < 0.9 * before


@pytest.mark.parametrize("turned", [0.0, 1.2])
def test_what_no_short_movement_explains_changes_nothing(tmp_path: Path, turned: float) -> None:
    """Neither colours that are off everywhere nor an arm that is wrong at all times; and no random number is drawn."""
    capture, tracks = filmed(tmp_path, ALONE, moving=(), turned=turned)
    m, generator, heard = model(ALONE), torch.Generator().manual_seed(3), Heard()
    before, state = {k: v.clone() for k, v in m.motion.state_dict().items()}, generator.get_state()
    gestures.find(m, Views(capture, tracks, 40.0), tracks, frames_of(ALONE), RASTERIZER, generator, heard)
    assert not heard.notes and torch.equal(generator.get_state(), state)
    assert all(torch.equal(before[k], v) for k, v in m.motion.state_dict().items())


def test_the_other_motions_are_taught_anew_and_all_are_slowed(tmp_path: Path) -> None:
    times = {**ALONE, "b": ClipTime(SECONDS, "b")}
    capture, tracks = filmed(tmp_path, times)
    m = model(times)
    assert [note["clip"] for note in find(m, capture, tracks, frames_of(times))] == ["a"]
    assert float(m.motion.twists("b", SECONDS).detach().abs().max()) < 0.1
    m.set_rates(lambda name: 1.0)
    rates = {group["name"]: group["lr"] for group in m.optimizer.param_groups}
    assert rates["motion"] == pytest.approx(gestures.PACE * Rates().motion) and rates["bones"] == Rates().bones


def test_bones_that_do_not_hang_together_are_left_alone(tmp_path: Path) -> None:
    capture, tracks = filmed(tmp_path, ALONE)
    m = model(ALONE)
    m.motion.hang(torch.full((3,), -1), m.motion.joints.detach().clone())
    assert find(m, capture, tracks, frames_of(ALONE)) == []


def test_a_run_that_was_killed_after_the_find_ends_like_an_unkilled_one(tmp_path: Path) -> None:
    """From a checkpoint just before the search: the find and its slow rate are in the next one."""

    class Killed(Exception):
        pass

    capture, tracks = filmed(tmp_path, ALONE)
    frames = frames_of(ALONE)
    config = TrainConfig(
        steps=(60,), levels=(40.0,), progress=(1.0,), growth=(1.0,), bones=3, max_surfels=800, rebuild_at=(),
        checkpoint_every=30, densify_every=100, search_at=0.4,
    )  # fmt: skip
    first = loop.first_step(config, config.search_at)
    assert [step for step in range(60) if loop.search_due(config, step)] == [first] and first < 30
    assert not any(loop.search_due(replace(config, motion=False), step) for step in range(60))
    assert not any(loop.search_due(replace(config, search_at=0.0), step) for step in range(60))

    def begun(folder: Path) -> Path:
        folder.mkdir()
        generator = torch.Generator().manual_seed(5)
        loop._save(folder / "c.pt", model(ALONE), Growth(), loop.Progress(first, fit=20.0), generator)
        return folder / "c.pt"

    def trained(checkpoint: Path, publish=lambda m: None, heard: Heard | None = None) -> Model:
        return loop.train(
            capture, tracks, frames, ALONE, config, refine_poses=False, rasterizer=RASTERIZER, seed=0,
            checkpoint=checkpoint, publish=publish, report=heard or Heard(),
        )  # fmt: skip

    def kill(m: Model) -> None:
        if float(m.motion.pace) < 1:
            raise Killed

    killed, heard = begun(tmp_path / "killed"), Heard()
    with pytest.raises(Killed):
        trained(killed, kill, heard)
    assert len(heard.notes) == 1
    resumed, whole = trained(killed), trained(begun(tmp_path / "whole"))
    assert float(whole.motion.pace) == pytest.approx(gestures.PACE)
    assert all(torch.equal(resumed.p[name], whole.p[name]) for name in whole.p)
    assert all(torch.equal(x, y) for x, y in zip(resumed.motion.parameters(), whole.motion.parameters(), strict=True))
