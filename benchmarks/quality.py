"""The bench, with several seeds: one table, the noise between seeds, and the difference to what was recorded last.

    python benchmarks/quality.py --bench DIR --out DIR [--scenes fox,knight] [--tracks known,alone] [--seeds 0,1]
        [--pipeline fast] [--set train.normal=0] [--ablate train.normal --ablate sampling] [--record FILE] [--json]

Tracks: `known` clips a + b with true cameras and alpha; `alone` the same with clip a only; `found` both videos with
true cameras, masks are found; `unknown` both videos and nothing else; `one` video a and nothing else; `between` video
a, of which every fourth frame trains and the frame midway is scored (all frames may find the poses). Each `--ablate`
adds a run of everything with one ingredient switched off, or several that commas join: `sampling`, `levels`,
`second-clip` (track known only), or a setting of a stage that has an off, such as train.normal, train.starts or
regenerate.rounds; the others are refused before anything runs, and so is what the recipe does not have (ablation.py).

`--record` compares a row with its last recording by the same recipe, settings and seeds, and a mean with that of the
same scenes; it says which rows have nothing to be compared with. `--json` has the differences, too. Finished runs of
the same code and command are not run again, so an interrupted benchmark goes on where it was.
Time is CPU-seconds of the whole reconstruction (poses included), not of the clock, so that a busy machine does not
change it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ablation import SECOND_CLIP, ablation, settled
from digest import code_digest

from fourdgen.report import table

SCENES = ("fox", "knight", "shiba", "varied/wolf", "varied/velociraptor", "varied/robot")
TRACKS = ("known", "alone", "found", "unknown", "one", "between")
FULL = "-"  # the label of runs with nothing switched off
MEAN = "mean"  # how rows over several scenes begin
# Heading, where the figure is in eval's result, format, and whether more is better.
COLUMNS: tuple[tuple[str, tuple[str, ...], str, int], ...] = (
    ("PSNR", ("psnr",), "{:.2f}", 1),
    ("SSIM", ("ssim",), "{:.3f}", 1),
    ("LPIPS", ("lpips",), "{:.3f}", -1),
    ("IoU", ("iou",), "{:.3f}", 1),
    ("box", ("box_psnr",), "{:.2f}", 1),
    ("instant", ("instant_psnr",), "{:.2f}", 1),
    ("strict", ("strict_psnr",), "{:.2f}", 1),
    ("Chamfer %", ("chamfer",), "{:.1f}", -1),
    ("normals", ("normal_deg",), "{:.0f}", -1),
    ("track", ("track", "all"), "{:.0%}", -1),
    ("fast", ("track", "fast"), "{:.0%}", -1),
    ("hidden", ("track", "hidden"), "{:.0%}", -1),
    ("flicker", ("flicker",), "{:.1f}", -1),
    ("pose", ("pose", "median"), "{:.1f}", -1),
    ("between", ("interpolation", "psnr"), "{:.2f}", 1),
    ("nearest", ("interpolation", "nearest_psnr"), "{:.2f}", 1),
    ("CPU s", ("cpu_seconds",), "{:.0f}", -1),
)


@dataclass(frozen=True)
class Run:
    """One reconstruction with its evaluation. `settings` are --set texts of this run alone."""

    scene: str
    track: str
    ablated: str
    seed: int
    settings: tuple[str, ...] = ()

    @property
    def row(self) -> str:
        """What differs only in the seed shares a row."""
        return f"{self.scene} {self.track} {self.ablated}"

    @property
    def name(self) -> str:
        return f"{self.row} s{self.seed}".replace("/", "_").replace(" ", ".")


def plan(
    scenes: Sequence[str], tracks: Sequence[str], seeds: Sequence[int], ablate: Sequence[str], recipe: str = "fast",
    settings: Sequence[str] = (),
) -> list[Run]:  # fmt: skip
    """All runs, complete ones first. Without its second clip, track known is track alone, and the others stay away.

    Raises SystemExit with a sentence where an ingredient cannot be left out (see `ablation`).
    """
    runs = []
    for label in (FULL, *ablate):
        without = () if label == FULL else ablation(label, recipe, settings)
        if lacks_second_clip(label) and "known" not in tracks:
            raise SystemExit(f"--ablate {label}: only track known has a second clip to leave out (--tracks known)")
        for scene in scenes:
            for track in tracks:
                if not lacks_second_clip(label) or track == "known":
                    runs += [Run(scene, track, label, seed, without) for seed in seeds]
    return runs


def lacks_second_clip(label: str) -> bool:
    return SECOND_CLIP in label.split(",")


def inputs_of(run: Run, bench: Path) -> list[str]:
    """What `reconstruct` is given for a track."""
    folder = bench / run.scene
    alone = run.track == "alone" or lacks_second_clip(run.ablated)
    if run.track in ("known", "alone"):
        clips = [folder / "rgba" / clip for clip in ("a" if alone else "ab")]
        return [*map(str, clips), "--cameras", str(folder / "transforms.json")]
    clips = [folder / "clips" / f"{clip}.mp4" for clip in ("ab" if run.track in ("found", "unknown") else "a")]
    further = {"found": ("--cameras", str(folder / "transforms.json")), "between": ("--set", "sample.every=4")}
    return [*map(str, clips), *further.get(run.track, ())]


def timed(command: list[str], log: Path) -> float:
    """Runs a command to its end and gives its CPU-seconds. Raises RuntimeError where it fails."""
    with log.open("w") as out:
        child = subprocess.Popen(command, stdout=out, stderr=out, env={"OMP_NUM_THREADS": "1", **os.environ})
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except KeyboardInterrupt:
            child.terminate()
            raise
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise RuntimeError(f"exit code {child.returncode}, see {log}")
    return usage.ru_utime + usage.ru_stime


def result_of(run: Run, given: argparse.Namespace, code: str) -> dict[str, Any]:
    """eval's figures of one run and `cpu_seconds`; from its file where the same code and command made one."""
    asset = given.out / f"{run.name}.ply"
    settings = [text for setting in (*given.set, *run.settings) for text in ("--set", setting)]
    command = [
        sys.executable, "-m", "fourdgen.cli", "reconstruct", *inputs_of(run, given.bench), "-o", str(asset),
        "--seed", str(run.seed), "--threads", str(given.threads), "-p", given.pipeline, *settings,
    ]  # fmt: skip
    stored = asset.with_suffix(".json")
    if stored.is_file():
        known = json.loads(stored.read_text())
        if known["command"] == command and (given.keep or known["code"] == code):
            return dict(known["result"])
    seconds = timed([*command, "--fresh"], asset.with_suffix(".log"))
    score = [
        sys.executable,
        "-m",
        "fourdgen.cli",
        "eval",
        str(asset),
        "--truth",
        str(given.bench / run.scene),
        "--json",
    ]
    answer = subprocess.run(score, capture_output=True, text=True, env={"OMP_NUM_THREADS": "1", **os.environ})
    if answer.returncode != 0:
        raise RuntimeError(f"eval failed: {answer.stderr.strip()}")
    result = {**json.loads(answer.stdout), "cpu_seconds": seconds}
    stored.write_text(json.dumps({"command": command, "code": code, "result": result}, indent=1))
    return result


