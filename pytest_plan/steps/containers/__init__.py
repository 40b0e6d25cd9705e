"""Steps that run containers, on Docker or podman."""
