"""The Python API of the README, and that importing it costs nothing."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch

import fourdgen
from fourdgen import api, planning
from fourdgen.geometry.transforms import Sim3
from fourdgen.playback.channels import Look, layer, with_alpha
from fourdgen.playback.shots import Shot
from fourdgen.render import pick
from fourdgen.report import FourdgenError
from fourdgen.scene import files
from fourdgen.verbs.making import reconstruct
from tests.toy import FRAMES, toy_scene, write_truth

DEMO = Path(__file__).parents[1] / "assets" / "demo" / "a.mp4"


def test_load_at_draw(tmp_path: Path) -> None:
    files.write(tmp_path / "scene.ply", toy_scene())
    scene = fourdgen.load(tmp_path / "scene.ply")
    surfels = scene.at("a", seconds=0.5)
    out = fourdgen.draw(surfels, scene.clips["a"].cameras[:2])
    assert out.rgb.shape == (2, 96, 96, 3)
    assert float(out.alpha.max()) > 0.9


def test_drawing_from_the_file_equals_drawing_what_was_written(tmp_path: Path) -> None:
    scene = toy_scene(harmonics=4)
    fourdgen.save(scene, tmp_path / "scene.ply")
    read = fourdgen.load(str(tmp_path / "scene.ply"))
    for name, clip in scene.clips.items():
        for seconds in (0.0, 0.13, 0.31):
            written, loaded = (fourdgen.draw(s.at(name, seconds), clip.cameras[1]) for s in (scene, read))
            assert torch.equal(written.rgb, loaded.rgb)
            assert torch.equal(written.depth, loaded.depth)


def test_every_public_name_is_there() -> None:
    for name in fourdgen.__all__:
        assert getattr(fourdgen, name) is not None
    assert set(fourdgen.__all__) == set(dir(fourdgen))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fourdgen.nothing  # noqa: B018 - looking it up is the test


def test_import_is_fast_and_without_torch() -> None:
    code = (
        "import time; t = time.process_time(); import fourdgen; t = time.process_time() - t; "
        "import sys; print(t, 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, torch_there = run.stdout.split()
    assert torch_there == "False"
    assert float(seconds) < 0.3


def test_a_scene_says_what_it_is_in_one_line() -> None:
    scene = toy_scene()
    assert repr(scene) == f"<Scene4D: {len(scene.surfels)} surfels, 2 clips (a 0.92 s, b 0.42 s)>"
    assert repr(scene.clips["a"]) == "<clip a: 12 frames of 96x96, 0 to 0.916667 s>"
    assert repr(scene.surfels) == f"<Surfels: {len(scene.surfels)} surfels, harmonics of degree 0, on cpu>"


def test_a_clip_or_time_that_is_not_there_is_said() -> None:
    scene = toy_scene()
    with pytest.raises(FourdgenError, match="the scene has no clip 'z'") as caught:
        scene.at("z", 0.5)
    assert caught.value.hint == "its clips: a, b"
    with pytest.raises(FourdgenError, match="seconds = nan: not a time"):
        scene.at("a", float("nan"))
    held, last = scene.at("a", 1e9), scene.at("a", float(scene.clips["a"].seconds[-1]))
    assert torch.equal(held.means, last.means)


def test_a_function_is_not_hidden_by_the_package_of_its_name() -> None:
    from fourdgen.evaluate import table

    assert callable(table)
    assert fourdgen.evaluate is api.evaluate


def test_save_tells_a_scene_from_a_path(tmp_path: Path) -> None:
    with pytest.raises(FourdgenError, match="is no scene"):
        fourdgen.save(tmp_path / "scene.ply", toy_scene())  # type: ignore[arg-type]


def test_options_become_settings() -> None:
    request = api.request(
        "a.mp4", "s.ply", box=(1, 2, 3, 4), sync=False, frames=0, fov=40.0, turn=None, masks="m",
        settings={"train.steps": [6, 4], "train.normals": True, "align.sweep": None},
    )  # fmt: skip
    assert set(request.settings) == {
        "ingest.box=1,2,3,4", "align.sync=false", "ingest.frames=0", "align.fov=40.0", "root_pose.focal=false",
        "train.focal=false", "train.steps=6,4", "train.normals=true", "align.sweep=none",
    }  # fmt: skip
    assert (request.inputs, request.masks, request.cameras) == ((Path("a.mp4"),), Path("m"), None)
    assert api.request(["a", Path("b")], "s.ply", settings=["x.y=1"]).settings == ("x.y=1",)
    each = api.request("a.mp4", "s.ply", fov={"a": 40.0, "b": 50}, turn="a=cw,b=ccw", box={"a": (1, 2, 3, 4)})
    assert set(each.settings) == {
        "align.fov=a=40.0;b=50", "align.turn=a=cw,b=ccw", "ingest.box=a=1,2,3,4", "root_pose.focal=a=false;b=false",
        "train.focal=a=false;b=false",
    }  # fmt: skip
    with pytest.raises(TypeError, match="no such option of reconstruct: sized"):
        api.request("a.mp4", "s.ply", sized=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"sweep": -90.0},
            "--sweep -90.0: expected more than 0 and at most 1440 degrees | `fourdgen reconstruct --help`",
        ),
        (
            {"turn": "left"},
            "--turn left: expected one of auto, cw, ccw, none, or one for each clip as in CLIP=...,CLIP=... | ",
        ),
        ({"turn": {"a": "cw", "z": "ccw"}}, "--turn: no clip is called 'z' | choose of "),
        ({"sweep": "z=90"}, "--sweep: no clip is called 'z' | choose of "),
        ({"fov": {"z": 40.0}}, "--fov: no clip is called 'z' | choose of "),
        (
            {"turn": "none", "sweep": {"a": 90.0}},
            "--sweep a=90.0: does not go with turn none, a view that does not turn | ",
        ),
        ({"box": (-50, -50, 20, 20)}, f"{DEMO}: the box lies outside its "),
        ({"box": {"z": (1, 2, 3, 4)}}, "--box: no clip is called 'z' | choose of "),
        ({"fov": "a=400"}, "--fov a=400: expected 2 to 150 degrees | "),
        (
            {"box": (10, 10, -4, 5)},
            "--box 10,10,-4,5: expected X,Y,W,H in pixels, with a width and a height above 0 | ",
        ),
        ({"fov": 400.0}, "--fov 400.0: expected 2 to 150 degrees | "),
        ({"turn": "none", "sweep": 90.0}, "--sweep 90.0: does not go with turn none"),
        ({"sweep": 90.0, "settings": ["align.sweep=-5"]}, "align.sweep = -5: expected more than 0"),
    ],
)
def test_a_bad_value_is_called_by_the_option_that_was_typed(tmp_path: Path, options: dict, said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(FourdgenError) as raised:
        planning.plan(api.request(DEMO, tmp_path / "s.ply", pipeline="fast", device="cpu", **options))
    assert f"{raised.value.message} | {raised.value.hint}".startswith(said)


def test_the_command_line_has_no_option_that_python_has_not() -> None:
    parameters = set(inspect.signature(reconstruct).parameters) - {"inputs", "output", "dry_run", "json"}
    assert parameters == set(api.Options.__annotations__)


def again_changes_nothing(clip: Path, truth: Path, folder: Path) -> None:
    """The same again is answered from the receipt, without torch and without a plan; a touched file is looked at."""
    words = ["reconstruct", clip, "-o", folder / "scene.ply", "-p", "fast", "--device", "cpu", "--cameras"]
    command = [sys.executable, "-X", "importtime", "-m", "fourdgen.cli", *map(str, [*words, truth / "transforms.json"])]
    command += ["--set", "train.steps=30,20,10"]
    before = (folder / "scene.ply").read_bytes()

    def run() -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr

    quick = run()
    assert quick.count("already done") == 6
    assert not any(line.endswith(" torch") for line in quick.splitlines())
    (folder / "scene.ply").write_bytes(b"something else")
    assert any(line.endswith(" torch") for line in run().splitlines())
    assert (folder / "scene.ply").read_bytes() == before
    os.utime(clip / "0.png")
    assert any(line.endswith(" torch") for line in run().splitlines())
    assert not any(line.endswith(" torch") for line in run().splitlines())


def test_reconstruct_and_evaluate(tmp_path: Path) -> None:
    """The real thing at the smallest size: pictures with cameras in, an asset out, scored."""
    truth, world = tmp_path / "truth", Sim3(2.0, torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    write_truth(truth, toy_scene(), world)
    clip = tmp_path / "a"
    clip.mkdir()
    scene = toy_scene()
    for i in range(FRAMES):
        shot = Shot(scene.clips["a"].cameras[i], "a", float(scene.clips["a"].seconds[i]))
        drawn = layer(scene, shot, Look("rgb"), pick("cpu"))
        cv2.imwrite(str(clip / f"{i}.png"), with_alpha(drawn, Look("rgb"))[..., [2, 1, 0, 3]])
    made = fourdgen.reconstruct(
        clip, tmp_path / "out" / "scene.ply", pipeline="fast", device="cpu", cameras=truth / "transforms.json",
        settings={"train.steps": [30, 20, 10]},
    )  # fmt: skip
    assert list(made.clips) == ["a"]
    assert made.run_folder == str(tmp_path / "out" / "scene.run")
    figures = fourdgen.evaluate(tmp_path / "out" / "scene.ply", truth)
    assert figures["known_cameras"] and figures["psnr"] > 14
    again_changes_nothing(clip, truth, tmp_path / "out")
    with pytest.raises(FourdgenError, match="no such file or folder"):
        fourdgen.reconstruct(tmp_path / "none.mp4", tmp_path / "s.ply")


def test_a_value_for_each_clip_in_every_way_to_say_it(tmp_path: Path) -> None:
    """On the command line once or again for each clip, in a recipe, and from Python."""
    from fourdgen.verbs.making import _joined

    demo = [DEMO, DEMO.with_name("b.mp4")]
    (tmp_path / "mine.toml").write_text(
        'extends = "fast"\n[align]\nturn = {a = "cw", b = "ccw"}\nsweep = "a=90,b=80"\n'
    )
    ways: list[dict[str, object]] = [
        {"turn": _joined(["a=cw,b=ccw"]), "sweep": _joined(["a=90", "b=80"])},
        {"turn": {"a": "cw", "b": "ccw"}, "settings": ["align.sweep=a=90;b=80"]},
        {"pipeline": str(tmp_path / "mine.toml")},
    ]
    for options in ways:
        wanted = {"pipeline": "fast", "device": "cpu", **options}
        planned = planning.plan(api.request(demo, tmp_path / "s.ply", **wanted))  # type: ignore[arg-type]
        config = next(row.config for row in planned.rows if row.stage.name == "align")
        assert [(config.turn_of(name), config.sweep_of(name)) for name in "abc"] == [
            ("cw", 90.0), ("ccw", 80.0), ("auto", None),
        ]  # fmt: skip
