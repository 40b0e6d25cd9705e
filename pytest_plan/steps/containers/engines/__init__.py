"""The container engine: finding it, images, logs, and what steps make there."""