def picked(result: Mapping[str, Any], keys: Sequence[str]) -> float | None:
    """A figure by its path; None where it, or anything on the way, is missing."""
    value: Any = result
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return None if value is None else float(value)


def means(results: Mapping[Run, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Row -> heading -> mean over the seeds, and mean rows over the scenes where there are several."""
    seeds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run, result in results.items():
        for head, keys, _, _ in COLUMNS:
            value = picked(result, keys)
            if value is not None:
                seeds[run.row][head].append(value)
    rows = {row: {head: sum(v) / len(v) for head, v in cells.items()} for row, cells in seeds.items()}
    return rows | over_scenes(rows)


def over_scenes(rows: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Mean rows of rows that differ in the scene only, over the figures that all of them have."""
    found = {}
    for mean, members in scenes_of(rows).items():
        shared = [head for head, *_ in COLUMNS if all(head in rows[row] for row in members)]
        found[mean] = {head: sum(rows[row][head] for row in members) / len(members) for head in shared}
    return found


def scenes_of(rows: Iterable[str]) -> dict[str, list[str]]:
    """Mean row -> the rows of its scenes, where there are several."""
    scenes: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        scenes[f"{MEAN} {row.split(' ', 1)[1]}"].append(row)
    return {mean: members for mean, members in scenes.items() if len(members) > 1}


def noise(results: Mapping[Run, Mapping[str, Any]]) -> dict[str, float]:
    """Heading -> standard deviation of one run between seeds, pooled over all rows with several."""
    groups = defaultdict(list)
    for run, result in results.items():
        groups[run.row].append(result)
    out = {}
    for head, keys, _, _ in COLUMNS:
        squares, freedom = 0.0, 0
        for group in groups.values():
            values = [v for v in (picked(result, keys) for result in group) if v is not None]
            middle = sum(values) / len(values) if values else 0.0
            squares += sum((v - middle) ** 2 for v in values)
            freedom += max(0, len(values) - 1)
        if freedom:
            out[head] = (squares / freedom) ** 0.5
    return out


def printed(
    rows: Mapping[str, Mapping[str, float]], spread: Mapping[str, float], changes: Mapping[str, Mapping[str, float]]
) -> str:
    """The table: figures, then in brackets what changed since the recorded ones."""
    heads = [head for head, *_ in COLUMNS if any(head in cells for cells in rows.values())]
    lines = []
    for row, cells in rows.items():
        line = [row]
        for head, _, form, _ in COLUMNS:
            if head in heads:
                text = form.format(cells[head]) if head in cells else "-"
                if head in changes.get(row, {}):
                    change = form.format(changes[row][head])
                    text += f" ({change if change.startswith('-') else '+' + change})"
                line.append(text)
        lines.append(line)
    if spread:
        lines.append(["noise of one run", *(_cell(spread, head) for head in heads)])
    return table(lines, ("scene track without", *heads))


def _cell(spread: Mapping[str, float], head: str) -> str:
    form = next(form for name, _, form, _ in COLUMNS if name == head)
    return form.format(spread[head]) if head in spread else "-"


def seeds_by_row(results: Mapping[Run, Any]) -> dict[str, tuple[int, ...]]:
    """Row -> the seeds of which there is a result: what failed is not among them."""
    found: dict[str, list[int]] = defaultdict(list)
    for run in results:
        found[run.row].append(run.seed)
    return {row: tuple(sorted(seeds)) for row, seeds in found.items()}


def last_recorded(
    record: Path | None, recipe: str, settings: Sequence[str], seeds: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, float]]:
    """What rows are compared with: row -> figures of its latest recording with this recipe, settings and `seeds`.

    A recording's `asked` says with which recipe and settings its rows were made, its `seeds` which seeds each row is
    the mean of; older recordings have but the seeds that were asked for. The mean over scenes is taken anew, of the
    recorded rows of the scenes that `seeds` names, and is left out where one of them is not recorded: a mean over other
    scenes would show a difference that nothing made.
    """
    last: dict[str, dict[str, float]] = {}
    for entry in entries_of(record):
        asked = entry["asked"]
        if asked["pipeline"] != recipe or sorted(asked["set"]) != sorted(settings):
            continue
        for row, cells in entry["rows"].items():
            made_of = entry["seeds"].get(row) if "seeds" in entry else seeds_of(asked["seeds"])
            if row in seeds and sorted(made_of or ()) == sorted(seeds[row]):
                last[row] = cells
    averages = over_scenes(last)
    return last | {row: averages[row] for row, members in scenes_of(seeds).items() if set(members) <= set(last)}


def entries_of(record: Path | None) -> list[dict[str, Any]]:
    return list(json.loads(record.read_text())) if record is not None and record.is_file() else []


def differences(
    rows: Mapping[str, Mapping[str, float]], last: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Row -> heading -> change since the recorded figure, of what both have."""
    return {
        row: {head: value - last[row][head] for head, value in cells.items() if head in last[row]}
        for row, cells in rows.items()
        if row in last
    }


def not_compared(record: Path | None, rows: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """A sentence on the rows that have nothing to be compared with; empty where a comparison was not asked for, or
    where all have."""
    alone = [row for row in rows if row not in last]
    if record is None or not alone:
        return ""
    if len(alone) == len(rows):
        return f"nothing to compare with: {record} has no row of this recipe with these settings and seeds"
    return f"not compared, since {record} has none of this recipe, these settings and seeds: {', '.join(alone)}"


def seeds_of(text: str) -> list[int]:
    """Raises argparse.ArgumentTypeError for what are no whole numbers with commas between them."""
    try:
        return sorted({int(seed) for seed in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give whole numbers with commas between them, such as 0,1"
        ) from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=os.environ.get("FOURDGEN_BENCH"))
    parser.add_argument("--out", type=Path, default=Path("build/quality"))
    parser.add_argument("--scenes", default=",".join(SCENES))
    parser.add_argument("--tracks", default="known")
    parser.add_argument("--seeds", default="0,1", type=seeds_of)
    parser.add_argument("--pipeline", "-p", default="fast")
    parser.add_argument("--set", action="append", default=[], help="a setting for all runs")
    parser.add_argument("--ablate", action="append", default=[], help="also run without this ingredient; repeatable")
    parser.add_argument("--record", type=Path, help="compare with this file, then add today's rows to it")
    parser.add_argument("--keep", action="store_true", help="take finished runs of older code as they are")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    given = parser.parse_args()
    if given.bench is None:
        parser.error("--bench DIR or FOURDGEN_BENCH is needed")
    given.bench = Path(given.bench)
    tracks, scenes = given.tracks.split(","), given.scenes.split(",")
    for track in tracks:
        if track not in TRACKS:
            parser.error(f"--tracks {track}: choose from {', '.join(TRACKS)}")
    settled(given.pipeline, given.set)
    runs = plan(scenes, tracks, given.seeds, given.ablate, given.pipeline, given.set)
    given.out.mkdir(parents=True, exist_ok=True)
    code = code_digest()
    results: dict[Run, dict[str, Any]] = {}
    failures = []
    for number, run in enumerate(runs, 1):
        try:
            results[run] = result_of(run, given, code)
        except RuntimeError as error:
            failures.append(f"{run.name}: {error}")
            continue
        figures = ", ".join(
            f"{h} {f.format(v)}" for h, k, f, _ in COLUMNS if (v := picked(results[run], k)) is not None
        )
        print(f"[{number}/{len(runs)}] {run.name}: {figures}", file=sys.stderr, flush=True)
    rows, spread, seeds = means(results), noise(results), seeds_by_row(results)
    last = last_recorded(given.record, given.pipeline, given.set, seeds)
    changes, missing = differences(rows, last), not_compared(given.record, rows, last)
    if given.json:
        answer = {"rows": rows, "noise": spread, "differences": changes, "not_compared": missing, "failures": failures}
        print(json.dumps(answer, indent=1))
    else:
        print("\n".join(line for line in (printed(rows, spread, changes), missing, *failures) if line))
    if given.record is not None and rows:
        entries = entries_of(given.record)
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        asked = {key: getattr(given, key) for key in ("pipeline", "tracks", "scenes", "set", "ablate")}
        asked["seeds"] = ",".join(map(str, given.seeds))
        kept = {row: {head: round(value, 4) for head, value in cells.items()} for row, cells in rows.items()}
        entries.append(
            {"date": stamp, "code": code, "asked": asked, "seeds": seeds, "rows": kept, "noise": spread}
        )  # fmt: skip
        given.record.write_text(json.dumps(entries, indent=1) + "\n")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
