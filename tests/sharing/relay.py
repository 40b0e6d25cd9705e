"""A relay between a client and a server, which breaks connections on demand."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Relay:
    """Relays each connection to a port of 127.0.0.1.

    Attributes:
        port: the port to which clients connect.
        swallow: whether the next answer of the server is dropped, with its connection.
        silent: whether no answer is passed on.
        connections: how many connections clients have made.
        sent: how often a client has sent something.
        received: how often an answer was passed on.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.swallow = False
        self.silent = False
        self.connections = 0
        self.sent = 0
        self.received = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break all connections."""
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Accept no more connections, and break those that are there."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, server]
                pairs = ((client, server, False), (server, client, True))
                for pair in pairs:
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError), source, target:
            while data := source.recv(65536):
                self.sent += not is_answer
                if is_answer and self.swallow:
                    self.swallow = False
                    for one in (source, target):
                        one.shutdown(socket.SHUT_RDWR)
                    return
                if not (is_answer and self.silent):
                    target.sendall(data)
                    self.received += is_answer


@contextlib.contextmanager
def relay(port: int) -> Iterator[Relay]:
    """Relay connections to a port until the end of the `with` statement."""
    found = Relay(port)
    try:
        yield found
    finally:
        found.end()
