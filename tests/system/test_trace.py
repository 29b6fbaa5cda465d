"""Timelines: what --trace writes, that every viewer can nest it, and that it says when communication was hidden."""

import collections
import json

import pytest
from small_world import checkpoint, inspect, rows

USAGE, RUN, OK = 64, 73, 0
MAIN, GRADIENTS, CONTROL, LOADER = range(4)
IN_STEP = ["load", "noise and forward", "backward", "read losses", "agree on losses", "wait for buckets", "optimizer"]


def complete_events(trace, **wanted):
    return [event for event in trace["traceEvents"]
            if event["ph"] == "X" and all(event[key] == value for key, value in wanted.items())]


def end(event):
    return event["ts"] + event["dur"]


def assert_nested(trace):
    """On each thread two events are apart or one lies in the other: else viewers drop or misplace some."""
    threads = collections.defaultdict(list)
    for event in complete_events(trace):
        threads[event["pid"], event["tid"]].append(event)
    for events in threads.values():
        open_ends = []
        for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
            while open_ends and open_ends[-1] <= event["ts"] + 0.002:  # microseconds; times have whole nanoseconds
                open_ends.pop()
            assert not open_ends or end(event) <= open_ends[-1] + 0.002, event
            open_ends.append(end(event))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_timeline_shows_what_every_thread_of_every_rank_did(perrin, write_config, ranks):
    """One process without mpirun, and two ranks."""
    config, run = write_config(**{"train.steps": 12, "checkpoint.every": 5, "train.evaluate_every": 5})
    said = perrin("train", config, "--trace", "steps=4-6", ranks=ranks if ranks > 1 else None).stdout
    assert f"timeline of steps 4 to 6: {run / 'trace' / 'steps-4-6.json'}" in said
    assert sorted(path.name for path in (run / "trace").iterdir()) == [*(f"rank-{r:04}.json" for r in range(ranks)), "steps-4-6.json"]
    trace = json.loads((run / "trace" / "steps-4-6.json").read_text())
    assert_nested(trace)

    names = {(event["pid"], event["tid"], event["name"]): event["args"].get("name") for event in trace["traceEvents"] if event["ph"] == "M"}
    for rank in range(ranks):
        assert names[rank, MAIN, "process_name"].startswith(f"rank {rank} (")
        assert [names[rank, thread, "thread_name"] for thread in range(4)] == ["main", "gradients", "control", "loader"]

        main = complete_events(trace, pid=rank, tid=MAIN)
        steps = [event for event in main if event["cat"] == "step"]
        assert [event["name"] for event in steps] == ["step 4", "step 5", "step 6"]
        for step in steps:
            inside = [event for event in main if event["cat"] == "compute" and step["ts"] <= event["ts"] and end(event) <= end(step) + 0.002]
            assert [event["name"] for event in inside] == IN_STEP
            assert sum(event["dur"] for event in inside) == pytest.approx(step["dur"], abs=0.1)  # no time is nobody's
        between = [event["name"] for event in main if event["name"] not in IN_STEP and event["cat"] == "compute"]
        assert between == ["report", "report", "evaluation", "checkpoint", "report"]  # after step 5 the two others
        assert complete_events(trace, pid=rank, tid=LOADER)

        buckets = complete_events(trace, pid=rank, tid=GRADIENTS)
        assert bool(buckets) == (ranks > 1) == bool(complete_events(trace, pid=rank, tid=CONTROL))
        for step in steps if ranks > 1 else []:
            own = [event for event in buckets if event["args"]["step"] == int(step["name"].split()[1])]
            assert [event["name"] for event in own] == [f"bucket {i}" for i in range(len(own))] and len(own) > 3
            assert all(step["ts"] <= event["ts"] and end(event) <= end(step) for event in own)
            backward = next(event for event in main if event["name"] == "backward" and event["args"]["step"] == own[0]["args"]["step"])
            assert own[0]["ts"] - own[0]["args"]["queued_us"] < end(backward), "the first bucket leaves during backward"
        # 4 bytes a parameter, every one in one bucket a step
        bytes_of_steps = {sum(event["args"]["bytes"] for event in buckets if event["args"]["step"] == step) for step in (4, 5, 6)}
        assert len(bytes_of_steps) == 1

    assert json.loads((run / "trace" / "rank-0000.json").read_text())["traceEvents"] == [event for event in trace["traceEvents"] if event["pid"] == 0]


def test_the_clocks_of_two_ranks_on_one_host_agree_within_the_error_that_is_said(perrin, write_config):
    config, run = write_config(**{"train.steps": 3})
    perrin("train", config, "--trace", "steps=2", ranks=2)
    trace = json.loads((run / "trace" / "steps-2-2.json").read_text())
    first, second = trace["otherData"]["ranks"]
    assert first["clock_ahead_us"] == first["clock_error_us"] == 0
    assert abs(second["clock_ahead_us"]) <= second["clock_error_us"] < 20_000
    # All ranks leave an agreement after the last has entered it, on the common clock.
    agreements = complete_events(trace, name="agree on losses")
    assert len(agreements) == 2
    assert min(map(end, agreements)) >= max(event["ts"] for event in agreements) - second["clock_error_us"]


def test_without_the_option_nothing_is_written(perrin, write_config):
    config, run = write_config(**{"train.steps": 2})
    perrin("train", config)
    assert not (run / "trace").exists()


def test_a_run_that_is_past_the_steps_refuses(perrin, write_config):
    config, run = write_config(**{"train.steps": 4})
    perrin("train", config)
    outcome = perrin("train", config, "--trace", "steps=3", "--train.steps=6", check=False)
    assert outcome.returncode == RUN and "no timeline of step 3: the run is at step 4 already" in outcome.stderr
    perrin("train", config, "--trace", "steps=5-6", "--train.steps=6")
    assert (run / "trace" / "steps-5-6.json").exists()


def test_a_bad_range_is_refused_before_anything_is_made(perrin, write_config):
    config, run = write_config(**{"train.steps": 4})
    outcome = perrin("train", config, "--trace", "steps=3-5", ranks=2, check=False)
    assert outcome.returncode == USAGE and outcome.stderr.count("error: ") == 1
    assert "the run ends at step 4 (train.steps)" in outcome.stderr and not run.exists()


def test_a_timeline_that_cannot_be_written_costs_no_step(perrin, write_config):
    config, run = write_config(**{"train.steps": 4})
    run.mkdir()
    (run / "trace").write_text("in the way")
    outcome = perrin("train", config, "--trace", "steps=2-3", ranks=2)
    assert "the timeline of this rank is not written" in outcome.stderr
    assert checkpoint(run, 4).is_dir()


def test_the_metrics_say_how_the_ranks_spend_their_time(perrin, write_config):
    config, run = write_config(**{"train.steps": 6, "train.log_every": 3})
    perrin("train", config, ranks=2)
    for row in rows(run):
        spent = [row[f"rank_{what}_seconds"] for what in ("load", "compute", "wait")]
        assert all(0 <= figures["min"] <= figures["median"] <= figures["max"] for figures in spent)
        longest_step = 3 * 16 / row["images_per_second"]
        assert 0 < spent[1]["min"] < longest_step * 1.5
        assert row["slow_ranks"] == []


def test_switching_overlap_off_changes_no_bit(perrin, write_config):
    weights = []
    for overlap in (True, False):
        config, run = write_config(f"overlap-{overlap}", **{"train.steps": 5, "distributed.overlap": overlap})
        perrin("train", config, ranks=2)
        weights.append(inspect(perrin, checkpoint(run, 5))["sha256"])
    assert weights[0] == weights[1]
