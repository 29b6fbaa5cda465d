"""Fixtures of the tests of the whole program."""

from small_world import datasets, write_config  # noqa: F401
