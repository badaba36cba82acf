"""Packs vLLM for a bare H100 or H200 machine without network, in pieces that may travel one at a time.

Such a machine has Python 3.12, torch 2.11 for CUDA 13 and transformers 5. vLLM 0.26.0 is the newest that fits its
torch. Of its wheel go the parts that a Qwen or Llama in float32 or bfloat16 needs there: no mixtures of experts, no
kernels of other cards. The packages are unpacked here, so that nothing is installed there.
"""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
VLLM = "vllm==0.26.0"
PACKAGES = [
    "annotated_types==0.8.0",
    "apache_tvm_ffi==0.1.11",
    "cachetools==8.0.2",
    "cbor2==6.3.0",
    "fastapi==0.136.3",
    "httpx2==2.16.2",
    "llguidance==1.9.1",
    "msgspec==0.22.0",
    "openai==3.57.0",
    "oss_harmony==0.0.11",
    "partial_json_parser==0.2.1.1.post7",
    "pybase64==1.5.1",
    "pydantic==2.14.4",
    "pydantic_core==2.50.5",
    "pyzmq==27.3.0",
    "sniffio==1.3.1",
    "starlette==1.10.0",
    "typing_inspection==0.4.5",
    "xgrammar==0.2.8",
    "xxhash==4.1.0",
]
"""What vLLM and tsd import beyond what the machine has."""
LEFT_OUT = (
    "vllm/vllm_flash_attn/_vllm_fa2_C",
    "vllm/_moe_C",
    "vllm/vllm-rs",
    "vllm/_qutlass_C",
    "vllm/_flashmla",
    "vllm/third_party/deep_gemm",
    "vllm/third_party/fmha_sm100",
)
FIRST_PIECE = "vllm/_C_stable_libtorch.abi3.so"
MOST_BYTES = 60 * 2**20
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (39, 35, 34, 31, 28, 27, 26, 24, 17)] + ["manylinux2014_x86_64"]
TARGET = ["--no-deps", "--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp"]
TARGET += [part for platform in PLATFORMS for part in ("--platform", platform)]


def pack(directory: Path) -> None:
    """Writes the pieces and prints what to run there. Raises ValueError for a piece that is too large."""
    site, wheels = directory / "site", directory / "wheels"
    for old in (site, wheels):
        shutil.rmtree(old, ignore_errors=True)
    site.mkdir(parents=True)
    _pip("download", *TARGET, "--dest", str(wheels), VLLM, *PACKAGES)
    _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(_sources(directory / "tsd")))
    for wheel in sorted(wheels.iterdir()):
        _unpack(wheel, site)
    first = {site / FIRST_PIECE}
    rest = {path for path in site.rglob("*") if path.is_file()} - first
    for number, paths in enumerate((first, rest), start=1):
        piece = directory / f"{number}.txz"
        with tarfile.open(piece, "w:xz") as tar:
            for path in sorted(paths):
                tar.add(path, path.relative_to(site))
        size = piece.stat().st_size
        print(f"{piece}: {size / 2**20:.1f} MiB of at most {MOST_BYTES / 2**20:.0f}")
        if size > MOST_BYTES:
            raise ValueError(f"{piece} is too large to carry: leave more out in {Path(__file__).name}")
    print("there, one after the other, in the repository's root:")
    print(f"  mkdir -p /tmp/site && tar -xJf {directory}/1.txz -C /tmp/site")
    print(f"  tar -xJf {directory}/2.txz -C /tmp/site && PYTHONPATH=/tmp/site python3 tools/gpu_check --json gpu.json")


def _sources(directory: Path) -> Path:
    """What tsd is built of, elsewhere: a build leaves folders behind."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(ROOT / "tsd", directory / "tsd", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, directory)
    return directory


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "-q", *arguments], check=True)


def _unpack(wheel: Path, site: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site, [name for name in archive.namelist() if not name.startswith(LEFT_OUT)])
