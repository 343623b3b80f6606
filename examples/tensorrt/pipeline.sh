#!/usr/bin/env bash
# Prune, 2:4, engine, compare. Everything up to the engine runs on any machine; the comparison at
# the end needs an NVIDIA GPU, and is skipped, saying so, without one.
#
#     pip install 'onnxprune[cpu,tensorrt-rtx]'
#     examples/tensorrt/pipeline.sh [OUT_FOLDER]
#     QUICK=1 examples/tensorrt/pipeline.sh      # by the weights alone: seconds, and less accurate
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$(mktemp -d)}
mkdir -p "$out"
zoo=$(python -c 'from onnxprune.data import zoo; print(zoo.FOLDER)')
model=$zoo/digits_rescnn.onnx
images=$zoo/digits_calibration.npz
shapes=image=8x1x16x16

data=(--calib "$images" --calib-samples 128)
[ -z "${QUICK:-}" ] || data=()

echo "== prune by $here/recipe.yaml, and refit what is left on unlabelled images"
onnxprune prune "$model" --recipe "$here/recipe.yaml" "${data[@]}" -o "$out/sparse.onnx"

echo "== which layers may TensorRT run sparsely?"
onnxprune eligible "$out/sparse.onnx"

echo "== build the engine: fp16, sparse kernels allowed, for RTX 30 and RTX 40"
onnxprune build "$out/sparse.onnx" --engine "$out/sparse.engine" --fp16 --sparse-weights \
    --compute-capability 8.6 8.9 --shapes "$shapes" --min-shapes image=1x1x16x16 \
    --keep-onnx "$out/sparse_fp16.onnx"
onnxprune build "$model" --engine "$out/dense.engine" --fp16 \
    --compute-capability 8.6 8.9 --shapes "$shapes" --min-shapes image=1x1x16x16
ls -l "$out"/*.engine

if ! command -v nvidia-smi > /dev/null || ! nvidia-smi > /dev/null 2>&1; then
    echo "== no NVIDIA GPU here: the engines are built, comparing them needs one. On it, run:"
    echo "POLYGRAPHY_USE_TENSORRT_RTX=1 polygraphy run $out/sparse_fp16.onnx --trt --onnxrt" \
        "--atol 0.05 --rtol 0.05"
    exit 0
fi
echo "== compare the engine with onnxruntime, on the GPU"
POLYGRAPHY_USE_TENSORRT_RTX=1 polygraphy run "$out/sparse_fp16.onnx" --trt --onnxrt \
    --trt-min-shapes 'image:[1,1,16,16]' --trt-opt-shapes 'image:[8,1,16,16]' \
    --trt-max-shapes 'image:[8,1,16,16]' --input-shapes 'image:[8,1,16,16]' \
    --atol 0.05 --rtol 0.05
if command -v trtexec > /dev/null; then
    echo "== full TensorRT is here too: does it pick sparse kernels?"
    trtexec --onnx="$out/sparse_fp16.onnx" --sparsity=enable --stronglyTyped --verbose \
        --profilingVerbosity=detailed --exportLayerInfo="$out/layers.json" \
        --optShapes=image:8x1x16x16 --minShapes=image:1x1x16x16 --maxShapes=image:8x1x16x16 \
        > "$out/trtexec.log" 2>&1
    onnxprune eligible "$out/sparse_fp16.onnx" --log "$out/trtexec.log" --layers "$out/layers.json"
fi
