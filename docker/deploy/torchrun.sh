#!/bin/bash
# Training without Ray: run it on each node, with what follows `pipeline run train`, for example
#   NODES=2 RANK=0 HEAD=node1 docker/deploy/torchrun.sh --dataset /shared/data --output /shared/run
# The same command goes on from the last checkpoint.
set -euo pipefail
NODES=${NODES:-1}       # machines
RANK=${RANK:-0}         # of this one, 0 to NODES - 1
HEAD=${HEAD:-localhost} # the machine of rank 0
GPUS=${GPUS:-1}         # of each machine: as many processes; without a GPU, processes
PORT=${PORT:-29500}     # free on HEAD
exec torchrun --nnodes="$NODES" --node-rank="$RANK" --nproc-per-node="$GPUS" \
    --master-addr="$HEAD" --master-port="$PORT" -m pipeline run train "$@"
