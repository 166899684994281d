#!/bin/bash
# A study on nodes that Slurm lends: one Ray for the length of this job, all of whose nodes are slots of the study.
#
# Once, on the login node, in this project's folder, which all nodes see at the same path:
#   make setup EXTRAS=dev,cluster
# Then (options of sbatch before the script, those of launch.py after it):
#   sbatch deploy/slurm.sh --study block_expansion
#   sbatch --nodes=4 --gpus-per-node=8 deploy/slurm.sh --study paper --benchmark cifar100
#
# A job that is cut off, by its time limit or a lost node, goes on from its records when the same line is submitted
# again. Bookkeeping is MLflow's, in results/mlflow.db, which only the first node writes; where the shared folder has
# no file locks (some Lustre), name a server in MLFLOW_TRACKING_URI before sbatch.
#
# What listens where: on all interfaces of the job's nodes Ray's GCS, its object managers, its client server and ports
# that Ray chooses, and those of a trial's processes (gloo, NCCL), which ask for no token and believe what they are
# told: the site's network must keep strangers from its compute nodes, and --exclusive keeps other users off them. The
# dashboard listens on the first node's loopback and asks for the token. No MLflow server is started.

#SBATCH --job-name=vit-forgetting-bench
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --time=24:00:00
# `ray symmetric-run` refuses a node on which anybody's Ray runs already, and ends by `ray stop`, which ends every Ray
# of this user on the node, whichever job it belongs to.
#SBATCH --exclusive
#SBATCH --output=slurm-%j.log

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this file with sbatch}"
# shellcheck source=/dev/null
. .venv/bin/activate

# One secret for all nodes, in the home folder that they share; without the mode Ray asks nobody for it.
export RAY_AUTH_MODE=token
[ -s ~/.ray/auth_token ] || (umask 077 && ray get-auth-token --generate > /dev/null)
# Never start workers through `uv run`.
export RAY_ENABLE_UV_RUN_RUNTIME_ENV=0
# Ray gives its nodes 30 s to appear, and a first import from a busy shared folder takes longer.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600
# Data sets and decoded pictures, and downloaded weights: one folder for all nodes.
export BENCH_DATA="${BENCH_DATA:-$HOME/bench/data}"
export HF_HOME="${HF_HOME:-$BENCH_DATA/huggingface}"
mkdir -p "$BENCH_DATA"

# The first node is the head. By address: Ray knows the head by comparing it with the addresses of its own interfaces.
read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=$(srun --nodes=1 --ntasks=1 --nodelist="$first" hostname --ip-address)
# Two jobs that follow each other on a node must not meet on a port.
port=$((20000 + SLURM_JOB_ID % 20000))

# --num-cpus: Ray counts the cores of the machine, not those that Slurm lends. GPUs it finds by CUDA_VISIBLE_DEVICES.
# RAY_ADDRESS: the launch joins this Ray, instead of starting one of its own.
# The other nodes end a minute after the first, with an error of the raylet in the log: they wait so long for a head
# that could come back. The exit code is that of the launch.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
  ray symmetric-run --address "${address%% *}:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "$SLURM_CPUS_PER_TASK" -- \
  env RAY_ADDRESS=auto python launch.py "$@"
