"""Tells vLLM of tsd's value models. vLLM calls `register` in each of its processes, through the package's entry point.

Imports nothing heavy and knows nothing about the models themselves; `vllm_model` does.
"""

VALUE_MODELS = {
    "Qwen2ForCausalLM": "TsdQwen2ForCausalLM",
    "Qwen3ForCausalLM": "TsdQwen3ForCausalLM",
    "LlamaForCausalLM": "TsdLlamaForCausalLM",
}
"""A checkpoint's architecture, and the value model that serves it."""

TEMPERATURE = "tsd_temperature"
"""The key of the model's config under which the value model finds the sampling temperature."""


VALUE_SHIFT = 100.0
"""What the column of V holds V less of: exp(V - 100) is no chance at all, and float32 keeps V to 4e-6 there."""


def register() -> None:
    """Names the value models to vLLM. May be called again; the models are imported when one is used."""
    from vllm import ModelRegistry

    for name in VALUE_MODELS.values():
        ModelRegistry.register_model(name, f"tsd.engine.vllm_model:{name}")
