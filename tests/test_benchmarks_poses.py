"""benchmarks/poses.py: what is planned and taken up again, how results are judged, and which goals they reach."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch

from fourdgen.data.cameras_io import write_transforms_json
from fourdgen.geometry.camera import look_at, orbit_eyes
from fourdgen.geometry.transforms import Sim3, so3_exp
from fourdgen.poses.candidates import SearchSettings
from tests.benchmark import script
from tests.poses.subject import film, orbit
from tests.toy import entries_in


@pytest.fixture(scope="module")
def poses() -> ModuleType:
    return script("poses")


@pytest.fixture(scope="module")
def table() -> ModuleType:
    return script("pose_table")


@pytest.fixture
def tasks() -> ModuleType:
    return script("pose_tasks")


def asked(out: Path, **further: object) -> argparse.Namespace:
    """What the command line would say."""
    plain = {"scenes": None, "clips": None, "seeds": "0", "versions": "as_filmed", "effort": 1.0, "minutes": None,
             "no_pairs": False, "whole": False, "keep": False}  # fmt: skip
    return argparse.Namespace(out=out, **{**plain, **further})


def scene_of(folder: Path, clips: str, frames: int) -> Path:
    """A figure before turning cameras: pictures with alpha, true cameras, and a folder for held-out views."""
    (folder / "truth").mkdir(parents=True)
    entries = []
    for number, clip in enumerate(clips):
        cameras = orbit(torch.linspace(0, -90 - 60 * number, frames))
        (folder / "clips" / clip).mkdir(parents=True)
        for i, (rgb, mask) in enumerate(zip(*film(cameras), strict=True)):
            cv2.imwrite(str(folder / "clips" / clip / f"{i:03d}.png"), np.dstack([rgb[..., ::-1], mask]))
        entries += entries_in(Sim3.identity(), cameras, clip, list(range(frames)), clip)
    write_transforms_json(folder / "transforms.json", entries)
    return folder


def test_poses_are_planned_in_the_order_of_their_worth(poses: ModuleType, tmp_path: Path) -> None:
    scene_of(tmp_path / "bench" / "ball", "ab", 2)
    given = asked(tmp_path / "out", seeds="0,1", versions="as_filmed,eased", minutes=0, whole=True)
    tasks = poses.plan(given, tmp_path / "bench")
    first = [(task["kind"], task.get("clip"), task.get("version")) for task in tasks[:7]]
    assert first == [("search", "a", "as_filmed"), ("search", "b", "as_filmed"), ("pair", None, None),
                     ("whole", None, None), ("known", None, None), ("search", "a", "eased"), ("search", "b", "eased"),
                     ]  # fmt: skip
    assert [task["seed"] for task in tasks] == [0] * 7 + [1] * 7
    assert len({task["path"] for task in tasks}) == 14
    assert poses.work(tasks[0]) is None  # out of time


def test_results_belong_to_the_code_that_made_them(tasks: ModuleType, tmp_path: Path) -> None:
    """What other code has made is made again, with all that was made from it; or kept, and then not taken for new."""
    made: list[str] = []

    def pair(task: dict) -> dict:
        made.append(task["code"])
        return {"median": 3.0}

    tasks.pair = pair
    capture = tmp_path / "capture"
    capture.mkdir()
    task = {"kind": "pair", "path": str(tmp_path / "pair.json"), "needs": [str(tmp_path / "a.json")], "name": "fox",
            "seed": 0, "effort": 1.0, "until": float("inf"), "keep": False, "capture": str(capture)}  # fmt: skip

    def done(code: str, keep: bool = False) -> str | None:
        record = tasks.work({**task, "code": code, "keep": keep})
        return None if record is None else record.get("code", "none")

    def write(name: str, **record: object) -> None:
        (tmp_path / name).write_text(json.dumps(record))

    write("capture/made_by.json", code="new")
    assert done("new") is None  # its search is not there
    write("a.json", median=1.0)  # as before there were digests
    assert done("new") is None and not made  # and neither is one of this code
    write("a.json", median=1.0, code="new")
    assert done("new") == "new" == done("new") and len(made) == 1
    assert done("newer") is None and len(made) == 1  # the search comes first
    write("a.json", median=1.0, code="newer")
    write("capture/made_by.json", code="newer")
    assert done("newer") == "newer" and len(made) == 2
    assert done("newest", keep=True) == "newer" and len(made) == 2
    (tmp_path / "pair.json").unlink()
    assert done("newest", keep=True) == tasks.MIXED and len(made) == 3
    write("a.json", median=1.0, code="newest")
    write("capture/made_by.json", code="newest")
    assert done("newest") == "newest" and len(made) == 4
    write("pair.json", median=1.0)
    assert done("newest", keep=True) == "none" and len(made) == 4


def test_the_digest_covers_what_makes_the_results(poses: ModuleType, tmp_path: Path) -> None:
    assert {path.name for path in poses.MAKERS} == {"pose_tasks.py", "retimed.py"}
    assert all(path.is_file() for path in poses.MAKERS)
    code = script("digest").code_digest
    (tmp_path / "work.py").write_text("1")
    before = code(tmp_path / "work.py")
    (tmp_path / "work.py").write_text("2")
    assert len({before, code(tmp_path / "work.py"), code()}) == 3


@pytest.mark.parametrize("count", [12, 48, 400])
def test_an_uneven_version_keeps_true_times(count: int) -> None:
    retimed = script("retimed").retimed
    seconds = 3 + torch.arange(count) / 24
    order, times = retimed("uneven", seconds)
    assert torch.equal(times, seconds[torch.from_numpy(order)])
    steps = np.diff(order)
    assert order[0] == 0 and order[-1] == count - 1 and steps.min() == 1
    assert len(set(steps.tolist())) > 2 and steps.max() > round(count / 8)  # here and there, and in one piece
    assert count / 2 < len(order) < 0.75 * count
    assert np.array_equal(order, retimed("uneven", seconds)[0])
    assert torch.equal(retimed("as_filmed", seconds)[1], seconds)
    for version in ("eased", "there_and_back", "stop_and_go"):
        played = retimed(version, seconds)[1]
        assert played[0] == seconds[0] and played.diff().std() < 1e-4 < played.diff().min()


def test_a_clip_is_read_and_searched_at_its_times(
    poses: ModuleType, tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once with the code as it is; what older code has read is read again. (Still views are found in no time.)"""
    scene_of(tmp_path / "bench" / "ball", "a", 12)
    (task,) = poses.plan(asked(tmp_path, versions="uneven", effort=0.01), tmp_path / "bench")
    seen: dict[str, torch.Tensor] = {}
    solve, flow = tasks.solve_clip, tasks.turn_from_flow

    def solving(rgb: np.ndarray, mask: np.ndarray, settings: SearchSettings, **named: object) -> object:
        seen["solve"] = named["seconds"]
        return solve(rgb, mask, replace(settings, turn="none", side=16, surfels=50), **named)

    def flowing(rgb: np.ndarray, mask: np.ndarray, time: torch.Tensor) -> object:
        seen["flow"] = time
        return flow(rgb, mask, time)

    monkeypatch.setattr(tasks, "solve_clip", solving)
    monkeypatch.setattr(tasks, "turn_from_flow", flowing)
    capture = tasks.capture_of(task)
    record = tasks.work(task)
    order = script("retimed").retimed("uneven", torch.arange(12))[0]
    assert torch.equal(seen["solve"], capture.clip("a").seconds[torch.from_numpy(order)])
    assert torch.equal(seen["flow"], torch.from_numpy(order).float())
    assert record["code"] == task["code"] and 0 <= record["median"] <= 180 and abs(record["sense"]) <= 1.001
    assert record["peak_mb"] > 50 and record["still"]
    kept = tmp_path / "ball" / "capture" / "a" / "kept"
    kept.mkdir()
    tasks.capture_of({**task, "keep": True, "code": "other"})
    tasks.capture_of(task)
    assert kept.is_dir()
    tasks.capture_of({**task, "code": "other"})
    assert not kept.is_dir()


