"""Every shell script parses and is clean, and the set-up script says in one line what is missing and what to do."""

import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest


def tracked_scripts(source_dir):
    """Shell scripts by name or first line; untracked build output is not looked at."""
    folders = ["launch", "tests", "slurm", ".ci", "bench"]
    found = []
    for path in (path for folder in folders for path in sorted((source_dir / folder).rglob("*")) if path.is_file()):
        if path.suffix in {".sh", ".sbatch"} or path.read_bytes()[:40].startswith(b"#!/usr/bin/env bash"):
            found.append(path)
    return found


def test_shell_scripts_parse(source_dir):
    scripts = tracked_scripts(source_dir)
    assert source_dir / "launch" / "setup.sh" in scripts and source_dir / ".ci" / "run" in scripts
    for script in scripts:
        checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr


def test_shell_scripts_are_clean(source_dir):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    scripts = [path.relative_to(source_dir) for path in tracked_scripts(source_dir)]
    checked = subprocess.run(["shellcheck", "--external-sources", *scripts], cwd=source_dir, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.fixture
def setup(source_dir):
    """Runs a copy of launch/setup.sh, with programs of ours first on PATH: setup({"g++": "script"}, "--cuda", "off").

    The copy lies in setup.copy, which any user may read and write; prefix is a command that starts the script.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "perrin"
        programs = pathlib.Path(folder) / "programs"
        shutil.copytree(source_dir / "launch", copy / "launch", ignore=shutil.ignore_patterns("*.cpp", "*.hpp"))
        programs.mkdir()
        for path in (pathlib.Path(folder), copy, programs):
            path.chmod(0o777)

        def call(replaced, *options, prefix=(), **environment):
            for name, text in replaced.items():
                (programs / name).write_text(f"#!/bin/sh\n{text}\n")
                (programs / name).chmod(0o755)
            env = {name: value for name, value in os.environ.items() if name not in {"CXX", "PERRIN_LIBTORCH"}}
            env.update(environment, PATH=f"{programs}:{os.environ['PATH']}")
            return subprocess.run([*prefix, "bash", copy / "launch" / "setup.sh", *options], env=env, stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, timeout=60)

        call.copy = copy
        yield call


def one_line(run):
    assert run.returncode == 1, run.stdout + run.stderr
    lines = run.stderr.strip().splitlines()
    assert len(lines) == 1, run.stderr
    return lines[0]


ALL_INSTALLED = {"dpkg-query": "echo installed"}
# Every package is there but one.
HDF5_MISSING = {"dpkg-query": 'case "$*" in *libhdf5-dev*) exit 1 ;; esac; echo installed'}


def test_compiler_that_is_too_old_is_named_with_the_remedy(setup):
    line = one_line(setup({**ALL_INSTALLED, "g++": 'case "$1" in --version) echo "g++ (Debian 10.2.1) 10.2.1" ;; *) echo 10.2.1 ;; esac'}))
    assert "g++ 10.2.1 is too old" in line and "CXX=g++-11" in line


def test_missing_right_is_named_with_the_command_for_root(setup):
    # The right to become root is refused, and where the tests themselves run as root they give it up.
    unprivileged = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    line = one_line(setup({**HDF5_MISSING, "sudo": "exit 1"}, prefix=unprivileged))
    assert "no right to install packages" in line and "apt-get install -y libhdf5-dev" in line


def test_package_that_cannot_be_installed_is_named(setup):
    run = setup({**HDF5_MISSING, "sudo": 'case "$1" in -*) exit 0 ;; esac; exec "$@"',
                 "apt-get": "echo 'E: Unable to locate package libhdf5-dev' >&2; exit 100"})
    line = one_line(run)
    assert "apt-get could not install libhdf5-dev" in line and "Unable to locate package" in line and "network" in line


def test_download_that_fails_is_said_with_the_remedy(setup):
    # No index and no links: pip finds nothing, as without a network.
    line = one_line(setup(ALL_INSTALLED, "--cuda", "off", PIP_NO_INDEX="1", PIP_FIND_LINKS=""))
    assert "pip could not install LibTorch" in line and "torch==2.11.0" in line and "network" in line


def test_too_little_disk_is_said_before_anything_is_downloaded(setup):
    line = one_line(setup({**ALL_INSTALLED, "df": "echo Avail; echo 2097152"}, "--cuda", "off"))
    assert "2 GiB free" in line and "4 are needed" in line


def test_folder_without_libtorch_is_refused(setup, tmp_path):
    line = one_line(setup(ALL_INSTALLED, "--libtorch", str(tmp_path)))
    assert f"no LibTorch in '{tmp_path}'" in line and "libtorch_cpu.so" in line


def test_own_libtorch_is_recorded_and_nothing_is_downloaded(setup, tmp_path):
    for name in ("lib/libtorch_cpu.so", "include/ATen/ATen.h"):
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).touch()
    run = setup(ALL_INSTALLED, "--cuda", "off", "--libtorch", str(tmp_path / "own"), PIP_NO_INDEX="1")
    assert run.returncode == 0, run.stdout + run.stderr
    assert (setup.copy / ".perrin-libtorch").read_text() == f"{tmp_path / 'own'}\n"
    assert not (setup.copy / ".venv").exists()


def test_cuda_that_is_required_but_missing_is_an_error(setup):
    line = one_line(setup({**ALL_INSTALLED, "nvcc": "echo 'Cuda compilation tools, release 11.8, V11.8.89'"}, "--cuda", "on"))
    assert "version 11" in line and "--cuda off" in line


def test_unknown_option_is_refused(setup):
    assert "unknown option '--test'" in one_line(setup({}, "--test"))
