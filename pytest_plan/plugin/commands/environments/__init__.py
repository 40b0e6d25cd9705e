"""The commands for environments that stay after a run: provision, show, and clean up."""
