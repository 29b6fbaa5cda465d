"""What the scheduler does to a job: cancel, requeue, time limit, preemption, and its own daemons that die."""

import re
import time

from cluster import Job, wait_for
from scenario import last_lines, resumed, scenario, wait_log
from training import STEPS


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


ENDLESS = 1_000_000


def stopped_in_order(bed, training, job, at_step):
    """A job that was told by USR1 puts itself back into the queue, having lost nothing.

    Its run has no end until the signal came, so that it cannot be over before; the next start has STEPS.
    """
    training.set(train__steps=STEPS)
    wait_for("requeue", lambda: job.restarts == 1, 60, 0.5)
    assert "USR1: the ranks finish their step" in job.log(), last_lines(job.log())
    bed.finish(training, job)
    return resumed(job, at_step, training, warned=True)


def ends_after_requeue(bed, training, job, seconds):
    """Waits for the requeue of a job whose run has no end, and gives the run one: 100 steps more; the last step that was done."""
    wait_for("requeue", lambda: job.restarts == 1, seconds, 0.5)
    bed.cluster.idle(10)  # the next start is 11 s away
    step = training.step()
    training.set(train__steps=step + 100)
    return step


@scenario("3-time-limit", "USR1 ahead of the time limit: checkpoint, requeue, and on without a lost step")
def time_limit(bed):
    training = bed.training(train__steps=ENDLESS, checkpoint__every=200)
    # Slurm counts in minutes: USR1, 60 s before the end, may come 30 s earlier. That is 30 s after the start, time enough for the next one's
    # 100 steps.
    job = bed.submit(training, "--time=2", "--signal=B:USR1@60")
    wait_log(job, "USR1: the ranks finish their step", 150)
    step = ends_after_requeue(bed, training, job, 60)
    bed.finish(training, job)
    return resumed(job, step, training, warned=True)


@scenario("3-chain", "slurm/chain.sh: a job that must not requeue itself is followed by the next, which goes on")
def chain(bed):
    training = bed.training(train__steps=ENDLESS)
    log = str(training.folder / "chain-%j.log")
    text = bed.cluster.run("slurm/chain.sh", 2, "--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=1", "--time=10", f"--output={log}", training.config)
    first, second = (Job(bed.cluster, number, log.replace("%j", number)) for number in re.findall(r"job (\d+)", text))
    training.reach(60)
    step = training.step()
    training.set(train__steps=STEPS)
    bed.cluster.run("scancel", "--batch", "--signal=USR1", first.number)  # as the time limit does
    first.wait_end(40)
    assert first.exit_code == "85:0", first.exit_code
    bed.finish(training, second)
    return resumed(second, step, training, warned=True)


@scenario("4-preempt-with-signal", "a preempted job makes a checkpoint within the grace time and comes back", quick=True)
def preempt_with_signal(bed):
    training = bed.training(train__steps=ENDLESS)
    job = bed.submit(training)
    training.reach(60)
    step = training.step()
    urgent = bed.cluster.submit(training.folder / "urgent.log", "--partition=urgent", "--nodes=2", "--ntasks-per-node=2", "--wrap=sleep 3")
    figures = stopped_in_order(bed, training, job, step)
    assert urgent.wait_end(5) == "COMPLETED"
    return figures


@scenario("5-preempt-without-signal", "a job preempted without a warning comes back to its last checkpoint")
def preempt_without_signal(bed):
    training = bed.training(train__steps=ENDLESS)  # it trains on for the whole grace time, 20 s
    job = bed.submit(training, "--signal=B:CONT@1")  # CONT is no warning: the script does not know it
    training.reach(60)
    bed.cluster.submit(training.folder / "urgent.log", "--partition=urgent", "--nodes=2", "--ntasks-per-node=2", "--wrap=sleep 3")
    step = ends_after_requeue(bed, training, job, 90)
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
    # Long enough to be still going on when the controller is back.
    training = bed.training(train__steps=2400, checkpoint__every=200)
    job = bed.submit(training)
    training.reach(60)
    time.sleep(6)  # Slurm stores what it knows up to 5 s late; without the beginning of a job it starts the job again
    bed.cluster.daemon("ctl", "slurmctld")
    time.sleep(3)
    bed.cluster.testbed("mend")
    bed.finish(training, job)
    assert job.restarts == 0
    return resumed(job, 0, training, starts=0)


@scenario("22-requeue-loop", "a run that can never make a checkpoint stops after its requeues, and says why")
def requeue_loop(bed):
    # Every collective misses its deadline: a fault that no restart mends, though it looks like one.
    training = bed.training(distributed__timeout_seconds=0.001)
    job = bed.submit(training, environment={"PERRIN_RESTARTS": "1", "PERRIN_REQUEUES": "2"})
    job.wait_end(300)
    bed.cluster.idle()
    assert (job.state, job.restarts) == ("FAILED", 2), f"{job.state} after {job.restarts} restarts"
    assert "2 requeues without a new checkpoint: the job ends here" in job.log(), last_lines(job.log())
    return f"exit {job.exit_code}, {job.log().count('restart 1 of 1')} restarts inside"
