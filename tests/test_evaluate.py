"""The verb eval: a scene scored against pictures drawn from itself, as it is and disturbed in known ways."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fourdgen.data.cameras_io import read_camera_entries
from fourdgen.evaluate import evaluate, table
from fourdgen.fit import lpips as perceptual
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import Sim3, dual_quat, dual_quat_right, quat_from_matrix, quat_to_matrix, so3_exp
from fourdgen.playback import RenderRequest, render
from fourdgen.report import FourdgenError
from fourdgen.scene import files
from fourdgen.scene.scene4d import Scene4D, SceneClip
from fourdgen.scene.surfels import Surfels
from tests.toy import FRAMES, ellipsoid, toy_scene, write_truth

WORLD = Sim3(1.3, so3_exp(torch.tensor([0.5, -1.0, 2.0]).double()), torch.tensor([0.5, 0.2, -3.0]).double())
KEYS = {
    *("psnr", "ssim", "lpips", "iou", "box_psnr", "box_ssim", "box_lpips", "box_iou", "lpips_net"),
    *("strict_psnr", "strict_ssim", "strict_lpips", "strict_iou", "strict_box_psnr"),
    *(
        "chamfer",
        "normal_deg",
        "track",
        "flicker",
        "confidence_auc",
        "confidence_base",
        "interpolation",
        "pose",
        "focal_error",
        "instant_psnr",
        "instant_turn",
    ),
    *("seconds", "peak_mb"),
}


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truth")
    write_truth(folder, toy_scene(), WORLD)
    return folder


def scored(folder: Path, scene: Scene4D, truth: Path, **options: object) -> dict:
    files.write(folder / "scene.ply", scene)
    return evaluate(folder / "scene.ply", truth, **options)


def with_cameras_moved(scene: Scene4D, change: Sim3) -> Scene4D:
    """The scene with its surfels where they were and its cameras wrong."""
    clips = {}
    for name, clip in scene.clips.items():
        moved = Cameras(change.move_cameras(clip.cameras.cam_from_world), clip.cameras.K, clip.cameras.size)
        clips[name] = replace(clip, cameras=moved)
    return replace(scene, clips=clips)


def test_the_truth_itself_scores_high(tmp_path: Path, truth: Path) -> None:
    result = scored(tmp_path, toy_scene(), truth)
    assert set(result) >= KEYS
    assert result["psnr"] > 50
    assert result["strict_psnr"] > 50
    assert result["iou"] > 0.99
    assert result["ssim"] > 0.999
    assert result["pose"]["max"] < 0.1
    assert result["pose"]["lt6"] == 1
    assert result["focal_error"] < 1e-6
    assert result["views"] == 8
    assert result["box_psnr"] > 45
    assert result["box_ssim"] > 0.999
    assert result["box_iou"] > 0.99
    assert result["notes"] == []
    json.dumps(result)  # plain numbers only


def test_known_cameras_are_scored_as_they_are(tmp_path: Path, truth: Path) -> None:
    result = scored(tmp_path, replace(toy_scene(), world_from_input=WORLD), truth)
    assert result["known_cameras"]
    assert result["psnr"] > 50
    off = Sim3(1.0, so3_exp(torch.tensor([0.0, 0.0, 0.1]).double()), torch.zeros(3).double())
    wrong = scored(tmp_path, replace(toy_scene(), world_from_input=off.compose(WORLD)), truth)
    assert wrong["psnr"] == wrong["strict_psnr"] < 25  # known cameras are never registered
    assert wrong["instant_psnr"] is None


def toned(scene: Scene4D, gain: list[float], bias: float) -> Scene4D:
    """The scene with clip a filmed in these colours."""
    clip = replace(scene.clips["a"], gain=torch.tensor(gain), bias=torch.full((3,), bias))
    return replace(scene, clips={**scene.clips, "a": clip})


def test_pictures_are_compared_in_the_colours_of_their_clip(tmp_path: Path) -> None:
    """A clip that was filmed darker is scored against its own pictures; an asset that does not know so is off."""
    scene = replace(toy_scene(), world_from_input=WORLD)
    dark = toned(scene, [0.6, 0.5, 0.6], 0.02)
    write_truth(tmp_path, dark, WORLD)
    right, wrong = scored(tmp_path, dark, tmp_path), scored(tmp_path, toned(scene, [1.0] * 3, 0.0), tmp_path)
    assert right["psnr"] > 50 > 28 > wrong["psnr"]
    assert right["confidence_base"] is None or right["confidence_base"] < 0.01  # share of wrong pixels
    assert wrong["confidence_base"] > 0.3


def test_the_box_counts_what_is_inside_it_alone(tmp_path: Path, truth: Path) -> None:
    """Something beside the subject costs the whole picture, and its box less or nothing."""
    scene = replace(toy_scene(), world_from_input=WORLD)
    beside = ellipsoid([0.0, -0.9, 0.0], [0.12, 0.05, 0.12], 100, [[0.0, 0.0, 0.0]] * 2)
    beside = replace(beside, bone_ids=torch.zeros(100, 4).int(), bone_weights=torch.eye(4)[:1].expand(100, 4))
    names = ("means", "quats", "log_scales", "opacity", "sh", "confidence", "bone_ids", "bone_weights")
    both = {n: torch.cat([getattr(scene.surfels, n), getattr(beside, n)]) for n in names}
    result = scored(tmp_path, replace(scene, surfels=Surfels(**both)), truth)
    assert result["psnr"] < 35 < result["box_psnr"]
    assert result["iou"] < 0.99 < result["box_iou"]
    assert result["ssim"] < 0.995 < result["box_ssim"]


def test_the_net_of_lpips_is_named(tmp_path: Path, truth: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = replace(toy_scene(), world_from_input=WORLD)
    monkeypatch.setattr(perceptual, "load", lambda: perceptual.Lpips().eval().requires_grad_(False))
    result = scored(tmp_path, scene, truth)
    assert result["lpips_net"] == "AlexNet"
    assert result["lpips"] is not None and result["box_lpips"] is not None
    assert "LPIPS (AlexNet)" in table(result)
    monkeypatch.setattr(perceptual, "load", lambda: None)
    without = scored(tmp_path, scene, truth)
    assert without["lpips_net"] is without["lpips"] is without["box_lpips"] is None
    assert "AlexNet" not in table(without)


def test_held_out_frames_that_the_asset_never_saw_are_told(tmp_path: Path, truth: Path) -> None:
    """The truth shows frames 0, 3, 6 and 9, each twice; the asset has seen clip a up to frame 5."""
    scene = replace(toy_scene(), world_from_input=WORLD)
    clip = scene.clips["a"]
    short = SceneClip("a", clip.seconds[:6], clip.frame_ids[:6], clip.cameras[:6], clip.gain, clip.bias)
    result = scored(tmp_path, replace(scene, clips={**scene.clips, "a": short}), truth)
    assert len(result["notes"]) == 1
    assert "4 of 8 held-out views of clip a show frames outside 0 to 5" in result["notes"][0]
    assert "note: 4 of 8" in table(result)


@pytest.mark.parametrize("frame", [100, -3])
def test_held_out_frames_that_the_true_surface_lacks_are_refused(tmp_path: Path, frame: int) -> None:
    scene = replace(toy_scene(), world_from_input=WORLD)
    write_truth(tmp_path, scene, WORLD)
    write_mesh(tmp_path, scene)
    path = tmp_path / "truth" / "transforms.json"
    entries = json.loads(path.read_text())
    entries["frames"][2]["frame"] = frame
    path.write_text(json.dumps(entries))
    with pytest.raises(FourdgenError, match=f"frame {frame} of clip a, whose true surface .* has frames 0 to 11"):
        scored(tmp_path, scene, tmp_path)


def test_a_misplaced_scene_is_recovered_by_registration(tmp_path: Path, truth: Path) -> None:
    change = Sim3(1.06, so3_exp(torch.tensor([0.05, 0.12, -0.05]).double()), torch.tensor([0.05, 0.0, 0.05]).double())
    result = scored(tmp_path, with_cameras_moved(toy_scene(), change), truth)
    assert result["strict_psnr"] < 22
    assert result["psnr"] > 40


def test_registration_cannot_bend_single_views(tmp_path: Path, truth: Path) -> None:
    """A scene whose motion is wrong keeps its error: seven numbers move all views together."""
    scene = toy_scene()
    still = {name: poses[3:4].expand_as(poses) for name, poses in scene.motion.dual_quats.items()}  # the arm is up
    result = scored(tmp_path, replace(scene, motion=replace(scene.motion, dual_quats=still)), truth)
    assert result["psnr"] < 30
    assert result["psnr"] >= result["strict_psnr"] - 1e-6
    assert result["instant_psnr"] < 32  # nor can seven numbers of an instant lift an arm


def test_a_body_that_swings_with_its_cameras_scores_high_instant_by_instant(tmp_path: Path, truth: Path) -> None:
    """The held-out views see the right shape, turned: as where cameras were found that swing with the body."""
    scene = toy_scene()
    clip, motion = scene.clips["a"], scene.motion
    swing = 0.2 * torch.cos(2 * torch.pi * motion.seconds["a"].double() / float(clip.seconds[-1]))
    turns = so3_exp(swing[:, None] * torch.tensor([0.0, 1.0, 0.0]).double())
    after = dual_quat(quat_from_matrix(turns), torch.zeros(len(swing), 3).double())
    bones = (dual_quat_right(motion.dual_quats["a"].double()) @ after[:, None, :, None])[..., 0].float()
    swung = replace(scene, motion=replace(motion, dual_quats={**motion.dual_quats, "a": bones}))

    result = scored(tmp_path, swung, truth)
    assert result["psnr"] < 27
    assert result["instant_psnr"] > result["psnr"] + 6
    assert 4 < result["instant_turn"] < 11.5  # the median of a swing by 11.5 degrees, but for what registering took
    assert "each instant" in table(result)


def test_saved_cameras_draw_the_scored_pictures(tmp_path: Path) -> None:
    """Of a clip that has the asset's colours, which is what free cameras show."""
    truth, scene = tmp_path, toned(toy_scene(), [1.0] * 3, 0.0)
    write_truth(truth, scene, WORLD)
    result = scored(tmp_path, scene, truth, save_cameras=tmp_path / "cams.json")
    out = render(
        tmp_path / "scene.ply",
        RenderRequest(cameras=tmp_path / "cams.json", background="white", output=tmp_path / "out"),
    )
    import cv2

    errors = []
    for number, entry in enumerate(read_camera_entries(truth / "truth")):
        mine = cv2.imread(str(out / f"{number:05d}.png")).astype(float)
        theirs = cv2.imread(str(truth / "truth" / entry.file_path), cv2.IMREAD_UNCHANGED).astype(float)
        alpha = theirs[..., 3:] / 255
        errors.append(((mine - theirs[..., :3] * alpha - 255 * (1 - alpha)) ** 2).mean() / 255**2)
    assert -10 * np.log10(np.mean(errors)) > min(result["psnr"], 60) - 12  # both pictures are rounded to bytes


