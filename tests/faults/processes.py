"""Processes that die, stop, or are told things: ranks, mpirun and the daemons that it starts; fewer ranks after a fault."""

import pathlib
import resource
import signal
import subprocess
import sys
import time

from cluster import wait_for
from scenario import CannotBeStaged, last_lines, resumed, scenario
from scheduler import ENDLESS, stopped_in_order
from training import STEPS

MEMORY_GROUPS = pathlib.Path("/sys/fs/cgroup/memory")


def restarted_inside(bed, training, job, at_step, restarts=1):
    """The supervisor started the ranks again in the same allocation, and named what was lost."""
    bed.finish(training, job)
    assert job.restarts == 0, "the job was requeued"
    log = job.log()
    assert log.count("; restart ") == restarts, f"{log.count('; restart ')} restarts: {last_lines(log)}"
    return resumed(job, at_step, training)


def kill_in_phase(bed, phase, rank, script="slurm/train.sbatch", **changes):
    """SIGKILL to a rank as soon as its flight record says that it is in a phase, somewhere past step 40."""
    training = bed.training(**changes)
    job = bed.submit(training, script=script)
    victim = bed.cluster.rank(rank)
    training.reach(40)
    wait_for(f"phase {phase} of rank {rank}", lambda: training.phase(rank) == phase, 60, 0.0002)
    victim.send(signal.SIGKILL)  # at once: a phase may last milliseconds
    return restarted_inside(bed, training, job, training.step())


@scenario("6-kill-rank-mid-step", "a rank is killed in a step: restart inside the allocation from the last checkpoint", quick=True)
def kill_mid_step(bed):
    return kill_in_phase(bed, "step", 3)


@scenario("6-kill-rank-under-srun", "the same with ranks started by srun (slurm/train-srun.sbatch)")
def kill_under_srun(bed):
    return kill_in_phase(bed, "step", 3, script="slurm/train-srun.sbatch")


@scenario("6-kill-rank-mid-checkpoint", "a rank is killed while a checkpoint is written: the one before it, or this one, is whole")
def kill_mid_checkpoint(bed):
    return kill_in_phase(bed, "checkpoint", 0)


@scenario("6-kill-rank-mid-evaluation", "a rank is killed while all evaluate")
def kill_mid_evaluation(bed):
    return kill_in_phase(bed, "evaluation", 2, train__evaluate_every=10)


@scenario("6-kill-rank-in-init", "a rank is killed before the first step")
def kill_in_init(bed):
    training = bed.training()
    job = bed.submit(training)
    bed.cluster.rank(1).send(signal.SIGKILL)
    bed.finish(training, job)
    assert job.restarts == 0 and job.log().count("; restart 1 of 3") == 1, last_lines(job.log())
    return resumed(job, 0, training, starts=0)


@scenario("7-kill-mpirun", "mpirun is killed: its ranks leave, and the run starts again")
def kill_mpirun(bed):
    training = bed.training()
    job = bed.submit(training)
    training.reach(60)
    step = training.step()
    for process in bed.cluster.processes("mpirun"):
        process.send(signal.SIGKILL)
    return restarted_inside(bed, training, job, step)


@scenario("7-kill-orted", "Open MPI's daemon on the other node is killed")
def kill_orted(bed):
    training = bed.training()
    job = bed.submit(training)
    training.reach(60)
    step = training.step()
    for process in bed.cluster.processes("orted"):
        process.send(signal.SIGKILL)
    return restarted_inside(bed, training, job, step)


@scenario("11-stop-rank", "a rank stops answering: found and named within its deadline, and the run starts again")
def stop_rank(bed):
    training = bed.training()
    job = bed.submit(training)
    victim = bed.cluster.rank(2)
    training.reach(60)
    step = training.step()
    begun = time.monotonic()
    victim.send(signal.SIGSTOP)
    wait_for("end of the hanging ranks", lambda: "; restart 1 of 3" in job.log(), 60, 0.2)
    seconds = time.monotonic() - begun
    figures = restarted_inside(bed, training, job, step)
    assert "rank 2" in job.log(), "the report does not name rank 2"
    assert seconds < 15 + 15, f"found after {seconds:.0f} s, with a deadline of 15 s"
    return f"{figures}; found after {seconds:.0f} s"


