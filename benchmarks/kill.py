"""kill -9 in every stage, in its middle and between its last write and its rename: does the same command finish, equal?

    python benchmarks/kill.py CLIP [CLIP ...] --out DIR [-- further options of `fourdgen reconstruct`]

The run is first made unkilled, then again in the same folder with two kills a stage; the two scene.ply are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

STAGES = ("ingest", "align", "root_pose", "sample", "train", "export")
# The child kills itself when a stage is sealed and not yet renamed; everything else is the product.
SEALED = """
import os, signal, sys
from fourdgen import cli, workspace
finish = workspace.finish
def dying(folder, key):
    part = workspace.part_of(folder)
    if folder.name.endswith("-" + {stage!r}) and (part / workspace.SEAL).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return finish(folder, key)
workspace.finish = dying
sys.argv = ["fourdgen", *{arguments!r}]
cli.main()
"""


def started(log: Path, stage: str, since: float) -> bool:
    """Whether the log says that a stage began after `since`."""
    if not log.exists():
        return False
    for line in log.read_text().splitlines():
        event = json.loads(line)
        if event.get("stage") == stage and event.get("state") == "started" and event["time"] >= since:
            return True
    return False


def kill_in(stage: str, command: list[str], log: Path, delay: float) -> str:
    """Starts the run and kills it `delay` seconds after the stage began. Returns what happened."""
    since = time.time()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while child.poll() is None and not started(log, stage, since):
        time.sleep(0.005)
    time.sleep(delay)
    if child.poll() is not None:
        return "was over already"
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    return "killed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+")
    parser.add_argument("--out", type=Path, default=Path("build/kill"))
    given, further = parser.parse_known_args()
    further = [word for word in further if word != "--"]
    given.out.mkdir(parents=True, exist_ok=True)
    scene, run = given.out / "scene.ply", given.out / "scene.run"
    arguments = ["reconstruct", *given.clips, "-o", str(scene), "--threads", "1", *further]
    command = [sys.executable, "-m", "fourdgen.cli", *arguments]
    shutil.rmtree(run, ignore_errors=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    whole = scene.read_bytes()
    spent = {s: json.loads(next(run.glob(f"*-{s}/stage.json")).read_text())["seconds"] for s in STAGES}
    shutil.rmtree(run)
    scene.unlink()
    for stage in STAGES:
        middle = kill_in(stage, command, run / "log.jsonl", 0.4 * spent[stage])
        child = subprocess.run(
            [sys.executable, "-c", SEALED.format(stage=stage, arguments=arguments)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        sealed = "killed" if child.returncode == -signal.SIGKILL else f"exit {child.returncode}"
        print(
            f"{stage:10} ({spent[stage]:5.1f} s)  in the middle: {middle};  sealed, not renamed: {sealed}", flush=True
        )
    code = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
    equal = scene.exists() and scene.read_bytes() == whole
    print(f"last run: exit {code}; scene.ply byte-equal to the unkilled run's: {equal}")
    sys.exit(0 if equal and code == 0 else 1)


if __name__ == "__main__":
    main()
