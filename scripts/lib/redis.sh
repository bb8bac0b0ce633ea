# shellcheck shell=bash disable=SC2015,SC2154,SC2034
#
# Redis. Read by scripts/servers.

launch_redis() {
  local program
  program=$(redis_program) && mkdir -p -- "$dir/redis/data" && cd -- "$dir/redis/data" && settle_port redis || return 1
  # The append-only file is all that is kept: snapshots would only cost time.
  launch "$dir/redis/pid" "$program" --bind 127.0.0.1 --port "$(noted redis)" --daemonize no \
    --appendonly yes --appendfsync everysec --save '' --maxmemory-policy noeviction
}

answers_redis() { [[ $(ask "$(noted redis)" 'PING\r\n' 5) == +PONG ]]; }

url_redis() { say "ORDERING_REDIS_URL=redis://127.0.0.1:$(noted redis)"; }
