# shellcheck shell=bash disable=SC2015,SC2154,SC2034
#
# Postgres: one that leads, and a standby that follows it. Read by scripts/servers.

# Postgres refuses to run as root.
as_postgres() {
  if ((EUID == 0)); then setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"; else "$@"; fi
}

# Makes the folder $dir/$1, or a link to one that the user postgres can reach.
make_postgres_home() {
  local home=$dir/$1 elsewhere
  [[ -d $home ]] || { mkdir -- "$home" || return 1; }
  # The real path is asked for: if it is a link already, what lies on the way to the link does not matter.
  as_postgres test -x "$(realpath -- "$home")" 2>/dev/null && return
  # The folder or one above it is closed to others. It is the user's: his rights are not this script's to change.
  elsewhere=/var/tmp/ordering-servers-$(printf '%s' "$dir" | sha256sum | head -c 16)${1#postgres}
  rmdir -- "$home" && { mkdir -m 711 -- "$elsewhere" || [[ -O $elsewhere && ! -L $elsewhere ]]; } 2>/dev/null &&
    ln -s -- "$elsewhere" "$home" || { warn "the user postgres cannot reach $home, nor can $elsewhere be used"; return 1; }
  warn "$1: its user cannot reach $dir, so its data are in $elsewhere"
}

# Makes the data in a folder beside the real one, which appears only when it is complete: of postgres a new database, of
# postgres-2 a copy that follows the other.
make_postgres_data() {
  local data=$home/data.new version
  rm -rf -- "$data" && mkdir -m 700 -- "$data" || return 1
  ((EUID != 0)) || chown postgres: "$data" || return 1
  if [[ $1 == postgres && ! -e $home/standby ]]; then
    as_postgres "$(postgres_program initdb)" -D "$data" -U ordering --auth=trust -E UTF8 --locale=C.UTF-8 >>"$log" 2>&1 &&
      as_postgres "$(postgres_program postgres)" --single -D "$data" postgres >>"$log" 2>&1 <<<'CREATE DATABASE ordering' ||
      return 1
  else
    local other
    other=$(other_postgres "$1") && until_answered "$other" || return 1
    as_postgres "$(postgres_program pg_basebackup)" -h 127.0.0.1 -p "$(noted "$other")" -U ordering -D "$data" \
      --write-recovery-conf --wal-method=stream --checkpoint=fast --no-sync >>"$log" 2>&1 || return 1
    # Whether commits wait for a standby was the other's to decide: if this one leads some day, it has none yet.
    as_postgres sed -i '/^synchronous_standby_names/d' "$data/postgresql.auto.conf" || return 1
  fi
  # Postgres reads only data of its own major version: written down for the day a newer one is installed too, and
  # outside of the data, which another user may not look into.
  version=$(<"$data/PG_VERSION") && mv -T -- "$data" "$home/data" && printf '%s\n' "$version" >"$home/version"
}

# Ends what a postmaster that was killed left behind, so that its postmaster.pid can go. Postgres itself would refuse to
# start if the pid in there belonged to a new process, or while an old child still used the memory.
clear_after_postgres() {
  local entry deadline=$((SECONDS + 10)) left
  while true; do
    left=()
    for entry in /proc/[0-9]*; do
      # Only a server works in its data folder.
      [[ $entry/cwd -ef $home/data ]] && left+=("${entry#/proc/}")
    done
    ((${#left[@]})) || break
    ((SECONDS < deadline)) || { warn "postgres: processes ${left[*]} of an earlier run do not end"; return 1; }
    # They end by themselves as soon as they notice, unless a statement keeps them busy.
    ((SECONDS < deadline - 8)) || kill -KILL "${left[@]}" 2>/dev/null
    sleep 0.1
  done
  rm -f -- "$home/data/postmaster.pid"
}

launch_postgres() {
  local home
  make_postgres_home "$1" && home=$(cd -- "$dir/$1" && pwd -P) && cd -- "$home" || return 1
  [[ -e data ]] || make_postgres_data "$1" || return 1
  clear_after_postgres && settle_port "$1" || return 1
  local as=()
  ((EUID != 0)) || as=(setpriv --reuid=postgres --regid=postgres --init-groups --)
  # No Unix socket: its path would have to be shorter than 108 bytes.
  launch "$dir/$1/pid" "${as[@]}" "$(postgres_program postgres)" -D "$home/data" -p "$(noted "$1")" \
    -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200 -c shared_buffers=256MB \
    -c fsync=on -c synchronous_commit=on -c logging_collector=off -c log_line_prefix='%m [%p] '
}

answers_postgres() {
  "$(postgres_program pg_isready)" -q -t 2 -h 127.0.0.1 -p "$(noted "$1")" -U ordering -d ordering
}

other_postgres() { if [[ $1 == postgres ]]; then say "$STANDBY"; else say postgres; fi; }

# Makes $1 anew, as a copy of the other one that follows it.
follow_postgres() {
  stop_one "$1" && delete_data "$1" && make_postgres_home "$1" && : >"$dir/$1/standby" || fail "$1 cannot be made anew"
  start_one "$1"
}

# Makes the standby $1 lead.
promote_postgres() {
  local home log=$dir/$1/log
  home=$(cd -- "$dir/$1" && pwd -P) && cd -- "$home" &&
    as_postgres "$(postgres_program pg_ctl)" promote -w -t 30 -D "$home/data" >>"$log" 2>&1 9>&- || give_up "was not promoted"
}

# Both, where there is a standby: clients go to the one that takes writes.
url_postgres() {
  local hosts='' writing='' name
  for name in postgres "$STANDBY"; do
    [[ ! -e $dir/$name/pid ]] || hosts+=,127.0.0.1:$(noted "$name")
  done
  [[ $hosts != ,*,* ]] || writing='?target_session_attrs=read-write'
  say "ORDERING_POSTGRES_URL='postgres://ordering@${hosts#,}/ordering$writing'"
}
