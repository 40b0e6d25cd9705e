"""The standard output of commands whose output other programs read.

Everything else that pytest, its plugins and the project print goes to standard error.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

import pytest

_OPTIONS = ("plan_json", "plan_export", "plan_print_logs")
_OUTPUT: pytest.StashKey[TextIO] = pytest.StashKey()
_STDOUT, _STDERR = 1, 2


def is_read(options: object) -> bool:
    """Return whether these options ask for output that another program reads."""
    return any(getattr(options, name, None) for name in _OPTIONS)


def reserve(config: pytest.Config) -> None:
    """Reserve standard output until pytest ends; a second call does nothing.

    Call this before pytest captures output, so that the output of programs is not in the way.
    """
    if _OUTPUT in config.stash:
        return
    stream = sys.stdout
    config.stash[_OUTPUT] = stream
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if stream.fileno() == _STDOUT:
            config.stash[_OUTPUT] = _reserve_descriptor(config, stream)
    others = contextlib.redirect_stdout(sys.stderr)
    others.__enter__()
    config.add_cleanup(lambda: others.__exit__(None, None, None))


def write(config: pytest.Config, text: str) -> None:
    """Write text to the reserved standard output.

    Raises:
        OSError: it is closed.
    """
    output = config.stash[_OUTPUT]
    output.write(text)
    output.flush()


def end(config: pytest.Config) -> None:
    """Let the reader of standard output see its end, although this process goes on."""
    stream = config.stash[_OUTPUT]
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if stream.fileno() > _STDERR:
            os.dup2(_STDERR, stream.fileno(), inheritable=False)


def _reserve_descriptor(config: pytest.Config, stream: TextIO) -> TextIO:
    """Let programs, which write to the descriptor, write to standard error as well."""
    stream.flush()
    kept = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)
    output = os.fdopen(
        kept, "w", encoding=stream.encoding, errors="backslashreplace", closefd=False
    )

    def restore() -> None:
        with contextlib.suppress(OSError):
            output.close()
        os.dup2(kept, _STDOUT)
        os.close(kept)

    config.add_cleanup(restore)
    return output
