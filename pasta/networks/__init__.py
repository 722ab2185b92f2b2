"""Architectures and strict checkpoint loading."""
