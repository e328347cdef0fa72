# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash
# How every script here speaks: progress and errors on stderr, results on stdout. Source it; it runs nothing.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# A message says what failed and, where there is something, what a person can do about it.
die() {
  say "error: $*"
  exit 1
}

# Prints the comment block at the top of the calling script, which is its documentation: one text, not two.
usage() {
  awk 'NR > 2 && /^#/ { sub(/^# ?/, ""); print; next } NR > 2 { exit }' "$0"
}

# The folder for everything that is slow to get and safe to delete: kernels, the kernel's tests, guest images.
cache_dir() {
  printf '%s\n' "${LIBVHOST_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/libvhost}"
}