def test_sense_is_that_of_the_turn_in_any_world(tasks: ModuleType) -> None:
    def path(sweep: float) -> torch.Tensor:
        return look_at(orbit_eyes(torch.linspace(0, sweep, 20), 15.0, 3.0))[:, :3, :3]

    secret = so3_exp(torch.tensor([0.4, 2.0, -1.0]))
    assert tasks.sense(path(40) @ secret, path(40)) == pytest.approx(1, abs=1e-4)
    assert tasks.sense(path(20), path(40)) > 0.9
    assert tasks.sense(path(-40), path(40)) < -0.9
    assert tasks.sense(path(0), path(40)) == pytest.approx(0, abs=1e-4)
    assert tasks.sense(path(-40), path(0)) == 1.0


def test_wrong_solutions_count_in_every_round_right_ones_when_refined(table: ModuleType) -> None:
    def row(stage: str, median: float, met: bool, alone: bool) -> dict:
        return {"stage": stage, "median": median, "met": {"accepted": met}, "alone": {"accepted": alone}}

    rows = [row("moved", 60, True, True), row("moved", 5, False, False), row("refined", 5, True, False),
            row("refined", 25, False, True)]  # fmt: skip
    called_still = {"still": True, "accepted": True, "median": 40.0, "labelled": []}  # a clip that turns
    counted = table.acceptance([{"still": False, "accepted": True, "median": 5.0, "labelled": rows}, called_still])
    assert (counted["wrong"], counted["wrong_accepted"], counted["wrong_accepted_unbeaten"]) == (2, 1, 2)
    assert (counted["right"], counted["right_refused_unbeaten"]) == (1, 1)
    assert (counted["winners_right"], counted["winners_right_refused"], counted["winners_wrong_accepted"]) == (1, 0, 1)


