"""The controller of pytest-xdist: provisions for all workers, and ends those that do not end."""
