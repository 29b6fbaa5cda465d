"""Fixtures of the trainer's Python tests."""

import pytest


@pytest.fixture(scope="session")
def perrin_oracle(build_dir, run_command):
    """Runs perrin's mathematics on a file: perrin_oracle(command, source, target), see oracle_tool.cpp."""

    def call(command, source, target):
        run_command([build_dir / "tests" / "trainer" / "perrin_oracle", command, source, target], timeout=300)

    return call
