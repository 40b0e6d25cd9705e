"""What a check has found, as one line of the block, without the user's name."""

from __future__ import annotations

import enum
import getpass
import os
import re
from pathlib import Path
from typing import NamedTuple


class Level(enum.Enum):
    """How serious a finding is."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


class Finding(NamedTuple):
    """What a check has found.

    Attributes:
        level: how serious it is.
        subject: what was checked.
        text: what was found. It has no value of an environment variable.
        cure: what to do about it; "" if there is nothing to do.
    """

    level: Level
    subject: str
    text: str
    cure: str = ""

    def line(self, width: int) -> str:
        """Return the line that shows it, with its subject padded to `width` characters."""
        cure = f"; {self.cure}" if self.cure else ""
        return f"{self.level.value:<7}  {self.subject:<{width}}  {self.text}{cure}"


def private(text: str) -> str:
    """Return `text` with `~` in place of the home directory and of the user's name in paths."""
    home = str(Path.home())
    for path in dict.fromkeys([home, os.path.realpath(home), os.environ.get("HOME", home)]):
        if len(path) > 1:
            text = re.sub(rf"{re.escape(path.rstrip('/'))}(?![\w.-])", "~", text)
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # this user has no name
        return text
    return re.sub(rf"(?<=[/\\]){re.escape(name)}(?![\w.-])|(?<=-of-){re.escape(name)}", "~", text)
