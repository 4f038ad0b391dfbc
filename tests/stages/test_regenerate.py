"""Rounds of regeneration on a scene that we drew: rows of the plan, views, draws, and a round that is undone."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fourdgen import account, config, planning, receipt
from fourdgen.data.capture import Capture, Clip, joined, load_capture, write_picture
from fourdgen.data.records import Alignment, ClipAlignment, ClipTrack, FrameSet, RootTrack
from fourdgen.fit import gauge, loop, rounds, sampler
from fourdgen.fit.loop import TrainConfig
from fourdgen.fit.model import Model
from fourdgen.fit.views import Views
from fourdgen.generate import Footage, Generated, Guide
from fourdgen.render import draw, pick
from fourdgen.report import FourdgenError, Reporter, Silent
from fourdgen.scene.bones import ClipTime
from fourdgen.scene.scene4d import Scene4D
from fourdgen.stages import regenerate, train
from fourdgen.stages.regenerate import RegenerateConfig
from fourdgen.workspace import Context, Job, stage_key
from tests.toy import toy_scene

TINY = TrainConfig(steps=(60,), levels=(64.0,), progress=(1.0,), growth=(1.0,), bones=4, max_surfels=300)
LONGER = replace(TINY, steps=(200,), rebuild_at=(), densify_every=20)


DEMO = Path(__file__).parents[2] / "assets" / "demo" / "a.mp4"
HERE = Job((), Path("scene.ply"), Path("scene.run"))


class Notes:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def emit(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})

    def warn(self, message: str) -> None:
        self.events.append({"event": "warning", "text": message})


class Mimic:
    """A generator: the guide again, counted."""

    made = 0

    def generate(self, guide: Guide, footage: Footage, report: Reporter) -> Generated:
        Mimic.made += 1
        return Generated(guide.rgb, guide.alpha)


class Upside:
    """A generator that shows the subject upside down."""

    def generate(self, guide: Guide, footage: Footage, report: Reporter) -> Generated:
        return Generated(guide.rgb.flip(1), guide.alpha.flip(1))


class Faulty:
    """A generator of somebody else, with one fault or another."""

    fault = ""

    def generate(self, guide: Guide, footage: Footage, report: Reporter) -> Generated:
        if Faulty.fault == "raises":
            raise ConnectionError("no answer from 10.0.0.1")
        if Faulty.fault == "bytes":
            return Generated((guide.rgb * 255).byte())
        if Faulty.fault == "alpha":
            return Generated(guide.rgb, guide.alpha[:, 1:])
        if Faulty.fault == "range":
            return Generated(255 * guide.rgb)
        if Faulty.fault == "filmed":
            return Generated(guide.rgb, guide.alpha, guide.alpha * float("nan"))
        return None  # type: ignore[return-value]


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene4D, Capture, Alignment, RootTrack, FrameSet]:
    """Clip a of the toy scene, and everything that the stages before training say about it."""
    scene, folder = toy_scene(), tmp_path_factory.mktemp("capture")
    clip = scene.clips["a"]
    rasterizer = pick("auto", "cpu")
    for t in range(len(clip.seconds)):
        out = draw(scene.at("a", float(clip.seconds[t])), clip.cameras[t], rasterizer=rasterizer)
        alpha = out.alpha[0].clamp(0, 1)
        rgb = (out.rgb[0] / alpha.clamp_min(1e-4)[..., None]).clamp(0, 1)
        write_picture(folder, "a", "rgb", t, regenerate.to_bytes(rgb))
        write_picture(folder, "a", "mask", t, regenerate.to_bytes(alpha))
    capture = Capture((Clip("a", "a", clip.cameras.size, clip.seconds, clip.frame_ids),), folder)
    poses = ClipTrack(clip.cameras.cam_from_world, clip.cameras.K, torch.ones(len(clip.seconds)))
    aligned = ClipAlignment(poses.cam_from_root, poses.K, poses.confidence, torch.ones(3), torch.zeros(3))
    count = len(clip.seconds)
    frames = FrameSet(
        ("a",), torch.zeros(count, dtype=torch.long), torch.arange(count), clip.seconds.float(),
        sampler.uniform(count),
    )  # fmt: skip
    sure = replace(scene.surfels, confidence=torch.full((len(scene.surfels),), 0.6))
    scene = replace(scene, surfels=sure, clips={"a": clip})
    return scene, capture, Alignment({"a": aligned}, "a", None, True), RootTrack({"a": poses}, None, True), frames


def context(folder: Path, report: Any = None) -> Context:
    folder.mkdir(parents=True, exist_ok=True)
    job = Job((), folder / "scene.ply", folder)
    return Context(folder, job, "cpu", 1, 0, report or Silent())


def views_of(filmed: Any, folder: Path, report: Any = None, **settings: Any) -> Capture:
    chosen = RegenerateConfig(**{"generator": f"{__name__}:Mimic", "views": 2, "every": 3, **settings})
    made = regenerate.run(context(folder, report), chosen, filmed[1], filmed[0])
    regenerate.STAGE.save(made, folder)
    return regenerate.STAGE.load(folder)


def test_the_views_are_clips_with_weights_and_cameras(filmed: Any, tmp_path: Path) -> None:
    notes = Notes()
    made = views_of(filmed, tmp_path, notes)
    assert [clip.name for clip in made.clips] == ["a-view1", "a-view2"]
    for clip in made.clips:
        assert clip.origin == "imagined" and clip.cameras is not None and len(clip) == 4
        frame = made.frame(clip.name, 2)
        assert float(frame.weight.min()) > 0.49 and 0.6 < float(frame.weight.max()) < 1
    assert (tmp_path / "check.png").is_file()
    assert sum("frames kept" in str(event.get("text")) for event in notes.events) == 2


def test_a_finished_view_is_not_made_again(filmed: Any, tmp_path: Path) -> None:
    views_of(filmed, tmp_path)
    before = Mimic.made
    views_of(filmed, tmp_path)
    assert Mimic.made == before


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raises", "Faulty failed on a-view1: ConnectionError: no answer"),
        ("none", "returned NoneType"),
        ("bytes", "made rgb torch.uint8"),
        ("alpha", "made alpha torch.float32"),
        ("range", "made rgb with values from .* to 255, a-view1"),
        ("filmed", "made filmed with what is not a number, a-view1"),
    ],
)
def test_a_faulty_generator_is_named_and_leaves_nothing_behind(
    fault: str, said: str, filmed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Faulty, "fault", fault)
    with pytest.raises(FourdgenError, match=said):
        views_of(filmed, tmp_path, generator=f"{__name__}:Faulty")
    assert not list(tmp_path.glob("made/*.pt"))  # else a mended generator would not be asked again


class Overwriting:
    """A generator that paints noise over what it is handed, and hands that back."""

    def generate(self, guide: Guide, footage: Footage, report: Reporter) -> Generated:
        guide.rgb.copy_(torch.rand_like(guide.rgb))
        guide.alpha.fill_(1)
        guide.confidence.zero_()
        return Generated(guide.rgb, guide.alpha)


def test_a_generator_that_writes_into_its_guide_is_judged_by_what_the_asset_shows(filmed: Any, tmp_path: Path) -> None:
    assert views_of(filmed, tmp_path, generator=f"{__name__}:Overwriting").clips == ()


def test_refused_views_are_left_out_with_their_reason(filmed: Any, tmp_path: Path) -> None:
    notes = Notes()
    made = views_of(filmed, tmp_path, notes, generator=f"{__name__}:Upside")
    assert made.clips == ()
    assert any("refused: 4 of 4 frames refused (" in str(event.get("text")) for event in notes.events)


def test_filmed_frames_keep_at_least_half_of_the_draws(filmed: Any, tmp_path: Path) -> None:
    made, frames = views_of(filmed, tmp_path, every=1), filmed[4]
    both = rounds.frames_with_views(frames, made)
    assert len(both.index) == 12 + 24 and float(both.probability.sum()) == pytest.approx(1)
    assert rounds.draws_of(both, 1) == pytest.approx(0.4, abs=0.01)
    order = sampler.epoch(both.probability, torch.Generator().manual_seed(0))
    assert 0.35 < float((both.clip[order] >= 1).float().mean()) <= 0.5
    assert rounds.probability_of(0.9, 1000, 1) == pytest.approx(1.5 * (0.5 - 1000 / 1001 / 3))  # half, and no more


def test_views_of_which_little_counts_are_drawn_less(filmed: Any, tmp_path: Path) -> None:
    made = views_of(filmed, tmp_path)
    draws = rounds.draws_of(rounds.frames_with_views(filmed[4], made), 1)
    for clip in made.clips:
        for t in range(len(clip)):
            write_picture(tmp_path, clip.name, "weight", t, made.read(clip.name, "weight", t) // 4)
    fewer = rounds.draws_of(rounds.frames_with_views(filmed[4], made), 1)
    frames = sum(len(clip) for clip in made.clips)
    every_once = frames / (frames + len(filmed[4].index)) / 3
    assert every_once - 1e-6 <= fewer < draws - 0.05


def test_frames_without_weight_are_not_drawn(filmed: Any, tmp_path: Path) -> None:
    made = views_of(filmed, tmp_path)
    size = made.clips[0].size
    for t in range(4):
        write_picture(made.folder, "a-view1", "weight", t, regenerate.to_bytes(torch.zeros(size[1], size[0])))
    both = rounds.frames_with_views(filmed[4], made)
    assert both.names == ("a", "a-view2") and len(both.index) == 16


def test_views_share_the_motion_of_their_clip(filmed: Any, tmp_path: Path) -> None:
    made = views_of(filmed, tmp_path)
    times = rounds.times_with_views({"a": ClipTime(filmed[4].seconds, "a")}, made)
    assert times["a-view1"].code_of == "a" and not times["a-view1"].filmed
    assert torch.allclose(times["a-view1"].seconds, filmed[4].seconds[::3])


def test_low_weights_make_a_frame_count_less(filmed: Any, tmp_path: Path) -> None:
    made = views_of(filmed, tmp_path)
    tracks = rounds.with_views(filmed[3].clips, filmed[0], made, {})
    views = Views(joined(filmed[1], made), tracks, 24.0)
    assert views.view("a", 0).strength == 1
    assert 0.49 < views.view("a-view1", 0).strength < 0.9


def test_a_round_trains_on_both_and_keeps_the_better_asset(filmed: Any, tmp_path: Path) -> None:
    scene, capture, alignment, track, frames = filmed
    made = views_of(filmed, tmp_path / "views")
    notes = Notes()
    result = train.run_round(context(tmp_path / "round", notes), TINY, capture, alignment, track, frames, scene, made)
    assert result is scene  # sixty steps cannot beat the asset that drew the frames
    said = next(event for event in notes.events if "before" in event)
    assert said["before"] > said["after"] and not said["kept"] and "undone" in said["text"]
    assert 0.1 <= said["draws"] <= 0.5
    flat = replace(scene, surfels=replace(scene.surfels, sh=0 * scene.surfels.sh))
    result = train.run_round(context(tmp_path / "again"), TINY, capture, alignment, track, frames, flat, made)
    assert result is not flat and set(result.clips) == {"a"}  # made-up views are no clips of the asset


def test_a_round_ends_on_filmed_frames(filmed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, capture, alignment, track, frames = filmed
    drawn, step_loss = [], loop._step_loss

    def seen(model: Any, views: Any, tracks: Any, frames: FrameSet, row: int, done: float, *rest: Any) -> Any:
        drawn.append((done, int(frames.clip[row])))
        return step_loss(model, views, tracks, frames, row, done, *rest)

    monkeypatch.setattr(loop, "_step_loss", seen)
    made = views_of(filmed, tmp_path / "views")
    train.run_round(context(tmp_path / "round"), TINY, capture, alignment, track, frames, scene, made)
    assert all(clip == 0 for done, clip in drawn if done >= 0.9) and drawn[-1][0] > 0.9
    assert any(clip > 0 for done, clip in drawn if done < 0.9)


def test_without_a_kept_view_the_asset_stays(filmed: Any, tmp_path: Path) -> None:
    scene, capture, alignment, track, frames = filmed
    none = Capture((), tmp_path)
    assert train.run_round(context(tmp_path), TINY, capture, alignment, track, frames, scene, none) is scene


def test_a_round_without_a_kept_view_hands_on_what_the_next_round_takes_up(filmed: Any, tmp_path: Path) -> None:
    scene, capture, alignment, track, frames = filmed
    (tmp_path / "train").mkdir()
    state = tmp_path / "train" / "model.pt"
    state.write_bytes(b"what training found")
    before = train.Trained(**{f.name: getattr(scene, f.name) for f in fields(scene)}, state=state)
    there = context(tmp_path / "round")
    train.run_round(there, TINY, capture, alignment, track, frames, before, Capture((), tmp_path))
    train.STAGE.save(before, there.folder)
    again = train.STAGE.load(there.folder)
    assert isinstance(again, train.Trained) and again.state is not None
    assert again.state.read_bytes() == state.read_bytes()


def rows_of(rounds: int) -> list[tuple[str, tuple[str, ...]]]:
    recipe = config.load_recipe("fast")
    chosen = planning.stages_of(recipe)
    configs = config.resolve(recipe, {s.name: s.config for s in chosen}, [f"regenerate.rounds={rounds}"])
    rows, settings = planning.with_rounds(chosen, configs)
    assert set(settings) == {row.name for row in rows}
    return [(row.name, row.needs) for row in rows]


def test_a_round_does_not_depend_on_how_many_follow() -> None:
    chosen = planning.stages_of(config.load_recipe("fast"))
    kinds = {stage.name: stage.config for stage in chosen}
    settled = [
        planning.with_rounds(chosen, config.resolve(config.load_recipe("fast"), kinds, [f"regenerate.rounds={n}"]))[1]
        for n in (1, 3)
    ]
    assert all(settled[1][name] == settings for name, settings in settled[0].items())


def write_generator(folder: Path, package: str, helper: str = "") -> None:
    (folder / package).mkdir(parents=True, exist_ok=True)
    (folder / package / "__init__.py").write_text("")
    (folder / package / "helper.py").write_text(helper)
    (folder / package / "one.py").write_text("class Made:\n    def generate(self, guide, footage, report): ...\n")


def test_what_made_the_views_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    write_generator(tmp_path, "seen_code")
    job = Job((), tmp_path / "scene.ply", tmp_path)

    def key(**settings: Any) -> str:
        return stage_key(regenerate.STAGE, RegenerateConfig(rounds=1, **settings), job, "cpu", 0, [])

    first = key(generator="seen_code.one:Made")
    assert key(generator="seen_code.one:Made") == first
    write_generator(tmp_path, "seen_code", "SHARE = 0.5")  # what it imports lies in the same package
    second = key(generator="seen_code.one:Made")
    assert second != first
    (tmp_path / "single.py").write_text("class Made: ...")
    alone = key(generator="single:Made")
    (tmp_path / "single.py").write_text("class Made:  # again\n    ...")
    assert key(generator="single:Made") != alone
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(b"old")
    of_model = key(generator="video", model=str(tmp_path / "model"))
    assert key(generator="video", model=str(tmp_path / "model")) == of_model
    (tmp_path / "model" / "weights.bin").write_bytes(b"newer")
    assert key(generator="video", model=str(tmp_path / "model")) != of_model


def test_the_receipt_says_nothing_of_what_lies_elsewhere(tmp_path: Path) -> None:
    def request(*settings: str) -> planning.Request:
        return planning.Request((tmp_path,), tmp_path / "scene.ply", pipeline="fast", settings=settings)

    plain = request("regenerate.rounds=1")
    assert receipt.request_key(plain, planning.job_of(plain)) is not None
    for named in ("generator=mine:Made", "model=some/where", f"cameras={tmp_path}/transforms.json"):
        asked = request("regenerate.rounds=1", f"regenerate.{named}")
        assert receipt.request_key(asked, planning.job_of(asked)) is None


def test_rounds_are_further_rows_of_the_plan() -> None:
    assert [name for name, _ in rows_of(0)][-2:] == ["train", "export"]
    rows = dict(rows_of(2))
    assert list(rows)[-6:] == ["train", "regenerate-1", "train-1", "regenerate-2", "train-2", "export"]
    assert rows["regenerate-1"] == ("ingest", "train") and rows["regenerate-2"] == ("ingest", "train-1")
    assert rows["train-2"][-2:] == ("train-1", "regenerate-2")
    assert rows["export"] == ("train-2",)


def test_a_generator_that_cannot_work_is_refused_before_any_work() -> None:
    check: Callable[..., None] = regenerate.check
    with pytest.raises(FourdgenError, match="no such generator"):
        check(HERE, RegenerateConfig(rounds=1, generator="dream"))
    with pytest.raises(FourdgenError, match="needs a model"):
        check(HERE, RegenerateConfig(rounds=1, generator="video"))
    with pytest.raises(FourdgenError, match=r"regenerate.views: 0 is too few"):
        check(HERE, RegenerateConfig(views=0))
    with pytest.raises(FourdgenError, match=r"regenerate.size: 1 pixels show nothing"):
        check(HERE, RegenerateConfig(size=1))


def test_clips_and_cameras_of_a_round_are_looked_at_before_any_work(tmp_path: Path) -> None:
    job = replace(HERE, inputs=(tmp_path / "a.mp4", tmp_path / "b.mp4"))
    regenerate.check(job, RegenerateConfig(rounds=1, clip="b"))
    with pytest.raises(FourdgenError, match="no clip 'c'"):
        regenerate.check(job, RegenerateConfig(rounds=1, clip="c"))

    def cameras(*entries: dict[str, Any]) -> str:
        common = {"fl_x": 50.0, "w": 32, "h": 32, "transform_matrix": torch.eye(4).tolist()}
        (tmp_path / "cameras.json").write_text(json.dumps({"frames": [{**common, **entry} for entry in entries]}))
        return str(tmp_path / "cameras.json")

    regenerate.check(job, RegenerateConfig(rounds=1, cameras=cameras({"frame": 0, "clip": "b"}, {"frame": 1})))
    for entry, said in (
        ({}, "entry 1 of the cameras has no frame"),
        ({"frame": 1, "clip": "c"}, "entry 1 of the cameras: the scene has no clip 'c'"),
        ({"frame": 1, "w": 48}, "pictures of different sizes"),
    ):
        with pytest.raises(FourdgenError, match=said):
            regenerate.check(job, RegenerateConfig(rounds=1, cameras=cameras({"frame": 0}, entry)))
    with pytest.raises(FourdgenError, match=r"(?s)2 things are wrong:.*regenerate.clip beside.*no such generator"):
        regenerate.check(job, RegenerateConfig(rounds=1, clip="a", cameras=cameras({"frame": 0}), generator="x"))


class Choosy:
    """A generator with options."""

    def __init__(self, url: str, tries: int = 1) -> None:
        if tries < 1:
            raise ValueError("tries: 1 or more")
        self.url, self.tries = url, tries

    def generate(self, guide: Guide, footage: Footage, report: Reporter) -> Generated: ...


def test_options_of_a_generator_reach_it_and_wrong_ones_are_told_of(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    text = f'extends = "fast"\n[regenerate]\nrounds = 1\ngenerator = "{__name__}:Choosy"\n'
    recipe.write_text(text + '[regenerate.options]\nurl = "http://here"\ntries = 2\n')
    read = config.load_recipe(str(recipe))
    kinds = {stage.name: stage.config for stage in planning.stages_of(read)}
    settings = config.resolve(read, kinds)["regenerate"]
    made = regenerate.generator_of(settings, "cpu")
    assert isinstance(made, Choosy) and (made.url, made.tries) == ("http://here", 2)
    given = "Choosy cannot be made: "
    for options, said in (
        ({}, given + "TypeError: .*missing 1 required positional argument: 'url'"),
        ({"url": "x", "colour": 1}, given + "TypeError: .*unexpected keyword argument 'colour'"),
        ({"url": "x", "tries": 0}, given + "ValueError: tries: 1 or more"),
    ):
        with pytest.raises(FourdgenError, match=said):
            regenerate.check(HERE, replace(settings, options=options))
    with pytest.raises(FourdgenError, match=r"fill cannot be made: .*'colour'"):
        regenerate.check(HERE, RegenerateConfig(rounds=1, options={"colour": 1}))
    one, other = (
        stage_key(regenerate.STAGE, replace(settings, options={"url": url}), HERE, "cpu", 0, []) for url in ("x", "y")
    )
    assert one != other
    planned = planning.plan(planning.Request((DEMO,), tmp_path / "scene.ply", pipeline="fast"))
    row = replace(planned.rows[-2], config=settings)
    (tmp_path / "scene.run").mkdir()
    account.write_run(replace(planned, rows=(row,)), ())
    written = tomllib.loads((tmp_path / "scene.run" / "run.toml").read_text())
    assert written[row.stage.name]["options"] == {"url": "http://here", "tries": 2}


def test_a_capture_joined_of_two_folders_reads_from_both(filmed: Any, tmp_path: Path) -> None:
    made = views_of(filmed, tmp_path)
    both = joined(filmed[1], made)
    assert both.frame("a", 0).rgb.shape == (96, 96, 3) and both.frame("a-view1", 0).rgb.shape == (96, 96, 3)
    with pytest.raises(ValueError, match="same name"):
        joined(both, load_capture(tmp_path))


def test_of_several_starts_the_one_that_fits_the_frames_best_goes_on(filmed: Any, tmp_path: Path) -> None:
    _, capture, alignment, track, frames = filmed
    notes = Notes()
    several = replace(TINY, starts=2)
    both = train.run(context(tmp_path / "both", notes), several, capture, alignment, track, frames)
    said = next(event for event in notes.events if event["event"] == "note" and "kept" in event)
    assert said["psnr"][said["kept"]] == max(said["psnr"])
    alone = [
        train.run(replace(context(tmp_path / str(seed)), seed=seed), TINY, capture, alignment, track, frames)
        for seed in (0, 1)
    ]
    assert torch.equal(both.surfels.means, alone[said["kept"]].surfels.means)
    assert not torch.equal(alone[0].surfels.means, alone[1].surfels.means)
    assert not list((tmp_path / "both").glob("*.pt"))[1:]  # but for what a round takes up
    with pytest.raises(FourdgenError, match=r"train.starts = 0: "):
        train.check(None, TrainConfig(starts=0))  # type: ignore[arg-type]
    with pytest.raises(FourdgenError, match=r"train.choose_at = 1: no place"):
        train.check(None, TrainConfig(starts=2, choose_at=1.0))  # type: ignore[arg-type]


def test_cameras_bob_as_measured_where_frames_are_held_out(filmed: Any, tmp_path: Path) -> None:
    _, capture, alignment, track, frames = filmed
    bob = torch.randn(len(track.clips["a"].K), 2)
    track = replace(track, clips={"a": replace(track.clips["a"], bob=bob, given=True)}, given=True)  # else all is moved
    moved = []
    for every in (1, 2):
        used = replace(frames, every=every)
        scene = train.run(context(tmp_path / str(every)), TINY, capture, alignment, track, used)
        moved.append(scene.clips["a"].cameras.cam_from_world[:, :2, 3] - track.clips["a"].cam_from_root[:, :2, 3])
    assert torch.equal(moved[0], torch.zeros_like(bob)) and torch.allclose(moved[1], bob, atol=1e-5)


def test_a_round_takes_the_trained_model_up_where_it_was_left(filmed: Any, tmp_path: Path) -> None:
    """With half of the schedule gone, half of the steps are made, and the asset starts as it was."""
    _, capture, alignment, track, frames = filmed
    settings = replace(TINY, take_up=0.5)
    folder = tmp_path / "train"
    first = train.run(context(folder), settings, capture, alignment, track, frames)
    train.STAGE.save(first, folder)
    before = train.STAGE.load(folder)
    assert before.state is not None
    state = torch.load(before.state, weights_only=True)
    model = Model.taken_up(state, {"a": ClipTime(frames.seconds, "a")}, None)
    again = model.motion.warp(model.surfels(), "a", 0.4).means
    assert torch.allclose(again, first.at("a", 0.4).means, atol=0.05)  # a file holds four bones a surfel
    notes = Notes()
    made = views_of(filmed, tmp_path / "views")
    train.run_round(context(tmp_path / "round", notes), settings, capture, alignment, track, frames, before, made)
    steps = [event["step"] for event in notes.events if event["event"] == "step"]
    assert min(steps) > 30 and max(steps) == 60
    said = next(event for event in notes.events if "before" in event)
    state = torch.load(tmp_path / "round" / "model.pt", weights_only=True)  # for the next round
    assert said["kept"] and state["best"] == max(said["before"], said["after"])
    # Small losses must not add up: what an earlier asset had reached counts for every later round.
    torch.save({**torch.load(before.state, weights_only=True), "best": said["after"] + 0.2}, before.state)
    later = context(tmp_path / "later")
    again = train.run_round(later, settings, capture, alignment, track, frames, before, made)
    assert again is before
    assert torch.load(later.folder / "model.pt", weights_only=True)["best"] == said["after"] + 0.2


def test_a_round_on_found_cameras_begins_where_the_asset_stands_and_holds_its_motion(
    filmed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow motion handed to the cameras (forty degrees here) is taken back for training, for filmed frames and for
    made-up ones; afterwards the asset has its cameras and its motion, and other surfels."""
    _, capture, alignment, track, frames = filmed
    track = replace(track, given=False)
    turns, shifts = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.7, 0.0]]), torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.2]])
    slow = gauge.Drift(0.0, float(frames.seconds[-1]), torch.tensor([0.1, 0.0, 0.2]).double(), turns.double(),
                       shifts.double())  # fmt: skip
    monkeypatch.setattr(gauge, "drift_of", lambda scene, times, code: slow)
    folder = tmp_path / "train"
    first = train.run(context(folder), LONGER, capture, alignment, track, frames)
    train.STAGE.save(first, folder)
    before = train.STAGE.load(folder)
    made = regenerate.run(
        context(tmp_path / "views"), RegenerateConfig(generator=f"{__name__}:Mimic", views=2), capture, before
    )
    assert len(made.clips) == 2

    errors: dict[bool, list[float]] = {True: [], False: []}
    step_loss = loop._step_loss

    def seen(model: Any, views: Any, tracks: Any, frames: FrameSet, row: int, *rest: Any) -> Any:
        loss, error = step_loss(model, views, tracks, frames, row, *rest)
        if sum(map(len, errors.values())) < 12:
            errors[int(frames.clip[row]) == 0].append(float(error))
        return loss, error

    monkeypatch.setattr(loop, "_step_loss", seen)
    monkeypatch.setattr(loop.Growth, "update", lambda *_: pytest.fail("a round has the surfels of the asset"))
    notes = Notes()
    after = train.run_round(context(tmp_path / "round", notes), LONGER, capture, alignment, track, frames, before, made)
    said = next(event for event in notes.events if "before" in event)
    psnr = {filmed: -10 * float(torch.tensor(found).mean().log10()) for filmed, found in errors.items()}
    assert psnr[True] > said["before"] - 1 and psnr[False] > 25
    assert said["kept"] and after is not before
    assert torch.equal(after.clips["a"].cameras.cam_from_world, before.clips["a"].cameras.cam_from_world)
    for seconds in (0.0, 0.4, 0.9):
        assert torch.equal(after.motion.bones_at("a", seconds), before.motion.bones_at("a", seconds))
    assert not torch.equal(after.surfels.sh, before.surfels.sh)
    states = [torch.load(path / "model.pt", weights_only=True) for path in (folder, tmp_path / "round")]
    assert torch.equal(states[0]["drifts"]["a"], states[1]["drifts"]["a"])
    assert all(torch.equal(old, states[1]["motion"][name]) for name, old in states[0]["motion"].items())


def test_schedules_are_taken_up_at_their_share() -> None:
    whole = TrainConfig()
    for share in (0.0, 0.3, 0.5, 0.99):
        step = loop.first_step(whole, share)
        assert loop.plan(whole, step)[1] >= share
        assert step == 0 or loop.plan(whole, step - 1)[1] < share
