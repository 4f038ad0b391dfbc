"""Paths into the unseen, guides, filmed pixels carried along the surface, and the judgement of what came back."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fourdgen.data.cameras_io import CameraEntry
from fourdgen.data.capture import Capture, Clip, Frame, write_picture
from fourdgen.fit.confidence import surfel_confidence
from fourdgen.fit.sampler import view_directions
from fourdgen.generate import Footage, Generated, Guide, code_of, fill, footage_of, make_generator, paths
from fourdgen.generate.accept import bounds_of, judge, silhouettes
from fourdgen.generate.fill import Fill, smoothed, typical
from fourdgen.generate.guide import given_paths, render_guide, steadied
from fourdgen.generate.symmetry import find_mirror
from fourdgen.geometry.camera import look_at, orbit_eyes
from fourdgen.render import draw, pick
from fourdgen.report import FourdgenError, Silent
from fourdgen.scene.surfels import Surfels, sh_from_rgb
from tests.toy import ellipsoid, joined, toy_scene

RASTERIZER = pick("auto", "cpu")


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Footage:
    """The toy scene and its two clips as they were seen."""
    scene, folder = toy_scene(), tmp_path_factory.mktemp("capture")
    scene = replace(scene, surfels=replace(scene.surfels, confidence=torch.full((len(scene.surfels),), 0.6)))
    clips = []
    for name, clip in scene.clips.items():
        for t in range(len(clip.seconds)):
            out = draw(scene.at(name, float(clip.seconds[t])), clip.cameras[t], rasterizer=RASTERIZER)
            alpha = out.alpha[0].clamp(0, 1)
            rgb = (out.rgb[0] / alpha.clamp_min(1e-4)[..., None]).clamp(0, 1)
            write_picture(folder, name, "rgb", t, (rgb * 255).round().byte().numpy())
            write_picture(folder, name, "mask", t, (alpha * 255).round().byte().numpy())
        clips.append(Clip(name, name, clip.cameras.size, clip.seconds, clip.frame_ids))
    return Footage(scene, Capture(tuple(clips), folder))


@pytest.fixture(scope="module")
def guide(footage: Footage) -> Guide:
    return render_guide(footage, paths.plan_paths(footage.scene, "a", 1, every=2)[0], RASTERIZER)


def test_paths_start_at_the_filmed_camera_and_end_where_least_was_filmed(footage: Footage) -> None:
    source = footage.scene.clips["a"].cameras
    first, second = paths.plan_paths(footage.scene, "a", 2)
    filmed = torch.cat([view_directions(c.cameras.cam_from_world) for c in footage.scene.clips.values()])
    for path in (first, second):
        assert torch.equal(path.cameras.cam_from_world[0], source.cam_from_world[0])
        ends = view_directions(path.cameras.cam_from_world)
        assert float((ends[4:] @ ends[-1]).min()) > 0.999  # four of twelve frames on, it has arrived
    directions = paths.grid()[2]
    ends = view_directions(first.cameras.cam_from_world[-1:])
    assert float(paths.coverage(ends, filmed)) <= float(paths.coverage(directions, filmed).quantile(0.05))
    elsewhere = view_directions(second.cameras.cam_from_world[-1:])
    assert float((elsewhere * ends).sum()) < 0.9


def test_given_cameras_are_grouped_by_view_at_any_rate(footage: Footage) -> None:
    clip = footage.scene.clips["a"]
    entries = [
        CameraEntry("x", clip.cameras.cam_from_world[t].double(), clip.cameras.K[t].double(), (96, 96), "a", t, view)
        for view in ("p", "q") for t in ((8, 2, 5) if view == "p" else (1, 0))
    ]  # fmt: skip
    found = {path.name: path for path in given_paths(footage.scene, entries)}
    assert set(found) == {"a-p", "a-q"}
    assert torch.allclose(found["a-p"].seconds, clip.seconds[[2, 5, 8]])
    assert torch.allclose(found["a-p"].cameras.cam_from_world[0], clip.cameras.cam_from_world[2])
    with pytest.raises(FourdgenError, match="has no frame"):
        given_paths(footage.scene, [replace(entries[0], frame=None)])


def test_confidence_is_steadied_where_the_camera_is_slow_and_nowhere_else() -> None:
    """One doubtful frame in the middle is passed over; where the camera turns fast, each frame keeps its own."""
    confidence = torch.ones(5, 9, 9)
    confidence[2] = 0.2
    slow, fast = (toy_scene().clips["a"].cameras[:5] for _ in range(2))
    slow, fast = (
        replace(c, cam_from_world=look_at(orbit_eyes(torch.arange(5.0) * step, 0.0, 3.0)))
        for c, step in ((slow, 4.0), (fast, 25.0))
    )
    assert float(steadied(confidence, slow).min()) == 1
    assert torch.equal(steadied(confidence, fast), confidence)


def test_filmed_pixels_are_carried_to_where_the_surface_went(footage: Footage, guide: Guide) -> None:
    """The asset is given wrong colours; what is filmed is not: the fill shows half of the filmed ones, in new views,
    and leaves alone what the asset is sure of."""
    count = len(footage.scene.surfels)
    grey = replace(footage.scene.surfels, sh=sh_from_rgb(torch.full((count, 3), 0.5)))
    path = paths.Path(guide.name, guide.clip, guide.seconds[[0, 4]], guide.cameras[[0, 4]])
    filled = []
    for certain in (0.1, 0.97):
        trusted = replace(grey, confidence=torch.full((count,), certain))
        blind = replace(footage, scene=replace(footage.scene, surfels=trusted))
        wrong = render_guide(blind, path, RASTERIZER)
        made = Fill(mirror=False).generate(wrong, blind, Silent())
        assert made.filmed is not None
        inside, true = wrong.alpha > 0.9, guide.rgb[[0, 4]]
        carried = inside & (made.filmed > 0)
        assert not bool(carried[wrong.confidence >= 0.5].any())
        filled.append(float(carried.sum()) / float(inside.sum()))
        if certain < 0.5:
            before, after = ((rgb - true).abs().amax(-1)[carried].mean() for rgb in (wrong.rgb, made.rgb))
            assert float(after) < 0.65 * float(before)
    assert filled[0] > 0.4  # the rest was never filmed, or too flatly
    assert filled[1] < 0.6 * filled[0]


def test_held_out_frames_are_never_looked_at(footage: Footage, guide: Guide) -> None:
    """With every third frame trained on, the others' pictures are not even read."""
    read = set()

    class Watched(Capture):
        def frame(self, clip_name: str, index: int) -> Frame:
            read.add((clip_name, index))
            return super().frame(clip_name, index)

    scene = replace(footage.scene, notes={"every": "3"})
    watched = replace(footage, scene=scene, capture=Watched(footage.capture.clips, footage.capture.folder))
    path = paths.Path(guide.name, guide.clip, guide.seconds[[1, 4]], guide.cameras[[1, 4]])
    Fill(mirror=False).generate(render_guide(watched, path, RASTERIZER), watched, Silent())
    surfel_confidence(scene, watched.capture, RASTERIZER)
    assert len(read) > 3 and all(index % 3 == 0 for _, index in read)


