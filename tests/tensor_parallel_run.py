"""What two processes decode that share a model's weights: `torchrun --nproc-per-node 2 tensor_parallel_run.py FOLDER OUT`.

Without torchrun, what one process decodes with all of them. Results go to OUT.RANK, as JSON.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import dola
from dola import native

PROMPT = torch.tensor([[5, 17, 200, 33, 8], [0, 0, 9, 44, 71]])
SETTINGS = {"attention_mask": (PROMPT != 0).long(), "max_new_tokens": 12, "repetition_penalty": 1.2, "pad_token_id": 0}
TEXT = "The capital of France is"


def sampled(model):
    torch.manual_seed(3)
    return dola.generate(model, PROMPT, dola_layers="high", do_sample=True, **SETTINGS).tolist()


def attached(model):
    with dola.attach(model, "low"):
        return model.generate(PROMPT, do_sample=False, **SETTINGS).tolist()


def likelihoods(model, tokenizer):
    configs = {"dola": dola.DoLaConfig("all"), "vanilla": None}
    return dola.score(model, tokenizer, [TEXT], [[" Paris", " Rome"]], configs, progress=False).values


def results(model, tokenizer):
    greedy = {"do_sample": False, **SETTINGS}
    trace = dola.trace(model, tokenizer, TEXT, "all")
    return {
        "plain": model.generate(PROMPT, **greedy).tolist(),
        "high": dola.generate(model, PROMPT, dola_layers="high", **greedy).tolist(),
        "all, not lazy": dola.generate(model, PROMPT, dola_layers=dola.DoLaConfig("all", lazy=False), **greedy).tolist(),
        "one layer": dola.generate(model, PROMPT, dola_layers=[1], **greedy).tolist(),
        "beams": dola.generate(model, PROMPT, dola_layers="high", num_beams=3, **greedy).tolist(),
        "static cache": dola.generate(model, PROMPT, dola_layers="high", cache_implementation="static", **greedy).tolist(),
        "sampled": sampled(model),
        "attached": attached(model),
        "trace": [[token.layer, token.mature_choice, token.dola_choice] for token in trace.tokens],
        "plain again": model.generate(PROMPT, **greedy).tolist(),
    }


def main(folder, out):
    shared = {"tp_plan": "auto"} if "WORLD_SIZE" in os.environ else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of tp_plan=, which early versions know alone
        model = AutoModelForCausalLM.from_pretrained(folder, **shared).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    head = {"weights": type(model.lm_head.weight).__name__, "kernel": native.suits(model.lm_head)}
    found = {"head": head, "tokens": results(model, tokenizer), "likelihoods": likelihoods(model, tokenizer)}
    Path(f"{out}.{os.environ.get('RANK', 0)}").write_text(json.dumps(found))
    if shared:  # a process that ends with its group still open is sometimes aborted by torch's threads
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
