#!/usr/bin/env python3
"""Ends a training at every change that it makes to its files, and looks whether the next start finds its newest checkpoint.

A run of one rank that checkpoints at every step is killed (SIGKILL, by a preloaded library) before and after its n-th write, fsync, rename,
removal, mkdir or close under the run folder, for every n that two steps have, the second of which removes the checkpoint of the first. After
each kill no folder with a checkpoint's name may be incomplete, and the next start must go on from the newest one. (After a write is before the
next call.)

Example: tests/faults/crash_points.py --build build/cpu
"""

import argparse
import pathlib
import shutil
import signal
import sys
import tempfile

from tiny_run import TinyRun

STEPS = 2


def crash(tiny, library, point, when, log=""):
    """@return exit status of a start that goes on for STEPS steps from what is there and dies at the point"""
    tiny.config(STEPS)
    return tiny.start(tiny.command(), LD_PRELOAD=str(library), PERRIN_CRASH_FOLDER=str(tiny.run), PERRIN_CRASH_AT=str(point),
                      PERRIN_CRASH_WHEN=when, PERRIN_CRASH_LOG=str(log))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, required=True, help="build folder")
    parser.add_argument("--every", type=int, default=1, help="only each so many-th point (default: all)")
    parser.add_argument("--first", type=int, default=1, help="first point (default: 1)")
    arguments = parser.parse_args()
    library = (arguments.build / "tests/faults/libperrin_crash_point.so").resolve()
    with tempfile.TemporaryDirectory(prefix="perrin-crash-") as folder:
        tiny = TinyRun((arguments.build / "launch/perrin").resolve(), folder)
        log = pathlib.Path(folder) / "calls"
        undisturbed = crash(tiny, library, 0, "before", log)
        assert undisturbed.returncode == 0, undisturbed.stdout
        calls = log.read_text().splitlines()
        assert len(calls) > 100, "the library was not loaded, or sees nothing"
        survived = staged = 0
        for point in range(arguments.first, len(calls) + 1, arguments.every):
            for when in ("before",) if " write " in calls[point - 1] else ("before", "after"):
                shutil.rmtree(tiny.run)
                if crash(tiny, library, point, when).returncode != -signal.SIGKILL:
                    continue  # threads differ from start to start: this one had fewer calls
                staged += 1
                fault = tiny.fault_of_next_start()
                survived += not fault
                if fault:
                    print(f"{when} {calls[point - 1]}: {fault}", flush=True)
    print(f"survived {survived} of {staged} ({len(calls)} points)")
    return 0 if staged > 0 and survived == staged else 1


if __name__ == "__main__":
    sys.exit(main())