def test_filmed_colours_are_brought_to_the_assets(footage: Footage) -> None:
    tone = replace(footage.scene.clips["a"], gain=torch.tensor([1.25, 1.0, 1.1]), bias=torch.tensor([0.0, 0.05, 0.0]))
    scene = replace(footage.scene, clips={**footage.scene.clips, "a": tone})
    raw, toned = (capture.frame("a", 0) for capture in (footage.capture, footage_of(scene, footage.capture).capture))
    inside = (raw.mask > 0.9) & (raw.rgb > 0.1).all(-1)  # darker colours end at 0
    assert torch.allclose(toned.rgb[inside] * tone.gain + tone.bias, raw.rgb[inside], atol=0.01)


def test_what_all_views_of_an_asset_share_is_made_once(
    footage: Footage, guide: Guide, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    monkeypatch.setattr(fill, "find_mirror", lambda surfels: looked.append(len(surfels)))
    path = paths.Path(guide.name, guide.clip, guide.seconds[:1], guide.cameras[[0]])
    short, generator = render_guide(footage, path, RASTERIZER), Fill()
    first, again = (generator.generate(short, footage, Silent()) for _ in range(2))
    assert len(looked) == 1 and torch.equal(first.rgb, again.rgb)
    generator.generate(short, replace(footage), Silent())  # another asset
    assert len(looked) == 2


def test_colours_count_where_frames_agree() -> None:
    colors = torch.tensor([[0.2, 0.2, 0.2], [0.24, 0.2, 0.2], [0.9, 0.1, 0.1]])[:, None, None]
    seen = torch.ones(3, 1, 1, dtype=torch.bool)
    median, agree = typical(colors, seen)
    assert bool(agree) and torch.allclose(median[0, 0], torch.tensor([0.24, 0.2, 0.2]), atol=1e-5)  # two of three
    assert not typical(torch.rand(9, 1, 1, 3, generator=torch.Generator().manual_seed(0)), seen.repeat(3, 1, 1))[1]
    seen[0] = False
    assert not typical(colors, seen)[1]  # two frames are too few
    color, agree = typical(colors, torch.zeros_like(seen))
    assert not agree and float(color.abs().sum()) == 0


def test_carried_colours_are_smoothed_among_those_that_count() -> None:
    color = torch.zeros(7, 7, 3)
    color[:, 3:] = 1.0
    where = torch.ones(7, 7, dtype=torch.bool)
    where[:, 3] = False
    color[:, 3] = 99.0  # what does not count does not bleed
    out = smoothed(color, where)
    assert float(out[:, :1].max()) < 1e-6 and float(out[:, 6:].min()) > 1 - 1e-6
    assert torch.allclose(out[3, 2], torch.full((3,), 0.25))  # columns 0 to 4 without 3


def symmetric(crooked: bool) -> Surfels:
    """A body, a head, and two eyes: the same on both sides of x = 0 unless one side is bent and painted."""
    parts = [
        ellipsoid([0.0, 0.1, 0.0], [0.3, 0.2, 0.6], 500, [[0.5, 0.3, 0.1], [0.5, 0.3, 0.1]]),
        ellipsoid([0.0, -0.3, -0.6], [0.2, 0.2, 0.2], 200, [[0.8, 0.7, 0.3], [0.8, 0.7, 0.3]]),
        ellipsoid([0.15, -0.4, -0.75], [0.06, 0.06, 0.06], 60, [[0.1, 0.1, 0.1], [0.1, 0.1, 0.1]]),
        ellipsoid([-0.15, -0.4, -0.75], [0.06, 0.06, 0.06], 60, [[0.1, 0.1, 0.1], [0.1, 0.1, 0.1]]),
    ]
    if crooked:
        parts.append(ellipsoid([0.6, 0.3, 0.3], [0.3, 0.1, 0.4], 400, [[0.1, 0.2, 0.9], [0.9, 0.1, 0.1]]))
    return joined(parts)


def test_a_mirror_plane_is_found_where_there_is_one_and_only_there() -> None:
    mirror = find_mirror(symmetric(crooked=False))
    assert mirror is not None
    assert abs(float(mirror.normal[0])) > 0.98 and abs(mirror.offset) < 0.05
    assert find_mirror(symmetric(crooked=True)) is None
    ball = ellipsoid([0.0, 0.0, 0.0], [0.5, 0.5, 0.5], 600, [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]])
    assert find_mirror(ball) is None  # any plane would do, so none is clear


