"""The benchmark: each way decodes as described. No times are asserted, only how they are split up."""

import importlib
import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
import transformers
from families import tiny

import dola
from dola.bench import chart, memory
from dola.bench.baseline import contrast_as_before, decode_as_before
from dola.bench.cases import Case, check_window, cut_case, random_case, read_texts, texts, whole_cases
from dola.bench.machine import Machine
from dola.bench.measure import _first_difference, measure
from dola.bench.results import Memory, Spread
from dola.bench.source import SHAPES, Source
from dola.bench.ways import Bench, Settings, Way
from dola.errors import ConfigError, InputError, MissingExtraError
from dola.installed.hints import install_line
from dola.methods.layers import candidate_layers
from dola.text.encoding import Encoder

pytestmark = pytest.mark.usefixtures("_without_collecting_garbage")

GREEDY, DOLA, OLD = Way("greedy"), Way("dola", dola=True), Way("old", old=True)
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
GOLDEN = Path(__file__).parents[1] / "golden" / "transformers_4_55_4.json"


class Words:
    """A tokenizer that gives each word a number."""

    chat_template = None

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [1] * add_special_tokens + [2 + sum(map(ord, word)) % 300 for word in text.split()]}


class ChatWords(Words):
    chat_template = "there is one"

    def apply_chat_template(self, messages, tokenize=True, **kwargs):
        text = messages[0]["content"]
        return {"input_ids": [7, *self(text)["input_ids"]]} if tokenize else f"<user>{text}"


@pytest.fixture(scope="module")
def result(request):
    llama = request.getfixturevalue("llama")
    settings = Settings(new_tokens=12, repeats=2, prompt_lookup=3, memory=False)
    return measure(llama, [random_case(401, batch_size=1, length=20, batches=2)], settings)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text"])
@pytest.mark.parametrize(("layers", "penalty"), [("high", 1.0), ("low", 1.2), ([2], 1.2)])
def test_the_old_way_decodes_as_the_reference_config(family, layers, penalty):
    model = tiny(family)
    ids = torch.arange(5, 30)[None]
    with dola.attach(model, dola.DoLaConfig.reference(layers)) as attachment:
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, repetition_penalty=penalty
        )
    found = decode_as_before(model, ids, attachment.layers, max_new_tokens=12, repetition_penalty=penalty)
    assert found.tolist() == expected.tolist()


def test_the_old_way_decodes_what_transformers_4_recorded(smollm2):
    record = next(
        r for r in json.loads(GOLDEN.read_text())["records"] if r["layers"] == "high" and r["repetition_penalty"] == 1.2
    )
    ids = torch.tensor([record["prompt_ids"]])
    found = decode_as_before(
        smollm2.model, ids, candidate_layers("high", 30, tied=True), max_new_tokens=20, repetition_penalty=1.2
    )
    assert found[0, ids.shape[1] :].tolist() == record["new_ids"][:20]


def test_the_old_way_chooses_one_layer_for_the_batch():
    """Each row alone takes the layer that diverges most for it; together, both take the one of the largest mean."""
    mature = torch.tensor([[4.0, 3.0, 0.0], [4.0, 3.0, 0.0]])
    far, near = torch.tensor([-9.0, 9.0, 0.0]), torch.tensor([4.0, 2.5, 0.0])
    premature = [torch.stack([far, near]), torch.stack([near, near + torch.tensor([0.0, 1.0, 0.0])])]
    alone = torch.cat([contrast_as_before(mature[[i]], [layer[[i]] for layer in premature]) for i in (0, 1)])
    together = contrast_as_before(mature, premature)
    assert torch.equal(together[0], alone[0])
    assert not torch.allclose(together[1], alone[1])


def test_shipped_prompts():
    assert len(texts("mixed")) >= 6
    assert {name.partition("-")[0] for name in texts("copy")} == {"summary", "rag", "edit"}
    assert len(texts("copy")) == 6
    assert all(900 <= len(text) <= 2500 and text == text.strip("\n") for text in texts("copy").values())


@pytest.mark.parametrize("length", [5, 64, 9000])
def test_cut_prompts_have_their_length_and_differ(length):
    case = cut_case(Encoder(Words()), texts("mixed"), batch_size=4, length=length, batches=3)
    assert [prompts.shape for prompts in case.prompts] == [(4, length)] * 3
    assert (case.batch_size, case.prompt_tokens) == (4, length)
    rows = {tuple(row) for prompts in case.prompts for row in prompts.tolist()}
    assert len(rows) == 12
    assert all(row[0] == 1 for row in rows)


