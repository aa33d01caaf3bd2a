#!/usr/bin/env bash
# Installs what a make target needs beyond Rust, or prints the exact command where it may not.
#
#   scripts/deps.sh build            a C compiler and linker (for `ring`), CA certificates
#   scripts/deps.sh test             build, and Prometheus with promtool
#   scripts/deps.sh bench            build, and the peers that the benchmarks compare with
#
# Root installs with apt-get, others with sudo where there is one. What is already there is never
# touched, and a second run does nothing. Prometheus is unpacked into the cache, not installed:
# Debian's package would start a server on this machine.
set -euo pipefail

cache=${MEMKV_CACHE:-$HOME/.cache/memkv}
tools=$cache/tools

say() { printf 'deps: %s\n' "$*" >&2; }

have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command as root, or fails without asking anything of someone who isn't there.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif have sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
    sudo "$@"
  else
    return 1
  fi
}

apt_install() { # package...
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends)
  if ! have apt-get; then
    say "this machine has no apt-get; install the equivalents of these Debian packages: $*"
    return 1
  fi
  say "installing $*"
  as_root "${apt[@]}" "$@" >&2 && return 0
  # The package lists may be empty (containers) or old.
  if as_root apt-get update -qq >&2 && as_root "${apt[@]}" "$@" >&2; then
    return 0
  fi
  say "could not install; run this, then try again:"
  say "  sudo apt-get update && sudo apt-get install -y --no-install-recommends $*"
  return 1
}

need_rust() {
  have cargo && return 0
  if [ -x "$HOME/.cargo/bin/cargo" ]; then
    say "cargo is in $HOME/.cargo/bin, which is not on PATH; run: . \"\$HOME/.cargo/env\""
  else
    say "Rust is missing; install it with the command that https://rustup.rs shows, then try again"
  fi
  return 1
}

build() {
  need_rust
  local missing=()
  have cc || missing+=(gcc libc6-dev)
  have make || missing+=(make)
  have git || missing+=(git)
  [ -e "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" ] || missing+=(ca-certificates)
  [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
}

# Unpacks a Debian package into the cache.
unpack() { # package
  local dir
  have apt-get || return 1
  mkdir -p "$tools"
  dir=$(mktemp -d "$tools/.unpack.XXXXXX")
  if (cd "$dir" && { apt-get download -qq "$1" || { as_root apt-get update -qq &&
    apt-get download -qq "$1"; }; }) >&2; then
    dpkg -x "$dir"/*.deb "$tools"
    rm -rf "$dir"
  else
    rm -rf "$dir"
    return 1
  fi
}

# Not fatal: the tests that need it say that they were skipped, and .ci/run then fails.
prometheus() {
  PATH=$PATH:$tools/usr/bin
  have prometheus && have promtool && return 0
  say "unpacking Prometheus into $tools"
  unpack prometheus && have prometheus && have promtool && return 0
  say "no Prometheus, so the tests against a real one will be skipped; to have them run:"
  say "  sudo apt-get update && sudo apt-get install -y --no-install-recommends prometheus"
}

bench() {
  local missing=()
  have redis-server || missing+=(redis-server)
  have memcached || missing+=(memcached)
  have iperf3 || missing+=(iperf3)
  python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
  [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}" ||
    say "benchmarks against a missing peer will say so and have no ratio"
}

case "${1-}" in
  build) build ;;
  test) build && prometheus ;;
  bench) build && bench ;;
  *)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
