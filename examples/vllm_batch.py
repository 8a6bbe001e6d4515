"""Answer the questions of a file with vLLM and DoLa, many at a time.

    pip install 'dola-decoding[vllm]'
    python examples/vllm_batch.py MODEL questions.jsonl answers.jsonl

Each line of the file is {"prompt": "..."}; a line may set its own "dola_layers": "high", "low", "off" or a list.
"""

import json
import sys
from pathlib import Path

from vllm import LLM, SamplingParams


def main(model: str, questions: str, answers: str) -> None:
    asked = [json.loads(line) for line in Path(questions).read_text().splitlines()]
    # "capture": "all" lets every line choose its layers; "layers" is the default of lines that do not set any.
    llm = LLM(model, additional_config={"dola": {"layers": "high", "capture": "all"}})
    params = [
        SamplingParams(
            temperature=0,
            max_tokens=64,
            repetition_penalty=1.2,  # the contrast loops in long texts without one
            extra_args={"dola_layers": line.get("dola_layers", "on")},
        )
        for line in asked
    ]
    outputs = llm.generate([line["prompt"] for line in asked], params)
    with Path(answers).open("w") as file:
        for line, output in zip(asked, outputs, strict=True):
            file.write(json.dumps({**line, "answer": output.outputs[0].text}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