def test_pose_and_focal_errors(tmp_path: Path, truth: Path) -> None:
    scene = toy_scene()
    clip = scene.clips["a"]
    poses, K = clip.cameras.cam_from_world.clone(), clip.cameras.K.clone()
    poses[2, :3] = so3_exp(torch.tensor([0.0, 0.35, 0.0])) @ poses[2, :3]  # 20 degrees
    K[:, :2, :2] *= 1.1
    result = scored(
        tmp_path,
        replace(scene, clips={**scene.clips, "a": replace(clip, cameras=Cameras(poses, K, clip.cameras.size))}),
        truth,
    )
    assert result["pose"]["median"] < 2
    assert 17 < result["pose"]["max"] < 21
    assert result["pose"]["lt10"] == pytest.approx(17 / 18)
    assert result["focal_error"] == pytest.approx(0.1 * 12 / 18, rel=1e-3)  # clip a has 12 of the 18 frames


def write_mesh(folder: Path, scene: Scene4D) -> None:
    """A mesh of one small triangle per surfel, which moves with it, in the layout of the bench."""
    truth_from_root = WORLD.inverse()
    frames = []
    for seconds in scene.clips["a"].seconds.tolist():
        state = scene.at("a", seconds)
        axes = quat_to_matrix(state.quats)[:, :, :2]
        corner = 0.05 * torch.tensor([[1.0, 0.0], [-0.5, 0.87], [-0.5, -0.87]])
        points = state.means[:, None] + torch.einsum("nij,kj->nki", axes, corner)
        frames.append(truth_from_root.apply(points.double().reshape(-1, 3)).numpy())
    vertices = np.stack(frames)
    scale = np.abs(vertices).max() / 32000
    faces = np.arange(vertices.shape[1]).reshape(-1, 3).astype(np.uint16)
    np.savez(
        folder / "truth" / "mesh_a.npz",
        faces=faces,
        verts=(vertices / scale).round().astype(np.int16),
        verts_scale=np.float32(scale),
    )


