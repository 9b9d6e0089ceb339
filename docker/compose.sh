#!/bin/sh
# `docker compose`, as the Makefile calls it: with the compose files for this machine, the caller as the containers'
# user and, for `up` and `run`, all settings from the caller's environment (make exports its variables there).
#
# DOCKER_VARIANT is gpu, cpu, vllm, vllm-cpu, two-nodes or two-nodes-cpu. Default: gpu, or cpu if nvidia-smi is missing.
set -eu
cd "$(dirname "$0")/.."

command -v docker >/dev/null || { echo 'error: docker is not installed.' >&2; exit 2; }
docker info >/dev/null 2>&1 || { echo 'error: the Docker engine does not respond. Start it, or join the docker group.' >&2; exit 2; }

export DOCKER_VARIANT="${DOCKER_VARIANT:-$(command -v nvidia-smi >/dev/null && echo gpu || echo cpu)}"
case $DOCKER_VARIANT in
gpu) variants= ;;
vllm-cpu) variants='cpu vllm vllm-cpu' ;;
two-nodes-cpu) variants='cpu two-nodes two-nodes-cpu' ;;
*) variants=$DOCKER_VARIANT ;;
esac
files='-f compose.yaml'
for variant in $variants; do
  [ -f "docker/compose.$variant.yaml" ] || { echo "error: DOCKER_VARIANT=$DOCKER_VARIANT does not exist. The comment at the top of $0 lists the variants." >&2; exit 2; }
  files="$files -f docker/compose.$variant.yaml"
done

# Nothing runs as root in the containers. If root is the caller, another user owns the files that they write.
if [ -z "${DOCKER_UID:-}" ]; then
  DOCKER_UID=$(id -u) DOCKER_GID=$(id -g)
  [ "$DOCKER_UID" != 0 ] || { DOCKER_UID=${SUDO_UID:-1000} DOCKER_GID=${SUDO_GID:-1000}; }
fi
export DOCKER_UID DOCKER_GID="${DOCKER_GID:-$DOCKER_UID}"
mkdir -p data "${SCRATCH:-runs}"
[ "$(id -u)" != 0 ] || find data "${SCRATCH:-runs}" -maxdepth 1 -type d -exec chown "$DOCKER_UID:$DOCKER_GID" {} +

[ -n "${DOCKER_ENV_FILE:-}" ] || [ -f .env ] || export DOCKER_ENV_FILE=.env.example # sets nothing

# Prints the names of the settings in the caller's environment, without those that compose.yaml itself reads.
given() {
  settings=$(sed -nE '/^# --- Containers/q; s/^(# )?([A-Z][A-Z0-9_]*)=.*/\2/p' .env.example)
  # Besides them the second names that settings have.
  for name in $settings GPUS MODEL_NAME_OR_PATH BASE_MODEL LEARNING_RATE CONTINUE UNRELATED_FOLLOW_UP SDPO_MAKE_VARIABLES ${SDPO_MAKE_VARIABLES:-}; do
    case $name in
    *[!A-Za-z0-9_]* | SCRATCH) continue ;;
    # Shells set these themselves: they are settings only on the command line of make.
    USER | NAME) case " ${SDPO_MAKE_VARIABLES:-} " in *" $name "*) ;; *) continue ;; esac ;;
    # The loop's containers have their own.
    GATEWAY_HOST | GATEWAY_PORT | GATEWAY_OPEN | REGISTRY | UPSTREAM | MODEL | MODEL_NAME_OR_PATH | BASE_MODEL) [ "$1" != loop ] || continue ;;
    RUN_ID | TINY | USER_MODEL_NAME_OR_PATH | SIMULATOR_GPU) [ "$1" = run ] || continue ;;
    esac
    eval "[ -z \"\${$name:-}\" ]" || echo "$name"
  done | sort -u
}

command=$1
shift
case $command in
build)
  SDPO_COMMIT=$(git describe --always --abbrev=40 --dirty=-changed '--exclude=*' 2>/dev/null || true)
  SDPO_VERSIONS=$(grep -E '^(torch|transformers|trl|accelerate)==' requirements.lock | tr '\n' ' ')
  export SDPO_COMMIT SDPO_VERSIONS
  exec docker compose $files build "$@"
  ;;
up)
  names=$(given up | sed 's/.*/"&"/' | paste -sd, -)
  case $variants in *two-nodes*) trainers='trainer trainer-2' ;; *) trainers=trainer ;; esac
  { echo services: && printf "  %s: {environment: [$names]}\\n" prep $trainers; } | docker compose $files -f - up --no-build "$@"
  ;;
loop) # the model's server, the gateway and the learner
  names=$(given loop | sed 's/.*/"&"/' | paste -sd, -)
  { echo services: && printf "  %s: {environment: [$names]}\n" gateway learner; } |
    docker compose $files -f - --profile loop ${WEBUI_IMAGE:+--profile webui} up --no-build "$@" \
      server gateway learner ${WEBUI_IMAGE:+webui}
  ;;
down)
  exec docker compose $files --profile job --profile loop --profile webui down "$@"
  ;;
run)
  [ -t 0 ] && [ -t 1 ] || set -- -T "$@"
  exec docker compose $files run --rm --no-deps $(given run | sed 's/^/-e /') "$@"
  ;;
*)
  exec docker compose $files "$command" "$@"
  ;;
esac
