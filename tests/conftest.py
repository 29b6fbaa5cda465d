"""Fixtures of all Python tests. tests/run.sh says by environment variables which build is tested."""

import os
import pathlib
import signal
import subprocess

import pytest

# As launch/quickstart.sh and the batch scripts start it, on machines with fewer cores than ranks too.
MPIRUN = ["mpirun", "--oversubscribe", "--bind-to", "none"]


@pytest.fixture(scope="session")
def source_dir():
    """Root of perrin's source."""
    return pathlib.Path(os.environ.get("PERRIN_SOURCE_DIR", pathlib.Path(__file__).resolve().parent.parent))


@pytest.fixture(scope="session")
def build_dir(source_dir):
    """The build folder under test: $PERRIN_BUILD_DIR, else the one whose perrin was built last."""
    if "PERRIN_BUILD_DIR" in os.environ:
        return pathlib.Path(os.environ["PERRIN_BUILD_DIR"])
    binaries = sorted(source_dir.glob("build/*/launch/perrin"), key=lambda path: path.stat().st_mtime)
    if not binaries:
        pytest.fail("no build found; build first, or start the tests with tests/run.sh")
    return binaries[-1].parent.parent


@pytest.fixture(scope="session")
def perrin_binary(build_dir):
    """Path of the perrin program under test."""
    binary = pathlib.Path(os.environ.get("PERRIN_BINARY", build_dir / "launch" / "perrin"))
    if not binary.exists():
        pytest.fail(f"{binary} is missing; build it first, or start the tests with tests/run.sh")
    return binary


@pytest.fixture(scope="session")
def fashion_mnist():
    """Folder of Fashion-MNIST's four IDX files, from Debian's package dataset-fashion-mnist."""
    folder = pathlib.Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.fail(f"{folder} is missing; launch/setup.sh installs the package dataset-fashion-mnist")
    return folder


def clean_environment(changes=None):
    """The environment for a program under test: one thread a rank, no scheduler's variables, mpirun allowed for root.

    A change to None removes the variable.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "OMPI_", "PMIX_", "PMI_"))}
    environment.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")
    if os.geteuid() == 0:
        environment.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    for name, value in (changes or {}).items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = str(value)
    return environment


def run_program(command, env=None, timeout=60, check=True, cwd=None):
    """Runs a command in its own process group; whatever happens, none of the group outlives the call.

    @return subprocess.CompletedProcess with stdout and stderr as text
    @raise AssertionError if check is set and the exit status is not 0, or after timeout seconds
    """
    command = [str(part) for part in command]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               errors="replace", env=clean_environment(env), cwd=cwd, start_new_session=True)
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        stop_group(process)
        stdout, stderr = process.communicate()
        raise AssertionError(f"no end within {timeout} s: {' '.join(command)}\n{stdout[-4000:]}\n{stderr[-4000:]}") from None
    finally:
        stop_group(process)
    if check and process.returncode != 0:
        raise AssertionError(f"exit status {process.returncode}: {' '.join(command)}\n{stdout[-4000:]}\n{stderr[-4000:]}")
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def stop_group(process):
    """Ends a process started with start_new_session: TERM first, so that mpirun takes its ranks along, then KILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            continue


@pytest.fixture(scope="session")
def run_command():
    """run_program, for commands other than perrin."""
    return run_program


@pytest.fixture(scope="session")
def perrin(perrin_binary):
    """Runs perrin: perrin("inspect", path, ranks=2, env={...}, timeout=60, check=True, cwd=None) -> CompletedProcess.

    ranks=None starts the program directly, without mpirun.
    """

    def call(*arguments, ranks=None, **options):
        launcher = [] if ranks is None else [*MPIRUN, "-np", ranks]
        return run_program([*launcher, perrin_binary, *arguments], **options)

    return call


@pytest.fixture(scope="session")
def mpirun(perrin_binary):
    """The command line that starts perrin on a number of ranks, for tests that need the process itself (to kill it, say)."""

    def command(ranks, *arguments):
        return [str(part) for part in [*MPIRUN, "-np", ranks, perrin_binary, *arguments]]

    return command


@pytest.fixture(scope="session")
def program_environment():
    """clean_environment, to be given to subprocess.Popen together with the command line of the fixture mpirun."""
    return clean_environment
