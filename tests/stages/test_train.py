"""The training loop on a small scene that we drew ourselves: it fits, it resumes exactly, and it says what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fourdgen import config as settings
from fourdgen import planning
from fourdgen.data.capture import Capture, Clip, write_picture
from fourdgen.data.records import ClipTrack, FrameSet
from fourdgen.fit import loop, sampler, starts
from fourdgen.fit.loop import TrainConfig
from fourdgen.fit.model import Model, PoseCorrections
from fourdgen.fit.views import Views
from fourdgen.geometry.transforms import rotation_angle_degrees, so3_exp
from fourdgen.render import draw, pick
from fourdgen.report import FourdgenError, Silent
from fourdgen.scene.bones import ClipTime
from fourdgen.stages import train as stage
from tests.toy import toy_scene

SMALL = TrainConfig(
    steps=(300, 200), levels=(20.0, 40.0), progress=(0.5, 0.5), growth=(0.6, 1.0), bones=6, max_surfels=700,
    checkpoint_every=120, densify_every=60, rebuild_at=(0.15, 0.42),
)  # fmt: skip


@pytest.fixture(scope="module")
def filmed(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Capture, dict[str, ClipTrack], FrameSet, dict[str, ClipTime]]:
    """The toy scene as its two clips saw it."""
    folder, scene = tmp_path_factory.mktemp("capture"), toy_scene()
    clips, tracks, times = [], {}, {}
    for name, clip in scene.clips.items():
        for t in range(len(clip.seconds)):
            out = draw(scene.at(name, float(clip.seconds[t])), clip.cameras[t])
            alpha = out.alpha[0].clamp(0, 1)
            rgb = (out.rgb[0] / alpha.clamp_min(1e-4)[..., None]).clamp(0, 1)
            write_picture(folder, name, "rgb", t, (rgb * 255).round().byte().numpy())
            write_picture(folder, name, "mask", t, (alpha * 255).round().byte().numpy())
        clips.append(Clip(name, name, clip.cameras.size, clip.seconds, clip.frame_ids))
        tracks[name] = ClipTrack(clip.cameras.cam_from_world, clip.cameras.K, torch.ones(len(clip.seconds)))
        times[name] = ClipTime(clip.seconds.float(), name)
    counts = [len(track.K) for track in tracks.values()]
    total = sum(counts)
    frames = FrameSet(
        tuple(tracks), torch.cat([torch.full((n,), i) for i, n in enumerate(counts)]),
        torch.cat([torch.arange(n) for n in counts]), torch.cat([times[name].seconds for name in tracks]),
        sampler.uniform(total),
    )  # fmt: skip
    return Capture(tuple(clips), folder), tracks, frames, times


def run(filmed, folder: Path, config: TrainConfig = SMALL, publish=lambda model: None, refine: bool = False) -> Model:
    capture, tracks, frames, times = filmed
    return loop.train(
        capture, tracks, frames, times, config, refine_poses=refine, rasterizer=pick("auto", "cpu"), seed=0,
        checkpoint=folder / "checkpoint.pt", publish=publish,
    )  # fmt: skip


@torch.no_grad()
def psnr(filmed, model: Model) -> tuple[float, float]:
    """Of the model, and of the mean colour inside the true silhouette, on the training frames."""
    capture, tracks, frames, _ = filmed
    views = Views(capture, tracks, 40.0)
    errors, flat = [], []
    white = torch.ones(3)
    for row in range(0, len(frames.index), 3):
        clip, index = frames.names[int(frames.clip[row])], int(frames.index[row])
        view = views.view(clip, index)
        target = view.target(white)
        state = model.motion.warp(model.surfels(), clip, float(frames.seconds[row]))
        out = draw(state, view.cameras(tracks[clip].cam_from_root[index]), background=white)
        errors.append(float(((out.rgb[0].permute(2, 0, 1).clamp(0, 1) - target) ** 2).mean()))
        mean = (view.rgb.sum((1, 2)) / view.mask.sum())[:, None, None]
        flat.append(float(((mean * view.mask + 1 - view.mask - target) ** 2).mean()))
    return -10 * float(np.log10(np.mean(errors))), -10 * float(np.log10(np.mean(flat)))


def test_it_learns_the_pictures(filmed, tmp_path: Path) -> None:
    """Without rebuilds: 500 steps are too few for the fresh motion that they begin with (it costs this toy 1.4 dB)."""
    model = run(filmed, tmp_path, replace(SMALL, rebuild_at=(), smoothness=0.0))
    fitted, flat = psnr(filmed, model)
    assert fitted > flat + 4 and fitted > 24


def test_a_rigid_asset_stands_still(filmed, tmp_path: Path) -> None:
    """Without motion the shape is learned all the same, in one state for all times."""
    model = run(filmed, tmp_path, replace(SMALL, steps=(120, 60), motion=False))
    first, last = (model.motion.warp(model.surfels(), "a", seconds).means for seconds in (0.0, 0.4))
    assert torch.equal(first, last)
    fitted, flat = psnr(filmed, model)
    assert fitted > flat


def test_starts_do_not_depend_on_how_many_run_at_once(filmed, tmp_path: Path) -> None:
    """Nor on a run having been killed when some of them had ended: those are not trained again."""
    subject = starts.Subject(*filmed, refine_poses=False)
    config = replace(SMALL, steps=(120, 60), starts=3, choose_at=0.4)

    def begun(folder: Path, threads: int) -> dict:
        folder.mkdir(exist_ok=True)
        starts.begin(
            subject, config, seed=4, device="cpu", threads=threads, checkpoint=folder / "checkpoint.pt", report=Silent()
        )
        assert not list(folder.glob("*.progress"))
        return torch.load(folder / "checkpoint.pt", weights_only=True)

    one = begun(tmp_path / "one", 1)
    assert one["step"] == loop.first_step(config, 0.4)
    fits = [loop.fit_of(tmp_path / "one" / f"start{i}.pt") for i in range(3)]
    assert len(set(fits)) == 3 and one["fit"] == max(fits)
    two = begun(tmp_path / "two", 2)
    assert all(torch.equal(one["model"]["surfels"][key], two["model"]["surfels"][key]) for key in ("means", "sh"))

    (tmp_path / "two" / "checkpoint.pt").unlink()
    (tmp_path / "two" / "start1.pt").unlink()
    ended = (tmp_path / "two" / "start2.pt").stat().st_mtime_ns
    again = begun(tmp_path / "two", 1)
    assert torch.equal(one["model"]["surfels"]["means"], again["model"]["surfels"]["means"])
    assert (tmp_path / "two" / "start2.pt").stat().st_mtime_ns == ended


def test_a_killed_run_ends_exactly_like_an_unkilled_one(filmed, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    calls = 0

    def kill_after_the_last_checkpoint(model: Model) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:  # the first call is the start, then one every 120 of 500 steps
            raise Killed

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(Killed):
        run(filmed, tmp_path / "a", SMALL, kill_after_the_last_checkpoint, refine=True)
    resumed = run(filmed, tmp_path / "a", SMALL, refine=True)
    whole = run(filmed, tmp_path / "b", SMALL, refine=True)
    assert resumed.p.keys() == whole.p.keys()
    assert all(torch.equal(resumed.p[name], whole.p[name]) for name in whole.p)
    assert all(torch.equal(x, y) for x, y in zip(resumed.motion.parameters(), whole.motion.parameters(), strict=True))


def test_wrong_poses_of_a_known_shape_are_mended_by_its_pictures() -> None:
    """The corrections and the rasterizer's pose gradient together, with nothing else to explain the pictures."""
    scene = toy_scene()
    clip, surfels = scene.clips["a"], scene.at("a", 0.0)
    right = ClipTrack(clip.cameras.cam_from_world, clip.cameras.K, torch.ones(len(clip.seconds)))
    wave = torch.sin(torch.linspace(0, 9, len(right.K)))[:, None] * torch.tensor([0.0, 0.06, 0.03])
    poses = right.cam_from_root.clone()
    poses[:, :3, :3] = so3_exp(wave) @ poses[:, :3, :3]
    bent = {"a": replace(right, cam_from_root=poses)}
    corrections, rasterizer = PoseCorrections(bent), pick("auto", "cpu")
    with torch.no_grad():
        truth = draw(surfels, clip.cameras, rasterizer=rasterizer).rgb
    optimizer = torch.optim.Adam(corrections.parameters(), lr=3e-3)
    for _ in range(80):
        found = torch.stack([corrections.pose("a", t) for t in range(len(right.K))])
        cameras = replace(clip.cameras, cam_from_world=found)
        loss = (draw(surfels, cameras, rasterizer=rasterizer).rgb - truth).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    before = rotation_angle_degrees(poses[:, :3, :3], right.cam_from_root[:, :3, :3]).mean()
    mended = corrections.tracks(bent)["a"].cam_from_root
    after = rotation_angle_degrees(mended[:, :3, :3], right.cam_from_root[:, :3, :3]).mean()
    assert float(before) > 2 and float(after) < 0.4 * float(before)


