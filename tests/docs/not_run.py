"""The commands of pages that tests/docs/test_pages.py does not run, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping

_INDEX = "it installs packages from an index, as .ci/run does"
_ENGINE = "test_containers.py runs it, where there is Docker"
_SUITE = "it runs the tests of this project, as CI does"
_MINUTES = "it takes minutes, and checks or measures this project"
_MACHINES = "test_several_machines.py runs it, where there can be several machines"

# Page -> what runs its commands in place of test_pages.py.
ELSEWHERE: Mapping[str, str] = {
    "how-to/use-an-existing-database": "test_existing_database.py, which has a database",
}

# File -> command -> the reason.
NOT_RUN: Mapping[str, Mapping[str, str]] = {
    "README.md": {
        "pip install -e '.[examples]' && pytest docs/examples/shop": (
            f"{_INDEX}; tests/acceptance/test_examples.py runs the example"
        ),
        "pip install -e '.[examples,report,test]' && pytest -n4": _INDEX,
    },
    "CONTRIBUTING.md": {
        "pip install -e '.[docs,examples,report,test]'": _INDEX,
        "pytest": _SUITE,
        "pytest tests/engine": _SUITE,
        "pytest -m browser tests/report": _SUITE,
        "pytest -m faults tests/faults": _SUITE,
        "pytest -m recipes tests/docs": _SUITE,
        "tox -e plugins": _SUITE,
        "ruff check && ruff format --check && mypy": _SUITE,
        "DOCS_WRITE=1 pytest tests/docs": _SUITE,
        "python -m tests.docs.pictures": "tests/docs/test_pictures.py makes them, with -m browser",
    },
    "docs/tutorial.md": dict.fromkeys(
        (
            "mkdir ../tutorial",
            "python3 -m venv ../tutorial/.venv",
            ". ../tutorial/.venv/bin/activate",
            "pip install .",
            "cd ../tutorial",
        ),
        "test_installing.py runs them, with an index of packages (pytest -m recipes)",
    ),
    "docs/how-to/containers.md": {
        "pip install 'pytest-plan[docker]'": _INDEX,
        "docker ps --all --filter label=pytest-plan.run": _ENGINE,
        "export DOCKER_HOST=$(docker context inspect --format '{{.Endpoints.docker.Host}}')": (
            _ENGINE
        ),
        "systemctl --user start podman.socket": "it needs podman as a user service of systemd",
    },
    "docs/how-to/coming-from-docker-compose.md": dict.fromkeys(
        (
            "export DATABASE_URL=postgresql://shop:not-a-secret@127.0.0.1:5432/shop",
            "trap 'docker compose down --volumes' EXIT",
            "docker compose up --detach --wait",
            "pytest",
        ),
        "this is the script before; test_coming_from.py runs what replaces it",
    ),
    "docs/how-to/debug-a-failed-step.md": {
        "pytest --plan-until server --plan-pause-on-failure": (
            "it waits for Enter on a terminal; tests/acceptance/test_pause.py presses it"
        ),
    },
    "docs/how-to/share-an-environment-between-terminals.md": dict.fromkeys(
        ("pytest --plan-share local -k orders", "pytest --plan-share local"),
        "test_sharing_pages.py runs them, in two terminals",
    ),
    "docs/how-to/several-machines.md": dict.fromkeys(
        (
            "pytest --plan-host 10.0.0.5 --dist load "
            "--tx ssh=build-1//python=/srv/shop/.venv/bin/python//chdir=/srv/shop "
            "--tx ssh=build-2//python=/srv/shop/.venv/bin/python//chdir=/srv/shop",
            "pytest --plan-host 10.0.0.5 --dist load "
            "--px id=first//execmodel=thread//ssh=build-1//python=/srv/shop/.venv/bin/python "
            "--tx 2*popen//via=first//chdir=/srv/shop",
        ),
        _MACHINES,
    ),
    "docs/reference/benchmarks.md": {"python -m tests.benchmarks": _MINUTES},
    "docs/reference/how-guarantees-are-tested.md": dict.fromkeys(
        (
            "pytest -m faults tests/faults",
            "FAULTS_ALONE=1 pytest -m faults tests/faults/test_shop.py",
            "python -m tests.faults.soak --runs 1000 --write",
            "python -m tests.faults.soak --seed 417",
            "python -m tests.faults.watching",
            "python -m tests.faults.watching --seed 17",
            "python -m tests.faults.sharing --histories 200",
            "python -m tests.faults.sharing --seed 17",
            "FORGED_JOURNALS=10000 pytest -m faults -s --timeout 0 "
            "tests/faults/test_forged_journals.py",
        ),
        _MINUTES,
    ),
    "docs/reference/plugins.md": dict.fromkeys(
        (
            "pip install -e '.[plugins]'",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 "
            "pytest -p xdist -p timeout -n2 -m plugins tests/plugins",
        ),
        _SUITE,
    ),
    "docs/development/releasing.md": dict.fromkeys(
        (
            "tox",
            "FAULTS_WRITE_TABLE=1 pytest -m faults tests/faults",
            "python -m tests.faults.soak --runs 1000 --write",
            "python -m tests.faults.sequences --sequences 500",
            "python -m tests.faults.sharing --histories 200",
            "python -m tests.benchmarks --write",
            "git clone . /tmp/release && cd /tmp/release",
            "python -m build",
            "python -m twine check --strict dist/*",
            "python -m venv /tmp/fresh",
            "/tmp/fresh/bin/pip install dist/*.whl",
            "/tmp/fresh/bin/pytest docs/examples/first",
            "python -m twine upload dist/*",
            "git tag v0.2.0 && git push origin main v0.2.0",
        ),
        "it is done for a release, with the right to publish",
    ),
}
