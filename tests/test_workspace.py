"""The run folder: what is skipped, what is run again, and that a run can be killed anywhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fourdgen import workspace
from fourdgen.report import FourdgenError

ROOT = Path(__file__).parents[1]
RECIPE = 'title = "tiny"\nstages = ["first", "second", "export"]\n'
KILLED = -9

Run = Callable[..., subprocess.CompletedProcess[str]]


def run_tiny(
    folder: Path, *arguments: str, fate: str = "", output: str = "scene.ply"
) -> subprocess.CompletedProcess[str]:
    (folder / "tiny.toml").write_text(RECIPE)
    if not (folder / "clip.txt").exists():
        (folder / "clip.txt").write_text("frames\n")
    # One path for all runs of a test, as the run folder's name may be part of a result.
    command = [sys.executable, "-m", "tests.tiny", "reconstruct", str(folder / "clip.txt"), "-o", str(folder / output)]
    command += ["-p", str(folder / "tiny.toml"), "--device", "cpu", *arguments]
    environment = {**os.environ, "TINY_FATE": fate, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, preexec_fn=_hear_interrupts
    )


def _hear_interrupts() -> None:
    """A shell that runs the tests in the background makes its children deaf to SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def states(stderr: str) -> dict[str, str]:
    """stage -> what the run said of it: done or skipped."""
    said = {}
    for line in stderr.splitlines():
        stage, _, rest = line.partition(": ")
        if rest.startswith(("done", "already done")):
            said[stage] = "skipped" if rest.startswith("already") else "done"
    return said


