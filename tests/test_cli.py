"""The command line as a person meets it: a subprocess, its words and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fourdgen import cli

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "assets" / "demo"
VERBS = ("reconstruct", "render", "export", "view", "eval", "regenerate", "status", "info", "doctor")


def fourdgen(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    command = [sys.executable, "-m", "fourdgen.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The sentence of an error that the user can put right; no traceback, exit code 2."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0].removeprefix("error: ")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small scene.ply with two bones and two clips."""
    import torch

    from fourdgen.geometry.camera import Cameras, intrinsics, look_at, orbit_eyes
    from fourdgen.scene import files
    from fourdgen.scene.motion import SampledBones
    from fourdgen.scene.scene4d import Scene4D, SceneClip
    from fourdgen.scene.surfels import Surfels

    torch.manual_seed(0)
    n = 60
    surfels = Surfels(
        means=torch.nn.functional.normalize(torch.randn(n, 3), dim=1) * 0.6,
        quats=torch.nn.functional.normalize(torch.randn(n, 4), dim=1),
        log_scales=torch.full((n, 2), -2.0),
        opacity=torch.full((n,), 3.0),
        sh=torch.rand(n, 1, 3),
        confidence=torch.full((n,), 0.5),
        bone_ids=torch.zeros(n, 4, dtype=torch.int32) + torch.arange(4) % 2,
        bone_weights=torch.tensor([0.7, 0.3, 0.0, 0.0]).repeat(n, 1),
    )
    seconds = torch.linspace(0, 1, 5)
    poses = torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0]).repeat(5, 2, 1)
    clips = {}
    for name in ("walk", "run"):
        eyes = orbit_eyes(torch.linspace(0, 120, 5), torch.full((5,), 10.0), 3.0)
        K = intrinsics(40.0, (64, 48)).expand(5, 3, 3)
        cameras = Cameras(look_at(eyes, torch.zeros(3)), K, (64, 48))
        clips[name] = SceneClip(name, seconds, torch.arange(5), cameras, torch.ones(3), torch.zeros(3))
    motion = SampledBones(dict.fromkeys(clips, seconds), dict.fromkeys(clips, poses), torch.zeros(2, 3))
    path = tmp_path_factory.mktemp("scene") / "scene.ply"
    notes = {"poses": "uncertain: the second-best start is as good (--sweep)"}
    files.write(path, Scene4D(surfels, motion, clips, "walk", run_folder="/nowhere/scene.run", notes=notes))
    return path


# --------------------------------------------------------------------------------------------------------------
# Help and version.


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_has_an_example(verb: str) -> None:
    done = fourdgen(verb, "--help")
    assert done.returncode == 0
    assert f"  fourdgen {verb} " in done.stdout or f"  fourdgen {verb}\n" in done.stdout
    assert "Example:" in done.stdout


def test_top_help_lists_every_verb_and_no_other() -> None:
    lines = fourdgen("--help").stdout.split("Commands:")[1].splitlines()
    assert [line.split()[0] for line in lines if line.strip()] == list(VERBS)


def test_version() -> None:
    done = fourdgen("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("fourdgen ")


def test_an_unknown_verb_or_flag_is_the_users_to_put_right() -> None:
    assert fourdgen("reconstrct").returncode == 2
    wrong = fourdgen("reconstruct", "--sizes", "5", "x.mp4")
    assert wrong.returncode == 2
    assert "--sizes" in wrong.stderr


# --------------------------------------------------------------------------------------------------------------
# Bad input: one sentence, exit code 2, before any work.


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nothing.mp4"], f"{ROOT / 'nothing.mp4'}: no such file or folder"),
        ([DEMO / "a.mp4", "-p", "qualty"], "qualty: no such recipe (did you mean quality?)"),
        ([DEMO / "a.mp4", "-p", "./none.toml"], "./none.toml: no such file or folder"),
        ([DEMO / "a.mp4", "--set", "train.stpes=5"], "train.stpes: no such setting (did you mean steps?)"),
        ([DEMO / "a.mp4", "--set", "trian.steps=5"], "trian.steps: no such section (did you mean train?)"),
        ([DEMO / "a.mp4", "--size", "0.5"], None),
        ([DEMO / "a.mp4", "--device", "gpu"], "--device gpu: no such device (did you mean cpu?)"),
        ([DEMO / "a.mp4", "--threads", "0"], "--threads 0: at least 1 is needed"),
        ([DEMO / "a.mp4", "--seed", "-1"], "--seed -1: a whole number from 0 to 4294967295 is needed"),
        ([DEMO / "a.mp4", "--cameras", "none.json"], f"{ROOT / 'none.json'}: no such file or folder"),
        ([DEMO / "a.mp4", "--masks", "none"], f"{ROOT / 'none'}: no such file or folder"),
        ([DEMO / "CREDIT.md"], "CREDIT.md"),
    ],
)
def test_reconstruct_refuses(tmp_path: Path, arguments: list[str | Path], expected: str | None) -> None:
    done = fourdgen("reconstruct", *arguments, "-o", tmp_path / "scene.ply")
    assert done.returncode == 2, done.stderr
    if expected is not None:
        assert expected in refused(done)
    assert not list(tmp_path.iterdir())  # nothing was begun


