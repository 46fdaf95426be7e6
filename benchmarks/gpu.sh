#!/usr/bin/env bash
# What only a machine with CUDA can say, in less than 10 minutes: does CUDA agree with the CPU, and how fast is it?
#
#   OUT=folder benchmarks/gpu.sh
#
# Packs environment.txt, tests.txt, render.txt, train.txt, train_full.txt, networks.txt, infer.txt, infer_full.txt,
# solver.txt and summary.txt as gpu.tar.gz into OUT (gpu_out by default), after every stage anew; the last line of a
# benchmark's file is its JSON. Exit status 1 if anything failed. Other settings: gpu_environment.sh.
set -u
cd "$(dirname "$0")/.." || exit 1
OUT=${OUT:-gpu_out}
. benchmarks/gpu_environment.sh
failed=0
kept=$(mktemp -d)

# stage NAME SECONDS COMMAND...: runs it, keeps what it prints, goes on whatever comes of it.
stage() {
    local name=$1 limit=$2 begun=$SECONDS status
    shift 2
    echo "== $name"
    timeout --kill-after=5 "$limit" "$@" 2>&1 | tee "$kept/$name.txt"
    status=${PIPESTATUS[0]}
    echo "$name: status $status after $((SECONDS - begun)) s" | tee -a "$kept/summary.txt"
    tar -C "$kept" -czf "$OUT/gpu.tar.gz" .
    [ "$status" -eq 0 ] || failed=1
}

environment() {
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv
    "$PYTHON" - << 'END'
import importlib.metadata, os, platform, torch
print("python", platform.python_version(), "cores", os.cpu_count())
for name in ("torch", "numpy", "numba", "jaxtyping", "beartype", "trimesh", "tyro"):
    try:
        print(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        print(name, "missing")
print("cuda", torch.version.cuda, torch.cuda.get_device_name(), torch.cuda.get_device_capability())
END
}
export -f environment
export PYTHON

checks=()  # shapes are checked at run time where beartype is there; without it the tests run all the same
"$PYTHON" -c "import beartype" 2> /dev/null || checks=(-o "addopts=-ra")
stage environment 60 bash -c environment
stage tests 150 "$PYTHON" -m pytest -q -p no:cacheprovider -W default "${checks[@]}" -k cuda \
    tests/test_cuda.py tests/test_rasterizer.py
stage render 50 "$PYTHON" benchmarks/render.py --device cuda
stage train 50 "$PYTHON" benchmarks/train.py --device cuda
stage train_full 70 "$PYTHON" benchmarks/train.py --device cuda --full --batch-size 128
stage networks 40 "$PYTHON" benchmarks/networks.py --device cuda --size full --batch-size 64
stage infer 40 "$PYTHON" benchmarks/infer.py
stage infer_full 50 "$PYTHON" benchmarks/infer.py --devices cuda --full
stage solver 70 "$PYTHON" benchmarks/solver_gpu.py
cat "$kept/summary.txt"
exit $failed
