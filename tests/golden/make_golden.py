"""Record what transformers 4.55.4's in-core DoLa decodes, as the golden file of the tests.

Run in an environment of its own, once (the result is committed):

    python -m venv .venv-golden
    .venv-golden/bin/pip install torch==2.13.0 transformers==4.55.4
    .venv-golden/bin/python tests/golden/make_golden.py smollm2=FOLDER gemma3-270m=FOLDER > OUTPUT.json

FOLDER is the embedded model as safetensors, saved by transformers 5 with `save_pretrained` in float32. transformers 4 reads
`rope_theta` at the top level of config.json, where version 5 writes `rope_parameters`: this script moves it in memory.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

PROMPTS = [
    'Answer with a short answer. Question: What does Darth Vader say to Luke in "The Empire Strikes Back"? Answer: ',
    "On what date was the Declaration of Independence officially signed?",
    "The capital of Washington State is",
    "Q: When did Wole Soyinka win the Nobel Prize in Literature?\nA:",
    "def fibonacci(n):\n    ",
    "List three facts about the moon:\n1.",
]
CASES = {
    "smollm2": {"prompts": 6, "new_tokens": 40, "layers": ["low", "high", [24], [10, 28]]},
    "gemma3-270m": {"prompts": 4, "new_tokens": 24, "layers": ["low", "high", [15], [8, 16]]},
}


def load(folder):
    """The model of a folder that transformers 5 wrote, with the rope settings where version 4 looks for them."""
    raw = json.loads((Path(folder) / "config.json").read_text())
    rope = raw.pop("rope_parameters")
    if "full_attention" in rope:
        raw["rope_theta"] = rope["full_attention"]["rope_theta"]
        raw["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    else:
        raw["rope_theta"] = rope["rope_theta"]
    config = AutoConfig.for_model(**raw)
    return AutoModelForCausalLM.from_pretrained(folder, config=config, torch_dtype=torch.float32).eval()


def main():
    torch.manual_seed(0)
    records = []
    for argument in sys.argv[1:]:
        name, folder = argument.split("=")
        case, model, tokenizer = CASES[name], load(folder), Tokenizer.from_file(f"{folder}/tokenizer.json")
        for prompt in PROMPTS[: case["prompts"]]:
            prompt_ids = tokenizer.encode(prompt).ids
            input_ids = torch.tensor([prompt_ids])
            for layers in [None, *case["layers"]]:
                for penalty in (1.0, 1.2):
                    out = model.generate(
                        input_ids,
                        attention_mask=torch.ones_like(input_ids),
                        do_sample=False,
                        max_new_tokens=case["new_tokens"],
                        repetition_penalty=penalty,
                        pad_token_id=0,
                        **({} if layers is None else {"dola_layers": layers}),
                    )
                    records.append(
                        {
                            "model": name,
                            "prompt_ids": prompt_ids,
                            "layers": layers,
                            "repetition_penalty": penalty,
                            "max_new_tokens": case["new_tokens"],
                            "new_ids": out[0, len(prompt_ids) :].tolist(),
                        }
                    )
                    print(name, layers, penalty, file=sys.stderr)
    header = {"transformers": transformers.__version__, "torch": torch.__version__, "dtype": "float32"}
    rows = ",\n".join(json.dumps(record) for record in records)
    print(f'{{"made_with": {json.dumps(header)},\n"records": [\n{rows}\n]}}')


if __name__ == "__main__":
    main()
