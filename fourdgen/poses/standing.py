"""How sure the poses of a run are, in one sentence: for the closing line, `info` and the check pictures."""

from __future__ import annotations

from fourdgen.data.records import Alignment, RootTrack
from fourdgen.poses.advice import for_clip

EQUAL = "all its frames are the same picture"


def standing(alignment: Alignment, track: RootTrack) -> str:
    """ "given", "confident" or "uncertain: why", and which clips are still or left out, each with what may help.

    Options in brackets are those of `fourdgen reconstruct`. Poses from which a clip is left out are never plainly
    confident: the names of the clips that they are confident about stand behind the word.
    """
    given = [name for name, clip in track.clips.items() if clip.given]
    found = [name for name in track.clips if name not in given]
    parts = [f"given for {', '.join(given)}" if found or alignment.left_out else "given"] if given else []
    if not track.certain:
        parts.append(f"uncertain: {track.reason}")
    elif found:
        plain = not given and not alignment.left_out
        parts.append("confident" if plain else f"confident for {', '.join(found)}")
    several = len(alignment.clips) + len(alignment.left_out) > 1
    for name in found:
        if track.clips[name].still:
            parts.append(still(name, several, EQUAL in alignment.clips[name].reason))
    parts += [left_out(name, reason) for name, reason in alignment.left_out.items()]
    return "; ".join(parts)


def still(name: str, several: bool, equal: bool) -> str:
    """What is said of a clip whose view was found not to turn. `several`: there are other clips; `equal`: all its
    frames show the same, so that nothing could help."""
    advice = "(--turn cw or ccw if it does turn)"
    said = f"{name} is still, so one side of the subject was filmed"
    return said if equal else f"{said} {for_clip(advice, name) if several else advice}"


def left_out(name: str, reason: str) -> str:
    """What is said of a clip that takes no part."""
    return f"{name} is left out: {reason} (--cameras if it belongs here after all)"
