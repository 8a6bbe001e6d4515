"""Runner V2, which vLLM uses on GPUs: reports rows through the model's own state class, and requests by their slot."""

from __future__ import annotations

from typing import Any

from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from dola.serving.rows import Batch


def state_class(batch: Batch) -> type[Any]:
    """The state class of a model with this batch, for `get_model_state_cls`."""

    class DoLaModelState(DefaultModelState):  # type: ignore[misc]
        def prepare_inputs(self, input_batch: Any, req_states: Any) -> Any:
            slots = enumerate(input_batch.idx_mapping_np.tolist())
            batch.requests = {row: batch.slots[slot] for row, slot in slots if slot in batch.slots}
            batch.announce()
            return super().prepare_inputs(input_batch, req_states)

        def custom_sampler(self, sampler: Any) -> Any:
            batch.processors = sampler.logits_processors
            return super().custom_sampler(sampler)

    return DoLaModelState
