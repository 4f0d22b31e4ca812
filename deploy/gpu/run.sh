#!/usr/bin/env bash
# On a machine with a GPU, from a checkout with target/gpu (build.sh): the model's tests there, then the benches, as JSON lines.
#   deploy/gpu/run.sh [OUT]        figures into the folder OUT (default target/gpu-figures)
# The loader must find libcublas.so.13, libcurand.so.10 and libcudart.so.13: CUDA_LIBRARIES names their folder where it does not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=${1:-target/gpu-figures}
mkdir -p "$out"
export LD_LIBRARY_PATH=${CUDA_LIBRARIES:+$CUDA_LIBRARIES:}${LD_LIBRARY_PATH:-}
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$out/gpu.csv"

# one thread: all tests share one stream of the device
MEIT_DEVICE=cuda CARGO_MANIFEST_DIR=$PWD/tests target/gpu/model-tests --test-threads 1 \
  golden:: gradient:: fusion:: encoders:: checkpoint:: 2>&1 | tee "$out/tests.txt"

infer() { target/gpu/meit bench infer --device cuda "$@" | tee -a "$out/infer.jsonl"; }
train() { target/gpu/meit bench train --device cuda "$@" | tee -a "$out/train.jsonl"; }
for shape in 15m 110m 1b 7b; do
  for batch in 1 8; do
    infer --shape "$shape" --dtype bf16 --batch "$batch" --prompt 32 --new 64
  done
done
# 128 reports of 64 tokens; the goal is 3 s
infer --shape 7b --dtype bf16 --batch 128 --prompt 32 --new 64
train --shape 110m --dtype f32 --rank 16 --batch 8 --steps 4
train --shape 1b --dtype bf16 --rank 16 --batch 8 --steps 4
train --shape 7b --dtype bf16 --rank 16 --batch 4 --steps 4 --checkpoint
