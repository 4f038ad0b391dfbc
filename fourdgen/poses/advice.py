"""Options that doubts name in brackets, in the words of a command for several clips: `--turn b=cw` for b alone."""

from __future__ import annotations

import re
import shlex

_SENSES = r"(?:cw|ccw|none)"
_OPTION = re.compile(rf"--(turn|sweep|fov)((?: {_SENSES}(?:(?:, | or ){_SENSES})*)?)(?=[,) ])")


def for_clip(text: str, name: str) -> str:
    """A doubt of one clip of several, each option in its brackets with the clip's name before the value."""

    def named(match: re.Match[str]) -> str:
        option, senses = match[1], match[2]
        if not senses:
            senses = " cw or ccw" if option == "turn" else " DEGREES"
        return f"--{option}" + re.sub(r"\b(?:cw|ccw|none|DEGREES)\b", lambda m: shlex.quote(f"{name}={m[0]}"), senses)

    return re.sub(r"\([^()]*\)", lambda brackets: _OPTION.sub(named, brackets[0]), text)
