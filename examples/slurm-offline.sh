#!/bin/bash
# train-offline on two nodes with Slurm: no simulator, so all GPUs train. UNTESTED on a cluster: none was available.
#
#   sbatch examples/slurm-offline.sh    # with settings: MODEL=Qwen/Qwen3-4B RECIPE=recommended sbatch ...
#
# TRAIN_JSONL and the folder of runs have to be on a file system that both nodes share. Before the time limit Slurm
# sends SIGTERM; the run is saved, and the requeued job resumes it.
#SBATCH --job-name=sdpo-offline
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000)) NNODES=$SLURM_NNODES
export SCRATCH=${SCRATCH:-$PWD/runs} RUN_ID=${RUN_ID:-slurm-$SLURM_JOB_ID}
export GPUS=$((SLURM_GPUS_ON_NODE * NNODES))

# shellcheck disable=SC2016  # NODE_RANK differs between tasks
srun --kill-on-bad-exit=0 bash -c 'NODE_RANK=$SLURM_NODEID exec .venv/bin/python -m jobs.train_offline' &
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
