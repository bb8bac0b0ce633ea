# shellcheck shell=bash disable=SC2015,SC2154,SC2034
#
# The folder the servers live in ($dir): its locks, what is noted in it, and the ports it gives. Read by scripts/servers.

# One lock for each server: two starts at once must not start it twice, and a test that stops Redis need not wait for
# a RabbitMQ that is starting.
lock() {
  while true; do
    mkdir -p -- "$dir" && { exec 9>>"$dir/$1.lock"; } 2>/dev/null || fail "cannot write to $dir"
    flock -w $((2 * START_DEADLINE)) 9 || fail "another run has held $dir/$1.lock for $((2 * START_DEADLINE)) seconds"
    # `remove` may have deleted the folder while this waited: then the lock held here is nobody else's.
    [[ $dir/$1.lock -ef /proc/self/fd/9 ]] && return
  done
}

# Prints what is written down as $1 in the folder's notes: ports and RabbitMQ's node name.
noted() {
  local key value
  [[ -r $dir/ports ]] || return 1
  while IFS='=' read -r key value; do
    [[ $key == "$1" ]] && { printf '%s' "$value"; return 0; }
  done <"$dir/ports"
  return 1
}

# Writes $1=$2 down in the notes. Only under their lock.
note() {
  { [[ -r $dir/ports ]] && sed "/^$1=/d" -- "$dir/ports"; printf '%s=%s\n' "$1" "$2"; } >"$dir/ports.new" &&
    mv -f -- "$dir/ports.new" "$dir/ports" || fail "cannot write to $dir/ports"
}

# Does anything listen on port $1, on any address? The kernel's own tables are asked: a trial connection would miss
# those that listen elsewhere than on 127.0.0.1 and would disturb those that are there.
listened_on() {
  local hex address status _
  printf -v hex ':%04X' "$1"
  while read -r _ address _ status _; do
    [[ $status == 0A && $address == *"$hex" ]] && return 0
  done < <(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null)
  return 1
}

# Runs "$@" under the notes' own lock: the servers' starts run side by side and share the file. In a subshell, so that the
# lock is let go in any case.
with_notes_locked() (
  exec 8>>"$dir/ports.lock" && flock -w 30 8 || fail "cannot lock $dir/ports.lock"
  "$@"
)

# Gives port $1 (amqp, redis …) a number: the remembered one if it is still free. Only for a server that does not run.
settle_port() { with_notes_locked pick_port "$1"; }

pick_port() {
  local port
  port=$(noted "$1")
  if [[ -n $port ]]; then
    listened_on "$port" || return 0
    warn "$1: port $port is used by another program now, taking a new one"
  fi
  for _ in {1..200}; do
    port=$((FIRST_PORT + RANDOM % PORT_COUNT))
    grep -qs -- "=$port\$" "$dir/ports" || listened_on "$port" || { note "$1" "$port"; return; }
  done
  fail "found no free port from $FIRST_PORT on"
}
