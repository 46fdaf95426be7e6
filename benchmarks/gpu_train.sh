#!/usr/bin/env bash
# Trains the full-size model of LM-O's cat (object 6) for at most MINUTES; called again, it goes on where it was.
#
#   OUT=folder benchmarks/gpu_train.sh MINUTES SAMPLES BOP-FOLDER [more arguments of `cad2pose train`]
#
# MINUTES (a whole number) is of this call; SAMPLES of the whole run, which the learning rate's schedule spans:
# benchmarks/train.py --full tells the crops/s to plan it with. BOP-FOLDER needs models/ and camera.json only; no
# image of it is read. The run stays in RUN (runs/cat_full). OUT (gpu_out by default) gets the model so far in pieces
# below 16 MB (`cat model.part_* > cat.safetensors` joins them), its SHA-256, the curves, and the newest predictions.
# Exit status: 0 when the run is complete, 3 when time ran out before that. Other settings: gpu_environment.sh.
set -u
[ $# -ge 3 ] || { sed -n '2,10p' "$0"; exit 2; }
cd "$(dirname "$0")/.." || exit 1
minutes=$1 samples=$2 bop=$3
shift 3
OUT=${OUT:-gpu_out}
RUN=${RUN:-runs/cat_full}
. benchmarks/gpu_environment.sh

timeout --kill-after=20 $((60 * minutes - 25)) \
    "$PYTHON" -m cad2pose train "$bop" --objects 6 --out "$RUN" --full --device ${DEVICE:-cuda} \
    --camera "$bop/camera.json" --crop-roll 30 \
    --views.free-share 0.2 --views.elevation -5 90 --views.camera-roll 30 --views.distance 346 1500 \
    --samples "$samples" --batch-size 64 --checkpoint-minutes 1 --validations 20 "$@" \
    > "$OUT/train.txt" 2>&1
status=$?
tail -n 20 "$OUT/train.txt"
rm -f "$OUT"/model.part_*
if [ -f "$RUN/model.safetensors" ]; then
    split --bytes=15M "$RUN/model.safetensors" "$OUT/model.part_"
    (cd "$RUN" && sha256sum model.safetensors) > "$OUT/model.sha256"
fi
for file in curves.jsonl predictions.png; do
    [ ! -f "$RUN/$file" ] || cp "$RUN/$file" "$OUT/"
done
case $status in
    0) echo "complete" ;;
    124 | 130 | 137) echo "time ran out; the same command goes on"; exit 3 ;;
    *) echo "training failed with status $status"; exit 1 ;;
esac
