"""Neural geometry: the real network class at random weights, saved and loaded as a hub folder is."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fourdgen.priors import geometry
from fourdgen.report import FourdgenError, Silent
from fourdgen.stages import align
from tests.poses.subject import orbit
from tests.stages.test_poses import _capture, _clip, _context

PART = "depth_anything_3.model"


def _object(module: str, kind: str, **values: Any) -> dict[str, Any]:
    return {"__object__": {"path": f"{PART}.{module}", "name": kind, "args": "as_params"}, **values}


def description() -> dict[str, Any]:
    """The smallest backbone that there is, with heads as narrow as they can be."""
    return _object(
        "da3", "DepthAnything3Net",
        net=_object("dinov2.dinov2", "DinoV2", name="vits", out_layers=[5, 7, 9, 11], alt_start=4, qknorm_start=4,
                    rope_start=4, cat_token=True),
        head=_object("dualdpt", "DualDPT", dim_in=768, output_dim=2, features=16, out_channels=[8, 8, 8, 8]),
        cam_enc=_object("cam_enc", "CameraEnc", dim_out=384, trunk_depth=1),
        cam_dec=_object("cam_dec", "CameraDec", dim_in=768),
    )  # fmt: skip


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the hub has them, in half precision."""
    pytest.importorskip("depth_anything_3")
    from depth_anything_3.cfg import create_object
    from omegaconf import OmegaConf

    folder = tmp_path_factory.mktemp("da3")
    torch.manual_seed(0)
    network = create_object(OmegaConf.create(description()))
    save_file(
        {f"model.{k}": v.half().contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps({"model_name": "da3-small", "config": description()}))
    return folder


def frames(count: int = 3, height: int = 40, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    rgb = np.random.default_rng(0).integers(0, 255, (count, height, width, 3), np.uint8)
    mask = np.zeros((count, height, width), np.uint8)
    mask[:, 10:30, 20:50] = 255
    return rgb, mask


def test_the_real_network_gives_a_camera_for_every_frame(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    geometry.check(str(model))
    network = geometry.load(str(model), "cpu")
    rgb, mask = frames()
    said = network.cameras(rgb, mask)
    assert capsys.readouterr().out == ""  # standard output belongs to --json
    rotation = said.cam_from_world[:, :3, :3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand(3, 3, 3), atol=1e-4)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(3), atol=1e-4)
    assert said.K is not None and torch.allclose(said.K[:, :2, 2], torch.tensor([32.0, 20.0]).expand(3, 2))
    assert said.confidence.shape == (3,) and bool((said.confidence > 0).all())
    # What lies around the subject does not count; the subject does.
    around, inside = rgb.copy(), rgb.copy()
    around[mask == 0] = 7
    inside[mask > 0] = 7
    assert torch.equal(network.cameras(around, mask).cam_from_world, said.cam_from_world)
    assert not torch.equal(network.cameras(inside, mask).cam_from_world, said.cam_from_world)


def test_the_weights_of_the_file_are_the_ones_that_count(model: Path, tmp_path: Path) -> None:
    """The focal lengths follow from the last layer's bias, which we set: 60 and 90 degrees at 56 x 42 pixels."""
    stored = load_file(model / "model.safetensors")
    for name in ("weight", "bias"):
        stored[f"model.cam_dec.fc_fov.0.{name}"].zero_()
    stored["model.cam_dec.fc_fov.0.bias"].copy_(torch.tensor([np.pi / 3, np.pi / 2]))
    save_file(stored, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((model / "config.json").read_text())
    said = geometry.load(str(tmp_path), "cpu").cameras(*frames())
    assert said.K is not None
    assert torch.allclose(said.K[:, 0, 0], torch.tensor(32.0), rtol=1e-2)  # 90 degrees across 64 pixels
    assert torch.allclose(said.K[:, 1, 1], torch.tensor(20 * 3**0.5), rtol=1e-2)  # 60 degrees across 40


def test_large_frames_are_shrunk_to_whole_patches() -> None:
    made = geometry.prepared(*frames(1, 300, 700))
    assert made.shape == (1, 3, 126, 280)
    white = (1 - torch.tensor(geometry.MEAN)) / torch.tensor(geometry.DEVIATION)
    assert torch.allclose(made[0, :, 0, 0], white, atol=1e-5)


def test_what_is_no_model_is_refused_in_one_sentence(model: Path, tmp_path: Path) -> None:
    with pytest.raises(FourdgenError, match="is no folder, and the hub's cache does not have it"):
        geometry.check("nobody/nothing")
    with pytest.raises(FourdgenError, match=r"there is no config\.json"):
        geometry.check(str(tmp_path))
    os.link(model / "model.safetensors", tmp_path / "model.safetensors")

    def refused(text: str, match: str) -> None:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(FourdgenError, match=match):
            geometry.check(str(tmp_path))

    refused("{", "does not describe a network")
    refused('{"model_type": "vit"}', "does not describe a network")
    foreign = {**description(), "head": {"__object__": {"path": "os", "name": "system", "args": "as_params"}}}
    refused(json.dumps({"config": foreign}), "names what is not the package's")
    sly = {**description(), "extra": "${eval:'1+1'}"}
    refused(json.dumps({"config": sly}), "names what is not the package's")
    blind = {key: value for key, value in description().items() if not key.startswith("cam")}
    refused(json.dumps({"config": blind}), "predicts no cameras")


def test_weights_of_another_network_are_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((model / "config.json").read_text())
    save_file({"model.backbone.x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(FourdgenError, match="is not in it"):
        geometry.load(str(tmp_path), "cpu")
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(FourdgenError, match="not a model of Depth Anything 3"):
        geometry.load(str(tmp_path), "cpu")


def test_a_missing_package_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "PACKAGES", ("torch", "no_such_package"))
    with pytest.raises(FourdgenError, match="no_such_package not installed") as caught:
        geometry.check(str(model))
    assert "fourdgen[geometry]" in caught.value.hint


def test_other_files_are_another_model(model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((model / "config.json").read_text())
    os.link(model / "model.safetensors", tmp_path / "model.safetensors")
    before = geometry.files_of(str(tmp_path))
    (tmp_path / "config.json").write_text((model / "config.json").read_text() + " ")
    assert geometry.files_of(str(tmp_path)) != before


def test_align_asks_it_once_a_clip_and_its_files_are_in_the_key(model: Path, tmp_path: Path) -> None:
    """With random weights: what it says is nonsense, is told, and nothing but a start."""
    film_folder = tmp_path / "capture"
    film_folder.mkdir()
    capture = _capture(film_folder, [_clip(film_folder, "a", orbit(torch.linspace(0, 120, 5)))])
    said: list[dict[str, Any]] = []

    class Listening(Silent):
        def emit(self, kind: str, **values: Any) -> None:
            said.append(values)

    config = align.AlignConfig(geometry=str(model), side=16, surfels=60, effort=0.01)
    context = replace(_context(tmp_path, "align"), report=Listening())
    aligned = align.STAGE.run(context, config, capture)
    assert aligned.clips["a"].cam_from_root.shape == (5, 4, 4)
    notes = [values for values in said if "neural geometry says a turn of" in values.get("text", "")]
    assert len(notes) == 1 and notes[0]["clip"] == "a"
    facts = align.STAGE.facts(context.job, config, "cpu")
    assert facts != align.STAGE.facts(context.job, replace(config, geometry=None), "cpu")
    assert align.STAGE.check is not None
    with pytest.raises(FourdgenError, match="is no folder, and the hub's cache does not have it"):
        align.STAGE.check(context.job, replace(config, geometry="nobody/nothing"))
