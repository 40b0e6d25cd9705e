"""A program of a step: `server.py KIND STEP PORT FOLDER` answers on a port until it is ended.

The kinds: `server`; `family`, which has a child in another session; `stubborn`, which ignores
SIGTERM; `daemon` and `daemon by start`, which fork twice, leave their session, and go on with an
empty environment. The folder is only there to be seen in the list of processes.
"""

import os
import signal
import socket
import sys


def main() -> None:
    """Become what was asked for, and answer."""
    kind, step, port, folder = sys.argv[1:]
    if kind.startswith("daemon"):
        _leave()
        argv = [sys.executable, "-I", "-S", __file__, "server", step, port, folder]
        os.execve(sys.executable, argv, {})
    if kind == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if kind == "family" and os.fork() == 0:
        os.setsid()
        signal.pause()
    with socket.create_server(("127.0.0.1", int(port))) as listener:
        while True:
            listener.accept()[0].close()


def _leave() -> None:
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    if os.fork():
        os._exit(0)


if __name__ == "__main__":
    main()
