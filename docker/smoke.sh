#!/bin/sh
# The tiny world's stack from nothing to its end: built, brought up, waited for, taken down. Ends with the trainer's
# exit code, and leaves on this machine its run, its picture, and its output with the table beside them.
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
  echo 'error: the containers did not come up; their last words are above.' >&2
  exit 1
fi
trainer=$(docker/compose.sh ps --all --quiet trainer)
docker logs --follow "$trainer" 2>&1 &
end=$(($(date +%s) + seconds))
while [ "$(docker inspect --format '{{.State.Running}}' "$trainer")" = true ]; do
  if [ "$(date +%s)" -gt "$end" ]; then
    echo "error: the trainer is not done after $seconds s (DOCKER_SMOKE_SECONDS)." >&2
    exit 1
  fi
  sleep 3
done
wait # for the last lines of the log
code=$(docker wait "$trainer")
docker logs "$trainer" >"$folder/$RUN_ID.txt" 2>&1
# Root's containers do not run as root; what they made is root's all the same.
[ "$(id -u)" != 0 ] || [ -n "${SUDO_UID:-}" ] || chown -R 0:0 "$folder/$RUN_ID" "$folder/$RUN_ID.txt"
echo "the trainer ended with code $code; its output: $folder/$RUN_ID.txt"
exit "$code"
