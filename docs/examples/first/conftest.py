"""A web server with one page: provisioned once per run, cleaned up whatever happens."""

import sys
from urllib.request import urlopen

import pytest


@pytest.mark.plan_step(retries=2, timeout="60s")
def web(ctx, state):
    """The URL of a web server that serves `state["folder"]`."""
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
    """The URL of a page on that server. The code after `yield` is the step's cleanup."""
    file = state["folder"] / "hello.html"
    file.write_text("Hello from the plan")
    yield f"{web}/hello.html"
    file.unlink()
