# shellcheck shell=bash
# What rollout and wearon share on the server: where things are, which compose, which containers, and the state file.
#
# images.env, the state file, names for each service what is in service, and is only ever replaced as a whole:
#   CONSUMER_IMAGE    the image, by digest
#   CONSUMER_ROLLOUT  the label wearon.rollout of its containers; any other container of it is left over
#   CONSUMER_SCALE    how many
#   CONSUMER_STOPPED  1 after `wearon stop`, until `wearon start`: a rollout then starts none

services=(consumer generator sizing-api)
declare -A prefix=([consumer]=CONSUMER [generator]=GENERATOR [sizing-api]=SIZING)
declare -A port=([consumer]=8001 [generator]=8002 [sizing-api]=8000)
# As stop_grace_period in compose.prod.yml, in seconds.
# shellcheck disable=SC2034
declare -A grace=([consumer]=15 [generator]=360 [sizing-api]=30 [edge]=30 [redis]=30)
declare -A image=() generation=() scale=() stopped=()
project=${WEARON_PROJECT:-wearon}
ready_seconds=${READY_SECONDS:-120}

# A caller that has gone away (a broken SSH connection) must not end what is under way.
say() { printf '%s %(%H:%M:%S)T: %s\n' "${0##*/}" -1 "$*" >&2 || true; }

die() { # exit code, message
  say "${@:2}"
  exit "$1"
}

[[ $ready_seconds =~ ^(0|[1-9][0-9]*)$ ]] || die 2 "READY_SECONDS: $ready_seconds is not a number of seconds"

# Called by what starts containers, before it changes anything; --help and --status need none of it.
find_compose() {
  if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
  elif command -v docker-compose >/dev/null; then
    compose=(docker-compose)
  else
    die 2 'neither "docker compose" nor docker-compose was found'
  fi
}

# Held by every command that changes anything, from before its first write to its end.
lock() {
  exec 9>.rollout.lock
  flock -n 9 || die 1 'another rollout, start or stop is running; nothing was changed'
}

value_of() { # file name
  [ ! -f "$1" ] || sed -n "s/^$2=//p" "$1"
}

load_state() {
  local service name
  for service in "${services[@]}"; do
    name=${prefix[$service]}
    image[$service]=$(value_of images.env "${name}_IMAGE")
    generation[$service]=$(value_of images.env "${name}_ROLLOUT")
    scale[$service]=$(value_of images.env "${name}_SCALE")
    stopped[$service]=$(value_of images.env "${name}_STOPPED")
  done
}

# On the disk before the old containers go, so that a machine that loses its power still knows the new ones.
save_state() {
  local service name text=''
  for service in "${services[@]}"; do
    name=${prefix[$service]}
    [ -n "${image[$service]}" ] || continue
    text+="${name}_IMAGE=${image[$service]}"$'\n'"${name}_ROLLOUT=${generation[$service]}"$'\n'
    text+="${name}_SCALE=${scale[$service]:-1}"$'\n'
    [ -z "${stopped[$service]}" ] || text+="${name}_STOPPED=1"$'\n'
  done
  printf '%s' "$text" >images.env.new && sync images.env.new && mv images.env.new images.env && sync .
}

more_files=()
# Compose is given the images by the environment; its chatter is shown only if it fails.
run_compose() { # arguments
  local service said files=(--file compose.prod.yml)
  [ ! -f env/redis.env ] || files+=(--file compose.redis.yml)
  files+=("${more_files[@]}")
  [ ! -f compose.override.yml ] || files+=(--file compose.override.yml)
  for service in "${services[@]}"; do
    export "${prefix[$service]}_IMAGE=${image[$service]:-not-deployed}"
    export "${prefix[$service]}_ROLLOUT=${generation[$service]}"
  done
  said=$("${compose[@]}" --project-name "$project" "${files[@]}" "$@" 2>&1) || { printf '%s\n' "$said" >&2; return 1; }
}

# Asked of the engine, because the two forms of compose differ in whether they list stopped ones.
containers() { # service own|left-over [more arguments for docker ps]
  docker ps --all --no-trunc --filter "label=com.docker.compose.project=$project" \
    --filter "label=com.docker.compose.service=$1" --filter label=com.docker.compose.oneoff=False \
    --format '{{.ID}} {{.Label "wearon.rollout"}}' "${@:3}" |
    awk -v own="${generation[$1]:-}" -v wanted="$2" '($2 == own) == (wanted == "own") { print $1 }'
}

is_ready() { # container service
  case $2 in
    edge) docker exec "$1" /etc/wearon/ready ;;
    redis) docker exec "$1" sh -c "REDISCLI_AUTH=\$REDIS_PASSWORD redis-cli ping | grep -q PONG" ;;
    *)
      docker exec "$1" python -c "import http.client as h
c = h.HTTPConnection('127.0.0.1', ${port[$2]}, timeout=4)
c.request('GET', '/ready')
raise SystemExit(c.getresponse().status != 200)"
      ;;
  esac >/dev/null 2>&1
}

wait_ready() { # container service
  local deadline=$((SECONDS + ready_seconds)) restarts now status
  restarts=$(docker inspect -f '{{.RestartCount}}' "$1") || return 1
  until is_ready "$1" "$2"; do
    read -r status now < <(docker inspect -f '{{.State.Status}} {{.RestartCount}}' "$1")
    # The third restart in a row is a crash loop: to wait on would show nothing new.
    if ((SECONDS >= deadline || now >= restarts + 3)) || [[ $status = exited || $status = dead ]]; then
      say "$2: the container is not ready; the end of its log:"
      docker logs --tail 15 "$1" >&2 || true
      return 1
    fi
    sleep 1
  done
}
