# Sourced by the scripts beside it: steps that say what they do, show that they go on, and how long they took. However a
# script ends (done, failed, ^C, killed), what it started ends with it, and it says how far it came.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$HOME/.cargo/bin:$PATH
target=${CARGO_TARGET_DIR:-$PWD/target}
began=$SECONDS
steps_done=()
step_number=0
step_title='' step_from=0 # of the step that goes on
how=FAILED                # what is said of it, should the script end now

if [[ -t 1 ]]; then bold=$'\033[1m' plain=$'\033[0m'; else bold='' plain=''; fi

say() { printf '%s%s%s\n' "$bold" "$*" "$plain"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# step TITLE COMMAND...: cargo and tests show their own progress; a command that is silent for 10 s gets a sign of life.
# COMMAND has a process of its own, because a shell that waits for it hears ^C and `kill` at once, and one that runs it
# hears them when it is done. The shell would have it ignore ^C; a test that sends one to what it started would wait for ever.
step() {
  local status=0 title=$1
  begin_step "$1"
  shift
  (trap - INT QUIT; "$@") <&0 &
  wait $! || status=$?
  ((status == 0)) || { end_step FAILED; summary; die "$title failed (exit $status)"; }
  end_step
}

# step_here TITLE COMMAND...: the same for a function that has to change this shell; it must not block for long.
step_here() {
  begin_step "$1"
  shift
  "$@"
  end_step
}

begin_step() {
  step_title=$1 step_from=$SECONDS
  step_number=$((step_number + 1))
  say "[$step_number${steps_total:+/$steps_total}] $1"
  # The sleep outlives its loop by seconds, so it must hold no pipe or lock (7 and 8 are a script's own) that somebody
  # waits for; and the loop ends by itself if this script is killed without being asked.
  (while sleep 10 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do printf '    ... %s, %d s\n' "$1" $((SECONDS - step_from)); done) 7>&- 8>&- &
  life=$!
}

# end_step [WORD]: WORD says what became of it, if that is not what everybody hopes for.
end_step() {
  kill "$life" 2>/dev/null || true
  wait "$life" 2>/dev/null || true
  steps_done+=("$(printf '%5d s  %s%s' $((SECONDS - step_from)) "$step_title" "${1:+  $1}")")
  step_title=''
}

summary() {
  ((${#steps_done[@]})) || return 0
  printf '\n'
  printf '%s\n' "${steps_done[@]}"
  say "$(printf '%5d s  in all' $((SECONDS - began)))"
}

# Every process below this one. `children` is what this kernel offers for it; a script that is being read by others must
# not depend on `ps`.
below() {
  local child
  for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do
    printf '%s ' "$child"
    below "$child"
  done
}

# The one end of every script.
the_end() {
  local status=$? pids
  # From here on there is nothing to interrupt: a second ^C must not leave half of it behind.
  trap '' INT TERM HUP
  trap - EXIT
  pids=$(below $$)
  # shellcheck disable=SC2086
  kill $pids 2>/dev/null || true
  wait || true
  if [[ -n $step_title ]]; then
    end_step "$how"
    summary
    [[ $how == FAILED ]] || say "interrupted"
  fi
  exit "$status"
}
trap the_end EXIT
trap 'how=interrupted; exit 130' INT
trap 'how=interrupted; exit 143' TERM
trap 'how=interrupted; exit 129' HUP