def figures(median: float, lt6: float = 1.0, lt8: float = 1.0, worst: float = 10.0) -> dict:
    return {"median": median, "lt6": lt6, "lt8": lt8, "lt10": 1.0, "max": worst}


def searched(clip: str, median: float, version: str = "as_filmed", seconds: float = 50.0, **further: object) -> dict:
    return {"name": "fox", "clip": clip, "version": version, "seed": 0, "effort": 1.0, "seconds": seconds,
            "still": False, "accepted": True, "reason": "", "labelled": [], **figures(median), **further}  # fmt: skip


def done_with() -> dict[str, list[dict]]:
    """One pair, all of it done, a re-timed clip that turns the wrong way, and a scene without held-out views."""
    pair = {"name": "fox", "seed": 0, "effort": 1.0, "seconds": 22.0, "focal": {"a": 0.2, "b": 0.2},
            "certain": True, "reason": "", "left_out": {}, "align": figures(3.0), "root_pose": figures(2.0),
            "peak_mb": 700.0}  # fmt: skip
    whole = {"name": "fox", "seed": 0, "effort": 1.0, "seconds": 120.0, "train_seconds": 90.0, "ingest_seconds": 5.0,
             "psnr": 26.0, "strict_psnr": 22.0, "instant_psnr": 27.0, "focal_error": 0.03,
             "focal": {"a": -0.04, "b": 0.02}, "joint": figures(1.9, lt8=0.95), "peak_mb": 900.0,
             "alone": {"a": figures(1.4), "b": figures(1.4, lt6=0.94)}, "joint_body": figures(1.0),
             "alone_body": {"a": figures(1.0), "b": figures(1.0)}}  # fmt: skip
    searches = [searched("a", 3.0, sense=0.9), searched("b", 19.0, seconds=61.0, sense=0.8),
                searched("a", 15.0, "eased", sense=-0.5), {**searched("a", 40.0), "name": "person"}]  # fmt: skip
    known = {"name": "fox", "seed": 0, "effort": 1.0, "psnr": 28.5, "strict_psnr": 28.5}
    return {"search": searches, "pair": [pair], "whole": [whole], "known": [known]}


def states(table: ModuleType, done: dict, rendered: set[str]) -> dict[str, tuple[float | None, str]]:
    rows = table.goals(done, table.acceptance(done["search"]), rendered)
    assert len({(row.number, row.what) for row in rows}) == len(rows) - 1  # "against the body" stands twice
    return {f"{row.number} {row.what.strip()}"[:30]: (row.found, row.state) for row in rows}


def test_goals_are_shares_of_what_was_run(table: ModuleType) -> None:
    found = states(table, done_with(), {"fox"})
    assert found["1 clips as filmed: median belo"] == (1.0, "reached")  # the person's clips have no true path
    assert found["1 re-timed clips: the same"] == (0.0, "MISSED")  # near, and mirrored
    assert found["2 trained clips: median at mos"] == (0.5, "MISSED")
    assert found["2 trained pairs: median at mos"] == (1.0, "reached")
    assert found["2 trained pairs: no clip flipp"] == (1.0, "reached")
    assert found["2 trained clips: focal length "] == (1.0, "reached")
    assert found["2 within 3 %"] == (0.5, "beside")
    assert found["5 registered PSNR below that o"] == (2.5, "MISSED")
    assert found["5 strict"] == (6.5, "beside")
    assert found["7 clips as filmed: searched in"] == (pytest.approx(2 / 3), "MISSED")
    assert found["7 pairs: joined in 20 CPU-seco"] == (0.0, "MISSED")
    assert found["7 all of these: in 2 GiB"] == (1.0, "reached")
    assert found["7 `fast` in all: 240 CPU-secon"] == (1.0, "reached")  # 5 + 61 + 22 + 90
    assert found["7 `quality` in all: 600 second"] == (None, "not run")
    assert found["3 labelled solutions"] == (None, "not run")
    assert found["3 chosen, wrong: accepted"] == (1.0, "MISSED")  # eased a, and the person


