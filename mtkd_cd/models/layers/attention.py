"""Multi-head attention as the transformers here need it: batch first, without the attention
matrix."""

import torch.nn.functional as F
from torch import Tensor, nn


class FusedAttention(nn.MultiheadAttention):
    """torch's attention, computed with the batch as the first axis in memory and in the fused
    kernel.

    mmcv hands its batch-first tokens over as transposed views, and a linear layer on such a view
    is several times slower than on contiguous memory. This class turns them back first. The
    attention matrix is never kept. Shapes, weights and their names are those of
    ``nn.MultiheadAttention``; calls with masks, or with biases or sizes of keys of their own, are
    computed by it.
    """

    @classmethod
    def replacing(cls, module: nn.MultiheadAttention) -> 'FusedAttention':
        """An attention with the weights of ``module``, the same objects."""
        fused = cls(
            module.embed_dim,
            module.num_heads,
            module.dropout,
            bias=module.in_proj_bias is not None,
            batch_first=module.batch_first,
            device='meta',
        )
        fused.in_proj_weight = module.in_proj_weight
        fused.in_proj_bias = module.in_proj_bias
        fused.out_proj = module.out_proj
        return fused.train(module.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Attention of (L, N, C) queries over (S, N, C) keys and values, or of batch-first ones;
        the second result is always ``None``."""
        if key_padding_mask is not None or attn_mask is not None:
            masked, _ = super().forward(
                query,
                key,
                value,
                key_padding_mask,
                need_weights=False,
                attn_mask=attn_mask,
                is_causal=is_causal,
            )
            return masked, None
        one_memory = key is value
        if not self.batch_first:
            query, key = query.transpose(0, 1), key.transpose(0, 1)
            value = key if one_memory else value.transpose(0, 1)
        q, k, v = (
            tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for tokens in self._project(query, key, value)
        )  # (N, heads, L or S, C / heads)
        attended = F.scaled_dot_product_attention(
            q, k, v, dropout_p=self.dropout if self.training else 0.0
        )
        output = self.out_proj(attended.transpose(1, 2).flatten(2))
        return output if self.batch_first else output.transpose(0, 1), None

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        width = self.embed_dim
        weight, bias = self.in_proj_weight, self.in_proj_bias
        head, tail = (None, None) if bias is None else (bias[:width], bias[width:])
        q = F.linear(query, weight[:width], head)
        if key is value:
            k, v = F.linear(key, weight[width:], tail).split(width, dim=-1)
            return q, k, v
        middle, last = (None, None) if tail is None else (tail[:width], tail[width:])
        k = F.linear(key, weight[width : 2 * width], middle)
        return q, k, F.linear(value, weight[2 * width :], last)


def fuse_attention(network: nn.Module) -> None:
    """Replace every ``nn.MultiheadAttention`` inside ``network`` by a :class:`FusedAttention` with
    the same weights under the same names.

    Left alone: those whose keys have biases, zeros or sizes of their own, and subclasses.
    """
    for parent in network.modules():
        for name, module in parent.named_children():
            if type(module) is nn.MultiheadAttention and _is_plain(module):
                setattr(parent, name, FusedAttention.replacing(module))


def _is_plain(module: nn.MultiheadAttention) -> bool:
    return module._qkv_same_embed_dim and module.bias_k is None and not module.add_zero_attn
