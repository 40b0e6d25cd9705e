"""The options of runs that share an environment, and what CI systems say about them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_plan.plugin.interface.options import Settings

LOCAL = "local"
_VARIABLE = "PYTEST_PLAN_SHARE"
_INI = "plan_share"
_ALONE = "plan_alone"
_DEFAULT = "default"  # the name of the shared environment of one machine
_SHORTEST_LEASE = 1.0
_LONGEST_NAME = 64
_JOBS = ("GITHUB_JOB", "CI_JOB_NAME", "BUILDKITE_LABEL", "BUILDKITE_STEP_KEY")
_RUNS = ("CI_NODE_TOTAL", "BUILDKITE_PARALLEL_JOB_COUNT")


def begin(config: pytest.Config, settings: Settings) -> None:
    """Check the options of a run that shares an environment, and hide the URL.

    The URL may contain a password, so no program of a step inherits it, and no worker: workers ask
    their controller, and only need to know that there is a shared environment.

    Raises:
        pytest.UsageError: the options cannot be used together, or the environment has no name.
    """
    assert settings.share is not None
    if not hasattr(config, "workerinput") and not settings.is_command:
        _check(settings)
    text = os.environ.pop(_VARIABLE, None)
    if text is not None:
        config.add_cleanup(lambda: os.environ.__setitem__(_VARIABLE, text))
    config.option.plan_share = settings.share.partition(":")[0]
    if overrides := config.option.override_ini:  # the journal has them, and workers get them
        config.option.override_ini = [one for one in overrides if one.partition("=")[0] != _INI]


def _check(settings: Settings) -> None:
    sources = settings.sources
    share = sources["share"]
    if settings.share_lease < _SHORTEST_LEASE:
        raise pytest.UsageError(f"{sources['share_lease']}: a lease is at least 1s")
    if _is_local(settings.share):
        return
    if settings.reuse or settings.keeps != "never":
        name = "reuse" if settings.reuse else "keep"
        raise pytest.UsageError(
            f"{sources[name]} and {share} cannot be used together: an environment on a server is "
            "cleaned up when no run uses it any more"
        )
    check_name(settings)


def check_name(settings: Settings) -> None:
    """Check that there is a name for the shared environment.

    Raises:
        pytest.UsageError: neither an option nor the CI system gives one.
    """
    if known_name(settings) is None:
        share = settings.sources["share"]
        raise pytest.UsageError(
            f"{share} needs a name for the environment that all of these runs share, and no CI "
            "system gives one: add --plan-environment NAME, with the same NAME in all runs and "
            "another one for each pipeline"
        )


def refuse_alone(items: Iterable[pytest.Item], settings: Settings) -> None:
    """Refuse tests that must run alone: tests of other runs use the environment at the same time.

    Raises:
        pytest.UsageError: there is such a test.
    """
    for item in items:
        if item.get_closest_marker(_ALONE) is not None:
            share = settings.sources["share"]
            raise pytest.UsageError(
                f"{item.nodeid} is marked {_ALONE}, but with {share}, tests of other runs use the "
                f"environment at the same time: run it without {share}"
            )


def name_of(settings: Settings) -> str:
    """Return the name of the shared environment of a run whose options were checked."""
    return known_name(settings) or _DEFAULT


def known_name(settings: Settings) -> str | None:
    """Return the name of the shared environment; None if neither an option nor CI gives one."""
    if settings.environment is not None:
        return settings.environment
    return _DEFAULT if _is_local(settings.share) else _from_ci(os.environ)


def runs_of(settings: Settings) -> int:
    """Return for how many runs the owner waits; 0 means that it waits for none."""
    if settings.share_runs is not None:
        return settings.share_runs
    found = next((text for name in _RUNS if (text := os.environ.get(name))), "0")
    is_many = found.isdecimal() and not _is_local(settings.share)
    return int(found) if is_many else 0


def job() -> str:
    """Return the name of the CI job that runs the tests; "" if there is none."""
    name = next((text for name in _JOBS if (text := os.environ.get(name))), "")
    number = os.environ.get("CI_NODE_INDEX") or os.environ.get("BUILDKITE_PARALLEL_JOB") or ""
    return f"{name} {number}" if name and number and "/" not in name else name


def _is_local(share: str | None) -> bool:
    return share == LOCAL


def _from_ci(variables: Mapping[str, str]) -> str | None:
    """Return the name for all jobs of a matrix, from the variables of the CI system."""
    for names in (
        ("GITHUB_RUN_ID", "GITHUB_RUN_ATTEMPT", "GITHUB_JOB"),
        ("CI_PIPELINE_ID", "CI_JOB_NAME"),
        ("BUILDKITE_BUILD_ID", "BUILDKITE_STEP_KEY"),
    ):
        parts = [variables.get(name, "") for name in names]
        if all(parts):
            return _as_name(parts)
    return None


def _as_name(parts: list[str]) -> str:
    *others, job = parts
    words = job.split()
    if words and all(part.isdecimal() for part in words[-1].split("/")) and "/" in words[-1]:
        words = words[:-1]  # `tests 1/8`
    text = ".".join([*others, "-".join(words)])
    plain = "".join(char if _is_plain(char) else "-" for char in text)
    if len(plain) <= _LONGEST_NAME:
        return plain
    from _blake2 import blake2b  # `hashlib` loads OpenSSL

    rest = blake2b(plain.encode(), digest_size=4).hexdigest()
    return f"{plain[: _LONGEST_NAME - len(rest) - 1]}-{rest}"


def _is_plain(char: str) -> bool:
    return char.isascii() and (char.isalnum() or char in "._-")
