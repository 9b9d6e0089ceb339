#!/bin/sh
# End-to-end run of the tiny world's containers: build, start, wait, remove. Exits with the trainer's exit code and
# leaves the run directory with its figure, and next to it the trainer's output with the table.
set -eu
cd "$(dirname "$0")/.."

export DOCKER_VARIANT=cpu COMPOSE_PROJECT_NAME="${COMPOSE_PROJECT_NAME:-sdpo-smoke}"
export RUN_ID="${RUN_ID:-smoke-$(date +%Y%m%d-%H%M%S)}"
seconds=${DOCKER_SMOKE_SECONDS:-1800}
folder=${SCRATCH:-runs}/sdpo-tldr-runs

trap 'docker/compose.sh down --volumes --timeout 10 >/dev/null 2>&1' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

docker/compose.sh build --quiet trainer
if ! docker/compose.sh up --detach; then
  docker/compose.sh logs --tail 20
  echo 'error: the containers did not start; the end of their logs is above.' >&2
  exit 1
fi
trainer=$(docker/compose.sh ps --all --quiet trainer)
docker logs --follow "$trainer" 2>&1 &
end=$(($(date +%s) + seconds))
while [ "$(docker inspect --format '{{.State.Running}}' "$trainer")" = true ]; do
  if [ "$(date +%s)" -gt "$end" ]; then
    echo "error: the trainer did not finish within $seconds s (DOCKER_SMOKE_SECONDS)." >&2
    exit 1
  fi
  sleep 3
done
wait # until the log is complete
code=$(docker wait "$trainer")
docker logs "$trainer" >"$folder/$RUN_ID.txt" 2>&1
# If root is the caller, the containers run as another user: give their files to root.
[ "$(id -u)" != 0 ] || [ -n "${SUDO_UID:-}" ] || chown -R 0:0 "$folder/$RUN_ID" "$folder/$RUN_ID.txt"
echo "the trainer exited with code $code; its output: $folder/$RUN_ID.txt"
exit "$code"