def test_mirrored_places_carry_onto_the_other_side() -> None:
    surfels = symmetric(crooked=False)
    mirror = find_mirror(surfels)
    assert mirror is not None
    linear, shift = mirror.carry(surfels, surfels, surfels)
    carried = (linear @ surfels.means[..., None])[..., 0] + shift
    assert torch.allclose(carried, surfels.means * torch.tensor([-1.0, 1.0, 1.0]), atol=0.06)


def test_what_the_asset_shows_is_kept_and_weighs_by_its_confidence(guide: Guide) -> None:
    verdict = judge(guide, Generated(guide.rgb, guide.alpha))
    assert bool(verdict.kept.all()) and verdict.reason == ""
    assert torch.allclose(verdict.weight, 0.5 + 0.5 * (1 - guide.confidence), atol=1e-5)


def test_a_limb_in_one_frame_weighs_nothing_there(guide: Guide) -> None:
    rgb, alpha = guide.rgb.clone(), guide.alpha.clone()
    rgb[2, 5:30, 5:20], alpha[2, 5:30, 5:20] = torch.tensor([0.6, 0.2, 0.1]), 1.0
    verdict = judge(guide, Generated(rgb, alpha))
    assert not verdict.kept[2] or float(verdict.weight[2, 8:27, 8:17].max()) < 0.1
    others = [t for t in range(len(guide)) if t != 2]
    assert float(verdict.weight[others].mean()) > 0.2


@pytest.mark.parametrize("spoilt", ["rgb", "alpha"])
def test_a_frame_that_is_no_picture_is_refused_alone(spoilt: str, guide: Guide) -> None:
    rgb, alpha = guide.rgb.clone(), guide.alpha.clone()
    (rgb if spoilt == "rgb" else alpha)[2] = float("nan")
    verdict = judge(guide, Generated(rgb, alpha))
    assert verdict.kept.tolist() == [t != 2 for t in range(len(guide))]
    assert verdict.reasons[2] == "not a picture"
    others = [t for t in range(len(guide)) if t != 2]
    whole = judge(guide, Generated(guide.rgb, guide.alpha))
    assert torch.equal(verdict.weight[others], whole.weight[others]) and float(verdict.weight[2].abs().max()) == 0
    assert bool(torch.isfinite(verdict.alpha).all())
    rgb[1:] = float("nan")  # nothing is left to compare frame 0 with
    assert judge(guide, Generated(rgb, guide.alpha)).reasons[0] == ""


