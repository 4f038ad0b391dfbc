"""What the live viewer does without a browser: it follows files, draws cameras as we do, and says what is wrong."""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fourdgen.data.capture import Capture, Clip, save_capture, write_picture
from fourdgen.geometry.camera import Cameras, intrinsics, look_at, orbit_eyes
from fourdgen.geometry.transforms import quat_from_matrix, rigid_inverse
from fourdgen.playback.filmed import filmed_picture
from fourdgen.render import pick
from fourdgen.report import FourdgenError
from fourdgen.scene import files
from fourdgen.view import live
from fourdgen.view.pictures import FAR, Eye, Pace, Scenery, picture, screenshot
from fourdgen.view.source import source_of
from tests.toy import toy_scene


def eye_of(camera: Cameras) -> Eye:
    pose = rigid_inverse(camera.cam_from_world)
    fov = 2 * math.atan(camera.size[1] / 2 / float(camera.K[0, 1, 1]))
    quat = quat_from_matrix(pose[:, :3, :3])[0]
    return Eye(tuple(quat.tolist()), tuple(pose[0, :3, 3].tolist()), fov, camera.size)


@pytest.fixture
def camera() -> Cameras:
    eyes = orbit_eyes(torch.tensor([40.0]), 20.0, 3.0)
    return Cameras(look_at(eyes), intrinsics(40.0, (120, 80))[None], (120, 80))


def test_a_visitor_sees_with_the_camera_that_the_browser_reports(camera: Cameras) -> None:
    seen = eye_of(camera).camera()
    assert seen.size == camera.size
    assert torch.allclose(seen.cam_from_world, camera.cam_from_world, atol=1e-5)
    assert torch.allclose(seen.K, camera.K, rtol=1e-5)
    half = eye_of(camera).camera(0.5)
    assert half.size == (60, 40)
    assert torch.allclose(half.K, camera.resized((60, 40)).K, rtol=1e-5)


def test_pictures_follow_time_and_channel_and_know_where_nothing_is(camera: Cameras) -> None:
    scene, rasterizer = toy_scene(), pick("cpu")
    base = Scenery(scene, "a", 0.0, "rgb", (10, 20, 30))
    pixels, depth = picture(base, camera, rasterizer)
    assert pixels[0, 0].tolist() == [10, 20, 30] and depth[0, 0] == FAR
    assert 1.5 < depth[40, 60] < 3.5
    later, _ = picture(replace(base, seconds=0.25), camera, rasterizer)
    normals, _ = picture(replace(base, channel="normal"), camera, rasterizer)
    assert np.abs(later.astype(int) - pixels).max() > 50
    assert np.abs(normals.astype(int) - pixels).max() > 50


def test_depth_colours_span_the_subject_from_every_distance() -> None:
    scene, rasterizer = toy_scene(), pick("cpu")
    nearest, spread = [], []
    for distance in (2.5, 10.0):
        eyes = orbit_eyes(torch.tensor([80.0]), 0.0, distance)
        camera = Cameras(look_at(eyes), intrinsics(100.0 / distance, (96, 96))[None], (96, 96))
        pixels, depth = picture(Scenery(scene, "a", 0.0, "depth", (0, 0, 0)), camera, rasterizer)
        nearest.append(pixels[depth == depth.min()][0].astype(int))
        spread.append(pixels[depth < FAR].std(0).max())
    assert nearest[0][0] > nearest[0][2]  # turbo: red is near
    assert np.abs(nearest[0] - nearest[1]).max() < 40
    assert min(spread) > 30


@pytest.mark.parametrize(("channel", "shape"), [("rgb", (80, 120, 4)), ("alpha", (80, 120))])
def test_a_screenshot_is_a_png_with_alpha(camera: Cameras, channel: str, shape: tuple[int, ...]) -> None:
    data = screenshot(Scenery(toy_scene(), "a", 0.0, channel, (255, 255, 255)), camera, pick("cpu"))
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded.shape == shape
    assert decoded[0, 0].max() == 0 if channel == "alpha" else decoded[0, 0, 3] == 0


