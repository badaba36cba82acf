"""A policy's forward pass as the torch engine decodes: one flat batch of tokens, and attention left to the caller.

The policy's own weights, in fewer and larger products than Hugging Face's modules: query, key and value in one, gate
and up in one, in oneDNN's blocked layout where there is one. Knows nothing about sequences, caches or sampling.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, rms_norm

from tsd.model.policy import Policy

Linear = Callable[[Tensor], Tensor]
Attend = Callable[[int, Tensor, Tensor], Tensor]
"""Layer, queries [N, G, Hk, D], new keys and values [N, 2, Hk, D] to attended [N, G, Hk, D]; Hq = G * Hk."""
USUAL_BATCH = 256
"""The number of tokens whose products the blocked layout is chosen for; any other number works."""


def packed_linear(weight: Tensor, bias: Tensor | None) -> Linear:
    """x [N, in] to x @ weight.T + bias, twice as fast on a CPU where oneDNN can hold `weight` in its own layout."""
    if weight.is_cuda or weight.dtype != torch.float32 or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return lambda x: linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, USUAL_BATCH)
    product = torch.ops.mkldnn._linear_pointwise
    return lambda x: product(x, packed, bias, "none", [], "")


def _fused(*modules: Any) -> Linear:
    """Several linear modules over one input, their outputs one after the other."""
    biases = [module.bias for module in modules if module.bias is not None]
    return packed_linear(torch.cat([module.weight for module in modules]), torch.cat(biases) if biases else None)


class _Layer:
    """One layer's weights, fused. Query heads are kept group by group: head g of every key head, then head g + 1."""

    def __init__(self, layer: Any, key_heads: int, head_size: int) -> None:
        attention, mlp = layer.self_attn, layer.mlp

        def by_group(tensor: Tensor) -> Tensor:
            """[Hk * G * D, ...] to [G * Hk * D, ...]."""
            rest = tensor.shape[1:]
            return tensor.reshape(key_heads, -1, head_size, *rest).transpose(0, 1).reshape(-1, *rest)

        parts = [(by_group(attention.q_proj.weight), attention.q_proj.bias)]
        parts += [(projection.weight, projection.bias) for projection in (attention.k_proj, attention.v_proj)]
        biases = [bias for _, bias in parts if bias is not None]
        if biases:
            biases[0] = by_group(biases[0])
        self.qkv = packed_linear(torch.cat([weight for weight, _ in parts]), torch.cat(biases) if biases else None)
        self.attended = packed_linear(by_group(attention.o_proj.weight.T).T.contiguous(), attention.o_proj.bias)
        self.gate_up = _fused(mlp.gate_proj, mlp.up_proj)
        self.down = _fused(mlp.down_proj)
        self.activation = mlp.act_fn
        self.norm, self.mlp_norm = layer.input_layernorm, layer.post_attention_layernorm
        self.q_norm, self.k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)


def _normed(x: Tensor, norm: Any) -> Tensor:
    return rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)


class Trunk:
    """Copies of a policy's weights, as they were when it was made, and the forward pass over them."""

    @torch.inference_mode()
    def __init__(self, policy: Policy, max_tokens: int) -> None:
        model, config = policy.causal.model, policy.causal.config
        self.num_layers, self.key_heads = config.num_hidden_layers, config.num_key_value_heads
        self.head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.groups = config.num_attention_heads // self.key_heads  # G
        self.layers = [_Layer(layer, self.key_heads, self.head_size) for layer in model.layers]
        self.policy, self.embedding, self.norm = policy, model.embed_tokens.weight, model.norm
        cos, sin = model.rotary_emb(self.embedding, torch.arange(max_tokens, device=self.device)[None])
        sign = torch.ones(self.head_size, dtype=sin.dtype, device=self.device)
        sign[: self.head_size // 2] = -1
        self.cos, self.sin = cos[0, :, None], (sin[0] * sign)[:, None]  # [max_tokens, 1, D]

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        return self.embedding.device  # type: ignore[no-any-return]

    def __call__(self, tokens: Tensor, positions: Tensor, attend: Attend, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Float32 logits [W, V] and values [W] after the `wanted` [W] of the tokens [N], at positions [N]."""
        x = embedding(tokens, self.embedding)  # [N, H]
        cos, sin = self.cos[positions], self.sin[positions]  # [N, 1, D]
        for number, layer in enumerate(self.layers):
            queries, key_values = self._queries_keys_values(layer, _normed(x, layer.norm), cos, sin)
            x = x + layer.attended(attend(number, queries, key_values).flatten(1))
            gate, up = layer.gate_up(_normed(x, layer.mlp_norm)).chunk(2, dim=-1)
            x = x + layer.down(layer.activation(gate).mul_(up))
        hidden = _normed(x[wanted], self.norm)
        return self.policy.logits(hidden), self.policy.value_head(hidden)

    def _queries_keys_values(self, layer: _Layer, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """[N, G, Hk, D] and [N, 2, Hk, D], turned by their positions."""
        heads = layer.qkv(x).view(-1, self.groups + 2, self.key_heads, self.head_size)
        if layer.q_norm is not None:
            heads[:, : self.groups] = _normed(heads[:, : self.groups], layer.q_norm)
            heads[:, self.groups] = _normed(heads[:, self.groups], layer.k_norm)
        turning = heads[:, :-1].flatten(1, 2)  # [N, (G + 1) * Hk, D], a view
        turned = torch.addcmul(turning * cos, turning.roll(self.head_size // 2, -1), sin)
        heads[:, :-1] = turned.view_as(heads[:, :-1])
        return heads[:, :-2], heads[:, -2:]
