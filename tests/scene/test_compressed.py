"""The compressed asset: small, nearly the same, and never a crash."""

from __future__ import annotations

import lzma
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from fourdgen.fit.metrics import psnr
from fourdgen.geometry.transforms import Sim3
from fourdgen.playback.exports import export
from fourdgen.render import draw
from fourdgen.report import FourdgenError, Silent
from fourdgen.scene import compressed, files
from fourdgen.scene.formats.sog import write_bundle
from fourdgen.scene.motion import Still
from fourdgen.scene.scene4d import Scene4D
from tests.toy import toy_scene


def scene_of(harmonics: int = 1) -> Scene4D:
    made = toy_scene(harmonics)
    world = Sim3(1 / 3, torch.eye(3).double(), torch.tensor([1e5, 0.1, -7.0]).double())
    return replace(made, world_from_input=world, notes={"poses": "given: né"}, run_folder="/some/where")


@pytest.mark.parametrize("harmonics", [1, 4])
def test_it_looks_the_same(tmp_path: Path, harmonics: int) -> None:
    scene = scene_of(harmonics)
    export(scene, tmp_path / "small.sog", "compressed")
    small = files.read(tmp_path / "small.sog")
    for clip, seconds in (("a", 0.0), ("a", 0.31), ("b", 0.2)):
        cameras = scene.clips[clip].cameras[::2]
        one, other = (draw(each.at(clip, seconds), cameras).rgb.permute(0, 3, 1, 2) for each in (scene, small))
        # A picture at 30 dB loses 0.4 dB to a further error at 40 dB, and 0.14 dB to one at 45 dB.
        assert float(psnr(one, other).min()) > 40, (clip, seconds)


def test_all_that_is_not_a_picture_is_kept(tmp_path: Path) -> None:
    scene = scene_of()
    export(scene, tmp_path / "small.sog", "compressed")
    small = files.read(tmp_path / "small.sog")
    assert (small.reference, small.notes, small.run_folder) == (scene.reference, scene.notes, scene.run_folder)
    assert torch.equal(small.world_from_input.matrix(), scene.world_from_input.matrix())
    assert list(small.clips) == list(scene.clips)
    for one, other in zip(scene.clips.values(), small.clips.values()):
        assert torch.equal(one.seconds, other.seconds) and torch.equal(one.frame_ids, other.frame_ids)
        assert torch.allclose(one.cameras.cam_from_world, other.cameras.cam_from_world, atol=1e-5)
        assert torch.equal(one.cameras.K, other.cameras.K) and one.cameras.size == other.cameras.size
        assert torch.allclose(one.gain, other.gain) and torch.allclose(one.bias, other.bias)
    # Splats stand in another order: what belongs together is found by where it is.
    distance = torch.cdist(scene.surfels.means, small.surfels.means)
    nearest = distance.argmin(1)
    assert float(distance.amin(1).max()) < 1e-3
    assert float((small.surfels.confidence[nearest] - scene.surfels.confidence).abs().mean()) < 0.02
    moved = (small.at("a", 0.3).means[nearest] - scene.at("a", 0.3).means).norm(dim=1)
    assert float(moved.max()) < 5e-3


def test_a_still_scene_and_a_small_file(tmp_path: Path) -> None:
    scene = replace(scene_of(), motion=Still())
    export(scene, tmp_path / "small.sog", "compressed")
    assert isinstance(files.read(tmp_path / "small.sog").motion, Still)
    many = torch.arange(9000) % 900
    shift = 0.01 * torch.randn(9000, 3, generator=torch.Generator().manual_seed(0))
    surfels = scene_of().surfels[many]
    large = replace(scene_of(), surfels=replace(surfels, means=surfels.means + shift))
    files.write(tmp_path / "large.ply", large)
    export(large, tmp_path / "large.sog", "compressed")
    assert (tmp_path / "large.ply").stat().st_size > 8 * (tmp_path / "large.sog").stat().st_size


def test_differences_and_planes_go_there_and_back() -> None:
    random = np.random.default_rng(0)
    for length in (1, 2, 3, 40):
        values = random.integers(-8000, 8000, (length, 5))
        assert np.array_equal(compressed._summed(compressed._second_differences(values)), values)
        packed = compressed._packed(values.astype("<i2"))
        assert np.array_equal(compressed._unpacked(packed, "<i2", values.size), values.reshape(-1))
    with pytest.raises(ValueError, match="another length"):
        compressed._unpacked(packed, "<i2", 199)


def test_damage_is_said(tmp_path: Path) -> None:
    """Whole files are damaged, and entries inside whole ZIPs, which no checksum guards."""
    export(scene_of(4), tmp_path / "small.sog", "compressed")
    raw = (tmp_path / "small.sog").read_bytes()
    with zipfile.ZipFile(tmp_path / "small.sog") as bundle:
        entries = {name: bundle.read(name) for name in bundle.namelist()}
    random = np.random.default_rng(0)
    bad, refused = tmp_path / "bad.sog", 0
    for number in range(240):
        if number % 2:
            data = bytearray(raw)
            for _ in range(random.integers(1, 8)):
                data[random.integers(4, len(data))] = random.integers(256)
            bad.write_bytes(bytes(data[: random.integers(5, len(data))] if number % 4 == 1 else data))
        else:
            name = list(entries)[random.integers(len(entries))]
            data = bytearray(lzma.decompress(entries[name]) if name.endswith(".xz") else entries[name])
            for _ in range(random.integers(1, 4)):
                data[random.integers(len(data))] = random.integers(256)
            data = bytes(data)
            changed = entries | {name: lzma.compress(data) if name.endswith(".xz") else data}
            write_bundle(bad, changed)
        try:
            scene = files.read(bad)
            assert len(scene.at(seconds=0.2)) == len(scene.surfels)
        except FourdgenError:
            refused += 1
    assert 60 < refused < 235


def test_a_sog_of_others_is_said_to_be_none(tmp_path: Path) -> None:
    export(scene_of(), tmp_path / "frame.sog")
    with pytest.raises(FourdgenError, match="holds no 4D asset"):
        files.read(tmp_path / "frame.sog")


def test_it_says_how_far_it_is(tmp_path: Path) -> None:
    class Heard(Silent):
        steps: ClassVar[list[tuple[int, int]]] = []

        def emit(self, event: str, **fields: Any) -> None:
            if event == "step":
                self.steps.append((fields["step"], fields["total"]))

    compressed.write(tmp_path / "toy.sog", toy_scene(), Heard())
    assert Heard.steps == [(k, 4) for k in (1, 2, 3, 4)]