def test_surface_scores(tmp_path: Path) -> None:
    scene = replace(toy_scene(), world_from_input=WORLD)
    write_truth(tmp_path, scene, WORLD)
    write_mesh(tmp_path, scene)
    good = scored(tmp_path, scene, tmp_path)
    assert good["chamfer"] < 2  # percent of the radius; the mesh has gaps between its triangles
    assert good["normal_deg"] < 20  # a drawn normal blends neighbours, a triangle is flat
    assert good["track"]["all"] < 0.1  # the nearest surfel may be one that the point does not belong to
    assert good["track"]["fast"] < 0.1
    assert good["track"]["hidden"] < 0.1
    assert set(good["track_by_clip"]) == {"a"}
    still = {name: poses[:1].expand_as(poses) for name, poses in scene.motion.dual_quats.items()}
    bad = scored(tmp_path, replace(scene, motion=replace(scene.motion, dual_quats=still)), tmp_path)
    assert bad["track"]["all"] == pytest.approx(1.0, abs=0.02)  # what does not move is wrong by all of the motion
    assert bad["chamfer"] > good["chamfer"]


def test_time_and_memory_come_from_the_run_folder(tmp_path: Path, truth: Path) -> None:
    for number, seconds in enumerate((1.5, 20.0)):
        folder = tmp_path / "scene.run" / f"{number + 1:02d}-stage"
        folder.mkdir(parents=True)
        record = {"key": "k", "stage": "s", "seconds": seconds, "peak_mb": 100 + seconds}
        (folder / "stage.json").write_text(json.dumps(record))
    result = scored(
        tmp_path, replace(toy_scene(), world_from_input=WORLD, run_folder=str(tmp_path / "scene.run")), truth
    )
    assert result["seconds"] == 21.5
    assert result["peak_mb"] == 120.0


