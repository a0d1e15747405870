"""Roles of kernels in a step, by their names.

The names are those of vLLM 0.25.1 with CUDA and its backends (Triton, Marlin, FlashInfer, CUTLASS, cuBLAS),
and the operators of vLLM's CPU build. A kernel without a pattern has the role "other" and keeps its name.
"""

import functools
import re

MOE_GEMM = "MoE GEMM"
OTHER = "other"
# The first pattern that occurs in a name decides: special names come before general ones.
_PATTERNS = {
    "KV write": r"reshape_and_cache|concat_and_cache",
    "copy": r"^Memcpy|^Memset|copy_kernel|CatArrayBatchedCopy|FillFunctor|^aten::(copy_|fill_|cat)$",
    "attention": r"(?i)flash.?(fwd|attn|attention)|flash::|unified_attention|reduce_segments|paged_attention"
    r"|BatchPrefill|BatchDecode|fmha|merge_attn_states|cpu_attention",
    "routing": r"(?i)topk_?(forward|gating|softmax)|routing|bitmatrix|_expt_data|moe_align_block"
    r"|count_and_sort|expert(maps|prefixsum|firsttoken)|expandInputRows|computeStrides|_masked_compaction"
    r"|moe_(un)?permute|moe_sum|_reduce_grouped|moe_fused_mul_sum",
    MOE_GEMM: r"(?i)matmul_ogs|marlin_moe|MoeFCGemm|moe_\w*gemm|fused_moe_kernel|GroupProblemShape"
    r"|grouped_?gemm|humming|cpu_fused_moe|fused_experts",
    "activation": r"(?i)act_and_mul|and_mul_kernel|swiglu|silu|doActivation",
    "sampling": r"(?i)gumbel|sampl|argmax|exponential|multinomial|softmax|radix|sort|topk|top_p",
    "norm": r"(?i)rms_?norm|layer_?norm|_rsqrt",
    "dense GEMM": r"(?i)nvjet|gemm|gemv|cublas|cutlass|splitK|marlin|onednn|::(mm|bmm|addmm|linear|matmul)$",
}
ROLES = [*_PATTERNS, OTHER]
_COMPILED = [(role, re.compile(pattern)) for role, pattern in _PATTERNS.items()]


@functools.cache
def role_of(name: str) -> str:
    """Return the role of a kernel."""
    return next((role for role, pattern in _COMPILED if pattern.search(name)), OTHER)
