"""What poses.py prints of its records: every clip and pair, what the acceptance tests say, and the goals."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fourdgen.report import table

Record = dict[str, Any]
RIGHT = 20.0  # degrees of median error below which a path lies in the right basin
OPPOSITE = 90.0  # degrees of error beyond which a clip is seen from another side


def is_right(record: Record) -> bool:
    """Whether a search ended in the right basin, turning the right way (older records tell the basin alone)."""
    return bool(record["median"] < RIGHT and record.get("sense", 1.0) > 0)


def is_flipped(record: Record) -> bool:
    """Whether a clip of a trained pair looks from another side, after one rotation for all clips. Older records tell
    only whether some frame does that is right in its own clip's frame."""
    if "joint_medians" in record:
        return max(record["joint_medians"].values()) >= OPPOSITE
    alone = max(figures["max"] for figures in record["alone"].values())
    return bool(record["joint"]["max"] >= OPPOSITE > alone)


def acceptance(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of labelled solutions, and of what the searches chose: a clip that turns and is called still without doubt
    is a wrong one that was accepted."""
    rows = [row for record in records for row in record["labelled"]]
    wrong = [row for row in rows if row["median"] >= RIGHT]
    # Before its refinement nothing is accepted or refused in earnest: only wrong ones count there.
    right = [row for row in rows if row["median"] < RIGHT and row["stage"] == "refined"]
    return {
        "labelled": len(rows), "right": len(right), "wrong": len(wrong),
        "wrong_accepted": sum(row["met"]["accepted"] for row in wrong),
        "wrong_accepted_unbeaten": sum(row["alone"]["accepted"] for row in wrong),
        "right_refused_unbeaten": sum(not row["alone"]["accepted"] for row in right),
        "winners": len(records),
        "winners_wrong_accepted": sum(r["accepted"] and not is_right(r) for r in records),
        "winners_right": sum(is_right(r) for r in records),
        "winners_right_refused": sum(not r["accepted"] and is_right(r) for r in records),
    }  # fmt: skip


def _focals(errors: dict[str, float]) -> str:
    return ", ".join(f"{name} {100 * error:+.1f} %" for name, error in errors.items())


def show(
    records: list[dict[str, Any]], pairs: list[dict[str, Any]], wholes: list[dict[str, Any]], accepted: dict[str, Any]
) -> None:
    print(f"{'clip':22} {'version':15} seed  median  <6 deg  <10 deg    max  CPU s  accepted")
    for r in records:
        verdict = ("still, " if r["still"] else "") + ("yes" if r["accepted"] else f"no: {r['reason']}")
        print(
            f"{r['name'] + ' ' + r['clip']:22} {r['version']:15} {r['seed']:4} {r['median']:7.1f} {r['lt6']:7.0%} "
            f"{r['lt10']:8.0%} {r['max']:6.1f} {r['seconds']:6.0f}  {verdict}"
        )
    if records:
        basin = sum(map(is_right, records))
        print(f"right basin: {basin} of {len(records)}\n")
    for p in pairs:
        a, b = p["align"], p["root_pose"]
        out = f"; left out: {', '.join(p['left_out'])}" if p["left_out"] else ""
        print(
            f"{p['name']:22} seed {p['seed']}, joint: median {a['median']:.1f} after align, {b['median']:.1f} after "
            f"root_pose, {b['lt6']:.0%} below 6, {b['lt8']:.0%} below 8; focal {_focals(p['focal'])}; "
            f"{'certain' if p['certain'] else 'uncertain: ' + p['reason']}; {p['seconds']:.0f} CPU s{out}"
        )
    for w in wholes:
        a, b = w["joint"], w["joint_body"]
        each = ", ".join(
            f"{n} {f['median']:.1f} ({w['alone_body'][n]['median']:.1f}), {f['lt6']:.0%} below 6"
            for n, f in w["alone"].items()
        )
        print(
            f"{w['name']:22} seed {w['seed']}, trained: joint median {a['median']:.1f} ({b['median']:.1f} against the "
            f"body), {a['lt8']:.0%} ({b['lt8']:.0%}) below 8; {each}; focal {100 * w['focal_error']:.1f} % off; "
            f"registered {w['psnr']:.2f} dB (each instant {w['instant_psnr']:.2f}), "
            f"strict {w['strict_psnr']:.2f} dB; {w['seconds']:.0f} CPU s"
        )
    print(json.dumps(accepted, indent=1))


# ---- goals


@dataclass(frozen=True)
class Goal:
    """One row. `found`: a share of `of` clips, pairs or solutions, or what `unit` says; None where nothing was run.
    `bound`: what it is to be, at least or at most; None for a figure that stands beside and decides nothing."""

    number: int
    what: str
    found: float | None
    bound: float | None
    of: int
    least: bool = True
    unit: str = "%"

    @property
    def state(self) -> str:
        if self.found is None:
            return "not run"
        if self.bound is None:
            return "beside"
        return "reached" if (self.found >= self.bound if self.least else self.found <= self.bound) else "MISSED"

    def cells(self) -> tuple[str, ...]:
        wanted = "" if self.bound is None else f"{'at least' if self.least else 'at most'} {self._said(self.bound)}"
        found = "-" if self.found is None else self._said(self.found)
        return (str(self.number), self.what, found, str(self.of), wanted, self.state)

    def _said(self, value: float) -> str:
        return f"{100 * value:.0f} %" if self.unit == "%" else f"{value:.2f} dB" if self.unit == "dB" else f"{value:g}"


def share_of(
    number: int, what: str, rows: Sequence[Any], fits: Callable[[Any], bool], bound: float | None, least: bool = True
) -> Goal:
    """The share of rows that `fits` is true of."""
    found = sum(bool(fits(row)) for row in rows) / len(rows) if rows else None
    return Goal(number, what, found, bound, len(rows), least)


def goals(done: dict[str, list[Record]], accepted: Record, rendered: Collection[str]) -> list[Goal]:
    """The goals 1, 2, 3, 5 and 7 of poses found, from what was run. `rendered`: names of the scenes with true poses
    for every frame and a camera that moves; the others count for 3 and 7 only."""
    searches = [r for r in done["search"] if r["name"] in rendered]
    filmed = [r for r in searches if r["version"] == "as_filmed"]
    again = [r for r in searches if r["version"] != "as_filmed"]
    wholes = [w for w in done["whole"] if w["name"] in rendered]
    return [
        share_of(1, f"clips as filmed: median below {RIGHT:g} degrees, right sense", filmed, is_right, 1.0),
        share_of(1, "re-timed clips: the same", again, is_right, 0.9),
        *_after_training(wholes, done["pair"]),
        *_acceptance(accepted),
        *_against_known(wholes, done["known"]),
        *_costs(done),
    ]


def _after_training(wholes: list[Record], pairs: list[Record]) -> list[Goal]:
    def exact(figures: Record) -> bool:
        return bool(figures["median"] <= 1.5 and figures["lt6"] >= 0.95)

    def together(figures: Record) -> bool:
        return bool(figures["median"] <= 2.0 and figures["lt8"] >= 0.9)

    def clips(key: str) -> list[Record]:
        return [figures for w in wholes for figures in w[key].values()]

    before = {(p["name"], p["seed"], p["effort"]): p["focal"] for p in pairs}
    focal = [
        abs(error)
        for w in wholes
        for error in (w.get("focal") or before.get((w["name"], w["seed"], w["effort"]), {})).values()
    ]
    return [
        share_of(2, "trained clips: median at most 1.5 degrees, 95 % of frames below 6", clips("alone"), exact, 0.8),
        share_of(2, "  the same, cameras against the body", clips("alone_body"), exact, None),
        share_of(2, "trained pairs: median at most 2 degrees, 90 % of frames below 8",
                 [w["joint"] for w in wholes], together, 1.0),
        share_of(2, "  the same, cameras against the body", [w["joint_body"] for w in wholes], together, None),
        share_of(2, "trained pairs: no clip flipped in the other's frame", wholes, lambda w: not is_flipped(w), 1.0),
        share_of(2, "trained clips: focal length within 5 %", focal, lambda error: error <= 0.05, 0.8),
        share_of(2, "  within 3 %", focal, lambda error: error <= 0.03, None),
    ]  # fmt: skip


def _acceptance(accepted: Record) -> list[Goal]:
    def part(what: str, count: int, of: int, bound: float | None) -> Goal:
        return Goal(3, what, count / of if of else None, bound, of, least=False)

    wrong, right = accepted["wrong"], accepted["right"]
    chosen_right, chosen = accepted["winners_right"], accepted["winners"]
    labelled = accepted["labelled"]
    return [
        Goal(3, "labelled solutions", float(labelled) if labelled else None, 60, labelled, unit=""),
        part("labelled, wrong: accepted", accepted["wrong_accepted"], wrong, 0.0),
        part("  had the search missed what beats them", accepted["wrong_accepted_unbeaten"], wrong, None),
        part("labelled, right: refused", accepted["right_refused_unbeaten"], right, 0.1),
        part("chosen, wrong: accepted", accepted["winners_wrong_accepted"], chosen - chosen_right, 0.0),
        part("chosen, right: refused", accepted["winners_right_refused"], chosen_right, 0.1),
    ]


def _against_known(wholes: list[Record], known: list[Record]) -> list[Goal]:
    """Registered and strict PSNR below that of known cameras, the mean over scenes and seeds that have both."""
    with_true = {(k["name"], k["seed"]): k["psnr"] for k in known}
    both = [(with_true[w["name"], w["seed"]], w) for w in wholes if (w["name"], w["seed"]) in with_true]

    def below(key: str) -> float | None:
        return sum(true - w[key] for true, w in both) / len(both) if both else None

    return [
        Goal(5, "registered PSNR below that of known cameras", below("psnr"), 2.0, len(both), False, "dB"),
        Goal(5, "  strict", below("strict_psnr"), None, len(both), False, "dB"),
    ]


def _costs(done: dict[str, list[Record]]) -> list[Goal]:
    filmed = [r for r in done["search"] if r["version"] == "as_filmed"]
    peaks = [r["peak_mb"] for records in done.values() for r in records if "peak_mb" in r]
    searched: dict[tuple[Any, ...], list[float]] = {}
    for r in filmed:
        searched.setdefault((r["name"], r["seed"], r["effort"]), []).append(r["seconds"])
    paired = {(p["name"], p["seed"], p["effort"]): p["seconds"] for p in done["pair"]}
    totals = [
        w.get("ingest_seconds", 0.0) + max(searched[key]) + paired[key] + w.get("train_seconds", w["seconds"])
        for w in done["whole"]
        if (key := (w["name"], w["seed"], w["effort"])) in searched and key in paired
    ]
    return [
        share_of(7, "clips as filmed: searched in 60 CPU-seconds", filmed, lambda r: r["seconds"] <= 60, 1.0),
        share_of(7, "pairs: joined in 20 CPU-seconds", done["pair"], lambda p: p["seconds"] <= 20, 1.0),
        share_of(7, "all of these: in 2 GiB", peaks, lambda mb: mb <= 2048, 1.0),
        share_of(7, "`fast` in all: 240 CPU-seconds, clips searched side by side", totals, lambda s: s <= 240, 1.0),
        Goal(7, "`quality` in all: 600 seconds (see quality.py)", None, 1.0, 0),
    ]


def goal_table(rows: Sequence[Goal]) -> str:
    return table([row.cells() for row in rows], ("goal", "what", "found", "of", "wanted", "so"))


def as_json(rows: Sequence[Goal]) -> list[Record]:
    return [{**asdict(row), "what": row.what.strip(), "state": row.state} for row in rows]
