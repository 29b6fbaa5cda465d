#!/usr/bin/env python3
"""Kills a training under mpirun at seeded random moments, again and again; no start may fail to go on from the newest checkpoint.

Two ranks train the smallest network and checkpoint at every step. Each start is killed (SIGKILL to mpirun and all ranks at once) at a moment
drawn uniformly from its start until a few steps after its first checkpoint. Whatever it left must be whole, and the next start must say that
it goes on from the newest whole checkpoint, as a program that shares no code with perrin finds it.

Example: tests/faults/sigkills.py --build build/cpu --kills 1000
"""

import argparse
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

import whole_checkpoints
from tiny_run import TinyRun, environment


def processes_of(process):
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    return [process.pid, *map(int, children)]


def kill(process):
    """All of it at once; returns when none runs any more."""
    pids = processes_of(process)
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()
    for pid in pids:
        while pathlib.Path(f"/proc/{pid}").exists() and "State:\tZ" not in status_of(pid):
            time.sleep(0.002)


def status_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "State:\tZ"


def start_and_kill(tiny, ranks, output, delay):
    """@return what the start said, and seconds to its first new checkpoint (None: it was killed before)"""
    before = whole_checkpoints.checkpoints(tiny.run)
    begun, first = time.monotonic(), None
    with open(output, "w") as file:
        process = subprocess.Popen(tiny.command(ranks), env=environment(), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                                   start_new_session=True)
    try:
        while time.monotonic() - begun < delay and process.poll() is None:
            if first is None and whole_checkpoints.checkpoints(tiny.run)[-1:] != before[-1:]:
                first = time.monotonic() - begun
            time.sleep(0.001)
        ended = process.poll()
    finally:
        kill(process)
    return output.read_text(errors="replace") + (f"\nended by itself with {ended}" if ended is not None else ""), first


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, required=True, help="build folder")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0, help="stop after this time, with as many kills as there were (default: no limit)")
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    begun = time.monotonic()
    survived = staged = with_progress = 0
    with tempfile.TemporaryDirectory(prefix="perrin-sigkills-") as folder:
        tiny = TinyRun((arguments.build / "launch/perrin").resolve(), folder)
        output = pathlib.Path(folder) / "output"
        usual = 5.0  # seconds from a start to its first checkpoint; measured below
        newest = None
        while staged < arguments.kills and not (arguments.minutes and time.monotonic() - begun > arguments.minutes * 60):
            # Most of the time of a start is spent before its first step, where there is little to damage: three in four come later.
            late = moments.random() < 0.75
            delay = usual + moments.uniform(0, 0.5) if late else moments.uniform(0, usual)
            said, first = start_and_kill(tiny, arguments.ranks, output, delay)
            staged += 1
            if first is not None:
                usual = 0.7 * usual + 0.3 * first
                with_progress += 1
            elif late:
                usual *= 1.1
            fault = ""
            went_on = re.search(r"going on from (\S+)", said)
            if "ended by itself" in said:
                fault = said[-2000:]
            elif went_on and (newest is None or went_on[1] != str(newest)):
                fault = f"went on from {went_on[1]}, not from {newest}"
            elif first is not None and newest is not None and not went_on:
                fault = f"began anew beside {newest}"
            elif half := whole_checkpoints.not_whole(tiny.run):
                fault = f"with a checkpoint's name and not whole: {half}"
            newest = whole_checkpoints.newest_whole(tiny.run)
            survived += not fault
            if fault:
                print(f"kill {staged} after {delay:.3f} s: {fault}", flush=True)
        if fault := tiny.fault_of_next_start(arguments.ranks):
            print(f"the last start: {fault}")
            survived -= 1
    print(f"{with_progress} kills came after a new checkpoint; the run had reached {newest.name if newest else 'none'}")
    print(f"survived {survived} of {staged}")
    return 0 if survived == staged and with_progress > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
