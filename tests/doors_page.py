"""docs/doors.md: each generation mode and each method by door, what is guaranteed, and the test that enforces it.

    python tests/doors_page.py > docs/doors.md

`unit/test_doors_page.py` fails when the page is stale, or names a test that does not exist. The table of methods has a column
for each method that `each_method` runs a test for.
"""

from each_method import METHODS

from dola.methods.registry import BUILT_IN

PROMISED = [
    # door, promise, file::test
    (
        "greedy, with and without repetition penalty",
        "tokens of plain DoLa",
        "test_doors::test_same_tokens_as_a_model_that_is_plainly_dola",
    ),
    (
        "sampling: temperature, top-k, top-p, min-p",
        "same draws from the contrast; `scores` are the contrast after the processors",
        "test_doors::test_scores_of_sampling_and_beams",
    ),
    (
        "beams, beam sampling",
        "a beam search over log_softmax of the contrast: tokens, scores, sequence scores",
        "test_doors::test_scores_of_sampling_and_beams",
    ),
    ("`num_return_sequences`", "as above, several", "test_doors::test_same_tokens_as_a_model_that_is_plainly_dola"),
    (
        "`prompt_lookup_num_tokens`",
        "tokens of plain DoLa (float32); at most so many drafts are tried, and no more than pay",
        "test_doors::test_same_tokens_as_a_model_that_is_plainly_dola",
    ),
    ("`assistant_model`", "tokens of plain DoLa (float32)", "test_doors::test_assistant_model"),
    (
        "`cache_implementation`: dynamic, static, offloaded (needs a GPU); `use_cache=False`",
        "tokens of plain DoLa",
        "test_doors::test_same_tokens_as_a_model_that_is_plainly_dola",
    ),
    (
        '`cache_implementation="quantized"`',
        "tokens of plain DoLa over the same rounded cache",
        "test_doors::test_quantised_cache",
    ),
    (
        '`generate_batch`, `cache_implementation="paged"`',
        "under `attach`: tokens of plain DoLa",
        "test_doors::test_paged_attention",
    ),
    (
        "compiled `generate`",
        "under `attach` and call-scoped: compiled code is traced again when DoLa is added or removed",
        "test_doors::test_compiled_generate_notices_attach_and_remove",
    ),
    (
        "`torch.compile(model)`",
        "under `attach`: the wrapper returns the contrast, and plain logits afterwards",
        "test_doors::test_compiled_wrapper",
    ),
    ("streamers: text, iterator, async iterator", "the same text, piece by piece", "test_doors::test_streamers"),
    ("`stop_strings`", "they fire", "test_doors::test_stop_strings_fire"),
    (
        "`output_scores`, `output_logits`, `output_hidden_states`, `output_attentions`",
        "`scores` the contrast, `logits` the model's own, states and attentions the model's own",
        "test_doors::test_what_is_returned",
    ),
    ("`inputs_embeds`", "tokens of plain DoLa", "test_doors::test_inputs_embeds"),
    ("left-padded batches", "a row's tokens depend on neither neighbors nor padding", "test_doors::test_left_padded_batches"),
    ("`prefill_chunk_size`", "tokens of plain DoLa", "test_doors::test_same_tokens_as_a_model_that_is_plainly_dola"),
    ("continued from a cache (chat of several turns)", "tokens of plain DoLa", "test_doors::test_continued_from_a_cache"),
    ('`pipeline("text-generation")`', "under `attach`: the text of `dola.generate`", "test_doors::test_pipeline"),
    ("PEFT adapters", "the contrast of the adapted model", "test_doors::test_peft_adapters"),
    ("JSON schema, regular expressions (xgrammar)", "always valid", "test_doors::test_a_json_grammar_is_kept"),
    (
        "`bad_words_ids`, `suppress_tokens`, `begin_suppress_tokens`, `min_new_tokens`, `forced_eos_token_id`, `prefix_allowed_tokens_fn`, `sequence_bias`",
        "contrast, then the processors; the mature logits where nothing plausible is left",
        "test_doors::test_constraints_are_contrast_then_mask_or_the_mature_scores",
    ),
    (
        "`guidance_scale`, and processors or stopping criteria that run the model",
        "their own forwards return plain logits; the guidance acts on the contrast",
        "test_inner_forwards::test_guidance_reads_plain_unconditional_logits",
    ),
    (
        "parts replaced after `attach`: adapters, head, norm, embeddings, blocks",
        "the contrast of the model as it is now",
        "test_places::test_a_replaced_part_is_followed",
    ),
    (
        "hooks of others on blocks, norm or head, whenever they were registered",
        "layers are read as the model computes them, hooks included; a hook that makes that impossible is named",
        "test_places::test_a_steering_hook_counts_whenever_it_was_registered",
    ),
    (
        "biases that force a token: `sequence_bias` of 100, processors of one's own that add or set",
        "the token that plain decoding with the same biases would choose, where that is not plausible",
        "test_forcing::test_sequence_bias_follows_the_rule",
    ),
    ("`watermarking_config`", "the watermark on the contrast", "test_doors::test_watermarking"),
    (
        "threads on one model",
        "plain, high, low and a list at once equal their serial outputs",
        "test_doors::test_threads_that_mix_plain_high_and_low_equal_their_serial_outputs",
    ),
    ("lazy contrast", "no token changes, in any door", "test_doors::test_lazy_contrast_changes_no_token_in_any_door"),
    (
        "`install()`: code of transformers 4",
        "`dola_layers` as keyword, in `generation_config=` and in `model.generation_config`",
        "test_doors::test_dola_layers_works_in_every_place",
    ),
    ("hub `custom_generate`", "tokens of `dola.generate`", "test_doors::test_the_hub_repository"),
    (
        "an exception or Ctrl-C inside `generate`",
        "the model is as it was",
        "test_generation::test_after_ctrl_c_nothing_is_left",
    ),
    (
        "`save_pretrained`, `.to()` of an attached model",
        "as without DoLa",
        "test_attach::test_an_attached_model_is_saved_as_it_is",
    ),
]
REFUSED = [
    ("`assistant_early_exit`", "it drafts with fewer blocks than the contrast needs", "test_generation::test_modes_that_would_be_wrong_are_refused_before_they_start"),
    ("`use_mtp`", "its drafts come from extra blocks whose states are not contrasted", "test_generation::test_modes_that_would_be_wrong_are_refused_before_they_start"),
    ("`assistant_model` = the model itself", "it would draft with the contrast", "test_generation::test_the_model_as_its_own_assistant_is_refused"),
    ("`output_logits` with drafted tokens", "the model's own logits of them are not kept", "test_generation::test_output_logits_with_an_assistant_are_refused"),
    ("constraints in continuous batching", "its processors run where the mature logits are not at hand", "test_doors::test_paged_attention_with_constraints_is_refused"),
    ("`cache_implementation=\"paged\"` in `dola.generate` and `install`", "it decodes in a thread of its own, where a call-scoped DoLa is not seen; attach instead", "test_doors::test_paged_is_refused_where_it_could_not_be_seen"),
    ("`dola_layers` for continuous batching after `install`", "as above: `generate_batch`, `transformers serve --continuous-batching`", "test_doors::test_continuous_batching_refuses_dola_layers"),
    ("deepcopy and pickle of an attached model", "the copy would decode by the original's hooks", "test_attach::test_an_attached_model_is_not_copied_in_silence"),
    ("`labels=`, training mode", "the scores are not a likelihood to train on", "test_attach::test_labels_are_refused"),
]  # fmt: skip