ALL_DONE = {"first": "done", "second": "done", "export": "done"}
ALL_SKIPPED = dict.fromkeys(ALL_DONE, "skipped")


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """scene.ply of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("unkilled")
    done = run_tiny(folder)
    assert done.returncode == 0, done.stderr
    assert states(done.stderr) == ALL_DONE
    return (folder / "scene.ply").read_bytes()


def test_skip_and_stale(tmp_path: Path, unkilled: bytes) -> None:
    assert run_tiny(tmp_path).returncode == 0
    scene = tmp_path / "scene.ply"
    assert scene.read_bytes() == unkilled

    again = run_tiny(tmp_path)
    assert (again.returncode, states(again.stderr)) == (0, ALL_SKIPPED)

    setting = run_tiny(tmp_path, "--set", "second.label=other")
    assert states(setting.stderr) == {"first": "skipped", "second": "done", "export": "done"}
    assert scene.read_bytes() != unkilled

    scene.unlink()  # The output is repaired from the run folder.
    repaired = run_tiny(tmp_path, "--set", "second.label=other")
    assert states(repaired.stderr) == ALL_SKIPPED
    assert scene.exists()

    assert states(run_tiny(tmp_path, "--seed", "1").stderr) == ALL_DONE
    (tmp_path / "clip.txt").write_text("other frames")
    assert states(run_tiny(tmp_path, "--seed", "1").stderr) == ALL_DONE
    assert states(run_tiny(tmp_path, "--seed", "1", "--fresh").stderr) == ALL_DONE
    assert not list((tmp_path / "scene.run").glob("*.old"))


@pytest.mark.parametrize(
    "place",
    ["first:begin", "first:saved", "first:sealed", "second:step3", "second:saved", "second:sealed", "export:sealed"],
)
def test_kill_and_go_on(tmp_path: Path, unkilled: bytes, place: str) -> None:
    killed = run_tiny(tmp_path, fate=f"{place}=kill")
    assert killed.returncode == KILLED, killed.stderr
    stage, moment = place.split(":")
    again = run_tiny(tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "scene.ply").read_bytes() == unkilled
    # Whatever was sealed before the kill is not done twice.
    assert states(again.stderr)[stage] == ("skipped" if moment == "sealed" else "done")
    assert ("goes on at step 3" in again.stderr) == (place == "second:step3")


def test_a_checkpoint_of_other_settings_is_not_used(tmp_path: Path) -> None:
    assert run_tiny(tmp_path, fate="second:step3=kill").returncode == KILLED
    again = run_tiny(tmp_path, "--set", "second.steps=5")
    assert again.returncode == 0
    assert "goes on" not in again.stderr


def test_interrupt_says_how_to_go_on(tmp_path: Path) -> None:
    stopped = run_tiny(tmp_path, fate="second:step3=interrupt")
    assert stopped.returncode == 130
    assert "interrupted\n  run the same command to go on" in stopped.stderr
    assert "goes on at step 3" in run_tiny(tmp_path).stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    full = run_tiny(tmp_path, fate="second:step3=full")
    assert full.returncode == 2
    assert f"error: the disk is full: {tmp_path}" in full.stderr
    assert "Traceback" not in full.stderr


def test_a_bug_is_logged_and_said_in_one_sentence(tmp_path: Path) -> None:
    failed = run_tiny(tmp_path, fate="second:step3=bug")
    log = tmp_path / "scene.run" / "crash.log"
    assert failed.returncode == 1
    assert "ZeroDivisionError: a mistake of ours" in failed.stderr
    assert str(log) in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "Traceback" in log.read_text()


def test_a_run_explains_itself(tmp_path: Path) -> None:
    import tomllib

    done = run_tiny(tmp_path, "--set", "second.steps=4")
    assert done.returncode == 0
    run = tmp_path / "scene.run"
    written = tomllib.loads((run / "run.toml").read_text())
    assert written["changed"] == {"second.steps": 4}
    assert written["second"] == {"steps": 4, "label": ""}
    assert written["run"]["command"][1:2] == ["reconstruct"]
    assert written["versions"]["torch"]
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [event["loss"] for event in events if event["event"] == "step"] == [1, 1 / 2, 1 / 3, 1 / 4]
    sealed = json.loads((run / "02-second" / "stage.json").read_text())
    assert sealed["settings"] == {"steps": 4, "label": ""}
    assert sealed["seconds"] >= 0
    assert sealed["peak_mb"] > 1


def test_json_events_alone_on_stdout(tmp_path: Path) -> None:
    done = run_tiny(tmp_path, "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["stage"] for event in events if event.get("state") == "done"] == list(ALL_DONE)
    assert sum(event["event"] == "step" for event in events) == 6
    assert (events[-1]["event"], events[-1]["outcome"]) == ("end", "reconstruct done")
    assert events[-1]["scene"] == str(tmp_path / "scene.ply")
    assert events[-1]["inputs"] == "1 read"


def test_what_a_stage_found_is_in_the_closing_line_of_every_run(tmp_path: Path) -> None:
    assert run_tiny(tmp_path, fate="second:step3=kill").returncode == KILLED
    after_a_kill, untouched = run_tiny(tmp_path), run_tiny(tmp_path)
    for done in (after_a_kill, untouched):
        assert "first: already done" in done.stderr
        assert " | inputs 1 read | " in done.stderr.splitlines()[-1]


def test_status_sees_what_a_kill_left(tmp_path: Path) -> None:
    from fourdgen import account

    assert run_tiny(tmp_path, fate="second:step3=kill").returncode == KILLED
    rows = account.status(tmp_path / "scene.run")
    assert [(row["stage"], row["state"], row["checkpoint"]) for row in rows] == [
        ("01-first", "done", None),
        ("02-second", "unfinished", "checkpoint.json"),
        ("03-export", "missing", None),
    ]


def test_dry_run_makes_nothing(tmp_path: Path) -> None:
    said = run_tiny(tmp_path, "--dry-run", "--set", "second.steps=4")
    assert said.returncode == 0
    assert "02-second  run           steps=4" in said.stdout
    assert [line.split()[:2] for line in said.stdout.splitlines()[-3:]] == [
        ["01-first", "run"], ["02-second", "run"], ["03-export", "run"]
    ]  # fmt: skip
    assert not (tmp_path / "scene.run").exists()


def test_checks_come_before_any_work(tmp_path: Path) -> None:
    wrong = run_tiny(tmp_path, "--set", "first.repeat=0")
    assert wrong.returncode == 2
    assert "error: first.repeat: at least 1 is needed" in wrong.stderr
    assert not (tmp_path / "scene.run").exists()


def test_two_processes_do_not_share_a_run_folder(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from fourdgen import workspace\n"
    program += "with workspace.lock(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(FourdgenError, match=f"process {other.pid}"), workspace.lock(tmp_path):
            pass
        other.kill()
    with workspace.lock(tmp_path):  # The lock of a killed process is free.
        pass


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(FourdgenError, match="not a run folder"):
        workspace.check_run_folder(tmp_path)
    (tmp_path / "run.toml").write_text("")
    (tmp_path / "01-first").mkdir()
    workspace.check_run_folder(tmp_path)
    workspace.clear_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_files_that_carry_their_own_key_outlive_a_change_of_the_stage_s(tmp_path: Path) -> None:
    folder = tmp_path / "01-first"
    part, _ = workspace.open_part(folder, "one", "kept-*")
    (part / "kept-a").write_text("a")
    (part / "checkpoint").write_text("of one")
    workspace.seal(folder, "one", {})
    part, _ = workspace.open_part(folder, "two", "kept-*")
    (part / "kept-b").write_text("b")  # and the process is killed
    part, _ = workspace.open_part(folder, "three", "kept-*")
    assert sorted(path.name for path in part.iterdir()) == ["kept-a", "kept-b", workspace.WORK]
    assert (part / "kept-a").read_text() == "a"
    assert workspace.state_of(folder, "one") == "done"  # until the new work is
    part, _ = workspace.open_part(folder, "four")
    assert [path.name for path in part.iterdir()] == [workspace.WORK]


def test_names_count_only_where_they_matter() -> None:
    assert workspace.input_names([Path("/a/x.mp4"), Path("/b/y.mp4")]) == ["x.mp4", "y.mp4"]
    assert workspace.input_names([Path("/a/x.mp4"), Path("/b/x.mp4")]) == ["a/x.mp4", "b/x.mp4"]
    # As clips are: a folder that changes a clip's name makes it another clip.
    far = [Path("/a/clips/x.mp4"), Path("/b/clips/x.mp4"), Path("/c/clips/y.mp4")]
    assert workspace.input_names(far) == ["a/x.mp4", "b/x.mp4", "y.mp4"]


def test_hash_of_a_folder_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = workspace.hash_path(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = workspace.hash_path(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, workspace.hash_path(tmp_path)}) == 3