def test_reconstruct_refuses_places_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = fourdgen("reconstruct", DEMO / "a.mp4", "-o", tmp_path / "file" / "scene.ply", "--device", "cpu")
    assert f"cannot write in {tmp_path / 'file'}: not a directory" in refused(done)
    done = fourdgen("reconstruct", DEMO / "a.mp4", "-o", tmp_path, "--device", "cpu")
    assert f"{tmp_path}: is a folder" in refused(done)
    done = fourdgen("reconstruct", DEMO / "a.mp4", "-o", tmp_path / "scene.glb", "--device", "cpu")
    assert "scene.glb: reconstruct writes a .ply" in refused(done)
    done = fourdgen(
        "reconstruct", DEMO / "a.mp4", "-o", tmp_path / "scene.ply", "--run", ROOT / "tests", "--device", "cpu"
    )
    assert f"{ROOT / 'tests'}: not a run folder of fourdgen" in refused(done)


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    done = fourdgen("reconstruct", "none.mp4", "-p", "fats", "--threads", "0", "-o", tmp_path / "scene.ply")
    assert refused(done) == "3 things are wrong:"
    assert len([line for line in done.stderr.splitlines() if line.startswith("  - ")]) == 3


def imported(*arguments: str | Path) -> tuple[str, subprocess.CompletedProcess[str]]:
    """What a command imports, one module a line, and what it did."""
    os.environ["PYTHONPROFILEIMPORTTIME"] = "1"
    try:
        done = fourdgen(*arguments)
    finally:
        del os.environ["PYTHONPROFILEIMPORTTIME"]
    lines = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    return "\n".join(lines), done


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "none.ply"),
        ("info", "CUT"),
        ("render", "none.ply"),
        ("render", "SCENE", "--path", "circle"),
        ("render", "SCENE", "--time", "later"),
        ("render", "SCENE", "--cameras", "none.json"),
        ("render", "SCENE", "-o", "x.foo"),
        ("render", "SCENE", "-o", "/proc/x.mp4"),
        ("export", "none.ply", "-o", "x.json"),
        ("export", "SCENE", "-o", "x.foo"),
        ("export", "SCENE", "-o", "x.html", "--faces", "500"),
        ("export", "SCENE", "-o", "x.html", "--scale", "0"),
        ("export", "SCENE", "-o", "/proc/x.spz"),
        ("eval", "none.ply", "--truth", "none"),
        ("eval", "SCENE", "--truth", "none"),
        ("status", "none.run"),
        ("view", "none.ply"),
        ("view", "SCENE", "--port", "99999"),
        ("reconstruct", "none.mp4"),
    ],
)
def test_a_refusal_is_quick(arguments: tuple[str, ...], scene: Path, tmp_path: Path) -> None:
    """torch takes longer to import than everything that is checked here."""
    (tmp_path / "cut.ply").write_bytes(scene.read_bytes()[:-100])
    places = {"SCENE": scene, "CUT": tmp_path / "cut.ply"}
    modules, done = imported(*(places.get(word, word) for word in arguments))
    assert done.returncode == 2
    assert "typer" in modules.splitlines()  # or nothing was measured
    assert "torch" not in modules.splitlines()