def test_a_tokenizer_that_makes_nothing_is_refused():
    with pytest.raises(InputError, match="no token"):
        cut_case(Encoder(lambda text, **_: {"input_ids": []}), {"a": "b"}, batch_size=1, length=3, batches=1)


def test_whole_prompts_use_the_chat_template_where_there_is_one():
    plain, chat = (whole_cases(Encoder(tokenizer), {"greeting": "hello there"})[0] for tokenizer in (Words(), ChatWords()))
    assert plain.name == "greeting, 3 tokens"
    assert chat.prompts[0].tolist() == [[7, *plain.prompts[0][0].tolist()]]


def test_a_users_prompts(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("one\n---\ntwo\nlines\n")
    assert read_texts(file) == {"mine-1": "one", "mine-2": "two\nlines"}
    file.write_text("\n")
    with pytest.raises(InputError, match="does not contain a prompt"):
        read_texts(file)
    with pytest.raises(InputError, match=r"none\.txt' cannot be read"):
        read_texts(tmp_path / "none.txt")


def test_random_prompts_are_the_same_every_time():
    first, second = (random_case(50, batch_size=2, length=6, batches=2) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.prompts, second.prompts, strict=True))
    assert not torch.equal(*first.prompts)


def test_a_case_must_fit_the_window(llama):
    case = random_case(401, batch_size=1, length=250, batches=1)
    check_window(llama, [case], 6)
    with pytest.raises(ConfigError, match="250 prompt tokens and 7 new ones exceed the window of 256"):
        check_window(llama, [case], 7)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"new_tokens": 1}, "new_tokens=1 is too few"),
        ({"repeats": 0}, "repeats=0 is too few"),
        ({"prompt_lookup": -1}, "prompt_lookup=-1 is too few"),
        ({"cache": "paged"}, "cache='paged' is not supported. Allowed: dynamic, static"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 is not above 0"),
        ({"compile": True}, "generate compiles only with a static one"),
        ({"prompt_lookup": 3, "cache": "static"}, "prompt_lookup does not work with a static cache"),
    ],
)
def test_invalid_settings_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        Settings(**given)


def test_drafts_are_for_one_row(llama):
    with pytest.raises(ConfigError, match="batch of 2"):
        measure(llama, [random_case(401, batch_size=2, length=9, batches=1)], Settings(prompt_lookup=2))


def test_sources():
    with pytest.raises(ConfigError, match="dtype='int3' is not supported"):
        Source(dtype="int3")
    with pytest.raises(ConfigError, match="'gpt-9' is not a shape for random weights"):
        Source("gpt-9", random_weights=True)
    for device, kind in (("nowhere", ConfigError), ("meta", InputError)):
        with pytest.raises(kind, match=device):
            Source("tiny", device=device, random_weights=True).load()
    first, second = (Source("tiny", "bfloat16", "cpu", random_weights=True).load() for _ in range(2))
    assert first.tokenizer is None
    assert first.model.dtype == torch.bfloat16
    assert not first.model.training
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))


LOWEST = transformers.__version__.startswith("5.0.")
UNTIED = pytest.mark.skipif(LOWEST, reason="transformers 5.0 ties no weights on meta")


@pytest.mark.parametrize(
    ("shape", "billions"), [("llama-3-8b", 8.03), ("qwen3-8b", 8.19), pytest.param("llama-3.2-1b", 1.24, marks=UNTIED)]
)
def test_shapes_have_the_parameters_that_the_models_are_published_with(shape, billions):
    from transformers import AutoConfig, AutoModelForCausalLM

    family, sizes = SHAPES[shape]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes))
    assert round(sum(p.numel() for p in model.parameters()) / 1e9, 2) == billions


def test_every_side_makes_all_tokens_in_as_many_forwards(result):
    ways = {way.way: way for way in result.cases[0].ways}
    assert [ways[name].forwards for name in ("greedy", "dola", "old")] == [12, 12, 12]
    assert ways["greedy+lookup"].forwards < 12
    assert ways["greedy"].token_ratio is None
    assert ways["dola"].token_ratio.min <= ways["dola"].token_ratio.median <= ways["dola"].token_ratio.max
    assert ways["dola"].differing_prompts is None


def test_drafts_change_no_token_in_float32(result):
    drafted = [way for way in result.cases[0].ways if way.way.endswith("+lookup")]
    assert [(way.differing_prompts, way.first_difference) for way in drafted] == [(0, None), (0, None)]