def test_another_subject_is_refused_as_a_whole_with_a_reason(footage: Footage, guide: Guide) -> None:
    other = Generated(guide.rgb.flip(1), guide.alpha.flip(1))
    verdict = judge(guide, other, bounds=bounds_of(footage, RASTERIZER))
    assert not bool(verdict.kept.any())
    assert "frames refused" in verdict.reason
    assert bool((verdict.weight == 0).all())
    assert float(judge(guide, other, filtering=False).weight.min()) == 0.5


def test_an_asset_that_explains_little_refuses_little(footage: Footage, guide: Guide) -> None:
    """Bounds follow the filmed frames: an asset that is off by a tenth of its size takes true pictures all the same."""
    exact = bounds_of(footage, RASTERIZER)
    assert 0.7 < exact.iou <= 0.75 and 0.45 < exact.agreement <= 0.5
    sure = torch.full((len(footage.scene.surfels),), 0.97)
    moved = replace(footage.scene.surfels, means=footage.scene.surfels.means + 0.15, confidence=sure)
    off = replace(footage, scene=replace(footage.scene, surfels=moved))
    bounds = bounds_of(off, RASTERIZER)
    assert bounds.iou < exact.iou - 0.1 and bounds.agreement < exact.agreement - 0.1
    path = paths.Path(guide.name, guide.clip, guide.seconds, guide.cameras)
    wrong, true = render_guide(off, path, RASTERIZER), Generated(guide.rgb, guide.alpha)
    assert not bool(judge(wrong, true, bounds=exact).kept.any())
    assert float(judge(wrong, true, bounds=bounds).kept.float().mean()) > 0.9


def test_silhouettes_are_found_on_white(guide: Guide) -> None:
    found, true = silhouettes(guide.rgb) > 0.5, guide.alpha > 0.5
    assert float((found & true).sum() / (found | true).sum()) > 0.93


def test_a_generator_of_another_package_by_name() -> None:
    assert isinstance(make_generator("fourdgen.generate.fill:Fill", {}), Fill)
    with pytest.raises(FourdgenError, match="no such generator"):
        make_generator("fil", {})
    with pytest.raises(FourdgenError, match="has no method generate"):
        make_generator("pathlib:Path", {})
    with pytest.raises(FourdgenError, match="cannot be made"):
        make_generator("nowhere.at_all:Thing", {})


def test_a_generator_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one_of_mine.py").write_text("class Mine:\n    def generate(self, guide, footage, report): ...\n")
    monkeypatch.chdir(tmp_path)
    before, nothing = list(sys.path), code_of("nowhere_at_all")
    assert type(make_generator("one_of_mine:Mine", {})).__name__ == "Mine"
    assert code_of("one_of_mine:Mine") != nothing
    assert sys.path == before


def test_a_moving_limb_is_looked_up_where_it_was(footage: Footage) -> None:
    scene, clip = footage.scene, footage.scene.clips["a"]
    here, there = scene.at("a", float(clip.seconds[0])), scene.at("a", float(clip.seconds[3]))
    camera = clip.cameras[0]
    shown = draw(here, camera, rasterizer=RASTERIZER)
    points = fill._unproject(shown.depth[0] / shown.alpha[0].clamp_min(1e-4), camera)
    carried = fill._carried(points, here, there, scene.surfels, camera, RASTERIZER, None)
    arm = (shown.alpha[0] > 0.95) & (points[..., 0] < -0.6)
    assert int(arm.sum()) > 20
    gaps = [torch.cdist(places[arm], there.means).amin(1).mean() for places in (points, carried)]
    assert float(gaps[1]) < 0.05 < float(gaps[0])


def test_what_one_frame_alone_shows_is_doubted_even_where_nothing_is_known(guide: Guide) -> None:
    unsure = replace(guide, confidence=torch.zeros_like(guide.confidence))
    rgb = guide.rgb.clone()
    rgb[2, 5:30, 5:20] = torch.tensor([0.6, 0.2, 0.1])
    alone = judge(unsure, Generated(rgb, guide.alpha))
    assert float(alone.agreement[2, 8:27, 8:17].max()) < 0.35
    rgb[:, 5:30, 5:20] = torch.tensor([0.6, 0.2, 0.1])
    assert float(judge(unsure, Generated(rgb, guide.alpha)).agreement.min()) > 0.9  # all frames show it
