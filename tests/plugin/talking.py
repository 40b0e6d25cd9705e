"""A server that prints what its clients send, for tests of what logs have gained."""

from __future__ import annotations

# The module `talk` of a project. `say` returns once the server has printed the text.
TALK = """\
import socket
import sys


def serve(port):
    with socket.create_server(("127.0.0.1", int(port))) as server:
        while True:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    sys.stdout.buffer.write(line)
                    sys.stdout.flush()
                    if line.startswith(b"FATAL"):
                        sys.exit(3)
                connection.sendall(b"ok")


def say(port, text):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(text.encode())
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(2) == b"ok"


def is_there(port):
    socket.create_connection(("127.0.0.1", port)).close()
    return True


if __name__ == "__main__":
    serve(sys.argv[1])
"""
STEPS = """
    import sys
    from pathlib import Path
    from talk import is_there

    def start(ctx):
        port = ctx.free_port()
        program = Path(__file__).with_name("talk.py")
        ctx.start([sys.executable, str(program), str(port)])
        ctx.wait_until(lambda: is_there(port), every=0.05)
        return port

    @pytest.mark.plan_step(timeout="60s")
    def db(ctx):
        return start(ctx)

    @pytest.mark.plan_step(timeout="60s")
    def web(ctx, db):
        return start(ctx)

    @pytest.mark.plan_step(needs=())
    def other(ctx):
        ctx.log("not needed")
"""
