#!/bin/bash
# One run on several nodes of a SLURM cluster: sbatch docs/slurm/nodes.sh, settings in front.
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=60
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail

# SLURM starts the same script again after a requeue: a run that has begun is resumed by then.
export RUN_ID=${RUN_ID:-job_$SLURM_JOB_ID}
if [[ -f logs/$RUN_ID/settings.json ]]; then
    export RESUME=$RUN_ID
fi
export HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Each task asks SLURM which node it is; the first one has the run's folder.
srun sh -c 'exec python3 golf.py train --gpus "$SLURM_GPUS_ON_NODE" \
    --nodes "$SLURM_NNODES" --node "$SLURM_NODEID" --head "$HEAD"'
