#!/bin/sh
# Ask a GPU all that this project wants to know, in about MINUTES: tools/gpu.sh [MINUTES [FOLDER]], or `make gpu`.
# Each part writes its results as it goes, so that a run which is broken off loses nothing.
minutes=${1:-8} out=${2:-runs/gpu_base}
part() { awk "BEGIN { print $minutes * $1 }"; }
python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "no GPU that torch can use" >&2; exit 1; }

python -c 'from maelib.data.images import DrawnImages; DrawnImages(40_000, 224)' &  # 8 GB, while nothing is timed
python -m pytest -q -m gpu tests/test_gpu.py
wait
python benchmarks/gpu.py --minutes "$(part 0.4)"
python tools/train_for.py "$(part 0.4)" --recipe facade_base --drawn 40000 --batch-size 256 --optimizer muon --lr 2e-3 \
    --out "$out"
echo "beside the baselines, which need no GPU: maelib evaluate --checkpoint $out/model.safetensors"
