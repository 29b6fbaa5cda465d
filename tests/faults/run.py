"""Runs fault scenarios on the test bed and prints the table; the last line is `survived N of M`. Started by run.sh."""

import argparse
import collections
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import traceback
import xml.etree.ElementTree as ElementTree

import network  # noqa: F401  (each registers its scenarios)
import numbers_gone_wrong  # noqa: F401
import processes  # noqa: F401
import scheduler  # noqa: F401
import storage  # noqa: F401
from cluster import SOURCE, TESTBED, Cluster
from scenario import SCENARIOS, Bed, CannotBeStaged, undisturbed
from training import make_datasets

WORDS = {"passed": "survived", "failed": "NOT SURVIVED", "skipped": "not staged"}


def sort_key(entry):
    return int(entry.name.split("-")[0]), entry.name


def chosen(options):
    every = sorted(SCENARIOS, key=sort_key)
    if options.all:
        return every
    if options.quick:
        return [entry for entry in every if entry.quick]
    unknown = [name for name in options.names if not any(entry.name == name or entry.name.startswith(name + "-") for entry in every)]
    if unknown:
        raise SystemExit(f"error: no scenario {', '.join(unknown)}; tests/faults/run.sh --list names them")
    return [entry for entry in every if any(entry.name == name or entry.name.startswith(name + "-") for name in options.names)]


def survive(entry, cluster, datasets, folder, expected):
    """(outcome as write_junit has it, figures or the reason)"""
    folder.mkdir(parents=True)
    try:
        return "passed", entry.run(Bed(cluster, datasets, folder, expected))
    except CannotBeStaged as reason:
        return "skipped", str(reason)
    except Exception as error:  # whatever goes wrong is a scenario that was not survived
        (folder / "failure.txt").write_text(traceback.format_exc())
        for process in cluster.processes():
            print(f"       left: {process.program} {process.pid} rank {process.rank}", flush=True)
        return "failed", " ".join(str(error).split())[:300] or type(error).__name__
    finally:
        try:
            cluster.clear()
        except Exception as error:  # a node that Slurm has given up on, say
            print(f"       the cluster is made anew: {' '.join(str(error).split())[:200]}", flush=True)
            cluster.down()
            cluster.up()


def write_junit(path, outcomes):
    """The outcomes as tests/support/summary.py reads them: (name, "passed", "failed" or "skipped", reason)."""
    suite = ElementTree.Element("testsuite", name="faults")
    for name, outcome, reason in outcomes:
        case = ElementTree.SubElement(suite, "testcase", classname="faults", name=name)
        if outcome != "passed":
            ElementTree.SubElement(case, {"failed": "failure", "skipped": "skipped"}[outcome], message=reason)
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(suite).write(path)


def cannot_be_here():
    """Why this machine cannot have a test bed; empty if it can."""
    checked = subprocess.run([TESTBED, "check"], capture_output=True, text=True, timeout=60)
    if checked.returncode in (0, 77):
        return checked.stderr.strip().removeprefix("error: ")
    raise SystemExit(checked.stderr.strip())


def main():
    parser = argparse.ArgumentParser(prog="tests/faults/run.sh", description=__doc__)
    parser.add_argument("names", nargs="*", help="scenarios by name or number")
    parser.add_argument("--all", action="store_true", help="every scenario")
    parser.add_argument("--quick", action="store_true", help="the half-dozen that continuous integration runs")
    parser.add_argument("--list", action="store_true", help="name the scenarios and stop")
    parser.add_argument("--filter", default="", metavar="TEXT", help="of these, only those whose name contains TEXT")
    parser.add_argument("--junit", type=pathlib.Path, metavar="FILE", help="write the outcomes there; a machine that cannot run them skips them")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="each so many times (default: 1)")
    parser.add_argument("--logs", type=pathlib.Path, default=SOURCE / "build" / "faults", help="where to keep them (default: build/faults)")
    options = parser.parse_args()
    if options.list:
        for entry in sorted(SCENARIOS, key=sort_key):
            print(f"{entry.name:28} {entry.promise}{' (quick)' if entry.quick else ''}")
        return 0
    if not (options.all or options.quick or options.names):
        parser.error("name scenarios, or give --all or --quick")
    entries = [entry for entry in chosen(options) if options.filter in entry.name]
    reason = cannot_be_here()
    if reason and options.junit:
        write_junit(options.junit, [(entry.name, "skipped", reason) for entry in entries])
        print(f"skipped {len(entries)}: {reason}")
        return 0
    if reason:
        raise SystemExit(f"error: {reason}")

    logs = options.logs.resolve()
    if logs.exists() and any(logs.iterdir()) and not (logs / "datasets").exists():
        raise SystemExit(f"error: {logs} holds something else; give another folder with --logs")
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    make_datasets(logs / "datasets")
    expected = undisturbed(logs, logs / "datasets")
    state = logs.with_name(logs.name + "-cluster")
    cluster = Cluster(state)
    # As Ctrl-C does: the cluster goes down first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cluster.up()
    outcomes = []
    try:
        print(f"{'scenario':28} {'run':>4} {'seconds':>8}  outcome", flush=True)
        for entry in entries:
            for turn in range(1, options.repeat + 1):
                start = time.monotonic()
                outcome, figures = survive(entry, cluster, logs / "datasets", logs / f"{entry.name}-{turn}", expected)
                outcomes.append((entry.name, outcome, figures))
                print(f"{entry.name:28} {turn:>4} {time.monotonic() - start:>8.0f}  {WORDS[outcome]}: {figures}", flush=True)
    finally:
        shutil.copytree(state, logs / "slurm", ignore=lambda folder, names: [n for n in names if not n.endswith(".log")],
                        dirs_exist_ok=True)
        cluster.down()
        if options.junit:
            # One that a deadline or a signal kept from its turn is not to vanish from the count.
            begun = {name for name, _, _ in outcomes}
            missed = [(entry.name, "failed", "not run: the scenarios were ended early") for entry in entries if entry.name not in begun]
            write_junit(options.junit, outcomes + missed)
    print(f"logs: {logs}")
    count = collections.Counter(outcome for _, outcome, _ in outcomes)
    print(f"survived {count['passed']} of {count['passed'] + count['failed']}" + (f", {count['skipped']} not staged" if count["skipped"] else ""))
    return 0 if count["passed"] > 0 and count["failed"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
