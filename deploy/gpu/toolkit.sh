#!/usr/bin/env bash
# A CUDA 13.0 compiler and libraries from NVIDIA's Python wheels, for a machine that has neither: enough to build with --features cuda,
# no GPU needed. Usage: toolkit.sh DIR, then: source DIR/env.sh
#
# 13.0, not newer: a driver refuses kernels of a compiler that is newer than itself, and 580 is the driver of 13.0.
# CUDA_COMPUTE_CAP names the GPU's generation: 80 A100, 86 A10, 89 L4, 90 H100 and H200 (default); a binary runs on that one alone.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "${1:?usage: toolkit.sh DIR}"
dir=$(cd "$1" && pwd)
cuda=$dir/cuda

if [ ! -x "$cuda/bin/nvcc" ]; then
  wheels=$(mktemp -d "$dir/wheels.XXXXXX")
  trap 'rm -rf "$wheels"' EXIT
  python3 -m pip download --quiet --no-deps --dest "$wheels" \
    nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85 \
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-nvrtc==13.0.88 nvidia-curand==10.4.0.35 nvidia-cublas==13.1.0.3
  for wheel in "$wheels"/*.whl; do
    python3 -m zipfile -e "$wheel" "$wheels/all"
  done
  rm -rf "$cuda"
  mv "$wheels/all/nvidia/cu13" "$cuda"
  chmod -R a+rx "$cuda/bin" "$cuda/nvvm/bin"
  ln -sfn lib "$cuda/lib64"
  # the linker looks for names without a version
  for library in "$cuda"/lib/lib*.so.*; do
    ln -sf "$(basename "$library")" "${library%%.so.*}.so"
  done
fi

# The driver's library comes with the driver alone. The linker is content with one of the same names; the real one is found at start.
stub=$cuda/lib/stubs
if [ ! -e "$stub/libcuda.so" ]; then
  (cd "$here/../.." && cargo fetch --locked --quiet)
  bindings=$(find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -path '*/cudarc-0.19.*/src/driver/sys/mod.rs' | sort -V | tail -n 1)
  mkdir -p "$stub"
  grep -oE '\bfn cu[A-Z][A-Za-z0-9_]*' "$bindings" | sort -u | sed 's/^fn \(.*\)/int \1(void) { return 999; }/' >"$stub/cuda.c"
  cc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$stub/libcuda.so" "$stub/cuda.c"
fi

cat >"$dir/env.sh" <<ENV
export CUDA_HOME=$cuda CUDA_COMPUTE_CAP=\${CUDA_COMPUTE_CAP:-90} NVCC_APPEND_FLAGS=-compress-mode=size
export PATH=$cuda/bin:\$PATH LIBRARY_PATH=$stub:$cuda/lib\${LIBRARY_PATH:+:\$LIBRARY_PATH}
ENV
echo "source $dir/env.sh"
