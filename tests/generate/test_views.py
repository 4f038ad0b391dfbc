"""Paths into the unseen, guides, filmed pixels carried along the surface, and the judgement of what came back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fourdgen.data.cameras_io import CameraEntry
from fourdgen.data.capture import Capture, Clip, write_picture
from fourdgen.fit.sampler import view_directions
from fourdgen.generate import Footage, Generated, Guide, fill, make_generator, paths
from fourdgen.generate.accept import judge, silhouettes
from fourdgen.generate.fill import Fill, agreed
from fourdgen.generate.guide import given_paths, render_guide
from fourdgen.generate.symmetry import find_mirror
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


def test_filmed_pixels_are_carried_to_where_the_surface_went(footage: Footage, guide: Guide) -> None:
    """The asset is given wrong colours; what is filmed is not: the fill shows the filmed ones, in new views."""
    grey = replace(footage.scene.surfels, sh=sh_from_rgb(torch.full((len(footage.scene.surfels), 3), 0.5)))
    blind = replace(footage, scene=replace(footage.scene, surfels=grey))
    path = paths.Path(guide.name, guide.clip, guide.seconds[[0, 4]], guide.cameras[[0, 4]])
    wrong = render_guide(blind, path, RASTERIZER)
    made = Fill(mirror=False).generate(wrong, blind, Silent())
    assert made.filmed is not None
    inside, true = wrong.alpha > 0.9, guide.rgb[[0, 4]]
    carried = inside & (made.filmed > 0)
    assert float(carried.sum()) > 0.4 * float(inside.sum())  # the rest was never filmed, or too flatly
    before, after = ((rgb - true).abs().amax(-1)[carried].mean() for rgb in (wrong.rgb, made.rgb))
    assert float(after) < 0.4 * float(before)


def test_colours_count_where_frames_agree() -> None:
    colors = torch.tensor([[0.2, 0.2, 0.2], [0.24, 0.2, 0.2], [0.9, 0.1, 0.1]])[:, None, None]
    weights = torch.tensor([1.0, 1.0, 0.5])[:, None, None]
    mean, share = agreed(colors, weights)
    assert float(share) == 1 and torch.allclose(mean[0, 0], torch.tensor([0.22, 0.2, 0.2]), atol=1e-5)
    assert float(agreed(colors[1:], weights[1:])[1]) == 0  # one against one
    assert float(agreed(colors[:1], weights[:1])[1]) == 0  # one alone
    assert float(agreed(colors, 0 * weights)[1]) == 0


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
    assert torch.allclose(verdict.weight, 0.25 + 0.25 * (1 - guide.confidence), atol=1e-5)


def test_a_limb_in_one_frame_weighs_nothing_there(guide: Guide) -> None:
    rgb, alpha = guide.rgb.clone(), guide.alpha.clone()
    rgb[2, 5:30, 5:20], alpha[2, 5:30, 5:20] = torch.tensor([0.6, 0.2, 0.1]), 1.0
    verdict = judge(guide, Generated(rgb, alpha))
    assert not verdict.kept[2] or float(verdict.weight[2, 8:27, 8:17].max()) < 0.1
    others = [t for t in range(len(guide)) if t != 2]
    assert float(verdict.weight[others].mean()) > 0.2


def test_another_subject_is_refused_as_a_whole_with_a_reason(guide: Guide) -> None:
    verdict = judge(guide, Generated(guide.rgb.flip(1), guide.alpha.flip(1)))
    assert not bool(verdict.kept.any())
    assert "frames refused" in verdict.reason
    assert bool((verdict.weight == 0).all())
    assert float(judge(guide, Generated(guide.rgb.flip(1), guide.alpha.flip(1)), filtering=False).weight.min()) == 0.5


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
