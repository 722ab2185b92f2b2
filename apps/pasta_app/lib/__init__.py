"""Wiring between MONAI Label and the core; the core does the work."""
