"""Confidence: what filmed frames contradict or never show is doubted, per surfel and per pixel."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fourdgen.data.capture import Capture, Clip, write_picture
from fourdgen.evaluate.confidence import auc
from fourdgen.fit.confidence import EDGE, changes, outline, pixel_confidence, surfel_confidence
from fourdgen.render import draw, pick
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.surfels import sh_from_rgb
from tests.toy import toy_scene

RASTERIZER = pick("auto", "cpu")


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene4D, Capture]:
    """The toy scene, and clip a as it was seen."""
    scene, folder = toy_scene(), tmp_path_factory.mktemp("capture")
    clip = scene.clips["a"]
    for t in range(len(clip.seconds)):
        out = draw(scene.at("a", float(clip.seconds[t])), clip.cameras[t], rasterizer=RASTERIZER)
        alpha = out.alpha[0].clamp(0, 1)
        rgb = (out.rgb[0] / alpha.clamp_min(1e-4)[..., None]).clamp(0, 1)
        write_picture(folder, "a", "rgb", t, (rgb * 255).round().byte().numpy())
        write_picture(folder, "a", "mask", t, (alpha * 255).round().byte().numpy())
    stored = Clip("a", "a", clip.cameras.size, clip.seconds, clip.frame_ids)
    return replace(scene, clips={"a": clip}), Capture((stored,), folder)


def test_surfels_of_a_wrong_colour_are_doubted(filmed: tuple[Scene4D, Capture]) -> None:
    scene, capture = filmed
    before = surfel_confidence(scene, capture, RASTERIZER)
    head = torch.arange(500, 700)
    sh = scene.surfels.sh.clone()
    sh[head] = sh_from_rgb(torch.tensor([[1.0, 0.0, 1.0]]))
    after = surfel_confidence(replace(scene, surfels=replace(scene.surfels, sh=sh)), capture, RASTERIZER)
    assert float((after[head] / before[head]).median()) < 0.6
    body = torch.arange(100)
    assert float((after[body] / before[body]).median()) > 0.95


def test_a_surfel_that_no_frame_shows_has_no_confidence(filmed: tuple[Scene4D, Capture]) -> None:
    scene, capture = filmed
    means = scene.surfels.means.clone()
    means[0] = torch.tensor([0.0, 9.0, 0.0])  # below every picture
    found = surfel_confidence(replace(scene, surfels=replace(scene.surfels, means=means)), capture, RASTERIZER)
    assert float(found[0]) == 0 < float(found[1:].min())


def test_pixels_follow_their_surfels_and_clear_background_is_certain() -> None:
    scene = toy_scene()
    state, camera = scene.at("a", 0.0), scene.clips["a"].cameras[0]
    sure, unsure = (
        pixel_confidence(replace(state, confidence=torch.full((len(state),), c)), camera, RASTERIZER)
        for c in (0.8, 0.1)
    )
    inside = draw(state, camera, rasterizer=RASTERIZER).alpha[0] > 0.5
    assert bool((sure >= 0).all() and (sure <= 1).all())
    assert bool((sure[inside] > unsure[inside]).all())
    assert float(sure[0, 0]) > 0.95  # a corner, far from the subject
    beyond = outline(inside)[1]
    assert float(sure[(beyond > 0) & (beyond < 1.5)].mean()) < 1 - 0.6 * EDGE


def test_what_a_misplacement_would_spoil_is_doubted() -> None:
    picture = torch.zeros(40, 60, 3)
    assert float(changes(picture, 4).max()) == 0
    picture[:, 30:] = 0.3  # an edge: of eight places around, three lie across it
    for reach in (1, 4, 9):
        found = changes(picture, reach)
        assert float(found[:, 29].min()) == float(found[:, 30].max()) == 3 / 8
        assert float(found[:, 29 - reach].max()) == 0 and float(found[:, 30 + reach].max()) == 0
    assert float(changes(picture - 0.25 * picture.sign(), 4).max()) == 0  # too faint to be called wrong

    scene = toy_scene()
    state, camera = scene.at("a", 0.0), scene.clips["a"].cameras[0]
    state = replace(state, confidence=torch.full((len(state),), 0.6))
    plain = replace(state, sh=sh_from_rgb(torch.full((len(state), 3), 0.5)))
    spots = replace(state, sh=sh_from_rgb((torch.arange(len(state)) % 2)[:, None].expand(-1, 3) * 0.6 + 0.2))
    deep = outline(draw(state, camera, rasterizer=RASTERIZER).alpha[0] > 0.5)[0] > 6
    sure, unsure = (pixel_confidence(s, camera, RASTERIZER)[deep].mean() for s in (plain, spots))
    assert float(sure) > float(unsure) + 0.1


def test_auc_is_the_chance_that_a_fault_is_doubted_more() -> None:
    doubt, fault = torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True])
    assert auc(doubt, fault) == pytest.approx(0.75)  # of the four pairs, three are in order
    assert auc(-doubt, fault) == pytest.approx(0.25)
    assert auc(torch.zeros(4), fault) == pytest.approx(0.5)
    assert auc(doubt, torch.ones(4, dtype=torch.bool)) is None