METHOD_DOORS = [
    # door, file::test, which is parametrized by each_method
    ("`dola.attach`", "test_method_doors::test_attach_generate_and_install"),
    ("`dola.generate`, by configuration and by name", "test_method_doors::test_attach_generate_and_install"),
    ("`dola.install`, as the installed settings and in a call", "test_method_doors::test_attach_generate_and_install"),
    ("sampling, beams, prompt lookup, caches: the modes above", "test_method_doors::test_modes"),
    ("`assistant_model`", "test_method_doors::test_assistant_model"),
    ("compiled `generate`", "test_method_doors::test_compiled_generate"),
    ("`torch.compile(model)`", "test_method_doors::test_compiled_wrapper"),
    ("left-padded batches", "test_method_doors::test_left_padded_batches"),
    ("continued from a cache", "test_method_doors::test_continued_from_a_cache"),
    ("`output_scores`, `output_logits`", "test_method_doors::test_scores_are_returned"),
    ("masks and bans", "test_method_doors::test_bans"),
    ("`custom_generate`, where transformers 5 has contrastive search", "test_method_doors::test_custom_generate"),
    ("`dola.score`", "test_method_doors::test_score"),
    ("`dola.trace`", "test_method_doors::test_trace"),
    ("`dola generate`", "test_generate::test_each_method"),
    ("`dola compare`", "test_compare::test_each_method"),
    ("`dola eval`", "test_eval::test_each_method"),
    ("`dola tune`", "test_tune_command::test_each_method"),
    ("lm-evaluation-harness", "test_lm_eval::test_each_method"),
    ("the page, `dola ui`", "unit/test_ui_session::test_each_method"),
    ("vLLM: a batch of one method, a batch of all", "test_served_methods::test_all_rows_of_a_batch"),
    ("vLLM over HTTP, `dola serve`", "test_server::test_methods_by_flat_names"),
    ("vLLM, a real model", "test_identity::test_methods"),
    ("vLLM: tensor and pipeline parallel, compiled, runner V2", "test_setups::test_tokens_are_those_of_transformers"),
]
REFUSED_OF_METHODS = [
    ("Confident Decoding with a `probability` between 0 and 1 in `score`, `eval`", "a likelihood cannot depend on a draw", "test_built_in_methods::TestScoreAndTrace::test_a_method_that_draws_is_not_scored"),
    ("the same in vLLM: engines", "an engine does not say which positions its rows are at", "test_refusals::test_settings_that_are_not_allowed"),
    ("the same in vLLM: requests", "as above", "test_engine::test_bad_options_are_refused_and_the_engine_continues"),
    ("Confident Decoding with `layers` \"low\" or \"high\"", "DoLa's buckets leave out every second layer", "test_compare::test_layers_that_do_not_fit_a_method_are_refused"),
    ("`Recipe(softmax=...)`, `Recipe(premature=...)` with another method than DoLa", "they change DoLa's formula", "test_methods::TestPython::test_score_refuses_what_is_of_dola"),
    ("a method's name in a `generation_config`", "transformers keeps any name there, and nobody would read it", "test_method_doors::TestNamesInACall::test_a_method_in_a_generation_config_is_refused"),
    ("`dola compare --set` with several methods", "it does not say which method it is for", "test_compare::test_set_is_for_one_method"),
]  # fmt: skip

