"""The batch scripts start perrin as their README says: run here with Slurm's variables, and a supervisor that prints its arguments.

Under a real Slurm they run in tests/faults.
"""

import os
import shutil
import subprocess

import pytest

ALLOCATION = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_PER_TASK": "12"}
GPUS = {"SLURM_GPUS_ON_NODE": "8"}
SHOW = '#!/bin/sh\necho "$@"\necho "interface: $OMPI_MCA_btl_tcp_if_include $NCCL_SOCKET_IFNAME"\n'
SCRIPTS = ["train.sbatch", "train-srun.sbatch", "evaluate.sbatch"]


@pytest.fixture
def submit(source_dir, tmp_path):
    """submit("train.sbatch", "a.toml", ..., SLURM_X="1"): a batch script as Slurm runs it, from a folder that holds builds."""
    programs = tmp_path / "programs"
    shutil.copytree(source_dir / "slurm", tmp_path / "slurm")
    shows = [tmp_path / "build" / preset / "launch" / name for preset in ("cpu", "cuda") for name in ("perrin", "perrin-supervise")]
    for path in [*shows, *(programs / name for name in ("mpirun", "srun", "sbatch"))]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SHOW)
        path.chmod(0o755)

    def call(script, *arguments, **variables):
        env = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "PERRIN_"))}
        env.update(variables, PATH=f"{programs}:{os.environ['PATH']}")
        return subprocess.run(["bash", tmp_path / "slurm" / script, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True,
                              timeout=30)

    return call


@pytest.mark.parametrize("gpus, device", [({}, "cpu"), (GPUS, "cuda")])
def test_every_task_becomes_a_rank_and_overrides_come_last(submit, gpus, device):
    run = submit("train.sbatch", "a.toml", "--train.steps=5", **ALLOCATION, **gpus)
    assert run.returncode == 0, run.stderr
    command = run.stdout.splitlines()[1]
    assert command.startswith("--restarts 3 --requeue 5 mpirun -np 16 --bind-to none ")
    assert command.endswith(f" -- a.toml --distributed.device={device} --distributed.threads=12 --train.steps=5")


def test_srun_starts_one_world_of_ranks(submit):
    command = submit("train-srun.sbatch", "a.toml", **ALLOCATION).stdout.splitlines()[1]
    assert "srun --mpi=pmix --kill-on-bad-exit=1 " in command and "--cpus-per-task=12 -- a.toml" in command


def test_evaluation_runs_on_all_ranks(submit):
    command = submit("evaluate.sbatch", "runs/a", "--metric", "vlb", **ALLOCATION, **GPUS).stdout.splitlines()[0]
    assert command.startswith("-np 16 ") and command.endswith("build/cuda/launch/perrin evaluate runs/a --metric vlb --device cuda")


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_that_was_not_submitted_or_has_no_argument_says_how(submit, script):
    for run in (submit(script, "a.toml"), submit(script, **ALLOCATION)):
        assert run.returncode == 64
        assert "sbatch slurm/" in run.stderr and len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize("script", SCRIPTS)
def test_gpus_per_task_is_refused(submit, script):
    run = submit(script, "a.toml", **ALLOCATION, SLURM_GPUS_PER_TASK="1")
    assert run.returncode == 64 and "--gpus-per-node" in run.stderr


def test_missing_program_is_named(submit):
    run = submit("train.sbatch", "a.toml", **ALLOCATION, PERRIN_BINARY="elsewhere/perrin")
    assert run.returncode == 64 and "elsewhere/perrin" in run.stderr


def test_interface_is_given_to_mpi_and_nccl(submit):
    run = submit("train.sbatch", "a.toml", **ALLOCATION, PERRIN_INTERFACE="ib0")
    assert "interface: ib0 ib0" in run.stdout and "-x NCCL_SOCKET_IFNAME" in run.stdout
    assert "interface:  \n" in submit("train.sbatch", "a.toml", **ALLOCATION).stdout


def directives(source_dir, script):
    return [line for line in (source_dir / "slurm" / script).read_text().splitlines() if line.startswith("#SBATCH")]


def test_training_jobs_are_warned_may_be_requeued_and_keep_their_log(source_dir):
    for script in ("train.sbatch", "train-srun.sbatch"):
        assert {"#SBATCH --open-mode=append", "#SBATCH --requeue", "#SBATCH --signal=B:USR1@300"} <= set(directives(source_dir, script))
    assert directives(source_dir, "train.sbatch") == directives(source_dir, "train-srun.sbatch")


def test_chain_submits_jobs_that_run_one_after_the_other(submit):
    run = submit("chain.sh", "3", "--nodes=4", "configs/a.toml", "--train.steps=9")
    jobs = [line for line in run.stdout.splitlines() if line.startswith("--")]
    assert jobs == ["--job-name=perrin-a --dependency=singleton --no-requeue --nodes=4 slurm/train.sbatch configs/a.toml --train.steps=9"] * 3
    assert submit("chain.sh", "configs/a.toml").returncode == 64


# --- perrin submit ---------------------------------------------------------------------------------------------------


def test_submit_prints_train_sbatch_with_these_sizes(perrin, perrin_binary, submit, source_dir, tmp_path):
    config = source_dir / "configs" / "quickstart.toml"
    text = perrin("submit", config, "--nodes", 4, "--gpus-per-node", 2, "--time", "1-12", "--partition", "short",
                  "--run.directory=runs/it's mine").stdout
    printed = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --nodes=4", "#SBATCH --ntasks-per-node=2", "#SBATCH --gpus-per-node=2", "#SBATCH --time=1-12",
            "#SBATCH --partition=short", "#SBATCH --job-name=perrin-quickstart"} <= set(printed)
    kept = [line for line in directives(source_dir, "train.sbatch") if line.split("=")[0] not in {part.split("=")[0] for part in printed}]
    assert not kept, "lines of train.sbatch are missing"
    # sbatch reads directives up to the first command.
    assert text.index(printed[-1]) < text.index("set -euo pipefail")
    (tmp_path / "slurm" / "ranks.sh").unlink()  # it stands alone
    (tmp_path / "slurm" / "job.sbatch").write_text(text)
    run = submit("job.sbatch", **ALLOCATION, **GPUS, PERRIN_BINARY="build/cuda/launch/perrin")
    assert run.returncode == 0, run.stderr
    assert f"-- {config} --distributed.device=cuda --distributed.threads=12 --run.directory=runs/it's mine" in run.stdout
    assert f'"${{PERRIN_BINARY:={perrin_binary}}}"' in text


@pytest.mark.parametrize("arguments, said", [
    (["--nodes", "17", "--ranks-per-node", "2"], "train.batch_size"),
    (["--nodes", "3", "--ranks-per-node", "1", "--distributed.reduction=reproducible"], "power of two"),
    (["--nodes", "2"], "--ranks-per-node"),
    (["--gpus-per-node", "2", "--ranks-per-node", "4"], "a GPU serves one rank"),
    (["--ranks-per-node", "2", "--partition", "a b"], "--partition"),
])
def test_submit_refuses_what_cannot_be(perrin, source_dir, arguments, said):
    run = perrin("submit", source_dir / "configs" / "quickstart.toml", *arguments, check=False)
    assert run.returncode in (64, 78) and said in run.stderr and not run.stdout
