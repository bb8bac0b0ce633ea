# shellcheck shell=bash disable=SC2015,SC2154,SC2034
#
# Processes that outlive whoever started them: written down so that they are never mistaken for others, signalled with all
# their descendants, waited for. Read by scripts/servers.

# Sets state, parent and started (clock ticks since boot) of process $1; false if there is none or only a zombie.
look_at() {
  local line fields
  { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
  # The second field is the program's name, which may itself hold spaces and parentheses.
  read -ra fields <<<"${line##*) }"
  state=${fields[0]} parent=${fields[1]} started=${fields[19]}
  [[ $state != [ZX] ]]
}

# Writes down process $2 in the file $1 so that it can never be mistaken for another that gets the same pid later:
# a pid, its start time and the boot name one process for good.
write_down() {
  look_at "$2" || return 1
  printf '%s %s %s\n' "$2" "$started" "$(</proc/sys/kernel/random/boot_id)" >"$1.new" && mv -f -- "$1.new" "$1"
}

# Is the process that was written down in the file $1 still there? Sets pid (and state).
alive() {
  local noted_start noted_boot
  { read -r pid noted_start noted_boot <"$1"; } 2>/dev/null || return 1
  look_at "$pid" && [[ $started == "$noted_start" && $noted_boot == "$(</proc/sys/kernel/random/boot_id)" ]]
}

# Prints process $1 and all that descend from it.
family() {
  local -A children=()
  local entry queue=("$1") next
  for entry in /proc/[0-9]*; do
    look_at "${entry#/proc/}" && children[$parent]+=" ${entry#/proc/}"
  done
  while ((${#queue[@]})); do
    next=${queue[0]} queue=("${queue[@]:1}")
    say "$next"
    # shellcheck disable=SC2206 # a list of pids is to be split
    queue+=(${children[$next]-})
  done
}

# Sends signal $1 to process $2 and its descendants. The first one is stopped before the others are looked up, so that
# it cannot have another child meanwhile. (Postgres' children each have their own process group.)
signal_family() {
  local members
  kill -STOP "$2" 2>/dev/null || return 0
  mapfile -t members < <(family "$2")
  kill "-$1" "${members[@]}" 2>/dev/null
  return 0
}

# Waits up to $1 seconds for the process written down in $2 to go.
gone_within() {
  local deadline=$((SECONDS + $1))
  while alive "$2"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

# Starts "${@:2}" in the background, detached from this terminal, and writes it down in the file $1. Its output goes to
# the end of $log. The lock (file descriptor 9) must not be inherited: it would be held for as long as the server lives.
launch() {
  local note=$1
  shift
  setsid -- "$@" </dev/null >>"$log" 2>&1 9>&- &
  write_down "$note" $! || { warn "$name ended at once"; return 1; }
}