def test_end_tokens_are_ignored_and_the_model_is_restored(llama):
    own = llama.generation_config
    own.eos_token_id = list(range(401))
    try:
        with Bench(llama, Settings(new_tokens=5)) as bench, bench.made_ready(DOLA):
            run = bench.run(DOLA, torch.arange(4, 14).view(2, 5))
    finally:
        own.eos_token_id = None
    assert run.tokens.shape == (2, 5)
    assert llama.generation_config is own


@pytest.mark.parametrize("way", [GREEDY, OLD, Way("greedy+lookup", lookup=True)])
def test_the_parts_of_a_call_add_up_to_its_time(llama, way):
    settings = Settings(new_tokens=9, prompt_lookup=3)
    with Bench(llama, settings) as bench:
        run = bench.run(way, torch.arange(4, 14)[None])
    behind_first = 8 if not way.lookup else round((run.total_s - run.first_token_s) / run.token_s)
    assert run.tokens.shape == (1, 9 + (way.lookup and LOWEST))  # 5.0 makes one token more than asked where it drafts
    assert run.total_s == pytest.approx(run.first_token_s + behind_first * run.token_s)
    assert run.steps == 9 or way.lookup


def test_ways_take_turns(llama, monkeypatch):
    order = []
    original = Bench.run

    def run(self, way, prompts, new_tokens=None):
        if new_tokens is None:
            order.append((way.name, int(prompts[0, 0])))
        return original(self, way, prompts, new_tokens)

    monkeypatch.setattr(Bench, "run", run)
    case = Case("two", (torch.tensor([[5, 6, 7]]), torch.tensor([[8, 9, 10]])))
    measure(llama, [case], Settings(new_tokens=2, repeats=3, memory=False))
    assert order[:4] == [("greedy", 5), ("dola", 5), ("old", 5), ("greedy again", 5)]
    assert order[4:] == [
        *(("greedy", 5), ("dola", 5), ("old", 5), ("greedy again", 5)),
        *(("dola", 8), ("old", 8), ("greedy again", 8), ("greedy", 8)),
        *(("old", 5), ("greedy again", 5), ("greedy", 5), ("dola", 5)),
    ]


def test_compiled_ways_run_in_blocks(llama, monkeypatch):
    asked = []
    original = Bench._mode

    def uncompiled(self, way):
        asked.append((way.name, original(self, way)))
        return {"disable_compile": True}

    monkeypatch.setattr(Bench, "_mode", uncompiled)
    settings = Settings(new_tokens=2, repeats=1, cache="static", compile=True, old=False, memory=False)
    llama._previous_max_cache_length = 99
    found = measure(llama, [random_case(401, batch_size=2, length=5, batches=1)], settings)
    assert found.schedule == "in blocks"
    assert [name for name, _ in asked] == ["greedy"] * 3 + ["dola"] * 3
    assert all(mode["cache_implementation"] == "static" and mode["compile_config"] for _, mode in asked)
    assert not hasattr(llama, "_previous_max_cache_length")


@pytest.mark.parametrize(
    ("tokens", "others", "position"),
    [([[1, 2, 3]], [[1, 2, 3]], None), ([[1, 2], [3, 4]], [[1, 2], [3, 5]], 1), ([[1, 2]], [[1, 2, 3]], 2)],
)
def test_first_difference(tokens, others, position):
    assert _first_difference(torch.tensor(tokens), torch.tensor(others)) == position


def test_spread_and_summary(result):
    assert Spread.of([3.0, 1.0, 8.0]) == Spread(1.0, 3.0, 8.0)
    assert [(found.way, found.cases) for found in result.summaries()] == [
        ("dola", 1),
        ("old", 1),
        ("greedy+lookup", 1),
        ("dola+lookup", 1),
        ("greedy again", 1),
    ]
    assert json.loads(json.dumps(result.to_json()))["summary"][0]["token_ratio"]["median"] > 0


def test_memory_of_a_process_of_its_own():
    source = Source("tiny", device="cpu", random_weights=True)
    bench = Bench(source.load().model, Settings(new_tokens=2))
    found = memory.peak_memory(bench, DOLA, torch.arange(4, 40)[None], source)
    assert found.peak_bytes >= found.before_bytes > 2**20
    assert "peak resident memory" in found.method
    assert memory.peak_memory(bench, DOLA, torch.arange(4, 40)[None], None) is None


