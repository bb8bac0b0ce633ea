# shellcheck shell=bash disable=SC2015,SC2154,SC2034
#
# Finds the programs of the servers, and installs from Debian's packages what is missing. Read by scripts/servers.

find_program() { # the first of the given names or paths that can be run
  local candidate
  for candidate; do
    command -v -- "$candidate" 2>/dev/null && return 0
  done
  return 1
}

# Debian's own rabbitmq-server (in /usr/sbin) switches to the user rabbitmq: take the one it wraps.
rabbitmq_program() { find_program "/usr/lib/rabbitmq/bin/$1" "$1"; }
redis_program() { find_program redis-server valkey-server; }

# Prints Postgres' program $1: of the version that made the data, if there are data, else the newest.
postgres_program() {
  local version='' found file
  for file in "$dir"/postgres{,-2}/version; do
    [[ -r $file ]] && version=$(<"$file")
  done
  # shellcheck disable=SC2086 # the star is to match
  found=$(printf '%s\n' /usr/lib/postgresql/${version:-*}/bin/"$1" | sort -V | tail -n 1)
  if [[ -x $found ]]; then say "$found"; else command -v -- "$1"; fi
}

installed() {
  case $(kind_of "$1") in
    rabbitmq) rabbitmq_program rabbitmq-server && find_program epmd ;;
    redis) redis_program ;;
    postgres) postgres_program postgres && postgres_program initdb && postgres_program pg_basebackup && postgres_program pg_isready ;;
  esac >/dev/null
}

install_missing() {
  local name missing=() packages=()
  # One at a time: the second finds everything there.
  if ((EUID == 0)) && command -v apt-get >/dev/null; then
    exec 7>>/run/lock/ordering-servers-install.lock && flock 7
  fi
  for name; do
    installed "$name" && continue
    missing+=("$name")
    case $(kind_of "$name") in
      postgres) packages+=(postgresql) ;;
      *) packages+=("$(kind_of "$name")-server") ;;
    esac
  done
  if ((${#missing[@]})); then
    ((EUID == 0)) && command -v apt-get >/dev/null ||
      fail "not installed: ${missing[*]}. Install them first, on Debian with: sudo apt-get install ${packages[*]}"
    install_packages "${packages[@]}"
    for name in "${missing[@]}"; do
      installed "$name" || fail "${packages[*]} were installed, yet $name's programs are not where they should be"
    done
  fi
  exec 7>&-
}

# Installs packages without letting them start their services: those would take the standard ports and run for ever.
install_packages() (
  output=$(mktemp) || exit 1
  policy=/usr/sbin/policy-rc.d saved=/usr/sbin/policy-rc.d.before-ordering
  # shellcheck disable=SC2317 # the trap below calls it
  put_back() {
    rm -f -- "$output"
    [[ -e $policy.ordering ]] || return 0
    rm -f -- "$policy" "$policy.ordering"
    [[ ! -e $saved ]] || mv -- "$saved" "$policy"
  }
  trap put_back EXIT
  trap 'exit 130' INT TERM HUP
  # Debian asks this program whether it may start a service; 101 means no. If the one that is there says no already, or
  # if it is ours, left by a run that was killed, it does.
  if [[ ! -e $policy.ordering && ! ( -x $policy && $("$policy" redis-server start >/dev/null 2>&1; echo $?) == 101 ) ]]; then
    [[ ! -e $policy ]] || mv -- "$policy" "$saved" || exit 1
    : >"$policy.ordering" && printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" || exit 1
  fi
  warn "installing $* (needed once; takes a minute)"
  install() { DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y --no-install-recommends \
    -o DPkg::Lock::Timeout=300 "$@" </dev/null >>"$output" 2>&1; }
  # A new machine has no package lists, or old ones that name files which are gone.
  install "$@" || { apt-get update >>"$output" 2>&1 </dev/null; install "$@"; } || {
    tail -n 20 -- "$output" >&2
    fail "apt-get could not install $*"
  }
  # Nor shall they start at the next boot.
  if [[ -d /run/systemd/system ]]; then systemctl disable --quiet "${@/%/.service}" 2>/dev/null; fi
  exit 0
) 7>&-
