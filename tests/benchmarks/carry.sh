#!/bin/sh
# Collect what a bare GPU machine needs for gpu.py, and print the command to run there: wheels for
# CPython 3.12 on x86-64 Linux of what it lacks beside PyTorch, and real images.
#
#     tests/benchmarks/carry.sh [CIFAR-10-LT.parquet] [PYTHON]
#
# The parquet file has the columns image (encoded), label and split. PYTHON (default: the one of
# .venv, else python3) needs pip; for the images also pyarrow and numpy.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
images=${1:-}
python=${2:-$root/.venv/bin/python}
[ -x "$python" ] || python=python3
case $images in "" | /*) ;; *) images=$PWD/$images ;; esac
cd "$root"
carried=.gpu-bench
limit_kib=61440
version() { sed -n "s/^$1==//p" constraints.txt; }

# Beside PyTorch's own needs; a machine that has some of them takes these versions all the same.
wheels="annotated-types einops hjson msgpack packaging psutil py-cpuinfo pydantic pydantic-core
  safetensors tqdm typing-extensions typing-inspection ninja"
pip() {
  if "$python" -m pip --version >/dev/null 2>&1; then
    "$python" -m pip "$@"
  else # an environment made by uv has none
    python3 -m pip "$@"
  fi
}

rm -rf "$carried"
mkdir -p "$carried/wheels"
set --
for name in $wheels; do
  set -- "$@" "$name==$(version "$name")"
done
platforms=""
for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux_2_12 \
  manylinux2010 manylinux_2_5 manylinux1; do
  platforms="$platforms --platform ${platform}_x86_64"
done
# shellcheck disable=SC2086  # several words
pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
  --implementation cp $platforms -d "$carried/wheels" "$@"
# DeepSpeed has a source distribution only; without operators it is pure Python.
DS_BUILD_OPS=0 pip wheel --quiet --disable-pip-version-check --no-deps \
  -w "$carried/wheels" "deepspeed==$(version deepspeed)"

with_images=""
if [ -n "$images" ]; then
  "$python" tests/benchmarks/pack_images.py "$images" "$carried/images.npz"
  with_images=" --images $carried/images.npz"
fi

kib=$(du -sk "$carried" | cut -f1)
if [ "$kib" -gt "$limit_kib" ]; then
  echo "$carried has $((kib / 1024)) MiB, more than $((limit_kib / 1024))" >&2
  exit 1
fi
echo "$carried: $((kib / 1024)) MiB. With it, in this folder on a machine with PyTorch and a GPU:"
echo
echo "s=\$(mktemp -d) && python3 -m pip install -q --no-index --no-deps --no-compile --target \"\$s\"" \
  "$carried/wheels/*.whl && PYTHONPATH=\"\$s\" python3 tests/benchmarks/gpu.py$with_images" \
  "--json gpu-bench.json --profile"
