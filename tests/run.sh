#!/usr/bin/env bash
# Sets up, builds and tests everything. The last line is `N passed, N failed, N skipped`.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../launch/common.sh"

usage() {
  cat <<'HELP'
Usage: tests/run.sh [--all] [--preset PRESET] [--filter TEXT]

Installs what is missing (launch/setup.sh --tests), builds, and runs the C++, MPI and Python tests, six faults on a Slurm of its
own (as root), then the tests of comm and data under address and undefined-behaviour sanitizers, and fuzzes each parser for a few
seconds. Exits 0 only if something passed and nothing failed.

  --all            also the slow suites, and comm and data under the thread sanitizer
  --preset PRESET  cpu or cuda; default: cuda where the CUDA toolkit is found, else cpu
  --filter TEXT    only tests whose name contains TEXT (regular expression for ctest, -k for pytest)
  --help           this text

Example: tests/run.sh --filter checkpoint
HELP
}

all=no
preset=""
filter=""
while (($#)); do
  case "$1" in
    --all) all=yes ;;
    --preset) preset="${2:?--preset needs cpu or cuda}"; shift ;;
    --preset=*) preset="${1#*=}" ;;
    --filter) filter="${2:?--filter needs a text}"; shift ;;
    --filter=*) filter="${1#*=}" ;;
    --help | -h) usage; exit 0 ;;
    *) fail "unknown option '$1'; tests/run.sh --help lists them" ;;
  esac
  shift
done
[[ "$preset" =~ ^(|cpu|cuda)$ ]] || fail "--preset is cpu or cuda, not '$preset'"

cd "$perrin_source_dir"
stop_on_signals "Tests stopped."

# Seconds for one ctest entry that sets no deadline of its own, and for a whole suite: nothing waits for ever.
readonly kTestDeadline=300 kSuiteDeadline=2400 kFaultsDeadline=5400

# What went wrong outside any test; each counts as one failure.
incidents=()
finish() {
  local arguments=() incident
  for incident in "${incidents[@]}"; do arguments+=(--incident "$incident"); done
  if ! command -v python3 >/dev/null; then  # the set-up failed before it could install one
    printf 'FAILED %s\n' "${incidents[@]}"
    printf '0 passed, %d failed, 0 skipped\n' "${#incidents[@]}"
    exit 1
  fi
  exec /usr/bin/env python3 tests/support/summary.py "${arguments[@]}" "$@"
}

setup_cuda=auto
case "$preset" in
  cpu) setup_cuda=off ;;
  cuda) setup_cuda=on ;;
esac
run launch/setup.sh --tests --cuda "$setup_cuda" || { incidents+=("set-up: launch/setup.sh --tests failed"); finish; }
put_nvcc_on_path
[[ -n "$preset" ]] || preset=$(choose_preset auto "$(own_libtorch)")
jobs=$(build_jobs)

# build PRESET [ON|OFF [TARGET...]]: configures build/PRESET, with its tests or not, and builds it; the log is shown only if that fails.
build() {
  local log="build/$1-build.log" start=$SECONDS
  say "== $1: build"
  if ! build_preset "$1" "${2:-ON}" "$log" "${@:3}"; then
    tail -n 60 "$log"
    incidents+=("$1: the build failed (log: $log)")
    return 1
  fi
  say "== $1: built ($((SECONDS - start)) s)"
}

# run_ctest PRESET: runs what ctest knows of build/PRESET; results go to build/PRESET/results.
run_ctest() {
  local folder="build/$1" start=$SECONDS options=(--test-dir "build/$1" --timeout "$kTestDeadline" -j "$jobs" --output-on-failure
    --no-tests=ignore --output-junit "$perrin_source_dir/build/$1/results/ctest.junit")
  [[ -z "$filter" ]] || options+=(-R "$filter")
  [[ $all == yes ]] || options+=(-LE '^slow$')
  # Results of an earlier run must not be counted for a test that crashes now.
  rm -rf "$folder/results"
  mkdir -p "$folder/results"
  say "== $1: ctest"
  run timeout --kill-after=10 "$kSuiteDeadline" ctest "${options[@]}" || true
  [[ -s "$folder/results/ctest.junit" ]] || incidents+=("$1: ctest did not finish within $kSuiteDeadline s")
  results+=(--ctest "$1=$folder/results")
  say "== $1: ctest done ($((SECONDS - start)) s)"
  if [[ $all == no ]]; then
    local name
    while read -r name; do left_out+=("$1: $name"); done < <(
      ctest --test-dir "$folder" -N -L '^slow$' ${filter:+-R "$filter"} | sed -n 's/^ *Test *#[0-9]*: //p')
  fi
}