def test_memory_that_cannot_be_measured_is_an_error(monkeypatch):
    source = Source("tiny", device="cpu", random_weights=True)
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nMemoryError: too much")
    monkeypatch.setattr(memory.subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(InputError, match="memory of dola failed: MemoryError: too much"):
        memory.peak_memory(Bench(source.load().model, Settings()), DOLA, torch.ones(1, 3), source)


def test_measuring_here(monkeypatch, tmp_path):
    order = {
        "source": asdict(Source("tiny", device="cpu", random_weights=True)),
        "settings": asdict(Settings(dola=dola.DoLaConfig((2, 4)), new_tokens=2)),
        "way": asdict(DOLA),
        "threads": torch.get_num_threads(),
        "prompts": [[5, 6, 7]],
    }
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "none" / "clear_refs")
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    found = memory.measure_here(order)
    assert found.peak_bytes == found.before_bytes  # without the kernel's help, the one peak there is
    assert found.method.endswith("loading included")


def test_memory_is_compared_with_greedys(llama, monkeypatch):
    found = iter([100, 101])
    monkeypatch.setattr("dola.bench.measure.peak_memory", lambda *_: Memory(next(found), 90, "counted"))
    case = random_case(401, batch_size=1, length=5, batches=1)
    ways = measure(llama, [case], Settings(new_tokens=2, repeats=1, old=False)).cases[0].ways
    assert [way.memory_ratio for way in ways] == [None, 1.01, None]  # not of greedy decoding again


def test_memory_on_cuda_is_the_allocators(llama, monkeypatch):
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 30)
    with Bench(llama, Settings(new_tokens=2)) as bench:
        found = memory._on_cuda(bench, DOLA, torch.tensor([[5, 6, 7]]))
    assert (found.peak_bytes, found.before_bytes) == (30, 10)


def test_the_machine_description_has_what_affects_speed():
    machine = Machine.here(torch.device("cpu"))
    assert machine.accelerator is None
    assert machine.processor
    assert torch.__version__ in machine.describe()


def test_charts_that_could_not_be_written_are_refused_first(monkeypatch, tmp_path):
    monkeypatch.setattr(chart, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=re.escape(install_line("plot"))):
        chart.check_chart(tmp_path / "a.svg")
    monkeypatch.setattr(chart, "find_spec", lambda name: name)
    chart.check_chart(tmp_path / "a.svg")
    for path, message in ((tmp_path / "a.doc", "must end in .png, .svg, .pdf"), (tmp_path / "no" / "a.svg", "does not exist")):
        with pytest.raises(ConfigError, match=message):
            chart.check_chart(path)


def test_chart_has_a_bar_for_each_way_but_greedy(result):
    axes = MagicMock()
    chart.draw(axes, result)
    widths = [call.args[1] for call in axes.barh.call_args_list]
    assert widths == [way.token_ratio.median for way in result.cases[0].ways[1:]]
    axes.axvline.assert_called_once_with(1, color="black", linewidth=1)


def test_chart_file(result, tmp_path):
    pytest.importorskip("matplotlib")
    chart.save_chart(result, tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_markdown_has_a_row_for_each_way(script, result, tmp_path, capsys):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(result.to_json()))
    script("tables").main([file])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 6
    assert len({row.count("|") for row in rows}) == 1


def test_gpu_script_names_what_it_left_out(script, result, tmp_path, monkeypatch, capsys):
    gpu = script("gpu")

    def part(model, source, args, *, compiled, batch_size):
        if compiled:
            raise RuntimeError("out of memory")
        return result.to_json()

    monkeypatch.setattr(gpu, "part", part)
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    options = [str(tmp_path), "--shapes", "tiny", "--device", "cpu", "--batch-sizes", "1", "--no-host"]
    assert gpu.main(options) == 1
    printed = capsys.readouterr()
    assert "left out: vLLM: not installed" in printed.out
    assert "left out: tiny-batch1-static-compiled: RuntimeError: out of memory" in printed.out
    assert "| dola |" in printed.out
    assert [file.name for file in tmp_path.iterdir()] == ["tiny-batch1-dynamic.json"]
    assert gpu.main([*options, "--minutes", "0"]) == 1
    assert "tiny-batch1-dynamic: no time left" in capsys.readouterr().out


def test_gpu_script_runs_vllm_where_it_is_installed(script, result, tmp_path, monkeypatch, capsys):
    gpu, ran = script("gpu"), []

    def run(command, **_):
        ran.append(Path(command[1]).name)
        failed = ran[-1] == "vllm_throughput.py"
        return SimpleNamespace(returncode=int(failed), stdout="32 of 32 answers", stderr="out of memory")

    monkeypatch.setattr(gpu, "find_spec", lambda name: object())
    monkeypatch.setattr(gpu.subprocess, "run", run)
    monkeypatch.setattr(gpu, "part", lambda *_, **__: result.to_json())
    options = [str(tmp_path), "--shapes", "tiny", "--serving", "tiny", "--device", "cpu", "--batch-sizes", "1", "--no-host"]
    assert gpu.main(options) == 1
    printed = capsys.readouterr().out
    assert ran == ["vllm_tokens.py", "vllm_throughput.py"]
    assert "32 of 32 answers" in printed
    assert "left out: vllm_throughput: RuntimeError: ended with 1: out of memory" in printed
    assert "out of memory" in (tmp_path / "vllm_throughput.log").read_text()
    assert not [each for each in tmp_path.iterdir() if each.is_dir()]


