#!/bin/bash
# Everything that a GPU is asked, in one command that needs no network and ends within nine minutes:
#     bash benchmarks/gpu/run.sh                      # all GPUs that torch sees are tested, cuda:0 is measured
#     bash benchmarks/gpu/run.sh --device cpu --sizes tiny    # seconds, to see that it works
# Prints JSON and keeps it in benchmarks/results/gpu_<card>.json. PYTHON names another interpreter than .venv's.
cd "$(dirname "$0")/../.." || exit 1
if [ -z "$PYTHON" ]; then
  PYTHON=python3
  [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec "$PYTHON" benchmarks/gpu/gpu_report.py "$@"
