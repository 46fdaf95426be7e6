# Sourced by the scripts for a machine with CUDA: cad2pose from src/, without installing it.
#   PYTHON  the interpreter with torch (python3)
#   WHEELS  folder of wheels of pure Python packages that the machine lacks (.whl), unpacked into SITE (/tmp/site)
PYTHON=${PYTHON:-python3}
WHEELS=${WHEELS:-.whl}
SITE=${SITE:-/tmp/site}
if compgen -G "$WHEELS/*.whl" > /dev/null; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$SITE" \
        "$WHEELS"/*.whl || exit 1
fi
export PYTHONPATH="$PWD/src:$SITE${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
mkdir -p "$OUT"
cad2pose() { "$PYTHON" -m cad2pose "$@"; }
