"""Low-rank adapters (Hu et al., 2022), by peft: a few weights learn in place of all, and they alone travel.

Knows nothing about training. Engines and checkpoints never see an adapter: they get the merged model.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from tsd.model.files import HEAD_PREFIX
from tsd.model.policy import Policy

ADAPTER_FILE = "adapter.safetensors"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
DOWN, UP, BASE = ".lora_A.default", ".lora_B.default", ".base_layer"


def add_adapters(policy: Policy, rank: int) -> None:
    """Freezes the trunk and adds adapters of that rank to its linear layers, with the scale of 2; they start at 0.

    The value head goes on learning. Raises ValueError where peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ValueError("train.lora_rank needs peft; install it with: pip install 'tsd[lora]'") from None
    config: Any = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS)
    inject_adapter_in_model(config, policy.causal)
    for name, parameter in policy.causal.named_parameters():
        parameter.requires_grad_(DOWN in name or UP in name)


def learned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a policy with adapters learns: these, and the value head."""
    return {name: t for name, t in tensors.items() if DOWN in name or UP in name or name.startswith(HEAD_PREFIX)}


def merged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A policy's tensors with the adapters added into the weights, under the names of a policy without any."""
    plain = {name.replace(BASE, ""): t for name, t in tensors.items() if DOWN not in name and UP not in name}
    return {name: adapted(name, tensor, tensors) for name, tensor in plain.items()}


def adapted(name: str, weight: Tensor, adapters: Mapping[str, Tensor]) -> Tensor:
    """The weight of that name in a policy without adapters, with its own added; itself where it has none."""
    layer, _, kind = name.rpartition(".")
    down, up = (adapters.get(f"{layer}{part}.{kind}") for part in (DOWN, UP))
    return weight if down is None or up is None else weight + 2 * up @ down


def adapted_names(adapters: Iterable[str]) -> set[str]:
    """Which weights adapters of those names are for."""
    return {name.replace(DOWN, "") for name in adapters if DOWN in name}


def save_adapters(tensors: dict[str, Tensor], directory: Path) -> None:
    """The adapters alone, for a run that goes on."""
    own = {name: tensor.contiguous() for name, tensor in tensors.items() if DOWN in name or UP in name}
    save_file(own, directory / ADAPTER_FILE)


def load_adapters(policy: Policy, directory: Path) -> None:
    """What `save_adapters` wrote."""
    _, unexpected = policy.causal.load_state_dict(load_file(directory / ADAPTER_FILE), strict=False)
    assert not unexpected, f"{directory} holds adapters of another model: {unexpected[:3]}"
