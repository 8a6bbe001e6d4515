"""A cost model of a step, in reads of the weights: a product is memory-bound up to some number of rows, then compute-bound.

Two decisions use it: whether the candidates' rows go through the LM head together with the mature row (step.py), and how many
drafted tokens one forward tries (drafts.py). The constants come from the measurements named beside them. Constants give the
same tokens in every run, which timing at run time would not.
"""

from __future__ import annotations

import torch

ARITHMETIC_BOUND = {("cpu", torch.bfloat16): 8, ("cpu", torch.float32): 4, ("cuda", torch.bfloat16): 300}
"""Number of rows above which a product's time grows with its rows; below, it is the time of reading the weights. On CPUs from
tables as benchmarks/head_product.py prints them; on CUDA the ratio of an H100's arithmetic rate to its bandwidth."""
ARITHMETIC_BOUND_ELSEWHERE = 16
NATIVE_BOUND = {torch.bfloat16: 17, torch.float32: 18}
"""The same limit for the compiled kernel of the LM head."""
FORWARD_BOUND = {("cpu", torch.bfloat16): 20, ("cpu", torch.float32): 13, ("cuda", torch.bfloat16): 300}
"""Number of tokens whose arithmetic takes as long as a whole step with one token, which is bound by memory and by the host's
work between products. On CPUs from benchmarks/forward_rows.py, on CUDA as above."""
FORWARD_BOUND_ELSEWHERE = 16
UNDECIDED = 0.6
"""Share of rows with more than one plausible token: 0.69 on SmolLM2, 0.24 to 0.42 on Gemma 3 (five prompts, high layers)."""


def product_bound(device: str, dtype: torch.dtype) -> float:
    """Number of rows up to which torch's product with weights in `dtype` takes as long as with one row."""
    return ARITHMETIC_BOUND.get((device, dtype), ARITHMETIC_BOUND_ELSEWHERE)


def native_bound(dtype: torch.dtype) -> float:
    """`product_bound` for the compiled kernel."""
    return NATIVE_BOUND[dtype]


def product_cost(rows: float, bound: float) -> float:
    """Modeled time of a product with `rows` rows, in reads of its weights."""
    return max(1.0, rows / bound)


def cheaper_together(rows: int, candidates: int, *, bound: float, lazy: bool) -> bool:
    """Whether one product with K + 1 rows per row should be faster than two: one for the mature rows, then one for the
    premature rows. With `lazy` the second skips rows with a single plausible token.

    Args:
        rows: Number of positions.
        candidates: K.
        bound: `product_bound` or `native_bound`, whichever multiplies.
        lazy: Whether rows may be skipped.
    """
    undecided = UNDECIDED if lazy else 1.0
    some = 1 - (1 - undecided) ** rows
    together = product_cost(rows * (candidates + 1), bound)
    apart = product_cost(rows, bound) + some * product_cost(rows * undecided / some * candidates, bound)
    return together <= apart


def forward_cost(rows: int, *, candidates: int, head_share: float, device: str, dtype: torch.dtype) -> float:
    """Modeled time of a contrasted forward pass over `rows` tokens after a cache, relative to one token.

    Args:
        rows: Number of tokens.
        candidates: K, the number of candidate layers.
        head_share: The LM head's share of the weights of head and blocks.
        device: Type of the device, by torch's name.
        dtype: Dtype of the weights.
    """
    contrast = UNDECIDED * candidates * head_share
    return 1 + (rows - 1) * (1 + contrast) / FORWARD_BOUND.get((device, dtype), FORWARD_BOUND_ELSEWHERE)
