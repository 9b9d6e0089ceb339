#!/bin/sh
# `docker compose`, as the Makefile calls it: the variant that fits this machine, the caller as the containers' user,
# and, for `up` and `run`, every setting that the caller's environment has (make puts its variables there).
#
# DOCKER_VARIANT is gpu, cpu, vllm, two-nodes or two-nodes-cpu; not set, it is cpu where nvidia-smi is missing.
set -eu
cd "$(dirname "$0")/.."

command -v docker >/dev/null || { echo 'error: docker is not installed here.' >&2; exit 2; }
docker info >/dev/null 2>&1 || { echo 'error: no Docker engine answers. Start it, or join its group.' >&2; exit 2; }

export DOCKER_VARIANT="${DOCKER_VARIANT:-$(command -v nvidia-smi >/dev/null && echo gpu || echo cpu)}"
case $DOCKER_VARIANT in
gpu) variants= ;;
two-nodes-cpu) variants='cpu two-nodes two-nodes-cpu' ;;
*) variants=$DOCKER_VARIANT ;;
esac
files='-f compose.yaml'
for variant in $variants; do
  [ -f "docker/compose.$variant.yaml" ] || { echo "error: DOCKER_VARIANT=$DOCKER_VARIANT is none. The head of $0 lists them." >&2; exit 2; }
  files="$files -f docker/compose.$variant.yaml"
done

# Nothing runs as root in the containers, so where root calls they get another owner for what they write.
if [ -z "${DOCKER_UID:-}" ]; then
  DOCKER_UID=$(id -u) DOCKER_GID=$(id -g)
  [ "$DOCKER_UID" != 0 ] || { DOCKER_UID=${SUDO_UID:-1000} DOCKER_GID=${SUDO_GID:-1000}; }
fi
export DOCKER_UID DOCKER_GID="${DOCKER_GID:-$DOCKER_UID}"
mkdir -p data "${SCRATCH:-runs}"
[ "$(id -u)" != 0 ] || find data "${SCRATCH:-runs}" -maxdepth 1 -type d -exec chown "$DOCKER_UID:$DOCKER_GID" {} +

[ -n "${DOCKER_ENV_FILE:-}" ] || [ -f .env ] || export DOCKER_ENV_FILE=.env.example # which sets nothing

# The names of the settings that the caller gave, other than those that compose.yaml itself reads.
given() {
  settings=$(sed -nE '/^# --- Containers/q; s/^(# )?([A-Z][A-Z0-9_]*)=.*/\2/p' .env.example)
  for name in $settings SDPO_MAKE_VARIABLES ${SDPO_MAKE_VARIABLES:-}; do
    case $name in
    *[!A-Za-z0-9_]* | SCRATCH) continue ;;
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
  { echo services: && printf "  %s: {environment: [$names]}\\n" $trainers; } | docker compose $files -f - up --no-build "$@"
  ;;
run)
  [ -t 0 ] && [ -t 1 ] || set -- -T "$@"
  exec docker compose $files run --rm --no-deps $(given run | sed 's/^/-e /') "$@"
  ;;
*)
  exec docker compose $files "$command" "$@"
  ;;
esac
