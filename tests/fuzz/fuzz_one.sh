#!/usr/bin/env bash
# fuzz_one.sh TARGET FOLDER SECONDS: runs FOLDER/fuzz_TARGET, prints one line, keeps what crashes in FOLDER/crashes/TARGET.
# A crash inside libhdf5 alone is counted and the run goes on: HDF5 1.10.8 is known to crash on damaged structures, which is why
# the manifest of a dataset tells their SHA-256.
set -euo pipefail
target=$1 folder=$2 seconds=$3

binary="$folder/fuzz_$target" corpus="$folder/corpus/$target" crashes="$folder/crashes/$target" log="$folder/$target.log"
rm -rf "$crashes"
mkdir -p "$corpus" "$crashes"
options=(-max_len=65536 -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 -artifact_prefix="$crashes/")
case "$target" in
  shard | hdf5_arrays) options+=(-detect_leaks=0) ;;  # HDF5 forgets memory when it refuses a file
esac

inputs=0 of_hdf5=0
end=$((SECONDS + seconds))
while ((SECONDS < end)); do
  status=0
  timeout --kill-after=5 $((seconds + 60)) "$binary" "${options[@]}" -max_total_time=$((end - SECONDS)) \
    "$corpus" "$folder/seeds/$target" >"$log" 2>&1 || status=$?
  inputs=$((inputs + $(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1 | grep . || echo 0)))
  ((status != 0)) || continue
  # The innermost frame that is of no C library.
  frame=$(grep -m 1 -E '^ *#[0-9]+ .*(libhdf5|perrin)' "$log" || true)
  if [[ "$frame" == *libhdf5* ]]; then
    of_hdf5=$((of_hdf5 + 1))
    continue
  fi
  echo "$target: FAILED after $inputs inputs: $(grep -m 1 -E 'ERROR: |runtime error|terminate called' "$log" || echo "status $status"); inputs: $crashes, log: $log"
  exit 1
done
((inputs > 0)) || { echo "$target: FAILED: no input was run; log: $log"; exit 1; }
echo "$target: $inputs inputs in $seconds s, no crash$( ((of_hdf5 == 0)) || echo " of perrin's, $of_hdf5 inside libhdf5 (inputs: $crashes)")"