@pytest.mark.parametrize(
    "arguments",
    [
        ("reconstruct", "NONE"), ("render", "NONE"), ("info", "NONE"), ("export", "NONE", "-o", "x.json"),
        ("eval", "NONE"), ("eval", "SCENE", "--truth", "NONE"), ("render", "SCENE", "--cameras", "NONE"),
        ("status", "NONE"), ("view", "NONE"), ("reconstruct", DEMO / "a.mp4", "-p", "NONE"),
        ("reconstruct", DEMO / "a.mp4", "--cameras", "NONE"), ("reconstruct", DEMO / "a.mp4", "--masks", "NONE"),
    ],
)  # fmt: skip
def test_a_missing_file_is_said_in_one_way(arguments: tuple[str | Path, ...], scene: Path, tmp_path: Path) -> None:
    places = {"NONE": tmp_path / "none.toml", "SCENE": scene}
    words = [places.get(word, word) if isinstance(word, str) else word for word in arguments]
    assert refused(fourdgen(*words, cwd=tmp_path)) == f"{tmp_path / 'none.toml'}: no such file or folder"


def test_a_refusal_says_what_is_wrong_and_nothing_else(tmp_path: Path, scene: Path) -> None:
    (tmp_path / "scene.ply").write_bytes(scene.read_bytes())
    for arguments in (["render", "none.ply"], ["reconstruct", "none.mp4"], ["reconstruct", "none.mp4", "--json"]):
        done = fourdgen(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        for word in ("peak", "stopped", str(tmp_path / "scene.ply"), '"end"'):
            assert word not in done.stdout + done.stderr


def test_success_closes_with_time_memory_and_place(tmp_path: Path, scene: Path) -> None:
    closing = fourdgen("export", scene, "-o", tmp_path / "cameras.json").stderr.splitlines()[-1]
    assert closing.startswith("export done in ")
    assert " | peak memory " in closing
    assert closing.endswith(f" | output {tmp_path / 'cameras.json'}")


def test_export_closes_with_what_was_written(tmp_path: Path, scene: Path) -> None:
    out = tmp_path / "one.spz"
    closing = fourdgen("export", scene, "--clip", "run", "--time", "0.5", "-o", out).stderr.splitlines()[-1]
    assert f" | {out.stat().st_size / 1000:.0f} kB | 60 surfels | clip run at 0.5 s | output {out}" in closing


def test_failure_in_the_middle_closes_alike(tmp_path: Path) -> None:
    """An asset that was there before is not said to be this run's, and a run folder with nothing in it goes away."""
    (tmp_path / "scene.ply").write_text("old")
    os.utime(tmp_path / "scene.ply", (1, 1))
    done = fourdgen("reconstruct", blank(tmp_path / "blank.mp4"), "-o", tmp_path / "scene.ply", "--device", "cpu")
    refused(done)
    closing = done.stderr.splitlines()[-1]
    assert closing.startswith("reconstruct stopped in ")
    assert " | peak memory " in closing
    assert "| scene" not in closing and "| run" not in closing
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blank.mp4", "scene.ply"]


def blank(path: Path) -> Path:
    """A video of nothing: what is wrong with it shows only when its masks are made."""
    import numpy as np

    from fourdgen.data import video

    video.write_video(path, [np.full((48, 64, 3), 255, np.uint8)] * 4, 12)
    return path


# --------------------------------------------------------------------------------------------------------------
# The verbs that look at a scene.


def test_info(scene: Path) -> None:
    done = fourdgen("info", scene)
    assert done.returncode == 0, done.stderr
    rows = {line.split("  ")[0]: line for line in done.stdout.splitlines() if line}
    assert "60, spherical harmonics of degree 0" in rows["surfels"]
    assert "2 bones" in rows["motion"]
    assert "uncertain: the second-best start is as good (--sweep)" in rows["poses"]
    assert "options in brackets are for `fourdgen reconstruct`" in done.stdout
    assert "/nowhere/scene.run (not there any more)" in rows["run folder"]
    assert "5 frames" in rows["walk (reference)"]


def test_info_of_a_folder_says_what_is_for_folders(tmp_path: Path) -> None:
    said = fourdgen("info", tmp_path)
    assert refused(said).startswith(f"{tmp_path}: a folder, where") and "`fourdgen status`" in said.stderr


def test_info_as_json_is_one_object(scene: Path) -> None:
    facts = json.loads(fourdgen("info", scene, "--json").stdout)
    assert (facts["surfels"], facts["bones"]) == (60, 2)
    assert [(clip["name"], clip["frames"], clip["seconds"]) for clip in facts["clips"]] == [
        ("walk", 5, 1.0), ("run", 5, 1.0)
    ]  # fmt: skip


def test_info_of_still_splats_makes_up_no_clip(tmp_path: Path, scene: Path) -> None:
    assert fourdgen("export", scene, "--format", "3dgs", "--time", "0.5", "-o", tmp_path / "s.ply").returncode == 0
    done = fourdgen("info", tmp_path / "s.ply")
    assert "no clips: a still file of splats" in done.stdout
    assert "frames" not in done.stdout
    assert json.loads(fourdgen("info", tmp_path / "s.ply", "--json").stdout)["clips"] == []


def test_info_of_a_file_that_is_cut_off_or_no_scene(tmp_path: Path, scene: Path) -> None:
    cut = tmp_path / "cut.ply"
    cut.write_bytes(scene.read_bytes()[:3000])
    assert "cut.ply" in refused(fourdgen("info", cut))
    assert "CREDIT.md" in refused(fourdgen("info", DEMO / "CREDIT.md"))
    assert "none.ply" in refused(fourdgen("info", tmp_path / "none.ply"))


def test_render_writes_pictures(tmp_path: Path, scene: Path) -> None:
    done = fourdgen(
        "render", scene, "--orbit", "--time", "freeze:0", "--size", "32", "--fps", "2", "-o", tmp_path / "orbit"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "orbit" / "00000.png").stat().st_size > 100


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--channel", "colour"], "--channel colour: no such channel"),
        (["--device", "tpu"], "--device tpu: no such device"),
        (["--threads", "0"], "--threads 0: at least 1 is needed"),
        (["--exr"], "--exr writes depth into a folder"),
    ],
)
def test_render_refuses(scene: Path, arguments: list[str], expected: str) -> None:
    assert expected in refused(fourdgen("render", scene, *arguments))


