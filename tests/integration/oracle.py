"""A model that is plainly DoLa: its forward recomputes the contrast from `output_hidden_states`, without hooks.

Whatever `generate` does with it is what each door must do with DoLa: same tokens, same scores.
"""

import functools

import torch
from transformers import LlamaForCausalLM

from dola.contrast import contrast


class DoLaLlama(LlamaForCausalLM):
    """LlamaForCausalLM whose logits are the contrast of the layers in `dola_layers`."""

    dola_layers = (3, 5)

    @functools.wraps(LlamaForCausalLM.forward)  # generate reads the signature
    def forward(self, *args, logits_to_keep=0, output_hidden_states=None, **kwargs):
        out = super().forward(*args, logits_to_keep=logits_to_keep, output_hidden_states=True, **kwargs)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        premature = torch.stack([self.lm_head(self.model.norm(out.hidden_states[j][:, keep])) for j in self.dola_layers])
        out.logits = contrast(out.logits, premature)
        if not output_hidden_states:
            out.hidden_states = None
        return out


def oracle_of(model, layers=(3, 5)):
    """The oracle with the weights of a plain model."""
    oracle = DoLaLlama(model.config).eval()
    oracle.load_state_dict(model.state_dict())
    oracle.generation_config = model.generation_config
    oracle.dola_layers = layers
    return oracle
