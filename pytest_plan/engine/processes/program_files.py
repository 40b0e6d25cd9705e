"""The files that a program which is run to its end reads from and writes to."""

from __future__ import annotations

import tempfile
from typing import IO


class ProgramFiles:
    """Temporary files for a program's input, output and errors: never a pipe of ours.

    Args:
        text: what the program reads; None: nothing.
    """

    def __init__(self, text: str | None) -> None:
        self._text = text
        self._open: list[IO[bytes]] = []

    def __enter__(self) -> tuple[IO[bytes] | None, IO[bytes], IO[bytes]]:
        """Return the files for input (None: there is none), output and errors."""
        source = None
        if self._text is not None:
            source = self._new()
            source.write(self._text.encode())
            source.seek(0)
        return source, self._new(), self._new()

    def __exit__(self, *_: object) -> None:
        for file in self._open:
            file.close()

    def _new(self) -> IO[bytes]:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._open.append(file)
        return file


def content(file: IO[bytes]) -> str:
    """Return what a program has written."""
    file.seek(0)
    return file.read().decode("utf-8", "replace")
