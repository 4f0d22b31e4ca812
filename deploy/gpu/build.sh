#!/usr/bin/env bash
# Programs and model tests for NVIDIA GPUs, into target/gpu; run.sh runs them on a machine that has one. Needs no GPU.
# Takes nvcc from PATH, else a toolkit from Python wheels into target/cuda-toolkit.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if ! command -v nvcc >/dev/null; then
  deploy/gpu/toolkit.sh target/cuda-toolkit
  # shellcheck disable=SC1091
  source target/cuda-toolkit/env.sh
fi
build=(--release --locked --features cuda --target-dir target/cuda)
cargo build "${build[@]}" -p standalone -p node -p pipeline
cargo test "${build[@]}" -p tests --no-run

rm -rf target/gpu
mkdir -p target/gpu
cp target/cuda/release/{meit,meit-node,meit-pipeline} target/gpu/
# the newest: names of older builds stay beside it
cp "$(ls -t target/cuda/release/deps/it-* | grep -v '\.d$' | head -n 1)" target/gpu/model-tests
strip target/gpu/*
ls -l target/gpu
