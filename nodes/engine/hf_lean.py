"""A Llama's forward in fewer, larger calls. On a CPU a small model spends more time between its kernels than in them:
transformers' own forward of the bundled target takes 1.6 times as long, of the bundled draft twice.

The sums are transformers' own (float32, on the CPU): queries, keys and values come from one product, gate and up from
another, a norm is one call. Other models, other devices and whatever is not plain Llama are left to transformers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

PLAIN = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}


def fits(model: PreTrainedModel) -> bool:
    """Is it a plain Llama, in float32, on the CPU, and whole?"""
    config = model.config
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    plain = all(getattr(config, key, None) == value for key, value in PLAIN.items())
    at_home = model.device.type == "cpu" and model.dtype == torch.float32 and not getattr(model, "_tp_size", None)
    return plain and at_home and rope.get("rope_type", rope.get("type", "default")) == "default"


class LeanLlama:
    """Called with a session's new token ids and its cache; feeds them and answers [rows, V] logits of the last."""

    def __init__(self, model: PreTrainedModel) -> None:
        config, body = model.config, model.model
        self.n_heads, self.n_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.width, self.hidden, self.eps = body.layers[0].self_attn.head_dim, config.hidden_size, config.rms_norm_eps
        self.embedding, self.norm = body.embed_tokens.weight, body.norm.weight
        self.head = model.get_output_embeddings()
        self.inverse_frequencies = body.rotary_emb.inv_freq.float()
        self.layers = [
            (
                layer.input_layernorm.weight,
                _joined([layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]),
                layer.self_attn.o_proj.weight,
                layer.post_attention_layernorm.weight,
                _joined([layer.mlp.gate_proj, layer.mlp.up_proj]),
                layer.mlp.down_proj.weight,
            )
            for layer in body.layers
        ]

    def __call__(self, ids: Sequence[int], cache: DynamicCache, rows: int) -> Tensor:
        past, n_new = cache.get_seq_length(), len(ids)
        cos, sin = self._rotation(past, past + n_new)
        mask = torch.ones(n_new, past + n_new, dtype=torch.bool).tril_(past) if past and n_new > 1 else None
        n_turned, n_all = self.n_heads + self.n_kv_heads, self.n_heads + 2 * self.n_kv_heads
        x = F.embedding(torch.tensor(ids), self.embedding)  # [T, hidden]
        for index, (norm_in, qkv, out, norm_mid, gate_up, down) in enumerate(self.layers):
            heads = F.linear(self._norm(x, norm_in), qkv).view(1, n_new, n_all, self.width).transpose(1, 2)
            turned = heads[:, :n_turned]  # queries and keys
            turned = turned * cos + turned.roll(self.width // 2, -1) * sin
            keys, values = cache.update(turned[:, self.n_heads :], heads[:, n_turned:], index)
            seen = F.scaled_dot_product_attention(
                turned[:, : self.n_heads],
                keys,
                values,
                attn_mask=mask,
                is_causal=not past and n_new > 1,
                enable_gqa=self.n_heads != self.n_kv_heads,
            )
            x = x + F.linear(seen[0].transpose(0, 1).flatten(1), out)
            gate, up = F.linear(self._norm(x, norm_mid), gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, down)
        return self.head(self._norm(x[n_new - rows :], self.norm))

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (self.hidden,), weight, self.eps)

    def _rotation(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """cos and sin [T, width] of each position's angles; the sign of the turn is in the first half of sin."""
        angles = torch.arange(start, end, dtype=torch.float32)[:, None] * self.inverse_frequencies
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)


def _joined(linears: list[nn.Linear]) -> Tensor:
    """Their weights one below the other, in one piece of memory that the layers themselves use from now on."""
    joined = torch.cat([linear.weight.detach() for linear in linears])
    for linear, part in zip(linears, joined.split([linear.out_features for linear in linears])):
        linear.weight = nn.Parameter(part, requires_grad=False)
    return joined
