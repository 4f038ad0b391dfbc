"""scene.ply in the hands of programs that are not ours. `make test-external` installs them."""

from __future__ import annotations

import csv
import importlib
import subprocess
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from fourdgen.geometry.transforms import Sim3, quat_to_matrix, rotation_angle_degrees
from fourdgen.playback.exports import export
from fourdgen.render import draw
from fourdgen.scene import files
from fourdgen.scene.formats.splats import turned_harmonics
from fourdgen.scene.motion import Still
from fourdgen.scene.options import Adapt
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.surfels import SH_C0, SH_C1
from tests.external.conftest import missing
from tests.toy import toy_scene

HERE = Path(__file__).parent
SPLAT_TRANSFORM = HERE / "node_modules" / ".bin" / "splat-transform"


@pytest.fixture
def scene() -> Scene4D:
    """A scene in which every element of the file occurs."""
    made = toy_scene(harmonics=4)
    world = Sim3(2.0, torch.eye(3).double(), torch.ones(3).double())
    return Scene4D(made.surfels, made.motion, made.clips, "a", world, "/somewhere/else.run", {"note": "long " * 400})


@pytest.fixture
def path(tmp_path: Path, scene: Scene4D) -> Path:
    files.write(tmp_path / "scene.ply", scene)
    return tmp_path / "scene.ply"


