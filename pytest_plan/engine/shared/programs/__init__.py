"""The programs that steps have started, and whether those that must keep running still do."""
