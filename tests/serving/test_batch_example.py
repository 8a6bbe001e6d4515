"""examples/vllm_batch.py answers each line of a file as `dola.generate` would."""

from __future__ import annotations

import json
import runpy
from functools import partial
from pathlib import Path

import pytest
from engines import Judge

EXAMPLE = Path(__file__).parents[2] / "examples" / "vllm_batch.py"


def test_every_line_gets_the_layers_that_it_asks_for(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import vllm

    monkeypatch.setattr(vllm, "LLM", partial(vllm.LLM, dtype="float32"))  # by itself vLLM makes 16 bits of them
    lines = [{"prompt": "abc def"}, {"prompt": "Hello there", "dola_layers": "off"}, {"prompt": "xyz", "dola_layers": [2, 4]}]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    main = runpy.run_path(str(EXAMPLE))["main"]
    main(str(tiny_folder), str(tmp_path / "questions.jsonl"), str(tmp_path / "answers.jsonl"))
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [{key: answer[key] for key in line} for line, answer in zip(lines, answers, strict=True)] == lines
    judge = Judge(tiny_folder)
    for answer, layers in zip(answers, ("high", None, [2, 4]), strict=True):
        ids = judge.tokens(answer["prompt"], layers, repetition_penalty=1.2, max_new_tokens=64)
        assert answer["answer"] == judge.tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd")