def program(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing(name, f"make test-external installs it ({error})")
        raise


def splat_transform(*arguments: str | Path) -> str:
    if not SPLAT_TRANSFORM.exists():
        missing("splat-transform", "it needs Node.js 20 and npm; make test-external installs it")
    run = subprocess.run([SPLAT_TRANSFORM, "-w", *arguments], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


def test_open3d_reads_the_points_and_every_column(path: Path, scene: Scene4D) -> None:
    open3d = program("open3d")
    cloud = open3d.io.read_point_cloud(str(path))
    assert np.allclose(np.asarray(cloud.points), scene.surfels.means.numpy(), atol=1e-6)
    assert np.allclose(np.linalg.norm(np.asarray(cloud.normals), axis=1), 1, atol=1e-5)
    columns = open3d.t.io.read_point_cloud(str(path)).point
    assert np.array_equal(columns["opacity"].numpy()[:, 0], scene.surfels.opacity.numpy())
    assert np.array_equal(columns["confidence"].numpy()[:, 0], scene.surfels.confidence.numpy())
    assert np.array_equal(columns["weight_1"].numpy()[:, 0], scene.surfels.bone_weights[:, 1].numpy())


def test_trimesh_reads_the_points_and_our_elements(path: Path, scene: Scene4D) -> None:
    trimesh = program("trimesh")
    cloud = trimesh.load(path)
    assert np.array_equal(np.asarray(cloud.vertices, dtype=np.float32), scene.surfels.means.numpy())
    raw = cloud.metadata["_ply_raw"]
    seconds = np.asarray(raw["fourdgen_frames"]["data"]["frame_seconds"]).astype("<i4").view("<f4").ravel()
    assert np.array_equal(seconds[:12], scene.clips["a"].seconds.numpy())


def test_splat_transform_reads_the_splats(path: Path, scene: Scene4D) -> None:
    said = splat_transform(path, path.with_suffix(".csv"))
    assert "900 gaussians" in said
    with path.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 900
    columns = {name: np.array([float(row[name]) for row in rows], dtype=np.float32) for name in rows[0]}
    assert np.array_equal(np.stack([columns[axis] for axis in "xyz"], 1), scene.surfels.means.numpy())
    assert np.array_equal(columns["f_dc_2"], scene.surfels.sh[:, 0, 2].numpy())
    turned = np.stack([columns[f"rot_{i}"] for i in range(4)], 1)
    assert np.allclose(turned, torch.nn.functional.normalize(scene.surfels.quats, dim=1).numpy(), atol=1e-6)


def test_what_splat_transform_writes_from_it_loads_as_static(path: Path, scene: Scene4D) -> None:
    splat_transform(path, path.with_name("edited.ply"))
    edited = files.read(path.with_name("edited.ply"))
    assert isinstance(edited.motion, Still)
    assert "lost" in edited.notes["motion"]
    camera = scene.clips["a"].cameras[0]
    difference = draw(edited.surfels, camera).rgb - draw(scene.surfels, camera).rgb
    assert float(difference.abs().max()) < 1e-3


def test_splat_transform_compresses_it(path: Path) -> None:
    """Its compressed writers look at every column: a further check that ours do no harm."""
    splat_transform(path, path.with_name("scene.compressed.ply"))
    assert 0 < path.with_name("scene.compressed.ply").stat().st_size < path.stat().st_size


def columns_of(path: Path) -> dict[str, np.ndarray]:
    """What splat-transform reads in a file, as columns of a 3DGS file."""
    splat_transform(path, path.with_suffix(".csv"))
    with path.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


# Largest errors allowed: positions (root units), log scales, colour, opacity, degrees of rotation, harmonics. A byte of
# .splat holds a quaternion's component to 1/128; the steps of the others are in their specifications.
@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("splat", (1e-6, 1e-4, 2.5e-3, 2.5e-3, 1.8, None)),
        ("spz", (1e-6, 0.04, 8e-3, 2.5e-3, 0.3, 0.04)),
        ("sog", (5e-5, 0.02, 5e-3, 2.5e-3, 0.8, 0.02)),
        ("3dgs", (1e-6, 1e-5, 1e-5, 1e-5, 0.01, 1e-5)),
    ],
)
def test_splat_transform_reads_the_splats_of_a_moment(
    tmp_path: Path, scene: Scene4D, name: str, bounds: tuple[float | None, ...]
) -> None:
    path = tmp_path / f"out.{'ply' if name == '3dgs' else name}"
    export(scene, path, name, Adapt(time="0.3"))
    read = columns_of(path)
    truth = turned_harmonics(scene.at("a", 0.3))
    # Formats order the splats as they like: each is compared with the nearest.
    means = np.stack([read[axis] for axis in "xyz"], 1)
    distance, index = cKDTree(truth.means.numpy()).query(means)
    assert sorted(index) == list(range(900))
    truth = truth[torch.from_numpy(index)]
    at, scale, color, opacity, angle, harmonics = bounds
    assert distance.max() < at
    scales = np.stack([read[f"scale_{i}"] for i in range(2)], 1)
    assert np.abs(scales - truth.log_scales.numpy()).max() < scale
    assert read["scale_2"].max() < -9
    dc = np.stack([read[f"f_dc_{i}"] for i in range(3)], 1)
    assert np.abs(SH_C0 * (dc - truth.sh[:, 0].numpy())).max() < color
    assert np.abs(1 / (1 + np.exp(-read["opacity"])) - torch.sigmoid(truth.opacity).numpy()).max() < opacity
    quats = torch.from_numpy(np.stack([read[f"rot_{i}"] for i in range(4)], 1)).float()
    turn = quat_to_matrix(quats).transpose(1, 2) @ quat_to_matrix(truth.quats)
    assert float(rotation_angle_degrees(turn, torch.eye(3).expand(900, 3, 3)).max()) < angle
    if harmonics is not None:
        rest = np.stack([read[f"f_rest_{i}"] for i in range(9)], 1).reshape(-1, 3, 3).transpose(0, 2, 1)
        assert SH_C1 * np.abs(rest - truth.sh[:, 1:].numpy()).max() < harmonics


def test_splat_transform_opens_the_compressed_asset(tmp_path: Path, scene: Scene4D) -> None:
    export(scene, tmp_path / "small.sog", "compressed")
    read = columns_of(tmp_path / "small.sog")
    means = np.stack([read[axis] for axis in "xyz"], 1)
    assert len(means) == 900
    assert cKDTree(scene.surfels.means.numpy()).query(means)[0].max() < 1e-3
