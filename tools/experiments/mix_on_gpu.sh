#!/usr/bin/env bash
# The experiment `mix` on a machine with a GPU and without a network, in so many minutes; whatever happens, what there is lies in OUT then.
#
#     benchmarks/gpu_pack.sh && python tools/experiments/pack_data.py DATA --quality 75 --site .gpu/site    # here: .gpu/mix.tar.gz
#     tools/experiments/mix_on_gpu.sh MINUTES OUT                                  # there, in the repository's root, beside .gpu/mix.tar.gz
#
# SETTINGS (another experiment than mix.py), JOBS (processes that share the GPU), PYTHON, WORK (scratch folder), DATA (other sets than the archive's) and
# further arguments of run_matrix.py may be given: JOBS=4 mix_on_gpu.sh 3 out --seeds 0
# In a quarter of an hour: WORK=/tmp/mix SETTINGS=configs/experiments/mix_loan.py mix_on_gpu.sh 10.1 out --full-length; the same again goes on.
set -uo pipefail
cd "$(dirname "$0")/../.."
minutes=$1 out=$2
shift 2
mkdir -p "$out"
out=$(cd "$out" && pwd)
settings=${SETTINGS:-configs/experiments/mix.py}
python=${PYTHON:-python3} jobs=${JOBS:-12} work=${WORK:-$(mktemp -d)}
mkdir -p "$work"
started=$(date +%s)
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD:$work/site PYTHONWARNINGS=ignore MPLCONFIGDIR=$work/matplotlib
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 CUDA_MODULE_LOADING=LAZY
export XDG_CACHE_HOME=$work/cache

gather() {
    # The tables, curves and records; no weights.
    (cd "$work" && find mix -type f \( -name '*.json' -o -name '*.csv' -o -name '*.md' \) -not -path '*/vis_data/*' -not -name data.json -print0 |
        tar --null -czf "$out/results.tar.gz" -T -)
    (cd "$work" && find mix -type f -name '*.log' -size -2M -print0 | tar --null -czf "$out/logs.tar.gz" -T -)
    cp "$work"/mix/matrix.md "$work"/mix/budget.json "$out"/ 2>/dev/null
    [ -n "${mps:-}" ] && echo quit | nvidia-cuda-mps-control >/dev/null 2>&1
    ls -l "$out"
}
trap gather EXIT

# Once, or every process does it: files come from a cold disk, Matplotlib looks for fonts.
"$python" -c 'import torch, matplotlib.font_manager' 2>/dev/null &
warm=$!
tar -xzf .gpu/mix.tar.gz -C "$work" || exit 1
wait "$warm"

# Kernels of several processes at a time instead of in turns, where the machine lets us.
mps=
if [ "${MPS:-1}" = 1 ] && command -v nvidia-cuda-mps-control >/dev/null; then
    export CUDA_MPS_PIPE_DIRECTORY=$work/mps CUDA_MPS_LOG_DIRECTORY=$work/mps_log
    mkdir -p "$CUDA_MPS_PIPE_DIRECTORY" "$CUDA_MPS_LOG_DIRECTORY"
    nvidia-cuda-mps-control -d >/dev/null 2>&1 && mps=1
    if [ -n "$mps" ] && ! timeout 25 "$python" -c 'import torch; torch.ones(8, device="cuda").sum().item()' >/dev/null 2>&1; then
        echo quit | timeout 5 nvidia-cuda-mps-control >/dev/null 2>&1
        unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
        mps=
    fi
fi
echo "MPS: ${mps:-no}" | tee "$out/mps.txt"

data=${DATA:-$work/data}
nvidia-smi --query-gpu=name,memory.total,utilization.gpu --format=csv,noheader 2>/dev/null
nproc --all

left() { echo $((started + $1 - $(date +%s))); }
total=$(awk "BEGIN { print int(60 * $minutes) }")
# A log of how busy the card was.
(nvidia-smi --query-gpu=timestamp,utilization.gpu,memory.used --format=csv,noheader -l 5 >"$out/gpu.csv" 2>/dev/null) &
watcher=$!
timeout --signal=TERM --kill-after=20 "$(left "$total")" "$python" tools/experiments/run_matrix.py --settings "$settings" \
    --data-root "$data" --work-dir "$work/mix" --cluster processes --jobs "$jobs" --threads 1 \
    --minutes "$(awk "BEGIN { print ($(left "$total") - 15) / 60 }")" "$@" 2>&1 | tee "$out/run.log" | tail -c 6000
kill "$watcher" 2>/dev/null
echo "took $(($(date +%s) - started)) s"
