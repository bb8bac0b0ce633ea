# shellcheck shell=bash disable=SC2015,SC2154,SC2034
#
# RabbitMQ: a node, and the others of its cluster. Read by scripts/servers.

# Sets rabbitmq_env: the words that run a program of RabbitMQ's with the settings of node $1 and nothing else of the
# caller's environment, for a stray RABBITMQ_NODENAME or ERL_LIBS would send it elsewhere.
set_rabbitmq_env() {
  local home=$dir/$1 number=${1#rabbitmq}
  local loopback='-kernel inet_dist_use_interface {127,0,0,1}'
  rabbitmq_env=(
    env -i PATH="$PATH:/usr/sbin:/usr/bin:/sbin:/bin" LANG=C.UTF-8 HOME="$home/home"
    ERL_EPMD_PORT="$(noted epmd)" ERL_EPMD_ADDRESS=127.0.0.1 ERL_CRASH_DUMP="$home/erl_crash.dump"
    RABBITMQ_NODENAME="$(noted "node$number")" RABBITMQ_DIST_PORT="$(noted "distribution$number")" RABBITMQ_PID_FILE="$home/own-pid"
    # The machine's own settings in /etc/rabbitmq must not be read: files of ours, or that do not exist, are named instead.
    RABBITMQ_CONF_ENV_FILE="$home/none" RABBITMQ_ADVANCED_CONFIG_FILE="$home/advanced.config"
    RABBITMQ_CONFIG_FILES="$home/none.d" RABBITMQ_CONFIG_FILE="$home/rabbitmq.conf"
    RABBITMQ_GENERATED_CONFIG_DIR="$home/generated" RABBITMQ_ENABLED_PLUGINS_FILE="$home/enabled_plugins"
    RABBITMQ_PLUGINS_EXPAND_DIR="$home/plugins" RABBITMQ_MNESIA_BASE="$home/data"
    RABBITMQ_LOG_BASE="$home/logs" RABBITMQ_LOGS=-
    RABBITMQ_CTL_ERL_ARGS="$loopback"
    # With input "allowed" RabbitMQ's script becomes the Erlang node instead of waiting for it: the pid that was written
    # down is the node's. -noinput then keeps the node from reading anything all the same.
    RABBITMQ_ALLOW_INPUT=true RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-noinput -start_epmd false $loopback"
  )
}

# Erlang's name server. The usual one, on port 4369, is shared by the whole machine and outlives whoever started it;
# this one is the folder's own, and all of its nodes'.
start_epmd() {
  local epmd pid state parent started
  alive "$dir/rabbitmq/epmd.pid" && return 0
  epmd=$(find_program epmd) && settle_port epmd || return 1
  set_rabbitmq_env rabbitmq
  launch "$dir/rabbitmq/epmd.pid" "${rabbitmq_env[@]}" "$epmd" || return 1
  local deadline=$((SECONDS + 10))
  until listened_on "$(noted epmd)"; do
    ((SECONDS < deadline)) && alive "$dir/rabbitmq/epmd.pid" || return 1
    sleep 0.05
  done
}

# Stops Erlang's name server unless a node still needs it.
stop_epmd() {
  local name pid state parent started
  for name in rabbitmq "${CLUSTER[@]}"; do
    ! alive "$dir/$name/pid" || return 0
  done
  stop_noted TERM "$dir/rabbitmq/epmd.pid"
}

# Writes down what all nodes have in common, once: the beginning of their names, and the secret by which they know each
# other. The names are part of their data: they must stay the same even if the folder is moved.
prepare_nodes() {
  local name home first
  [[ -n $(noted node) ]] || note node "ordering-$(printf '%s' "$dir" | sha256sum | head -c 8)@localhost"
  first=$(noted node)
  for name in "${CLUSTER[@]}"; do
    [[ -n $(noted "node${name#rabbitmq}") ]] || note "node${name#rabbitmq}" "${first%@*}${name#rabbitmq}@localhost"
  done
  mkdir -p -- "$dir/rabbitmq/home" || return 1
  if [[ ! -e $dir/rabbitmq/home/.erlang.cookie ]]; then
    (umask 377 && head -c 15 /dev/urandom | base64 | tr '+/' 'AB' >"$dir/rabbitmq/home/.erlang.cookie") || return 1
  fi
}

launch_rabbitmq() {
  local name=$1 home=$dir/$1 number=${1#rabbitmq}
  mkdir -p -- "$home/home" && with_notes_locked prepare_nodes || return 1
  # A node that was killed before it was up for the first time may have data without its user: nothing is lost by
  # beginning again.
  [[ -e $home/initialised ]] || rm -rf -- "$home/data"
  if [[ $name != rabbitmq ]]; then
    cp -p -- "$dir/rabbitmq/home/.erlang.cookie" "$home/home/" || return 1
    # It joins the first node when it starts for the first time. One that finds nobody would begin a cluster of its own.
    [[ -e $home/initialised ]] || until_answered rabbitmq || return 1
  fi
  printf '[].\n' >"$home/enabled_plugins"
  settle_port "amqp$number" && settle_port "distribution$number" && start_epmd || return 1
  cat >"$home/rabbitmq.conf" <<END || return 1
listeners.tcp.1 = 127.0.0.1:$(noted "amqp$number")
# RabbitMQ stops all publishers below the one and above the other; its defaults depend on the machine.
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 2GB
log.console.level = info
# Only heard where there are several nodes: the lesser part of a divided cluster stands still.
cluster_partition_handling = pause_minority
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.classic_config.nodes.1 = $(noted node)
$([[ $name == rabbitmq ]] || printf 'cluster_formation.classic_config.nodes.2 = %s' "$(noted "node$number")")
END
  # What waits to be tried again stands still for this long when its queue changes its leader; 3 minutes by default. There
  # is no key for it in rabbitmq.conf.
  printf '[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 5000}]}].\n' >"$home/advanced.config" || return 1
  set_rabbitmq_env "$name"
  launch "$home/pid" "${rabbitmq_env[@]}" "$(rabbitmq_program rabbitmq-server)"
}

# A connection's first words: the protocol header, answered by the method frame connection.start.
answers_rabbitmq() { [[ $(ask "$(noted "amqp${1#rabbitmq}")" 'AMQP\0\0\11\1' 1) == $'\1' ]]; }

# The nodes that were started, all in one: clients try them in turn.
url_rabbitmq() {
  local name urls=''
  for name in rabbitmq "${CLUSTER[@]}"; do
    [[ ! -e $dir/$name/pid ]] || urls+=,amqp://guest:guest@127.0.0.1:$(noted "amqp${name#rabbitmq}")
  done
  say "ORDERING_AMQP_URLS=${urls#,}"
}
