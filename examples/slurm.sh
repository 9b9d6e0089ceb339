#!/bin/bash
# train-online-tldr on two nodes with Slurm. UNTESTED: no cluster was available.
#
#   make setup && make prep-tldr        # once, in a folder that all nodes share
#   sbatch examples/slurm.sh            # with settings: LR=1e-6 sbatch examples/slurm.sh
#
# The simulator uses the last GPU of the first node. It has no API key and is reachable from the cluster's network.
# Before the time limit Slurm sends SIGTERM; the run is saved, and the requeued job resumes it.
#SBATCH --job-name=sdpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
port=$((8000 + SLURM_JOB_ID % 1000))
export SCRATCH=${SCRATCH:-$PWD/runs} RUN_ID=${RUN_ID:-slurm-$SLURM_JOB_ID}
export NNODES=$SLURM_NNODES MASTER_ADDR=$head MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export SIMULATOR_URL=http://$head:$port/v1
# The same number of processes on each node: seven, which leaves one GPU for the simulator.
per_node=7
export GPUS=$((per_node * NNODES))

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" env SIMULATOR_HOST=0.0.0.0 PORT="$port" SIMULATOR_GPU=$per_node \
  .venv/bin/python -m jobs.simulator &
simulator=$!
trap 'kill $simulator 2>/dev/null || true' EXIT

for _ in $(seq 180); do
  kill -0 "$simulator" || { echo 'the simulator ended before it was ready' >&2; exit 3; }
  curl --silent --fail --max-time 5 "http://$head:$port/health" >/dev/null && break
  sleep 5
done

devices=$(seq --separator=, 0 $((per_node - 1)))
# shellcheck disable=SC2016  # NODE_RANK differs between tasks
srun --overlap --kill-on-bad-exit=0 env CUDA_VISIBLE_DEVICES="$devices" \
  bash -c 'NODE_RANK=$SLURM_NODEID exec .venv/bin/python -m jobs.train_online_tldr' &
trainer=$!
trap 'kill -TERM $trainer' TERM

code=0
wait "$trainer" || code=$?
# A signal interrupts the first wait; the run is saved when the second one returns.
while kill -0 "$trainer" 2>/dev/null; do code=0; wait "$trainer" || code=$?; done
if [ "$code" = 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