def test_goals_tell_what_is_missed(table: ModuleType) -> None:
    done = done_with()
    done["whole"][0]["joint"] = figures(1.9, worst=170.0)
    assert table.is_flipped({**done["whole"][0], "joint_medians": {"a": 2.0, "b": 170.0}})
    assert not table.is_flipped({**done["whole"][0], "joint_medians": {"a": 2.0, "b": 20.0}})  # but for some frames
    done["whole"][0].pop("focal")  # an older record: the pair's stand in
    done["whole"][0]["train_seconds"] = 160.0
    found = states(table, done, {"fox"})
    assert found["2 trained pairs: no clip flipp"] == (0.0, "MISSED")
    assert found["2 trained clips: focal length "] == (0.0, "MISSED")
    assert found["7 `fast` in all: 240 CPU-secon"] == (0.0, "MISSED")
    nothing: dict = {"search": [], "pair": [], "whole": [], "known": []}
    assert {state for _, state in states(table, nothing, set()).values()} == {"not run"}


def test_acceptance_has_goals(table: ModuleType) -> None:
    def row(median: float, met: bool, alone: bool) -> dict:
        return {"stage": "refined", "median": median, "met": {"accepted": met}, "alone": {"accepted": alone}}

    done = done_with()
    rows = [row(60, False, True)] * 50 + [row(5, True, True)] * 9 + [row(5, True, False)]
    done["search"] = [searched("a", 3.0, labelled=rows)]
    found = states(table, done, {"fox"})
    assert found["3 labelled solutions"] == (60.0, "reached")
    assert found["3 labelled, wrong: accepted"] == (0.0, "reached")
    assert found["3 had the search missed what b"] == (1.0, "beside")
    assert found["3 labelled, right: refused"] == (0.1, "reached")
    done["search"] = [searched("a", 3.0, labelled=[*rows, row(30, True, True), row(5, False, False)])]
    found = states(table, done, {"fox"})
    assert found["3 labelled, wrong: accepted"] == (pytest.approx(1 / 51), "MISSED")
    assert found["3 labelled, right: refused"] == (pytest.approx(2 / 11), "MISSED")


def test_the_table_is_printed_and_written(
    poses: ModuleType, table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """From finished records alone: nothing is run, and with --keep they may be of any code."""
    scene_of(tmp_path / "bench" / "fox", "ab", 2)
    out, done = tmp_path / "out" / "fox", done_with()
    out.mkdir(parents=True)
    for kind, name in (("pair", "pair-0-1"), ("whole", "whole-0-1"), ("known", "known-0")):
        (out / f"{name}.json").write_text(json.dumps(done[kind][0]))
    for record in done["search"][:2]:
        (out / f"{record['clip']}-as_filmed-0-1.json").write_text(json.dumps(record))

    def ran(*words: str) -> tuple[str, dict]:
        command = ["poses", "--bench", str(tmp_path / "bench"), "--out", str(out.parent), "--json", str(tmp_path / "j")]
        monkeypatch.setattr(sys, "argv", [*command, "--minutes", "0", "--seeds", "0", "--whole", *words])
        poses.main()
        return capsys.readouterr().out, json.loads((tmp_path / "j").read_text())

    text, answer = ran("--keep", "--versions", "as_filmed")
    rows = table.goals({**done, "search": done["search"][:2]}, table.acceptance(done["search"][:2]), {"fox"})
    assert table.goal_table(rows) in text
    assert "a 1.4 (1.0), 100% below 6" in text and "<6 deg" in text
    assert answer["goals"] == table.as_json(rows)
    assert {row["state"] for row in answer["goals"]} == {"reached", "MISSED", "beside", "not run"}
    assert "5 of 5 tasks are done" in text
    text, answer = ran("--versions", "as_filmed")
    assert "0 of 5 tasks are done" in text and {row["state"] for row in answer["goals"]} == {"not run"}
    with pytest.raises(SystemExit):
        ran("--versions", "as_filmd")
