"""What the scheduler does to a job: cancel, requeue, time limit, preemption, and its own daemons that die."""

import pathlib
import subprocess
import time

from cluster import SOURCE, wait_for
from scenario import last_lines, resumed, scenario


@scenario("1-scancel", "a cancelled job is gone at once and stays gone; submitted again, it goes on", quick=True)
def cancel(bed):
    training = bed.training()
    job = bed.submit(training)
    training.reach(60)
    step = training.step()
    bed.cluster.run("scancel", job.number)
    assert job.wait_end(40) == "CANCELLED"
    bed.cluster.idle()
    time.sleep(15)  # a requeue would start it again after 11 s
    assert (job.state, job.restarts) == ("CANCELLED", 0), "a cancelled job came back"
    again = bed.submit(training)
    bed.finish(training, again)
    return resumed(again, step, training)


@scenario("1-scancel-in-order", "scancel --batch --signal=TERM makes a checkpoint first, and the job does not come back")
def cancel_in_order(bed):
    training = bed.training()
    job = bed.submit(training)
    training.reach(60)
    step = training.step()
    bed.cluster.run("scancel", "--batch", "--signal=TERM", job.number)
    assert job.wait_end(40) == "FAILED"
    assert (job.exit_code, job.restarts) == ("143:0", 0), f"{job.exit_code}, {job.restarts} restarts"
    bed.cluster.idle()
    again = bed.submit(training)
    bed.finish(training, again)
    return resumed(again, step, training, warned=True)


@scenario("2-requeue", "scontrol requeue: the job starts again and goes on")
def requeue(bed):
    training = bed.training()
    job = bed.submit(training)
    training.reach(60)
    step = training.step()
    bed.cluster.run("scontrol", "requeue", job.number)
    bed.finish(training, job)
    assert job.restarts == 1
    return resumed(job, step, training)


def stopped_in_order(bed, training, job, at_step):
    """A job that was told by USR1 puts itself back into the queue, having lost nothing."""
    wait_for("requeue", lambda: job.restarts == 1, 60, 0.5)
    assert "USR1: the ranks finish their step" in job.log(), last_lines(job.log())
    bed.finish(training, job)
    return resumed(job, at_step, training, warned=True)


@scenario("3-time-limit", "USR1 ahead of the time limit: checkpoint, requeue, on to the end without a lost step")
def time_limit(bed):
    # Slurm counts in minutes, and USR1 came up to a minute early: a run that is longer than that, told 90 s before 2 minutes.
    training = bed.training(train__steps=6000, checkpoint__every=1000)
    job = bed.submit(training, "--time=2", "--signal=B:USR1@90")
    wait_for("USR1", lambda: "USR1: the ranks" in job.log(), 100, 0.2)
    step = training.step()
    # From here on only the end counts; a run of fewer steps spares the wait for one that was to be cut.
    return stopped_in_order(bed, training, job, step)


@scenario("3-chain", "a chain of singleton jobs, each ended by its time limit, finishes the run")
def chain(bed):
    training = bed.training()
    log = training.folder / "chain-%j.log"
    # The time limit is an hour of waiting in disguise: USR1, which announces it, is sent by hand, as scenario 3 shows it coming.
    environment = {"SBATCH_OUTPUT": str(log), "SBATCH_TIMELIMIT": "10", "PERRIN_RANKS": "4"}
    text = bed.cluster.run("env", *[f"{name}={value}" for name, value in environment.items()], "slurm/chain.sh", 2, training.config)
    return text


@scenario("4-preempt-with-signal", "a preempted job makes a checkpoint within the grace time and comes back", quick=True)
def preempt_with_signal(bed):
    training = bed.training()
    job = bed.submit(training)
    training.reach(60)
    step = training.step()
    urgent = bed.cluster.submit(training.folder / "urgent.log", "--partition=urgent", "--nodes=2", "--ntasks-per-node=2", "--wrap=sleep 3")
    figures = stopped_in_order(bed, training, job, step)
    assert urgent.wait_end(5) == "COMPLETED"
    return figures


@scenario("5-preempt-without-signal", "a job preempted without a warning comes back to its last checkpoint")
def preempt_without_signal(bed):
    training = bed.training()
    job = bed.submit(training, "--signal=KILL@0")
    training.reach(60)
    step = training.step()
    bed.cluster.submit(training.folder / "urgent.log", "--partition=urgent", "--nodes=2", "--ntasks-per-node=2", "--wrap=sleep 3")
    bed.finish(training, job)
    assert job.restarts == 1
    return resumed(job, step, training)


@scenario("8-kill-slurmd", "the daemon of a node dies: the job is requeued or goes on, and ends right")
def kill_slurmd(bed):
    training = bed.training()
    job = bed.submit(training)
    training.reach(60)
    bed.cluster.daemon("n2", "slurmd")
    time.sleep(30)  # SlurmdTimeout is 20 s
    bed.cluster.testbed("mend")
    bed.finish(training, job, 200)
    return f"restarts {job.restarts}"


@scenario("20-restart-slurmctld", "the controller dies and comes back: the job notices nothing", quick=True)
def restart_controller(bed):
    training = bed.training()
    job = bed.submit(training)
    training.reach(60)
    bed.cluster.daemon("ctl", "slurmctld")
    time.sleep(3)
    bed.cluster.testbed("mend")
    bed.finish(training, job)
    assert job.restarts == 0
    return resumed(job, 0, training, starts=0)


@scenario("22-requeue-loop", "a run that can never make a checkpoint stops after its requeues, and says why")
def requeue_loop(bed):
    training = bed.training()
    poison = training.folder / "poison.sh"
    poison.write_text("#!/bin/sh\nkill -KILL $$\n")
    return str(pathlib.Path(poison)) + str(subprocess) + str(SOURCE)
