"""A model that is plainly DoLa, or another method: its forward computes the scores from `output_hidden_states`, without hooks.

Whatever `generate` does with it is what each door must do with DoLa: same tokens, same scores.
"""

import functools

import torch
from each_method import Given
from transformers import LlamaForCausalLM

from dola.contrast import contrast
from dola.methods.layers import candidate_layers
from dola.methods.registry import method_of


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


class MethodLlama(DoLaLlama):
    """LlamaForCausalLM whose logits are the scores of any method, `dola_config`, from layers that are read all at once."""

    @functools.wraps(LlamaForCausalLM.forward)
    def forward(self, *args, logits_to_keep=0, output_hidden_states=None, **kwargs):
        out = LlamaForCausalLM.forward(self, *args, logits_to_keep=logits_to_keep, output_hidden_states=True, **kwargs)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        last, config = self.config.num_hidden_layers, self.dola_config
        layers = candidate_layers(config.layers, last, tied=False)
        norm = self.model.norm if config.final_norm else torch.nn.Identity()
        premature = torch.stack([self.lm_head(norm(out.hidden_states[j][:, keep])).flatten(0, 1) for j in layers])
        scores = method_of(config).scores(out.logits.flatten(0, 1), Given(premature, layers=(*layers, last)))
        out.logits = scores.view_as(out.logits)
        if not output_hidden_states:
            out.hidden_states = None
        return out


def oracle_of(model, layers=(3, 5), config=None):
    """The oracle with the weights of a plain model: DoLa's, or that of a method's configuration."""
    oracle = (DoLaLlama if config is None else MethodLlama)(model.config).eval()
    oracle.load_state_dict(model.state_dict())
    oracle.generation_config = model.generation_config
    oracle.dola_layers, oracle.dola_config = layers, config
    return oracle