@scenario("18-rank-throws", "a rank has an error of its own (no more memory): all end, and the run starts again")
def rank_throws(bed):
    # Evaluation needs memory that steps do not: the limit is what the rank has now.
    training = bed.training(train__evaluate_every=100, evaluate__images=64)
    job = bed.submit(training)
    victim = bed.cluster.rank(1)
    training.reach(60)
    step = training.step()
    size = next(int(line.split()[1]) * 1024 for line in pathlib.Path(f"/proc/{victim.pid}/status").read_text().splitlines() if line.startswith("VmSize"))
    resource.prlimit(victim.pid, resource.RLIMIT_AS, (size // 2, size // 2))
    return restarted_inside(bed, training, job, step)


def require_own_memory_groups():
    """Processes of a session, container or service are in a group that whoever runs it keeps; no test takes them out, nor adds to it."""
    if not (MEMORY_GROUPS / "memory.limit_in_bytes").exists():
        raise CannotBeStaged(f"{MEMORY_GROUPS} has no groups of cgroup version 1")
    own = next(line.split(":", 2)[2] for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line)
    if own != "/":
        raise CannotBeStaged(f"this session is kept in the memory group {own}; run it where it is in none")


@scenario("19-out-of-memory", "the kernel ends a rank because the node's memory is used up")
def out_of_memory(bed):
    require_own_memory_groups()
    training = bed.training()
    job = bed.submit(training)
    victim = bed.cluster.rank(3)
    training.reach(60)
    group = MEMORY_GROUPS / f"perrin-faults-{victim.pid}"
    group.mkdir()
    # What fills the memory is another process; the kernel prefers the rank, and ends this one next.
    hog = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read(1); a = b'x' * (200 << 20); sys.stdin.read()"],
                           stdin=subprocess.PIPE)
    try:
        (group / "memory.limit_in_bytes").write_text(str(64 << 20))
        pathlib.Path(f"/proc/{victim.pid}/oom_score_adj").write_text("1000")  # to lower the other's takes CAP_SYS_RESOURCE
        for process in (victim, hog):
            (group / "cgroup.procs").write_text(str(process.pid))
        step = training.step()
        hog.stdin.write(b"x")
        hog.stdin.flush()
        wait_for("end of the rank", lambda: not victim.lives(), 30, 0.05)
        events = (group / "memory.oom_control").read_text()
        assert "oom_kill 0" not in events, f"no kill by the kernel: {events}"
    finally:
        hog.kill()
        hog.wait()
        for pid in (group / "cgroup.procs").read_text().split():  # a rank that was not ended
            (MEMORY_GROUPS / "cgroup.procs").write_text(pid)
        group.rmdir()
    return restarted_inside(bed, training, job, step)


@scenario("21-second-signal", "a second and a third signal, during the last checkpoint, change nothing")
def second_signal(bed):
    training = bed.training(train__steps=ENDLESS)
    job = bed.submit(training)
    ranks = [bed.cluster.rank(number) for number in range(4)]
    training.reach(60)
    step = training.step()
    bed.cluster.run("scancel", "--batch", "--signal=USR1", job.number)
    wait_for("last checkpoint", lambda: training.phase(0) in ("checkpoint", "shutdown"), 20, 0.0002)
    for rank in ranks:
        if rank.lives():
            rank.send(signal.SIGUSR1)
    bed.cluster.run("scancel", "--batch", "--signal=USR1", job.number)
    return stopped_in_order(bed, training, job, step)


def fewer_ranks(bed, nodes, tasks_per_node):
    """A run killed on 4 ranks goes on with fewer, to the same bits: the reduction is the reproducible one."""
    training = bed.training(train__steps=STEPS // 2)
    bed_job = bed.submit(training)
    assert bed_job.wait_end(90) == "COMPLETED", last_lines(bed_job.log())
    training.set(train__steps=STEPS)
    job = bed.submit(training, nodes=nodes, tasks_per_node=tasks_per_node)
    bed.finish(training, job)
    ranks = nodes * tasks_per_node
    assert f"over {ranks} rank" in job.log(), f"not {ranks} ranks"
    return f"{ranks} of 4 ranks; went on from step {STEPS // 2}"


@scenario("23-resume-on-2-ranks", "a run of 4 ranks goes on with 2, to the same bits", quick=True)
def resume_on_two(bed):
    return fewer_ranks(bed, 2, 1)


@scenario("23-resume-on-1-rank", "a run of 4 ranks goes on with 1, to the same bits")
def resume_on_one(bed):
    return fewer_ranks(bed, 1, 1)
