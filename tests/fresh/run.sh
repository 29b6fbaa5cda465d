#!/usr/bin/env bash
# Proves launch/quickstart.sh on a bare Debian 12 made by debootstrap. Run by hand, as root; about half an hour on two cores.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"

usage() {
  cat <<'HELP'
Usage: tests/fresh/run.sh [--sudo] [--keep] [--directory DIR]

Makes a bare Debian 12 with debootstrap, clones HEAD into it, and runs launch/quickstart.sh there twice: the first run must
leave a grid of samples and an export, the second must have nothing left to do. Uses this machine's Debian mirror, pip
configuration and certificates. Logs and the grid go to build/fresh/, the result to docs/fresh-install.md.

  --sudo           run as an ordinary user who may use sudo, instead of as root
  --keep           do not remove the Debian when done
  --directory DIR  where to make it (12 GB); default: a new folder in /var/tmp
  --help           this text
HELP
}

as_user=no
keep=no
parent=/var/tmp
while (($#)); do
  case "$1" in
    --sudo) as_user=yes ;;
    --keep) keep=yes ;;
    --directory) parent="${2:?--directory needs a folder}"; shift ;;
    --help | -h) usage; exit 0 ;;
    *) fail "unknown option '$1'; tests/fresh/run.sh --help lists them" ;;
  esac
  shift
done
((EUID == 0)) || fail "debootstrap and chroot need root; run as root, or: sudo tests/fresh/run.sh"
command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap"

readonly kSuite=bookworm
logs="$perrin_source_dir/build/fresh"
mkdir -p "$logs"
root=$(mktemp -d "$parent/perrin-fresh.XXXXXX")
chmod 755 "$root"
# Mounts live in a namespace of their own (see inside) and go with its last process, so removing the folder cannot reach the host.
cleanup() {
  stop_ticker
  if [[ $keep == yes ]]; then say "kept: $root"; else rm -rf --one-file-system "$root"; fi
}
trap cleanup EXIT
stop_on_signals "Stopped."

# The mirror that this machine's apt uses for Debian itself.
# shellcheck disable=SC2016 # $(SITE) is apt's
mirror=$(apt-get indextargets --format '$(SITE) $(RELEASE)' 'Created-By: Packages' |
  awk -v suite="$kSuite" '$2 == suite && !site { site = $1 } END { print site }')
[[ -n "$mirror" ]] || fail "no Debian mirror for $kSuite among this machine's apt sources; add one, then run again"

# What this machine needs to reach its mirrors must hold in there too: proxies, pip's index and settings, certificates.
settings=()
while IFS= read -r -d '' setting; do
  case "${setting%%=*}" in
    PIP_* | http_proxy | https_proxy | no_proxy | HTTP_PROXY | HTTPS_PROXY | NO_PROXY | SSL_CERT_FILE | REQUESTS_CA_BUNDLE) settings+=("$setting") ;;
  esac
done < <(env -0)

start=$SECONDS
say "== Debian $kSuite with debootstrap"
run debootstrap --variant=minbase "$kSuite" "$root" "$mirror" >"$logs/debootstrap.log" 2>&1 ||
  fail "debootstrap failed: $(tail -n 1 "$logs/debootstrap.log") (log: $logs/debootstrap.log)"
for file in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/apt/apt.conf; do
  [[ ! -e "$file" ]] || cp -L "$file" "$root$file"
done
if compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null; then
  mkdir -p "$root/usr/local/share/ca-certificates"
  cp -L /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/"
fi
if compgen -G '/etc/apt/apt.conf.d/*proxy*' >/dev/null; then cp -L /etc/apt/apt.conf.d/*proxy* "$root/etc/apt/apt.conf.d/"; fi

# inside COMMAND...: runs it in there, with mounts and processes of its own that end with it.
inside() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  unshare --mount --pid --fork --kill-child bash -c '
    set -e
    root=$1; shift
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"  # without it hwloc warns that it sees no cores
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    mount -t tmpfs tmpfs "$root/dev/shm"
    exec chroot "$root" "$@"' inside "$root" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/root TERM=dumb "${settings[@]}" "$@"
}

home=/root
person=()
if [[ $as_user == yes ]]; then
  run inside bash -c 'apt-get update -qq && apt-get install -y -qq --no-install-recommends sudo && useradd -m -s /bin/bash newcomer &&
    echo "newcomer ALL=(ALL) NOPASSWD: ALL" >/etc/sudoers.d/newcomer' >>"$logs/debootstrap.log" 2>&1 || fail "sudo could not be installed (log: $logs/debootstrap.log)"
  home=/home/newcomer
  person=(setpriv --reuid=newcomer --regid=newcomer --init-groups env "HOME=$home")
fi
git clone -q --no-hardlinks "$perrin_source_dir" "$root$home/perrin"
[[ $as_user == no ]] || inside chown -R newcomer: "$home/perrin"
say "   done ($((SECONDS - start)) s)"

# quickstart LOG: sets `took`, in seconds.
quickstart() {
  local start=$SECONDS status=0
  say "== launch/quickstart.sh ($1)"
  run inside "${person[@]}" bash -c "cd $home/perrin && ./launch/quickstart.sh" >"$logs/$1.log" 2>&1 </dev/null || status=$?
  took=$((SECONDS - start))
  cp "$root$home"/perrin/build/*.log "$logs/" 2>/dev/null || true
  if ((status != 0)); then
    tail -n 30 "$logs/$1.log" >&2
    fail "the quickstart ended with status $status after $took s (log: $logs/$1.log)"
  fi
  say "   done ($took s)"
}

quickstart first-run
first=$took
run_folder="$root$home/perrin/runs/quickstart"
grid=$(find "$run_folder" -maxdepth 1 -name 'grid-*.png' | head -n 1)
[[ -s "$grid" ]] || fail "the quickstart left no grid of samples"
compgen -G "$run_folder/export-*/unet/*.safetensors" >/dev/null || fail "the quickstart left no export"
compgen -G "$run_folder/scores-*.json" >/dev/null || fail "the quickstart left no score of its samples"
cp "$grid" "$logs/grid.png"
quickstart second-run
second=$took
# Fifteen minutes of set-up and build were the first run's; nothing of them may be left for the second.
((second < 60)) || fail "the second run took $second s: it did something again (log: $logs/second-run.log)"

size=$(du -sm --one-file-system "$root$home/perrin" | cut -f 1)
cat >"$perrin_source_dir/docs/fresh-install.md" <<PAGE
# The quickstart on a bare Debian 12: the last result

Written by \`tests/fresh/run.sh\`, which makes a bare Debian 12 with debootstrap, clones perrin into it, and runs
\`launch/quickstart.sh\` there twice.

| | |
|---|---|
| Date | $(date -u +%F) |
| Commit | $(git -C "$perrin_source_dir" rev-parse --short HEAD) |
| Machine | $(nproc) cores, $(awk '/^MemTotal:/ { printf "%.0f", $2 / 1048576 }' /proc/meminfo) GiB, no GPU in there; $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1) |
| Started as | $([[ $as_user == yes ]] && echo "an ordinary user with sudo" || echo root) |
| First run | $((first / 60)) min $((first % 60)) s |
| Second run, nothing left to do | $second s |
| Disk of the clone afterwards | $size MB |

What the first run printed (progress lines left out):

\`\`\`
$(grep -vE '^\s*$|^step |\bstep +[0-9]+/' "$logs/first-run.log" | tail -n 60)
\`\`\`
PAGE
say "passed: first run $first s, second run $second s; docs/fresh-install.md, $logs/grid.png"
