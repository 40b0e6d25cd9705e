"""The commands for environments that several runs share."""