def test_threads_are_those_asked_for() -> None:
    ask = "from fourdgen import machine, native; import torch; machine.use_threads(3); "
    done = subprocess.run(
        [sys.executable, "-c", ask + "print(torch.get_num_threads(), native._thread_count())"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split()[0] == "3"
    assert done.stdout.split()[1] == "3"


def test_export_refuses_an_unknown_format(tmp_path: Path, scene: Path) -> None:
    assert "no export format" in refused(fourdgen("export", scene, "-o", tmp_path / "scene.abc"))


def test_what_cannot_be_is_said_in_one_sentence(scene: Path) -> None:
    assert refused(fourdgen("view", scene, "--port", "99999")) == "--port 99999: not a port"
    if Path("/proc/self").is_dir():
        nowhere = fourdgen("export", scene, "-o", "/proc/x.spz")
        assert refused(nowhere) == "cannot write in /proc: the system takes no files there"


def test_a_new_folder_is_made_and_named(tmp_path: Path, scene: Path) -> None:
    """Whoever has mistyped a folder's name reads it; the folder that is there is no news."""
    new = tmp_path / "new" / "er"
    assert f"made the folder {new}" in fourdgen("export", scene, "-o", new / "cameras.json").stderr
    assert (new / "cameras.json").is_file()
    assert "made the folder" not in fourdgen("export", scene, "-o", new / "again.json").stderr
    film = ("--path", "bullet", "--time", "freeze:0", "--size", "16", "--fps", "1")
    done = fourdgen("render", scene, *film, "-o", tmp_path / "films" / "a.gif")
    assert f"made the folder {tmp_path / 'films'}" in done.stderr
    refused(fourdgen("export", scene, "-o", tmp_path / "none" / "x.foo"))
    assert not (tmp_path / "none").exists()


def test_export_does_not_replace_the_asset_by_less(scene: Path) -> None:
    before = scene.read_bytes()
    assert "is the asset itself" in refused(fourdgen("export", scene, "--format", "3dgs", "-o", scene))
    assert scene.read_bytes() == before


def test_export_takes_one_format_and_lists_the_extensions_of_all(tmp_path: Path, scene: Path) -> None:
    both = fourdgen("export", scene, "--compress", "--format", "spz", "-o", tmp_path / "x.spz")
    assert "are two formats" in refused(both)
    rows = {line.split()[0]: line for line in fourdgen("export", "--list").stdout.splitlines()}
    assert all(end in rows["usd-cache"] for end in (".usdc", ".usda", ".usdz"))
    assert ".sog" in rows["compressed"] and ".glb" in rows["glb-splats"] and "folder" in rows["obj-seq"]
    assert fourdgen("export", "--help").stdout.count("[default: 0]") == 1  # of --texture


def test_eval_needs_something_to_compare_with(tmp_path: Path, scene: Path) -> None:
    assert str(tmp_path) in refused(fourdgen("eval", scene, "--truth", tmp_path))


def test_eval_finds_the_held_out_views_beside_the_clips(tmp_path: Path, scene: Path) -> None:
    from fourdgen import checks
    from fourdgen.scene import files

    truth, run = tmp_path / "fox", tmp_path / "für søn.run"
    (truth / "truth").mkdir(parents=True)
    (truth / "truth" / "transforms.json").write_text("{}")
    run.mkdir()
    (run / "run.toml").write_text(f'[paths]\ninputs = ["{truth}/clips/a.mp4"]\n')
    loaded = files.read(scene)
    assert "--truth DIR" in fourdgen("eval", scene).stderr
    files.write(tmp_path / "s.ply", replace(loaded, run_folder=str(run)))
    assert checks.truth_folder(None, tmp_path / "s.ply") == truth


def test_eval_knows_the_bench_by_name(tmp_path: Path, scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fourdgen import checks

    assert "FOURDGEN_BENCH" in fourdgen("eval", scene, "--truth", "fox", cwd=tmp_path).stderr
    (tmp_path / "bench" / "fox" / "truth").mkdir(parents=True)
    (tmp_path / "bench" / "fox" / "truth" / "transforms.json").write_text("{}")
    monkeypatch.setenv("FOURDGEN_BENCH", str(tmp_path / "bench"))
    assert checks.truth_folder(Path("fox"), scene) == tmp_path / "bench" / "fox"


def test_status_of_what_is_no_run(tmp_path: Path) -> None:
    assert refused(fourdgen("status", tmp_path)) == f"{tmp_path}: not a run folder of fourdgen"


def test_doctor_says_what_works_and_what_to_do() -> None:
    done = fourdgen("doctor")
    assert done.returncode == 0
    assert "fourdgen works here" in done.stdout
    findings = {row["name"]: row for row in json.loads(fourdgen("doctor", "--json").stdout)["findings"]}
    assert findings["torch"]["state"] == "ok"
    assert findings["video"]["state"] == "ok"
    assert all(row["state"] in ("ok", "optional", "missing", "broken") for row in findings.values())


def test_doctor_lists_what_nobody_needs_as_optional_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from fourdgen import doctor

    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    for finding in doctor._extras():
        assert finding.state == "optional"
        words = finding.remedy.split()
        assert words[:4] == [sys.executable, "-m", "pip", "install"]
        assert words[-1].strip("'").startswith(finding.name)  # the package itself: fourdgen is in no registry
        assert ">=" in words[-1]


def test_doctor_gets_weights_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fourdgen import doctor, weights

    monkeypatch.setenv("FOURDGEN_CACHE", str(tmp_path))
    got: list[str] = []
    monkeypatch.setattr(weights, "_fetch_one", lambda row, report: got.append(row.name))
    remedies = {finding.name: finding.remedy for finding in doctor.examine(names=["migan"])}
    assert got == ["migan"]
    assert remedies["weights migan"] == "fourdgen doctor --weights migan"
    assert remedies["weights u2netp"] == "fourdgen doctor --fetch"
    assert "nothing: no such weights" in refused(fourdgen("doctor", "--weights", "nothing"))


@pytest.mark.parametrize(
    ("verb", "own", "turns"), [("reconstruct", None, "20000"), ("export", None, "1000"), ("export", "7", "7")]
)
def test_idle_threads_sleep_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, verb: str, own: str | None, turns: str
) -> None:
    monkeypatch.setattr(cli, "app", lambda **options: None)
    monkeypatch.setattr(sys, "argv", ["fourdgen", verb])
    monkeypatch.setenv("GOMP_SPINCOUNT", own or "")
    if own is None:
        monkeypatch.delenv("GOMP_SPINCOUNT")
    cli.main()
    assert os.environ["GOMP_SPINCOUNT"] == turns
