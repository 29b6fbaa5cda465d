#!/bin/sh
# perrin beside its peers, in turns: `bench/compare.sh --help`. It needs the Python packages of the tests (launch/setup.sh --tests).
cd "$(dirname "$0")/.." || exit 1
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"  # a thread that waits leaves its core to whose turn it is
exec .venv/bin/python bench/compare.py "$@"
