"""One voice: stages emit events, and this module alone prints them. Errors that the user can fix are FourdgenError."""

from __future__ import annotations

from typing import Any, Protocol


class FourdgenError(Exception):
    """Something that the user can put right: `message` is one sentence, `hint` says what to do. Exit code 2."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Reporter(Protocol):
    """Where a stage sends what happens.

    Events in use: "stage" (name), "step" (stage, step, total, loss, psnr, surfels), "note" (text).
    Any further fields go to log.jsonl unchanged, so they must be plain numbers, strings, lists or dicts.
    """

    def emit(self, event: str, **fields: Any) -> None: ...

    def warn(self, message: str) -> None: ...


class Silent:
    """The reporter of a caller who does not want to hear anything."""

    def emit(self, event: str, **fields: Any) -> None:
        pass

    def warn(self, message: str) -> None:
        pass