def test_schedules_run_from_zero_to_one() -> None:
    config = TrainConfig()
    total = sum(config.steps)
    progress = [loop.plan(config, step) for step in range(0, total + 1, 10)]
    values = [p for _, p in progress]
    assert values[0] == 0 and abs(values[-1] - 1) < 1e-9 and values == sorted(values)
    assert {level for level, _ in progress} == {0, 1, 2}


def test_every_rebuild_happens_once() -> None:
    config = TrainConfig()
    due = [step for step in range(sum(config.steps)) if loop.rebuild_due(config, step)]
    assert [round(loop.plan(config, step)[1], 2) for step in due] == list(config.rebuild_at)
    never = TrainConfig(rebuild_at=())
    assert not any(loop.rebuild_due(never, step) for step in range(sum(never.steps)))


def test_poses_stand_still_at_both_ends_of_training() -> None:
    assert loop.rate_factor(0.1)("poses") == 0 and loop.rate_factor(0.9)("poses") == 0 < loop.rate_factor(0.5)("poses")


def test_ladders_of_different_length_are_refused() -> None:
    with pytest.raises(FourdgenError, match="differ in length"):
        stage.check(None, TrainConfig(steps=(10, 10)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "setting",
    [
        "progress=0,0,0", "progress=1,0,1", "densify_every=0", "checkpoint_every=0", "starts=0",
        "bone_extent=0",
        "steps=0,0,0", "steps=-5,20,10", "levels=0,0,0", "levels=-4,-4,-4", "ssim=2", "mask=-1",
        "smoothness=-1", "surfels_per_pixel=-1", "growth=-1,-1,-1", "needle_bound=0", "bones=5000", "bones=0",
        "max_surfels=-5", "max_surfels=5", "normal=-1", "rebuild_at=0.2,0.1", "rebuild_at=0,0.1", "take_up=1",
        "search_at=1",
    ],
)  # fmt: skip
def test_settings_that_train_nothing_or_nonsense_are_refused_by_name(setting: str) -> None:
    """Each alone, with one sentence that names it and a hint; so also before any work, with --dry-run."""
    recipe, name = settings.load_recipe("fast"), f"train.{setting.partition('=')[0]}"
    made = settings.resolve(recipe, {s.name: s.config for s in planning.stages_of(recipe)}, [f"train.{setting}"])
    with pytest.raises(FourdgenError) as caught:
        stage.check(None, made["train"])  # type: ignore[arg-type]
    assert caught.value.message.startswith(f"{name} = ") and "\n" not in caught.value.message
    assert caught.value.hint


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(FourdgenError) as caught:
        stage.check(None, TrainConfig(mask=-1, bones=0))  # type: ignore[arg-type]
    assert "train.mask" in str(caught.value) and "train.bones" in str(caught.value)


@pytest.mark.parametrize("name", settings.recipe_names())
def test_the_recipes_pass_their_own_checks(name: str) -> None:
    recipe = settings.load_recipe(name)
    config = settings.resolve(recipe, {s.name: s.config for s in planning.stages_of(recipe)})
    stage.check(None, config["train"])  # type: ignore[arg-type]


def test_no_more_surfels_than_were_asked_for(filmed, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = run(filmed, tmp_path, replace(SMALL, steps=(60, 40), densify_every=20, max_surfels=stage.LEAST_SURFELS))
    assert 0 < len(model) <= stage.LEAST_SURFELS


def test_cameras_keep_their_bob_where_frames_are_held_out(filmed, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Every second frame trains. Cameras of the others stand where they were measured, quick or not: a cost of their
    acceleration would draw them to where their neighbours are. With all frames in use it does."""
    capture, tracks, frames, times = filmed
    moved = {}
    for name, track in tracks.items():
        poses = track.cam_from_root.clone()
        poses[1::2, 0, 3] += 0.1
        moved[name] = replace(track, cam_from_root=poses)
    even = frames.index % 2 == 0
    some = FrameSet(
        frames.names, frames.clip[even], frames.index[even], frames.seconds[even], sampler.uniform(int(even.sum()))
    )
    config = replace(SMALL, steps=(120, 60), rebuild_at=(), ssim=0.0, normal=0.0, normal_late=0.0)
    left = {}
    for every in (1, 2):
        (tmp_path / str(every)).mkdir()
        used = capture, moved, replace(some, every=every), times
        model = run(used, tmp_path / str(every), config, refine=True)
        assert model.corrections is not None
        left[every] = float(model.corrections.twist_of("a").detach()[1::2, 3].abs().mean())
    assert left[2] < 0.25 * left[1]


def test_given_cameras_beside_found_ones_stay(filmed, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Clip a has the user's cameras, b found ones: training (with a rebuild) runs, and corrects b's alone."""
    capture, tracks, frames, times = filmed
    mixed = {"a": replace(tracks["a"], given=True), "b": tracks["b"]}
    model = run((capture, mixed, frames, times), tmp_path, refine=True)
    assert model.corrections is not None
    assert not model.corrections.covers("a")
    assert float(model.corrections.twist_of("b").detach().abs().max()) > 0
    after = model.corrections.tracks(mixed)
    assert torch.equal(after["a"].cam_from_root, tracks["a"].cam_from_root)
    assert not torch.equal(after["b"].cam_from_root, tracks["b"].cam_from_root)
