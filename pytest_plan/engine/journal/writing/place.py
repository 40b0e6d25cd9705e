"""Where a journal is, and how the place is repaired when it is lost."""

from __future__ import annotations

from pathlib import Path


class Place:
    """Where a journal is. This base class does not replace a journal that is lost."""

    def is_intact(self) -> bool:
        """Return whether nobody has changed the folder of the journal, or anything else in it."""
        return True

    def restore(self) -> Path:
        """Repair the folder, and return the path that the journal must have.

        Raises:
            OSError, JournalError: the folder cannot be repaired.
        """
        raise OSError("it was removed or replaced")

    def written_again(self, file: Path) -> None:
        """Handle that the journal was lost, and that it has been written again as `file`."""
