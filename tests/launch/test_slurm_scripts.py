"""The batch scripts start perrin as their README says: run here with Slurm's variables, and an mpirun that prints its arguments."""

import os
import subprocess

import pytest

ALLOCATION = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_PER_TASK": "12"}


@pytest.fixture
def submit(source_dir, tmp_path):
    """submit("cpu", "a.toml", ..., SLURM_X="1"): the batch script as Slurm runs it, from a folder that holds a build."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "mpirun").write_text('#!/bin/sh\necho "$@"\necho "interface: $OMPI_MCA_btl_tcp_if_include $NCCL_SOCKET_IFNAME"\nexit ${MPIRUN_STATUS:-0}\n')
    (programs / "mpirun").chmod(0o755)
    for preset in ("cpu", "cuda"):
        binary = tmp_path / "build" / preset / "launch" / "perrin"
        binary.parent.mkdir(parents=True)
        binary.write_text("#!/bin/sh\ncase $1 in train) printf '[run]\\ndirectory = \"runs/%s\"\\n' $2;; inspect) echo inspected $2 >&2;; esac\n")
        binary.chmod(0o755)

    def call(kind, *arguments, **variables):
        env = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "PERRIN_"))}
        env.update(variables, PATH=f"{programs}:{os.environ['PATH']}")
        return subprocess.run(["bash", source_dir / "slurm" / f"train-{kind}.sbatch", *arguments], cwd=tmp_path, env=env,
                              capture_output=True, text=True, timeout=30)

    return call


@pytest.mark.parametrize("kind, program, device", [("cpu", "build/cpu/launch/perrin", "cpu"), ("gpu", "build/cuda/launch/perrin", "cuda")])
def test_every_task_becomes_a_rank_and_overrides_come_last(submit, kind, program, device):
    run = submit(kind, "a.toml", "--train.steps=5", **ALLOCATION)
    assert run.returncode == 0, run.stderr
    command = run.stdout.splitlines()[1]
    assert command.startswith("-np 16 --bind-to none ")
    assert command.endswith(f"{program} train a.toml --distributed.device={device} --distributed.threads=12 --train.steps=5")


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_script_that_was_not_submitted_or_has_no_configuration_says_how(submit, kind):
    for run in (submit(kind, "a.toml"), submit(kind, **ALLOCATION)):
        assert run.returncode == 2
        assert f"sbatch slurm/train-{kind}.sbatch" in run.stderr and len(run.stderr.splitlines()) == 1


def test_gpus_per_task_is_refused(submit):
    run = submit("gpu", "a.toml", **ALLOCATION, SLURM_GPUS_PER_TASK="1")
    assert run.returncode == 2 and "--gpus-per-node" in run.stderr


def test_missing_program_is_named(submit):
    run = submit("cpu", "a.toml", **ALLOCATION, PERRIN_BINARY="elsewhere/perrin")
    assert run.returncode == 2 and "elsewhere/perrin" in run.stderr


def test_interface_is_given_to_mpi_and_nccl(submit):
    assert "interface: ib0 ib0" in submit("gpu", "a.toml", **ALLOCATION, PERRIN_INTERFACE="ib0").stdout
    assert "interface:  \n" in submit("gpu", "a.toml", **ALLOCATION).stdout


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_log_survives_a_requeue_and_gpus_are_asked_for_by_node(source_dir, kind):
    text = (source_dir / "slurm" / f"train-{kind}.sbatch").read_text()
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --open-mode=append" in directives
    assert not any("--gpus-per-task" in line for line in directives)


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
@pytest.mark.parametrize("status, told", [(0, False), (78, False), (85, False), (69, True), (75, True), (137, True)])
def test_a_rank_that_was_lost_is_named_from_the_flight_records(submit, kind, status, told):
    run = submit(kind, "a.toml", **ALLOCATION, MPIRUN_STATUS=str(status))
    assert run.returncode == status
    assert ("inspected runs/a.toml" in run.stderr) == told