def test_the_table_shows_what_is_there_and_what_is_not(tmp_path: Path, truth: Path) -> None:
    text = table(scored(tmp_path, replace(toy_scene(), world_from_input=WORLD), truth))
    assert "known cameras" in text
    assert "8 held-out views, 900 surfels" in text
    assert "Chamfer -" in text


def test_without_true_input_cameras_nothing_is_made_up(tmp_path: Path, truth: Path) -> None:
    """Held-out views alone, in an unknown world: no picture score, and a note that says why."""
    import shutil

    shutil.copytree(truth / "truth", tmp_path / "views")
    result = scored(tmp_path, toy_scene(), tmp_path / "views")
    assert result["psnr"] is None
    assert result["strict_psnr"] is None
    assert any("fewer than two input frames" in note for note in result["notes"])
    table(result)


def test_what_cannot_be_compared_is_said(tmp_path: Path, truth: Path) -> None:
    scene = toy_scene()
    with pytest.raises(FourdgenError, match="no held-out views here"):
        scored(tmp_path, scene, tmp_path)
    renamed = {"c": replace(scene.clips["b"], name="c")}
    motion = replace(
        scene.motion, seconds={"c": scene.motion.seconds["b"]}, dual_quats={"c": scene.motion.dual_quats["b"]}
    )
    with pytest.raises(FourdgenError, match="none of the held-out views shows a clip"):
        scored(tmp_path, replace(scene, clips=renamed, motion=motion, reference="c"), truth)
    assert len(scene.clips["a"].seconds) == FRAMES
