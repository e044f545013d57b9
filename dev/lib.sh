# Sourced by the scripts beside it: steps that say what they do, show that they go on, and how long they took.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$HOME/.cargo/bin:$PATH
target=${CARGO_TARGET_DIR:-$PWD/target}
began=$SECONDS
steps_done=()
step_number=0

if [[ -t 1 ]]; then bold=$'\033[1m' plain=$'\033[0m'; else bold='' plain=''; fi

say() { printf '%s%s%s\n' "$bold" "$*" "$plain"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# step TITLE COMMAND...: cargo and tests show their own progress; a command that is silent for 10 s gets a sign of life.
step() {
  local title=$1 from=$SECONDS status=0 life
  shift
  step_number=$((step_number + 1))
  say "[$step_number${steps_total:+/$steps_total}] $title"
  # The sleep outlives its loop by seconds: it must hold no pipe that somebody waits for the end of.
  (while sleep 10 >/dev/null 2>&1 8>&-; do printf '    ... %s, %d s\n' "$title" $((SECONDS - from)); done) &
  life=$!
  "$@" || status=$?
  kill "$life" 2>/dev/null || true
  wait "$life" 2>/dev/null || true
  steps_done+=("$(printf '%5d s  %s%s' $((SECONDS - from)) "$title" "$( ((status)) && printf '  FAILED' || true)")")
  ((status == 0)) || { summary; die "$title failed (exit $status)"; }
}

summary() {
  ((${#steps_done[@]})) || return 0
  printf '\n'
  printf '%s\n' "${steps_done[@]}"
  say "$(printf '%5d s  in all' $((SECONDS - began)))"
}