METHODS_HEAD = """## Methods

Each method goes through each door: a cell is a test that compares it with a model whose forward computes the method's scores
from all layers, without hooks, or with `dola.generate`. The rules themselves are compared with float64 forms
(`tests/reference`).

"""

HEAD = """<!-- Generated by tests/doors_page.py; do not edit. -->
# Generation modes

At the end of this page you know what DoLa guarantees in every way in which transformers generates, and which test enforces it.

"Tokens of plain DoLa" means: the tokens that the same mode gives with a model whose forward recomputes the contrast from
`output_hidden_states`, without hooks (tests/integration/oracle.py). Unless a row says otherwise, each mode is tested through
`attach`, `dola.generate` and `install`. [Other libraries](integrations.md) that call a model for you have a page of their own.

CI tests it with transformers 5.23. One run with 5.0.0: there chunked prefill fails without DoLa too, paged attention returns
nothing, and everything else that version offers was right.

Two things to know:

- With an assistant or prompt lookup in bfloat16, tokens may differ from decoding without drafts, as they do without DoLa:
  products of other shapes round differently.
- A processor that *raises* scores acts on the contrast, where implausible tokens are 1,000 lower: a small `sequence_bias`
  does not raise one over a plausible token. A bias by which plain decoding would choose an implausible token (100, to force a
  label) is followed: the mature scores with the same biases decide that row.

"""


def _table(head: str, rows: list[tuple[str, ...]]) -> str:
    """A table whose last column names tests."""
    lines = [f"| {head} |", "|---" * (head.count("|") + 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row[:-1])} | `{row[-1]}` |" for row in rows)]) + "\n"


def methods_table() -> str:
    """Methods by doors."""
    kinds = [BUILT_IN[name] for name in METHODS]
    rows = [(door, *("yes" for _ in kinds), test) for door, test in METHOD_DOORS]
    return _table(" | ".join(["door", *(kind.label() for kind in kinds), "test"]), rows)


def page() -> str:
    """The whole page."""
    return "\n".join(
        [
            HEAD + _table("mode | guarantee | test", PROMISED),
            "## Refused before anything starts\n",
            _table("refused | why | test", REFUSED),
            METHODS_HEAD + methods_table(),
            "What methods refuse:\n",
            _table("refused | why | test", REFUSED_OF_METHODS),
        ]
    )


if __name__ == "__main__":
    print(page(), end="")
