"""Debugs a run of pytest as an editor does: by the debug adapter protocol, with debugpy."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

HERE = "# here"  # a line that ends in this gets a breakpoint


class _Connection:
    """One debugged process, as the adapter offers it.

    Args:
        reads: the messages of the adapter.
        writes: the requests to the adapter.
    """

    def __init__(self, reads: IO[bytes], writes: IO[bytes]) -> None:
        self._reads = reads
        self._writes = writes
        self._number = 0

    def ask(self, command: str, **arguments: Any) -> None:
        """Send a request."""
        self._number += 1
        request = {
            "seq": self._number, "type": "request", "command": command, "arguments": arguments
        }  # fmt: skip
        text = json.dumps(request).encode()
        self._writes.write(b"Content-Length: %d\r\n\r\n%s" % (len(text), text))
        self._writes.flush()

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield what the adapter sends, until it has nothing more to send."""
        while line := self._reads.readline():
            size = int(line.partition(b":")[2])
            self._reads.readline()
            yield json.loads(self._reads.read(size))


class Editor:
    """An editor in which the user debugs the tests of a folder; Stop ends everything it debugs.

    Args:
        folder: the folder. Lines of its Python files that end in `HERE` have a breakpoint.
        args: the arguments of pytest.
    """

    def __init__(self, folder: Path, *args: str) -> None:
        self._folder = folder
        self._adapter = subprocess.Popen(
            [sys.executable, "-m", "debugpy.adapter"],
            cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self._adapter.stdin is not None
        assert self._adapter.stdout is not None
        self._main = _Connection(self._adapter.stdout, self._adapter.stdin)
        self._main.ask("initialize", adapterID="debugpy", pathFormat="path", linesStartAt1=True)
        self._main.ask(
            "launch", module="pytest", args=args, python=[sys.executable], cwd=str(folder),
            console="internalConsole", env=dict(os.environ), subProcess=True,
        )  # fmt: skip
        self._messages = self._main.messages()

    def next_stop(self) -> tuple[str, str]:
        """Wait for the next stop; return the function and the name of the thread that stopped."""
        thread, function = 0, ""
        for message in self._messages:
            body: Mapping[str, Any] = message.get("body") or {}
            match message.get("event") or message.get("command"):
                case "initialized":
                    self._set_breakpoints()
                case "debugpyAttach":
                    threading.Thread(target=_debug, args=(body,), daemon=True).start()
                case "stopped":
                    thread = body["threadId"]
                    self._main.ask("stackTrace", threadId=thread)
                case "stackTrace":
                    function = body["stackFrames"][0]["name"]
                    self._main.ask("threads")
                case "threads":
                    (name,) = (one["name"] for one in body["threads"] if one["id"] == thread)
                    self._thread = thread
                    return function, name
        raise AssertionError("pytest has ended without another stop")

    def go_on(self) -> None:
        """Press Continue."""
        self._main.ask("continue", threadId=self._thread)

    def stop(self) -> None:
        """Press Stop, which kills pytest and each program that the debugger has attached to."""
        self._main.ask("disconnect", terminateDebuggee=True)
        for message in self._messages:
            if message.get("command") == "disconnect":
                break
        self._adapter.communicate(timeout=30)

    def _set_breakpoints(self) -> None:
        for file in self._folder.glob("*.py"):
            lines = [
                {"line": number}
                for number, line in enumerate(file.read_text().splitlines(), 1)
                if line.endswith(HERE)
            ]
            self._main.ask("setBreakpoints", source={"path": str(file)}, breakpoints=lines)
        self._main.ask("configurationDone")


def _debug(attach: Mapping[str, Any]) -> None:
    """Debug a child process, which waits until somebody does, without breakpoints."""
    with socket.create_connection((attach["connect"]["host"], attach["connect"]["port"])) as one:
        child = _Connection(one.makefile("rb"), one.makefile("wb"))
        child.ask("initialize", adapterID="debugpy")
        child.ask("attach", **attach)
        for message in child.messages():
            if message.get("event") == "initialized":
                child.ask("configurationDone")
