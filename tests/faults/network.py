"""Cables: one that is cut, one that flaps, one that is slow or loses packets; and a node that comes back from the dead."""

import subprocess
import time

from cluster import wait_for
from scenario import last_lines, resumed, scenario
from scheduler import ENDLESS
from training import STEPS


@scenario("9-link-down", "a node is cut off and later comes back: the job is requeued and ends right")
def link_down(bed):
    training = bed.training()
    job = bed.submit(training)
    training.reach(60)
    step = training.step()
    bed.cluster.cable("n2", "down")
    wait_for("requeue by Slurm", lambda: job.restarts >= 1, 90, 0.5)
    bed.cluster.cable("n2", "up")
    bed.finish(training, job, 200)
    resumes = job.log().count("going on from")
    assert resumes >= 1, "the run began anew"
    return f"restarts {job.restarts}; {resumed(job, step, training, starts=resumes)}"


def without_locks(folder):
    """A library that grants every flock, as a file system mounted without locks between nodes does; both nodes here share a kernel."""
    source, library = folder / "locks.c", folder / "locks.so"
    source.write_text("int flock(int file, int operation) { (void)file; (void)operation; return 0; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


@scenario("9-fencing", "a start that was given up for dead, but lives on a cut-off node, writes nothing once another has taken over")
def fencing(bed):
    training = bed.training(train__steps=ENDLESS, checkpoint__every=100)
    library = without_locks(bed.folder)
    job = bed.submit(training, nodes=1, environment={"LD_PRELOAD": str(library)})
    old = bed.cluster.rank(0)
    training.reach(200)
    node = job.info()["BatchHost"]
    bed.cluster.cable(node, "down")
    try:
        # On the other one; the old ranks still run.
        wait_for("start on the other node", lambda: job.log().count("going on from") == 1, 120, 0.2)
        begun = time.monotonic()
        wait_for("end of the old start", lambda: not old.lives(), 60, 0.2)
        seconds = time.monotonic() - begun
        wait_for("checkpoint of the new start", lambda: list(training.run.glob("checkpoints/step-*-i0002/manifest.json")), 60, 0.2)
        # From now on the new start alone writes: steps of the old one do not appear any more.
        bed.cluster.run("scancel", "--batch", "--signal=TERM", job.number)
        job.wait_end(60)
    finally:
        bed.cluster.cable(node, "up")
    training.set(train__steps=training.step())
    bed.check_steps(training)
    assert "another start" in "".join(path.read_text() for path in training.run.glob("logs/*")) + job.log(), last_lines(job.log())
    return f"the old ranks ended {seconds:.0f} s after the new start"


@scenario("10-link-flap", "a link that is gone for 30 s, below every timeout: the run waits and goes on by itself")
def link_flap(bed):
    bed.cluster.configure("SlurmdTimeout", 120)
    try:
        training = bed.training(distributed__timeout_seconds=120)
        job = bed.submit(training)
        training.reach(60)
        bed.cluster.cable("n2", "down")
        time.sleep(5)
        stood_at = training.step()
        time.sleep(25)
        assert training.step() == stood_at < STEPS, "the run did not need the link"
        bed.cluster.cable("n2", "up")
        bed.finish(training, job, 200)
    finally:
        bed.cluster.configure("SlurmdTimeout", 20)
    assert job.restarts == 0
    return f"stood at step {stood_at} for 30 s; {resumed(job, 0, training, starts=0)}"


def worse_link(bed, *bucket):
    """The token bucket of tc stands for a bad cable: this kernel need not have netem."""
    training = bed.training()
    job = bed.submit(training)
    training.reach(60)
    before = training.step()
    bed.cluster.on("n2", "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *bucket)
    try:
        time.sleep(20)
        figures = bed.cluster.on("n2", "tc", "-s", "qdisc", "show", "dev", "eth0")
        slowed = training.step() - before
    finally:
        bed.cluster.on("n2", "tc", "qdisc", "del", "dev", "eth0", "root")
    bed.finish(training, job, 200)
    assert job.restarts == 0 and resumed(job, 0, training, starts=0)
    return slowed, figures


@scenario("12-slow-link", "a link that delays every message: slower, and nobody is killed")
def slow_link(bed):
    slowed, _ = worse_link(bed, "rate", "2mbit", "burst", "16k", "latency", "2000ms")
    assert slowed < STEPS - 60, "the link was not slow enough to be noticed"
    return f"{slowed} steps in the 20 s that it was slow"


@scenario("12-lossy-link", "a link that loses packets: slower, and nobody is killed")
def lossy_link(bed):
    slowed, figures = worse_link(bed, "rate", "4mbit", "burst", "4k", "limit", "6k")
    dropped = int(figures.split("dropped ")[1].split(",")[0])
    assert dropped > 0, "no packet was lost"
    return f"{dropped} packets lost, {slowed} steps in 20 s"
