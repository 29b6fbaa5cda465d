"""Numbers that are none: losses and gradients that are not finite."""

from scenario import last_lines, scenario


@scenario("17-infinite-loss", "a training that diverges stops with its own exit code, is not repeated, and publishes nothing that is not finite")
def infinite_loss(bed):
    training = bed.training(optimizer__lr=1e30, optimizer__warmup_steps=0, optimizer__clip_norm=0.0, train__steps=2000)
    job = bed.submit(training)
    assert job.wait_end(120) == "FAILED", job.state
    bed.cluster.idle()
    assert (job.exit_code, job.restarts) == ("77:0", 0), f"exit {job.exit_code}: {last_lines(job.log())}"
    assert "; restart " not in job.log(), "it was started again, in vain"
    return f"exit 77; checkpoints at {', '.join(map(str, training.checkpoints())) or 'none'}"
