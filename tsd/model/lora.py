"""Low-rank adapters (Hu et al., 2022), by peft: a few weights learn in place of all, and travel merged into them.

Knows nothing about training. Engines and checkpoints never see an adapter: they get the merged model.
"""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

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


def merged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A policy's tensors with the adapters added into the weights, under the names of a policy without any."""
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if DOWN in name or UP in name:
            continue
        if BASE in name and (down := tensors.get(name.replace(BASE, DOWN))) is not None:
            tensor = tensor + 2 * tensors[name.replace(BASE, UP)] @ down
        plain[name.replace(BASE, "")] = tensor
    return plain


def save_adapters(tensors: dict[str, Tensor], directory: Path) -> None:
    """The adapters alone, for a run that goes on."""
    own = {name: tensor.contiguous() for name, tensor in tensors.items() if DOWN in name or UP in name}
    save_file(own, directory / ADAPTER_FILE)


def load_adapters(policy: Policy, directory: Path) -> None:
    """What `save_adapters` wrote."""
    _, unexpected = policy.causal.load_state_dict(load_file(directory / ADAPTER_FILE), strict=False)
    assert not unexpected, f"{directory} holds adapters of another model: {unexpected[:3]}"
