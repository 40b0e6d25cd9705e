"""A web server and a page on it: made once per run, and undone whatever happens."""

import sys
from urllib.request import urlopen

import pytest


@pytest.mark.plan_step(retries=2, timeout="60s")
def web(ctx, state):
    """The address of a web server that serves `state["folder"]`."""
    state["folder"] = ctx.tmp_path
    port = str(ctx.free_port())
    ctx.start(
        [sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1"],
        cwd=ctx.tmp_path,
    )
    url = f"http://127.0.0.1:{port}"
    ctx.wait_until(lambda: urlopen(url), timeout="30s")
    return url


@pytest.mark.plan_step
def page(web, state):
    """The address of a page on that server; what follows `yield` is the step's cleanup."""
    file = state["folder"] / "hello.html"
    file.write_text("Hello from the plan")
    yield f"{web}/hello.html"
    file.unlink()