def test_the_profile_of_a_step_has_the_host_and_the_device(script):
    host = script("gpu_host")
    model = Source("tiny", device="cpu", random_weights=True).load().model
    found = host.where_time_goes(model, new_tokens=4, prompt_length=8, compiled=False)
    assert list(found) == ["greedy", "dola"]
    assert all(each["step_ms"] > 0 and each["functions"] and each["device_ms"] is None for each in found.values())
    assert "| dola |" in host.table(found)
    assert "not known" in host.table(found)
    kernel = {"device_type": host.DeviceType.CUDA, "self_device_time_total": 6000, "count": 2, "key": "cudaGraphLaunch"}
    cpu = {"device_type": host.DeviceType.CPU, "self_cpu_time_total": 1000, "count": 1, "key": "aten::mm"}
    short = host._totals([SimpleNamespace(**kernel), SimpleNamespace(**cpu)])
    whole = host._totals([SimpleNamespace(**kernel)] * 2 + [SimpleNamespace(**cpu | {"self_cpu_time_total": 3000})])
    figures = host._figures(short, whole, steps=2, step_ms=5.0)
    assert figures == {"step_ms": 5, "device_ms": 3, "host_ms": 2, "launches": 1, "functions": {"aten::mm": 1}}


def test_kept_reports_have_no_texts_of_a_benchmark(script):
    keep = script("keep")
    report = {"item_ids": ["1"], "items": [{"question": "q"}], "changed": {}, "ways": [{"name": "vanilla", "chosen": ["q"]}]}
    assert keep.without_texts(report) == {"item_ids": ["1"], "ways": [{"name": "vanilla"}]}
    kept = {file.name: json.loads(file.read_text()) for file in keep.FOLDER.glob("*.json")}
    assert kept
    assert [name for name, found in kept.items() if keep.without_texts(found) != found] == []


def test_sweep(script, capsys, tmp_path):
    sweep = script("sweep")
    model = Source("tiny", device="cpu", random_weights=True).load().model  # a head of 1,000 x 64 in float32
    # Bound by memory: no second read of the head, and 2 + 4 rows of logits in float32.
    assert sweep.floor(model, 1, 4, 1.0, bandwidth=1.0, rate=1e12) == pytest.approx(6 * 4000)
    # Bound by arithmetic: 4 more rows through the head, of which half are needed.
    assert sweep.floor(model, 1, 4, 0.5, bandwidth=1e12, rate=1.0) == pytest.approx(2 * 2 * 64 * 1000, rel=1e-6)
    assert sweep.candidates(2, 6) == (3, 4)
    assert sweep.candidates(6, 6) == (0, 1, 2, 3, 4, 5)
    assert sweep.ks("1,4,all,99", 6) == [1, 4, 6]
    options = "--random-weights tiny --batch-sizes 2 --ks 2 --new-tokens 2 --repeats 1 --prompt-length 4"
    sweep.main([*options.split(), "--json", str(tmp_path / "a.json")])
    assert "| 2 | 2 | " in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text())["rows"][0]["undecided"] > 0


class Timed:
    """A side of a comparison whose times are given; greedy decoding slows down as the machine does."""

    def __init__(self, dola, machine=1.0):
        self.times = {"greedy": 0.1 * machine, "dola": dola * machine}

    def seconds(self, way, batch_size):
        return self.times[way]


@pytest.mark.parametrize(("new", "passes"), [(Timed(0.1), True), (Timed(0.11), False), (Timed(0.1, machine=1.2), True)])
def test_two_commits_are_compared_beyond_the_noise(script, capsys, new, passes):
    compare = script("compare")
    assert compare.compare(8, Timed(0.1), new, SimpleNamespace(repeats=3, most=1.05)) is passes
    noise, contrast = capsys.readouterr().out.splitlines()
    assert noise.startswith("batch 8, noise: greedy 100.0 ms before")
    assert "DoLa : dola   100.0 ms before" in contrast


def test_an_unknown_commit_is_named(script, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["compare.py", "no-such-commit"])
    with pytest.raises(SystemExit, match="'no-such-commit' is not a commit here"):
        script("compare").main()
