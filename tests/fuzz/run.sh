#!/usr/bin/env bash
# Fuzzes the parsers of files from outside. The last line is `N targets, N failed`.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"

usage() {
  cat <<'HELP'
Usage: tests/fuzz/run.sh [--seconds N] [TARGET...]

Builds the libFuzzer targets with clang under address and undefined-behaviour sanitizers (preset fuzz) and runs each. Inputs that
reached new code are kept in build/fuzz/tests/fuzz/corpus for the next run, those that crashed in .../crashes. Exits 0 only if no
target failed.

  --seconds N  for each target; default 60
  TARGET       default: all of tests/fuzz/*.cpp
  --help       this text

Example: tests/fuzz/run.sh --seconds 600 png jpeg
HELP
}

seconds=60
targets=()
while (($#)); do
  case "$1" in
    --seconds) seconds="${2:?--seconds needs a number}"; shift ;;
    --seconds=*) seconds="${1#*=}" ;;
    --help | -h) usage; exit 0 ;;
    -*) fail "unknown option '$1'; tests/fuzz/run.sh --help lists them" ;;
    *) targets+=("$1") ;;
  esac
  shift
done
[[ "$seconds" =~ ^[1-9][0-9]*$ ]] || fail "--seconds is a number of at least 1, not '$seconds'"

cd "$perrin_source_dir"
stop_on_signals "Fuzzing stopped."
command -v clang++-16 >/dev/null || fail "clang++-16 is missing; launch/setup.sh --tests installs it"
known=()
for source in tests/fuzz/*.cpp; do known+=("$(basename "$source" .cpp)"); done
((${#targets[@]})) || targets=("${known[@]}")
for target in "${targets[@]}"; do
  [[ " ${known[*]} " == *" $target "* ]] || fail "there is no target '$target'; there are: ${known[*]}"
done

log="build/fuzz-build.log"
build_preset fuzz OFF "$log" fuzz_targets || { tail -n 40 "$log"; fail "the fuzz targets do not build (log: $log)"; }
failed=0
for target in "${targets[@]}"; do
  run tests/fuzz/fuzz_one.sh "$target" build/fuzz/tests/fuzz "$seconds" || failed=$((failed + 1))
done
say "${#targets[@]} targets, $failed failed"
((failed == 0))
