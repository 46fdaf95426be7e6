#!/usr/bin/env bash
# The comparison at the size of a GPU: full-size models of LM-O's ape, cat and holepuncher (objects 1, 6, 12), side by
# side on the same crops, for at most MINUTES; called again, it goes on where it was.
#
#   OUT=folder benchmarks/gpu_compare.sh MINUTES SAMPLES BOP-FOLDER [more arguments of `cad2pose compare`]
#
# MINUTES (a whole number) is of this call; SAMPLES of every run. BOP-FOLDER needs models/ and camera.json, and its test
# images where --photographs BOP-FOLDER --detections FILE is among the arguments. The runs stay in RUN
# (runs/compare_full). OUT (gpu_out by default) gets the table, the numbers and plots once all runs are there, and every
# run's curves and judgement so far. Exit status: 0 when complete, 3 when time ran out.
set -u
[ $# -ge 3 ] || { sed -n '2,11p' "$0"; exit 2; }
cd "$(dirname "$0")/.." || exit 1
minutes=$1 samples=$2 bop=$3
shift 3
OUT=${OUT:-gpu_out}
RUN=${RUN:-runs/compare_full}
. benchmarks/gpu_environment.sh

timeout --kill-after=20 $((60 * minutes - 15)) \
    "$PYTHON" -m cad2pose compare "$bop" --objects 1 6 12 --out "$RUN" --size full --device ${DEVICE:-cuda} \
    --contestants flagship surfemb gdrnet e2e.all --samples "$samples" --batch-size 128 --camera "$bop/camera.json" \
    --crop-roll 30 --views.free-share 0.2 --views.elevation -5 90 --views.camera-roll 30 \
    --views.distance 346 1500 "$@" > "$OUT/compare.txt" 2>&1
status=$?
tail -n 30 "$OUT/compare.txt"
(cd "$RUN" && find . -name curves.jsonl -o -name judged.json -o -name photographs.json) 2> /dev/null | tar -C "$RUN" -czf "$OUT/runs.tar.gz" -T -
for file in "$RUN"/comparison.md "$RUN"/comparison.json "$RUN"/*.png; do
    [ ! -f "$file" ] || cp "$file" "$OUT/"
done
case $status in
    0) echo "complete" ;;
    124 | 130 | 137) echo "time ran out; the same command goes on"; exit 3 ;;
    *) echo "comparing failed with status $status"; exit 1 ;;
esac