# pytest_suite PRESET NAME OPTION...: one run of pytest; its results go to build/PRESET/results/NAME.junit.
pytest_suite() {
  local preset=$1 name=$2 status=0
  local xml="build/$preset/results/$name.junit"
  run timeout --kill-after=10 "$kSuiteDeadline" "$perrin_venv/bin/python" -m pytest tests -q --junit-xml "$xml" "${@:3}" || status=$?
  # 0: all passed, 1: some failed, 5: none chosen by --filter; anything else ended pytest before its last test.
  [[ $status =~ ^[015]$ ]] || incidents+=("$preset: $name ended early with status $status")
  if [[ -s "$xml" ]]; then results+=(--pytest "$preset=$xml"); else incidents+=("$preset: $name gave no results within $kSuiteDeadline s"); fi
}

# run_pytest PRESET: the Python tests, against the program in build/PRESET.
run_pytest() {
  local start=$SECONDS options=() name speed=""
  [[ -z "$filter" ]] || options+=(-k "$filter")
  export PERRIN_SOURCE_DIR="$perrin_source_dir" PERRIN_BUILD_DIR="$perrin_source_dir/build/$1"
  export PERRIN_BINARY="$PERRIN_BUILD_DIR/launch/perrin"
  say "== $1: pytest"
  if [[ $all == no ]]; then
    while read -r name; do left_out+=("$name"); done < <(
      "$perrin_venv/bin/python" -m pytest tests -q --collect-only -m slow "${options[@]}" 2>/dev/null | grep '::' || true)
    speed=" and not slow"
  fi
  # A program that starts, and a rank that waits, leave cores idle, so that files of tests share them.
  pytest_suite "$1" pytest -n "$jobs" --dist loadfile -m "not alone$speed" "${options[@]}"
  pytest_suite "$1" pytest-alone -m "alone$speed" "${options[@]}"
  say "== $1: pytest done ($((SECONDS - start)) s)"
}

# run_faults PRESET: a training is killed, cut off and requeued on a Slurm of two nodes; each scenario counts as a test.
run_faults() {
  local xml="build/$1/results/faults.junit" start=$SECONDS which=--quick
  [[ $all == no ]] || which=--all
  say "== $1: faults"
  PERRIN_BINARY="$perrin_source_dir/build/$1/launch/perrin" \
    run timeout --kill-after=60 "$kFaultsDeadline" tests/faults/run.sh "$which" --filter "$filter" --junit "$xml" || true
  if [[ -s "$xml" ]]; then results+=(--pytest "$1=$xml"); else incidents+=("$1: no results of tests/faults/run.sh within $kFaultsDeadline s"); fi
  [[ $all == yes ]] || left_out+=("$1: the other fault scenarios (tests/faults/run.sh --list)")
  say "== $1: faults done ($((SECONDS - start)) s)"
}

results=()
left_out=()
if build "$preset"; then
  run_ctest "$preset"
  run_pytest "$preset"
  run_faults "$preset"
fi
sanitizers=(asan)
if [[ $all == yes ]]; then sanitizers+=(tsan); else left_out+=("tsan: comm and data under the thread sanitizer"); fi
# Open MPI's own lock orders are not perrin's to fix.
export TSAN_OPTIONS="suppressions=$perrin_source_dir/tests/support/tsan.supp:ignore_noninstrumented_modules=1"
for sanitizer in "${sanitizers[@]}"; do
  if build "$sanitizer"; then run_ctest "$sanitizer"; fi
done
# A few seconds for each parser of files from outside; tests/fuzz/run.sh takes its time.
if ! command -v clang++-16 >/dev/null; then
  results+=(--skip "fuzz: clang++-16 is not installed")
elif build fuzz OFF fuzz_targets; then
  run_ctest fuzz
fi

for name in "${left_out[@]}"; do results+=(--left-out "$name"); done
finish "${results[@]}"
