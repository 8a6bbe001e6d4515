"""lm-evaluation-harness: through `dola lm-eval` and `simple_evaluate`, the numbers are those of `dola.score` and `dola eval`.

Tasks are local: a YAML file and data that the test writes.
"""

import csv
import functools
import json
import logging
import math
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed: make test-eval")
pytest.importorskip("datasets", reason="datasets is not installed: make test-eval")

import checkpoints
import samples
import torch
from each_method import METHODS, each_method
from families import tiny
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from odd_tokenizers import KEEPS, LOSES, PARTS, odd_tokenizer

import dola
from dola import DoLaConfig, Recipe
from dola.cli import main
from dola.cli.lm_eval import _decodes_plainly
from dola.errors import ConfigError, DolaError, InputError, LayersError, ModelFileError
from dola.evidence.evaluate import evaluate
from dola.evidence.sample import Sample
from dola.integrations.lm_eval import DolaLM
from dola.integrations.lm_eval_items import chosen_of, item_of
from dola.tasks import TASKS

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the harness and of its dependencies are not ours

CHOICE = """
task: local_factor
dataset_path: csv
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: full_prefix
doc_to_choice: "{{[completion, contradiction_0, contradiction_1, contradiction_2]}}"
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
WRITING = """
task: local_writing
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["##"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
PROMPTS = ["The cat sat on", "Once upon a time there was", "Why does the river", "Fish and"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return samples.long_window(tmp_path_factory.mktemp("long"))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with two tasks, and the data of the first."""
    path = tmp_path_factory.mktemp("tasks")
    samples.factor(path / "news_factor.csv", rows=20)
    (path / "writing.jsonl").write_text("".join(json.dumps({"prompt": each, "answer": "x"}) + "\n" for each in PROMPTS))
    (path / "choice.yaml").write_text(CHOICE.replace("FILE", str(path / "news_factor.csv")))
    (path / "writing.yaml").write_text(WRITING.replace("FILE", str(path / "writing.jsonl")))
    return path


@pytest.fixture(autouse=True)
def _quietly(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    level = logging.root.level
    yield
    logging.root.setLevel(level)


@pytest.fixture
def run(tasks):
    """`simple_evaluate` on a task of the folder."""

    def evaluate_it(model, task, **settings):
        manager = TaskManager(include_path=str(tasks), include_defaults=False)
        return simple_evaluate(
            model=model, tasks=[task], task_manager=manager, device="cpu", log_samples=True, bootstrap_iters=0, **settings
        )

    return evaluate_it


def likelihoods(result):
    """Log-likelihood of each choice, by item."""
    return [[float(choice[0][0]) for choice in item["resps"]] for item in result["samples"]["local_factor"]]


def written(result):
    return [item["resps"][0][0] for item in result["samples"]["local_writing"]]


def scored(folder, tasks, recipe):
    items = TASKS["factor-news"].items(tasks / "news_factor.csv")
    contexts, continuations = [item.context for item in items], [item.continuations for item in items]
    return dola.score(*dola.load(str(folder)), contexts, continuations, {"it": recipe}, progress=False).values["it"]


@pytest.mark.parametrize(
    ("settings", "recipe"),
    [
        ({"layers": "high"}, Recipe(DoLaConfig("high"))),
        ({"layers": "2+4", "relative_top": 0.3}, Recipe(DoLaConfig([2, 4], relative_top=0.3))),
        ({"layers": "all", "final_norm": False}, Recipe(DoLaConfig("all", final_norm=False))),
        ({"layers": 3}, Recipe(DoLaConfig([3]))),
        ({"layers": [3, 5], "divergence": "reference"}, Recipe(DoLaConfig([3, 5], divergence="reference"))),
        ({"layers": "low", "normalisation": "none"}, Recipe(DoLaConfig("low"), softmax="none")),
        ({"layers": "low", "normalisation": "full"}, Recipe(DoLaConfig("low"), softmax="full")),
        ({"layers": "off"}, Recipe(None)),
    ],
)  # fmt: skip
def test_likelihoods_are_those_of_dola_score(run, folder, tasks, settings, recipe):
    result = run(DolaLM(str(folder), device="cpu", **settings), "local_factor")
    for ours, theirs in zip(likelihoods(result), scored(folder, tasks, recipe), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)


def test_off_is_the_harness_own_model(run, folder):
    ours, theirs = run(DolaLM(str(folder), layers="off", device="cpu"), "local_factor"), run(
        "hf", "local_factor", model_args=f"pretrained={folder}"
    )  # fmt: skip
    for a, b in zip(likelihoods(ours), likelihoods(theirs), strict=True):
        assert a == pytest.approx(b, abs=1e-3)
    assert ours["results"]["local_factor"]["acc,none"] == theirs["results"]["local_factor"]["acc,none"]
    greedy = [
        [[choice[0][1] for choice in item["resps"]] for item in each["samples"]["local_factor"]] for each in (ours, theirs)
    ]
    assert greedy[0] == greedy[1]


@pytest.mark.parametrize("layers", ["high", "2+4", "off"])
def test_generation_is_that_of_dola_generate(run, folder, layers):
    model, words = dola.load(str(folder))
    result = run(DolaLM(str(folder), layers=layers, device="cpu"), "local_writing")
    for prompt, text in zip(PROMPTS, written(result), strict=True):
        inputs = words(prompt, return_tensors="pt")
        call = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
        if layers == "off":
            out = model.generate(**inputs, **call)
        else:
            out = dola.generate(model, **inputs, **call, dola_layers=[2, 4] if layers == "2+4" else layers)
        assert text == words.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).partition("##")[0]


@each_method
def test_each_method(run, folder, tasks, name):
    """By the arguments that people type: the log-likelihoods of `dola.score`, the texts of `dola.generate`."""
    config = METHODS[name]
    given = {"pretrained": folder, "layers": config.layers, "method": name}
    given |= {each.name: getattr(config, each.name) for each in config.options() if getattr(config, each.name) is not None}
    typed = {"model": "dola", "model_args": ",".join(f"{key}={value}" for key, value in given.items())}
    for ours, theirs in zip(likelihoods(run(task="local_factor", **typed)), scored(folder, tasks, Recipe(config)), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)
    model, words = dola.load(str(folder))
    for prompt, text in zip(PROMPTS, written(run(task="local_writing", **typed)), strict=True):
        inputs = words(prompt, return_tensors="pt")
        out = dola.generate(model, **inputs, max_new_tokens=12, do_sample=False, pad_token_id=0, dola_layers=config)
        assert text == words.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).partition("##")[0]


def test_generated_texts_differ_from_plain_decoding(run, folder):
    texts = [written(run(DolaLM(str(folder), layers=layers, device="cpu"), "local_writing")) for layers in ("high", "off")]
    assert texts[0] != texts[1]


def harness(monkeypatch, *arguments):
    """Run `dola lm-eval ...` in this process."""
    monkeypatch.setattr(sys, "argv", ["dola", "lm-eval", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.mark.parametrize("first", [["run"], []])
def test_the_command_gives_the_numbers_of_simple_evaluate_and_of_dola_eval(
    run, folder, tasks, tmp_path, monkeypatch, first, capsys
):
    """With `run` or, as older versions have it, without."""
    options = ["--model", "dola", "--model_args", f"pretrained={folder},layers=high", "--tasks", "local_factor"]
    where = ["--include_path", tasks, "--device", "cpu", "--output_path", tmp_path / "out.json", "--log_samples"]
    assert harness(monkeypatch, *first, *options, *where) == 0
    assert "|local_factor|" in capsys.readouterr().out.replace(" ", "")
    (file,) = tmp_path.glob("out*.json")
    found = json.loads(file.read_text())
    accuracy = found["results"]["local_factor"]["acc,none"]
    (logged,) = tmp_path.glob("samples_local_factor*.jsonl")
    lines = [json.loads(line) for line in logged.read_text().splitlines()]
    simple = run(DolaLM(str(folder), layers="high", device="cpu"), "local_factor")
    assert accuracy == simple["results"]["local_factor"]["acc,none"]
    assert [[float(choice[0][0]) for choice in line["resps"]] for line in lines] == likelihoods(simple)
    sample = Sample.of(TASKS["factor-news"], [str(tasks)])
    report = evaluate(*dola.load(str(folder)), sample, name="tiny", progress=False)
    assert accuracy == pytest.approx(report.way("DoLa high").estimates["factor"].mean)
    assert 0 < accuracy < 1


def test_the_harness_own_help_and_types_are_there(monkeypatch, capsys):
    assert harness(monkeypatch, "run", "--help") == 0
    assert "--model_args" in capsys.readouterr().out
    assert harness(monkeypatch, "run", "--nosuch") == 2
    from lm_eval.api.registry import get_model

    assert get_model("hf").__name__ == "HFLM"
    assert get_model("dola") is DolaLM


@pytest.mark.parametrize(
    ("arguments", "plain"),
    [
        ("--tasks arc_easy", True),
        ("run --model hf -t arc_easy", True),
        ("--model=hf --tasks arc_easy", True),
        ("--model dola --tasks arc_easy", False),
        ("run -M dola -t arc_easy", False),
        ("--model=dola --tasks=arc_easy", False),
        ("--model dola-vllm --tasks arc_easy", False),
        ("run --config mine.yaml --tasks arc_easy", False),
        ("ls tasks", False),
    ],
)
def test_a_run_without_dola_is_known(arguments, plain):
    assert _decodes_plainly(arguments.split()) is plain


def test_mistakes_become_messages(monkeypatch, capsys, folder, tasks):
    arguments = ["--tasks", "local_factor", "--include_path", tasks, "--device", "cpu", "--model", "dola", "--model_args"]
    assert harness(monkeypatch, *arguments, f"pretrained={folder},layers=hihg") == 2
    assert "dola: --layers 'hihg'" in capsys.readouterr().err.replace("--layers hihg", "--layers 'hihg'")
    monkeypatch.setattr("dola.cli.lm_eval._has_vllm", lambda: False)
    assert harness(monkeypatch, "--model", "dola-vllm", "--tasks", "local_factor") == 2
    assert "--model dola-vllm needs vLLM, which is not installed" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"normalisation='x' is not supported\. Allowed: 'decoding', 'full', 'none'"):
        DolaLM(str(folder), normalisation="x")
    with pytest.raises(LayersError, match="layer 99"):
        DolaLM(str(folder), layers=99, device="cpu")._loglikelihood_tokens([(None, [5, 6], [7])], disable_tqdm=True)


def test_a_shorter_window_cuts_contexts_as_the_harness_does(run, folder):
    results = [
        run(DolaLM(str(folder), layers="off", device="cpu", max_length=40), "local_factor"),
        run("hf", "local_factor", model_args=f"pretrained={folder},max_length=40"),
    ]
    for ours, theirs in zip(*map(likelihoods, results), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)


def test_an_embedded_model_by_its_alias(smollm2, monkeypatch):
    monkeypatch.setattr(dola, "load", lambda name, **settings: smollm2)
    lm = DolaLM("smollm2", layers="26+28")
    assert lm.model is smollm2.model
    assert lm.dola_config == DoLaConfig([26, 28])


def of_folder(folder, **settings):
    return DolaLM(str(folder), device="cpu", dtype="float32", **settings)


@pytest.mark.parametrize(
    ("edit", "config", "message"),
    [
        (checkpoints.without("lm_head"), {}, "lacks 1 of the 57 weights"),
        (checkpoints.renamed("base_model.model."), {}, "lacks 57 of the 57 weights"),
        (dict, {"vocab_size": 500}, "have other shapes"),
        (dict, {"num_hidden_layers": 4}, "has more layers than"),
        (dict, {"num_hidden_layers": "6"}, r"the config\.json of"),
    ],
)
def test_weights_that_are_not_the_files_are_refused(tmp_path, edit, config, message):
    with pytest.raises(ModelFileError, match=message):
        of_folder(checkpoints.save(tmp_path, edit, **config))


def test_a_difference_of_weights_is_added_once(tmp_path):
    """Also where the head is tied, whose one weight has two names."""
    whole, tied, cut = (checkpoints.save(tmp_path / name) for name in ("whole", "tied", "cut"))
    checkpoints.tie(tied)
    for folder in (whole, tied):
        once, twice = of_folder(folder).model, of_folder(folder, delta=str(folder)).model
        for (name, before), after in zip(once.named_parameters(), twice.parameters(), strict=True):
            assert torch.equal(2 * before, after), name
    checkpoints.save(cut, checkpoints.without("lm_head"))
    with pytest.raises(ModelFileError, match="lacks 1 of the 57 weights"):
        of_folder(whole, delta=str(cut))
    with pytest.raises(ModelFileError, match=r"do not match the model that they would be added to: lm_head\.weight"):
        of_folder(whole, delta=str(tied))


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("FOLDER", {"autogptq": True}, "does not say which of its weights the file lacks"),
        ("FOLDER", {"gptqmodel": True}, "does not say which of its weights the file lacks"),
        ("FOLDER", {"peft": "a", "delta": "b"}, "cannot be used together"),
        ("smollm2", {"peft": "a"}, "peft= would be ignored with 'smollm2'"),
        (object(), {"delta": "a"}, "delta= would be ignored with a model object"),
    ],
)
def test_arguments_that_the_harness_would_ignore(folder, model, settings, message):
    with pytest.raises(ConfigError, match=message):
        DolaLM(str(folder) if model == "FOLDER" else model, **settings)


def test_an_adapter_is_checked(tmp_path):
    peft = pytest.importorskip("peft")
    base, adapter = checkpoints.save(tmp_path / "base"), tmp_path / "adapter"
    settings = peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = peft.get_peft_model(dola.load(base).model, settings).eval()
    adapted.save_pretrained(adapter)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(of_folder(base, peft=str(adapter)).model(ids).logits, adapted(ids).logits)
    file = adapter / "adapter_model.safetensors"
    weights = checkpoints.load_file(file)
    checkpoints.save_file({name: value for name, value in weights.items() if ".0." not in name}, file)
    with pytest.raises(ModelFileError, match="lacks 2 of the adapter's weights"):
        of_folder(base, peft=str(adapter))
    with pytest.raises(ConfigError, match="is an adapter; lm-eval takes it as peft="):
        of_folder(adapter)
    with pytest.raises(ModelFileError, match=r"adapter_config\.json"):
        of_folder(base, peft=str(tmp_path))


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory):
    """Like `folder`, but the tokenizer adds tokens at both ends, gives no mask, and pads with a token without an embedding."""
    path = tmp_path_factory.mktemp("odd")
    tiny("llama", max_position_embeddings=6000).save_pretrained(path)
    odd_tokenizer("both", mask=False, pad="beyond", template=PARTS["parts"]).save_pretrained(path)
    return path


def test_tokens_that_the_tokenizer_appends_are_left_out(run, odd_folder, tasks):
    lm = DolaLM(str(odd_folder), device="cpu")
    for ours, theirs in zip(
        likelihoods(run(lm, "local_factor")), scored(odd_folder, tasks, Recipe(DoLaConfig("high"))), strict=True
    ):
        assert ours == pytest.approx(theirs, abs=1e-3)
    model, words = dola.load(str(odd_folder))
    for prompt, text in zip(PROMPTS, written(run(lm, "local_writing")), strict=True):
        ids = torch.tensor([[1, *words(prompt, add_special_tokens=False)["input_ids"]]])
        call = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
        out = dola.generate(model, ids, **call, dola_layers="high")
        assert text == words.decode(out[0, ids.shape[1] :], skip_special_tokens=True).partition("##")[0]
    assert lm.tok_encode("Hi</s>")[-1] == 2
    assert lm.tok_encode("Hi")[-1] != 2
    assert lm.tok_encode("Hi there", left_truncate_len=1) == lm.tok_encode("Hi there")[-1:]
    ids, mask = lm.tok_batch_encode(["Hi", "Hello there"], left_truncate_len=3)
    assert ids.shape == mask.shape == (2, 3)
    lm.tokenizer.model_max_length = 2
    for side, expected in (("right", [1, 44]), ("left", [1, 77])):
        lm.tokenizer.truncation_side = side
        assert lm.tok_batch_encode(["Hi"], truncation=True)[0].tolist() == [expected]


def test_a_batch_of_the_harness_is_refused_where_the_model_does_not_know_a_token(odd_folder):
    lm = DolaLM(str(odd_folder), device="cpu")
    with pytest.raises(InputError, match="<padding>"):
        lm.tok_batch_encode(["Hi<padding>"])


def test_chats_keep_their_words_or_are_refused(odd_folder):
    lm = DolaLM(str(odd_folder), device="cpu")
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert lm.apply_chat_template(chat) == "<user>Be brief.<answer><user>Why?<answer>"
    lm.tokenizer.chat_template = LOSES["another key"]
    with pytest.raises(InputError, match="drops the words of the system message"):
        lm.apply_chat_template(chat)
    refuses = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ messages[-1]['content'] }}"
    )
    lm.tokenizer.chat_template = refuses
    assert lm.apply_chat_template(chat[1:]) == "Why?"
    with pytest.raises(InputError, match="drops or changes the words of the system message") as refused:  # HFLM leaves it out
        lm.apply_chat_template(chat)
    assert "--system_instruction" in refused.value.hint
    filled = [*chat[1:], {"role": "assistant", "content": "Be"}]
    lm.tokenizer.chat_template = KEEPS["no generation prompt"]
    assert lm.apply_chat_template(filled, add_generation_prompt=False).endswith("assistant: Be")


LAMBADA = """
task: local_lambada
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{prompt}}"
doc_to_target: " {{answer}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
"""


@pytest.fixture(scope="module")
def judged(tasks, folder):
    """`evaluate_harness` of a task, and the harness's own numbers for the plain model."""
    from dola.integrations.lm_eval_report import evaluate_harness

    (tasks / "lambada.yaml").write_text(LAMBADA.replace("FILE", str(tasks / "writing.jsonl")))

    @functools.cache  # a run takes seconds, most of them in the harness, which reads all of its tasks
    def run(name, **settings):
        model, tokenizer = dola.load(str(folder))
        settings = {"own": DoLaConfig(relative_top=0.0), "include_path": tasks, **settings}
        report = evaluate_harness(model, tokenizer, name, name="tiny", **settings)
        manager = TaskManager(include_path=str(tasks))
        own = simple_evaluate(DolaLM(model, layers="off", tokenizer=tokenizer), tasks=[name], task_manager=manager)
        return report, own["results"][name]

    return run


@pytest.mark.parametrize(
    ("task", "metric", "others"),
    [
        ("local_factor", "acc,none", []),
        ("local_writing", "exact_match,none", []),
        ("local_lambada", "acc,none", ["perplexity,none"]),
    ],
)
def test_a_report_of_a_task_has_the_harness_own_numbers_for_vanilla(judged, task, metric, others):
    report, own = judged(task)
    assert report.task == f"lm-eval:{task}"
    assert report.metrics == [metric]
    assert report.way("vanilla").estimates[metric].mean == pytest.approx(own[metric], abs=1e-6)
    assert list(report.findings) == ["DoLa low", "DoLa high"]
    assert [note.partition(" is not a mean")[0] for note in report.notes] == others


def test_items_show_the_question_the_answers_and_what_each_row_chose(judged, tasks):
    report, _ = judged("local_factor")
    rows = list(csv.DictReader((tasks / "news_factor.csv").open(encoding="utf-8")))
    assert [item.right for item in report.items] == [[row["completion"].strip()] for row in rows]
    assert all(row["full_prefix"].strip().endswith(item.question) for row, item in zip(rows, report.items, strict=True))
    for way in report.ways:
        right = [text == item.right[0] for text, item in zip(way.chosen, report.items, strict=True)]
        assert right == [value == 1 for value in way.items["acc,none"]]
        assert all(0 <= share <= 1 for share in way.mass)
    change = next(each for of in report.changed.values() for each in (*of.better, *of.worse))
    assert change.question
    assert change.mass is not None


def test_items_show_what_each_row_wrote(judged, folder):
    report, _ = judged("local_writing")
    assert [item.question for item in report.items] == PROMPTS
    assert [item.right for item in report.items] == [["x"]] * len(PROMPTS)
    model, tokenizer = dola.load(str(folder))
    ids = tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    made = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert report.way("vanilla").texts[0] == tokenizer.decode(made, skip_special_tokens=True).partition("##")[0]


def test_a_task_without_answers_shows_its_questions(judged):
    report, _ = judged("local_lambada")
    assert [(item.question, item.right) for item in report.items] == [(each, ["x"]) for each in PROMPTS]
    assert report.changed == {}


def test_the_choices_of_a_task_with_a_context_each():
    """Like Winogrande: one ending, and a context for each choice. The metric's rule decides which choice was taken."""
    task = SimpleNamespace(
        OUTPUT_TYPE="multiple_choice",
        multiple_input=2,
        config=SimpleNamespace(doc_to_choice="given"),
        doc_to_choice=lambda doc: doc["contexts"],
        doc_to_text=lambda doc: doc["right"],
    )
    logged = {
        "doc": {"contexts": ["The cup", "It"], "right": 1},
        "target": "broke.",
        "filtered_resps": [(-3.0, False), (-2.0, False)],
    }
    item = item_of(task, logged, "7")
    assert (item.context, item.continuations, item.correct) == ("broke.", ("The cup", "It"), (False, True))
    assert chosen_of(task, [logged], "acc,none").texts == ["It"]
    assert chosen_of(task, [logged], "acc_norm,none").texts == ["The cup"]
    assert chosen_of(task, [logged], "acc,none").mass == pytest.approx([math.e / (1 + math.e)])


def test_items_are_drawn_and_paired(judged):
    whole, report = judged("local_factor")[0], judged("local_factor", limit=7, seed=3)[0]
    assert (len(report.item_ids), report.total) == (7, 20)
    for name in ("vanilla", "DoLa high"):
        all_values = whole.way(name).items["acc,none"]
        assert report.way(name).items["acc,none"] == [all_values[int(item)] for item in report.item_ids]


def test_all_rows_of_a_report_come_from_one_pass(tasks, folder, monkeypatch):
    """And their numbers are those of a pass for each row."""
    from dola.integrations import shared_scores
    from dola.integrations.lm_eval_report import evaluate_harness

    passes, scored = [], shared_scores.score
    monkeypatch.setattr(shared_scores, "score", lambda *args, **run: passes.append(len(args[4])) or scored(*args, **run))
    model, tokenizer = dola.load(str(folder))
    report = evaluate_harness(
        model, tokenizer, "local_factor", name="tiny", own=DoLaConfig([1, 3]), include_path=tasks, ways="full"
    )
    assert passes == [len(report.ways)]
    lm = DolaLM(model, layers="1+3", tokenizer=tokenizer)
    alone = simple_evaluate(lm, tasks=["local_factor"], task_manager=TaskManager(include_path=str(tasks)))
    assert passes == [len(report.ways), 1]
    assert report.way("DoLa 1,3").estimates["acc,none"].mean == alone["results"]["local_factor"]["acc,none"]


def test_a_metric_that_overflows_is_named(judged):
    with pytest.raises(InputError, match="A metric of local_lambada overflows under DoLa low"):
        judged("local_lambada", own=DoLaConfig())


def test_a_task_that_the_harness_does_not_have_is_named(judged):
    with pytest.raises(DolaError, match="has no task 'local_fact'"):
        judged("local_fact")


def test_the_command_reports_a_task(tasks, folder, monkeypatch, capsys):
    arguments = ["eval", "lm-eval:local_factor", "--include-path", tasks, "--model", folder, "--limit", 5, "--json"]
    monkeypatch.setattr(sys, "argv", ["dola", *map(str, arguments)])
    main()
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["task"] == "lm-eval:local_factor"
    assert any(line.startswith("5 of 20 items of lm-eval:local_factor; seed 0") for line in found["sentences"])
    assert "already-initialized" not in shown.err