def test_slow_machines_get_small_pictures_and_quick_ones_full_ones() -> None:
    slow, quick = Pace(), Pace()
    for _ in range(20):
        slow.took(1.0, (400, 300))
        quick.took(0.001, (400, 300))
    assert slow.scale((800, 600)) == slow.smallest
    assert quick.scale((800, 600)) == 1.0


def test_a_file_is_read_again_when_it_changes_and_kept_when_it_breaks(tmp_path: Path) -> None:
    path, scene = tmp_path / "scene.ply", toy_scene()
    files.write(path, scene)
    source = source_of(path)
    assert source.scene is not None and len(source.scene.surfels) == 900
    assert not source.refresh()
    files.write(path, replace(scene, surfels=scene.surfels[torch.arange(500)]))
    assert source.refresh() and len(source.scene.surfels) == 500
    path.write_bytes(path.read_bytes()[:-100])
    assert not source.refresh() and len(source.scene.surfels) == 500
    assert "scene.ply" in source.trouble
    assert not source.refresh()  # it is not tried again and again


def run_folder(tmp_path: Path) -> Path:
    run = tmp_path / "scene.run"
    run.mkdir()
    (run / "run.toml").write_text(f"[paths]\noutput = {json.dumps(str(tmp_path / 'scene.ply'))}\n")
    return run


def test_a_run_is_waited_for_and_says_how_far_it_is(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    source = source_of(run)
    assert source.scene is None and source.progress() == ""
    events = [
        {"event": "step", "stage": "train", "step": 100, "total": 6500, "psnr": 21.5, "surfels": 900},
        {"event": "note", "text": "written"},
    ]
    (run / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + '{"half')
    assert source.progress() == "train: step 100 of 6500  PSNR 21.50  surfels 900"
    files.write(tmp_path / "scene.ply", toy_scene())
    assert source.refresh() and source.scene is not None


def test_a_finished_run_is_seen_where_its_output_has_gone(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    (run / "06-export").mkdir()
    files.write(run / "06-export" / "scene.ply", toy_scene())
    assert source_of(run).scene is not None


def test_filmed_frames_come_from_the_run_folder(tmp_path: Path) -> None:
    scene = replace(toy_scene(), run_folder=str(tmp_path))
    clip = scene.clips["b"]
    ingest = tmp_path / "01-ingest"
    ids = clip.frame_ids.tolist()
    for index, number in enumerate(ids):
        write_picture(ingest, "b", "rgb", index, np.full((8, 8, 3), 10 * number, np.uint8))
    save_capture(Capture((Clip("b", "b.mp4", (8, 8), clip.seconds, torch.tensor(ids)),), ingest), ingest)
    files.write(tmp_path / "scene.ply", scene)
    capture = source_of(tmp_path / "scene.ply").capture()
    found = filmed_picture(capture, clip, 3)
    assert found is not None and found.max() == 10 * ids[3]
    assert filmed_picture(capture, scene.clips["a"], 0) is None


def test_what_is_neither_a_scene_nor_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(FourdgenError, match="not a run folder"):
        source_of(tmp_path)
    with pytest.raises(FourdgenError, match="no such file or folder"):
        source_of(tmp_path / "nothing.ply")
    with pytest.raises(FourdgenError, match=r"notes\.txt"):
        source_of(tmp_path / "notes.txt")


def test_a_port_in_use_is_said_before_anything_is_served(tmp_path: Path) -> None:
    files.write(tmp_path / "scene.ply", toy_scene())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FourdgenError, match=f"cannot listen on 127.0.0.1:{port}"):
            live.view(tmp_path / "scene.ply", port=port)
    with pytest.raises(FourdgenError, match=r"cannot listen on not\.an\.address"):
        live.view(tmp_path / "scene.ply", host="not.an.address.invalid")


def test_without_viser_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(tmp_path / "scene.ply", toy_scene())
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(FourdgenError) as caught:
        live.view(tmp_path / "scene.ply", until=threading.Event())
    assert "viser" in caught.value.message
    assert "fourdgen[viewer]" in caught.value.hint and "scene.html" in caught.value.hint


def test_names_are_shown_as_they_are() -> None:
    assert live._plain("a_b<img>.ply") == "a\\_b\\<img\\>\\.ply"
    assert os.sep in live._plain("x/y")
