"""What dola uses of vLLM, name by name, and whether a vLLM has it: read from its source, without importing it or a GPU.

    python -m dola.integrations.vllm.contract [FOLDER]      the installed vLLM, or the one whose package is in FOLDER

A version of vLLM that the tests have not run starts with a warning and this result. docs/new-vllm.md: how to move to one.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Symbol:
    """One name of vLLM that dola uses.

    Attributes:
        module: Where it is defined, below `vllm`.
        name: A function, a class, a variable, or one of these in a class.
        parameters: Parameters that it must have, in this order; all others need defaults. None if it is not a function.
        needs_text: Source that its definition must contain.
    """

    module: str
    name: str
    parameters: tuple[str, ...] | None = None
    needs_text: str = ""


REGISTRY, CONFIG = "model_executor.models.registry", "config.model"
V1_PROCESSOR, V2_PROCESSOR = "v1.sample.logits_processor.interface", "v1.worker.gpu.sample.logits_processor.interface"
HEADS, LOGITS = "model_executor.layers.vocab_parallel_embedding", "model_executor.layers.logits_processor"
REQUEST = ("self", "request", "raw_request")

CONTRACT = (
    # registration and settings: plugin.py, models.py
    Symbol(REGISTRY, "_ModelRegistry.register_model", ("self", "model_arch", "model_cls")),
    Symbol(REGISTRY, "_ModelRegistry.get_supported_archs", ("self",)),
    Symbol(REGISTRY, "_TEXT_GENERATION_MODELS"),
    Symbol(REGISTRY, "_MULTIMODAL_MODELS"),
    Symbol(REGISTRY, "_TRANSFORMERS_SUPPORTED_MODELS"),
    Symbol(REGISTRY, "_TRANSFORMERS_BACKEND_MODELS"),
    Symbol("model_executor.models.config", "MODELS_CONFIG_MAP"),
    Symbol("model_executor.models.config", "VerifyAndUpdateConfig.verify_and_update_config", ("vllm_config",)),
    Symbol("config.vllm", "set_current_vllm_config", ("vllm_config",)),
    Symbol("config.vllm", "VllmConfig.additional_config"),
    Symbol("config.vllm", "VllmConfig.instance_id"),
    Symbol("config.vllm", "VllmConfig.speculative_config"),
    Symbol("config.vllm", "VllmConfig.lora_config"),
    Symbol("config.vllm", "VllmConfig.quant_config"),
    Symbol("config.vllm", "VllmConfig.load_config"),
    Symbol("config.compilation", "CompilationMode.STOCK_TORCH_COMPILE", needs_text="= 1"),
    Symbol("config.compilation", "CompilationConfig.static_forward_context"),
    Symbol("config.compilation", "CUDAGraphMode.PIECEWISE"),
    Symbol("model_executor.layers.rotary_embedding", "_ROPE_DICT"),
    Symbol("config.compilation", "CompilationConfig.max_cudagraph_capture_size"),
    Symbol("config.scheduler", "SchedulerConfig.max_num_seqs"),
    Symbol("config.cache", "CacheConfig.kv_sharing_fast_prefill"),
    Symbol("config.parallel", "ParallelConfig.enable_batch_sharded_sampling"),
    Symbol("config.parallel", "ParallelConfig.use_ubatching"),
    Symbol("config.parallel", "ParallelConfig.pipeline_parallel_size"),
    Symbol("config.scheduler", "SchedulerConfig.max_num_batched_tokens"),
    Symbol("model_executor.model_loader.utils", "initialize_model", ("vllm_config",)),
    Symbol("engine.arg_utils", "EngineArgs.from_cli_args", ("cls", "args")),
    Symbol("engine.arg_utils", "EngineArgs.create_engine_config", ("self",)),
    Symbol("utils.argparse_utils", "FlexibleArgumentParser"),
    Symbol(CONFIG, "ModelConfig.architecture"),
    Symbol(CONFIG, "ModelConfig.hf_text_config"),
    Symbol(CONFIG, "ModelConfig.get_hidden_size", ("self",)),
    Symbol(CONFIG, "ModelConfig.get_vocab_size", ("self",)),
    Symbol(CONFIG, "ModelConfig.uses_mrope"),
    Symbol(CONFIG, "ModelConfig.is_encoder_decoder"),
    Symbol(CONFIG, "ModelConfig.supports_multimodal_inputs"),
    Symbol(CONFIG, "ModelConfig.requires_raw_input_tokens"),
    Symbol(CONFIG, "ModelConfig.try_get_generation_config", ("self",)),
    # the model: mixin.py, capture.py, proof.py
    Symbol("model_executor.model_loader.base_loader", "BaseModelLoader.load_model", needs_text="return model.eval()"),
    Symbol("forward_context", "get_forward_context", ()),
    Symbol("forward_context", "set_forward_context", ("attn_metadata", "vllm_config", "num_tokens")),
    Symbol("forward_context", "ForwardContext.attn_metadata"),
    Symbol("forward_context", "ForwardContext.cudagraph_runtime_mode"),
    # speculation and metrics: speculation.py, metrics.py
    Symbol("v1.sample.logits_processor", "build_logitsprocs", ("vllm_config", "device", "is_pin_memory", "is_pooling_model")),
    Symbol(
        "v1.worker.gpu_model_runner",
        "GPUModelRunner._calc_spec_decode_metadata",
        ("self", "num_draft_tokens", "cu_num_scheduled_tokens"),
    ),
    Symbol("v1.engine.input_processor", "InputProcessor.process_inputs"),
    Symbol("exceptions", "VLLMValidationError"),
    Symbol("config.vllm", "VllmConfig.use_v2_model_runner"),
    Symbol("config.speculative", "SpeculativeConfig.method"),
    Symbol("config.speculative", "SpeculativeConfig.num_speculative_tokens"),
    Symbol("config.speculative", "SpeculativeConfig.rejection_sample_method"),
    Symbol("sequence", "IntermediateTensors.tensors"),
    Symbol("distributed.parallel_state", "get_pp_group", ()),
    Symbol("distributed.parallel_state", "get_tensor_model_parallel_rank", ()),
    Symbol("distributed.communication_op", "tensor_model_parallel_all_gather", ("input_", "dim")),
    Symbol("model_executor.models.interfaces", "SupportsMultiModal.get_language_model", ("self",)),
    # where requests start in a batch, for the backends that dola has seen
    Symbol("v1.attention.backends.flash_attn", "FlashAttentionMetadata.query_start_loc"),
    Symbol("v1.attention.backends.triton_attn", "TritonAttentionMetadata.query_start_loc"),
    Symbol("v1.attention.backends.cpu_attn", "CPUAttentionMetadata.query_start_loc"),
    # the head: parts.py, readout.py, sharded.py
    Symbol(HEADS, "ParallelLMHead"),
    Symbol(HEADS, "VocabParallelEmbedding.embedding_dim"),
    Symbol(HEADS, "VocabParallelEmbedding.num_embeddings"),
    Symbol(HEADS, "VocabParallelEmbedding.shard_indices"),
    Symbol(HEADS, "VocabParallelEmbedding.tp_size"),
    Symbol(HEADS, "VocabParallelEmbeddingShardIndices.num_org_elements", ("self",)),
    Symbol(LOGITS, "LogitsProcessor.forward", ("self", "lm_head", "hidden_states", "embedding_bias")),
    Symbol(LOGITS, "LogitsProcessor._get_logits", ("self", "hidden_states", "lm_head", "embedding_bias")),
    Symbol(LOGITS, "LogitsProcessor._gather_logits", ("self", "logits")),
    Symbol(LOGITS, "LogitsProcessor.soft_cap"),
    Symbol(LOGITS, "LogitsProcessor.scale"),
    Symbol(LOGITS, "LogitsProcessor.org_vocab_size"),
    # requests: requests.py, runner_v2.py
    Symbol("v1.sample.logits_processor.builtin", "process_dict_updates", ("req_entries", "batch_update", "new_state")),
    Symbol(V1_PROCESSOR, "LogitsProcessor.validate_params", ("cls", "sampling_params")),
    Symbol(V1_PROCESSOR, "LogitsProcessor.update_state", ("self", "batch_update")),
    Symbol(V1_PROCESSOR, "LogitsProcessor.is_argmax_invariant", ("self",)),
    Symbol(V1_PROCESSOR, "LogitsProcessor.apply", ("self", "logits")),
    Symbol(V2_PROCESSOR, "LogitsProcessor.validate_params", ("cls", "sampling_params")),
    Symbol(V2_PROCESSOR, "LogitsProcessor.add_request", ("self", "req_idx", "sampling_params")),
    Symbol(V2_PROCESSOR, "LogitsProcessor.apply", ("self", "logits", "ctx")),
    Symbol("v1.worker.gpu.model_states.default", "DefaultModelState.prepare_inputs", ("self", "input_batch", "req_states")),
    Symbol("v1.worker.gpu.model_states.interface", "ModelState.custom_sampler", ("self", "sampler")),
    Symbol("v1.worker.gpu.input_batch", "InputBatch.idx_mapping_np"),
    Symbol("v1.worker.gpu.sample.sampler", "Sampler.logits_processors"),
    # checks of requests: gate.py
    Symbol("entrypoints.serve.engine.serving", "BaseServing._check_model", ("self", "request")),
    Symbol("entrypoints.generate.beam_search.online", "BeamSearchOnlineMixin.beam_search"),
    Symbol("entrypoints.generate.beam_search.offline", "BeamSearchOfflineMixin.beam_search"),
    Symbol("entrypoints.anthropic.serving", "AnthropicServingMessages.create_messages", ("self", "request", "raw_request")),
    Symbol("entrypoints.cohere.serving", "CohereServingChatV2.create_chat_v2", ("self", "request", "raw_request")),
    Symbol(
        "entrypoints.scale_out.token_in_token_out.serving", "ServingTokens.serve_tokens", ("self", "request", "raw_request")
    ),
)


def failures(root: Path | None = None) -> list[str]:
    """What a vLLM lacks, one sentence each; empty if the contract holds.

    Args:
        root: The folder of the package `vllm`. By default that of the installed one, which is not imported.
    """
    if root is None:
        spec = find_spec("vllm")
        if spec is None or spec.origin is None:
            return ["vLLM is not installed"]
        root = Path(spec.origin).parent
    return [found for symbol in CONTRACT if (found := _failure(root, symbol))]


def _failure(root: Path, symbol: Symbol) -> str:
    where = f"vllm.{symbol.module}.{symbol.name}"
    try:
        tree, text = _source(root, symbol.module)
    except FileNotFoundError:
        return f"vllm.{symbol.module} does not exist"
    node = _find(tree, symbol.name.split("."))
    if node is None:
        return f"{where} does not exist"
    if symbol.needs_text and symbol.needs_text not in (ast.get_source_segment(text, node) or ""):
        return f"{where} does not contain {symbol.needs_text!r}"
    if symbol.parameters is None:
        return ""
    if not isinstance(node, FunctionNode):
        return f"{where} is not a function"
    return _signature(where, node, symbol.parameters)


def _signature(where: str, node: FunctionNode, wanted: tuple[str, ...]) -> str:
    given, keywords = [*node.args.posonlyargs, *node.args.args], node.args.kwonlyargs
    names = [argument.arg for argument in (*given, *keywords)]
    if [name for name in names if name in wanted] != list(wanted):
        return f"{where} takes ({', '.join(names)}), not ({', '.join(wanted)})"
    required = [argument.arg for argument in given[: len(given) - len(node.args.defaults)]]
    required += [argument.arg for argument, default in zip(keywords, node.args.kw_defaults, strict=True) if default is None]
    if more := [name for name in required if name not in wanted]:
        return f"{where} also requires {', '.join(more)}"
    return ""


@cache
def _source(root: Path, module: str) -> tuple[ast.Module, str]:
    path = root.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = path.read_text(encoding="utf-8")
    return ast.parse(text), text


def _find(tree: ast.AST, names: list[str]) -> ast.AST | None:
    """The definition of a name in a module or a class: a def, a class, a variable, or what a method assigns to `self`."""
    first, *rest = names
    for node in _statements(tree):
        if isinstance(node, FunctionNode | ast.ClassDef) and node.name == first:
            return _find(node, rest) if rest else node
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        for target in targets:
            name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
            if name == first and not rest:
                return node
    return None


def _statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Statements of a module or a class, then what the class's methods assign to `self`."""
    body = list(getattr(tree, "body", ()))
    for node in body:
        yield node
        if isinstance(node, ast.If):  # definitions for one Python or one platform
            yield from node.body
    if isinstance(tree, ast.ClassDef):
        for method in body:
            if isinstance(method, FunctionNode):
                for node in ast.walk(method):
                    if isinstance(node, ast.Assign | ast.AnnAssign):
                        yield node


def main() -> int:
    """Check the vLLM that is installed or named, and print what it lacks. Returns 1 if it lacks something."""
    found = failures(Path(sys.argv[1]) if sys.argv[1:] else None)
    print("\n".join(found) or f"vLLM has all {len(CONTRACT)} names that dola uses, with the parameters that it needs.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
