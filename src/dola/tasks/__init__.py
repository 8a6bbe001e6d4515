"""Evaluation tasks: the paper's prompts, answer extraction and metrics. The user provides the data; none is included.

A task turns rows into items and measures one item at a time; other packages score continuations and generate text:

    task = TASKS["truthfulqa-mc"]
    data = task.open("TruthfulQA.csv")                      # rows, SHA-256, whether it is the published file
    for item in task.items(data):
        values = task.measure(item, scores, token_counts)   # {"mc1": 1.0, "mc2": 0.63, ...}
"""

from __future__ import annotations

from dola.methods.names import RECOMMENDED_PENALTY
from dola.tasks import factor, gsm8k, memotrap, nq_open, strategyqa, truthfulqa, vicuna
from dola.tasks.data import HubDataset
from dola.tasks.items import share_of_right
from dola.tasks.task import ChoiceTask, Generation, GenerationTask, Metric, PaperSettings, Task

__all__ = ["TASKS", "ChoiceTask", "Generation", "GenerationTask", "Metric", "PaperSettings", "Task"]

_TRUTHFULQA_HUB = HubDataset("truthfulqa/truthful_qa", "generation", "validation")
_TRUTHFULQA_HOME = "https://github.com/sylinrl/TruthfulQA"
_FACTOR_HOME = "https://github.com/AI21Labs/factor"
_FACTOR_METRICS = (
    Metric("factor", "no contradiction has a higher sum (voidism/DoLa)", chance=share_of_right),
    Metric("factor_official", "no contradiction has a higher mean per token (FACTOR's own rule)", chance=share_of_right),
)
_FACTOR_PAPER = PaperSettings("low", relative_top=0.1, post_softmax=True)


def _generation_metrics(chance: float | None) -> tuple[Metric, ...]:
    random = None if chance is None else lambda item: chance
    return (
        Metric("accuracy", "right answers; a missing answer is wrong", chance=random),
        Metric("accuracy_reference", "right answers; a missing answer is guessed as in the reference", chance=random),
        Metric("answered", "texts that contain an answer"),
    )


_TASKS: tuple[Task, ...] = (
    ChoiceTask(
        name="truthfulqa-mc",
        description="TruthfulQA, multiple choice: are true answers likelier than common misconceptions?",
        files=("TruthfulQA.csv",),
        homepage=_TRUTHFULQA_HOME,
        published=truthfulqa.PUBLISHED,
        hub=_TRUTHFULQA_HUB,
        make_items=truthfulqa.choice_items,
        metrics=(
            Metric("mc1", "the best answer beats all wrong ones", chance=truthfulqa.chance_best),
            Metric("mc2", "probability mass of the right answers", binary=False, chance=share_of_right),
            Metric("mc2_reference", "the same, as the reference computes it", binary=False, chance=share_of_right),
            Metric("mc3", "share of right answers that beat all wrong ones", binary=False, chance=truthfulqa.chance_best),
        ),
        measure=truthfulqa.choice_metrics,
        paper=PaperSettings("high", relative_top=0.0),
    ),
    ChoiceTask(
        name="truthfulqa-binary",
        description="TruthfulQA, 2025: is the best answer preferred to the best incorrect one, in both orders?",
        files=("TruthfulQA_2025.csv",),
        homepage=_TRUTHFULQA_HOME,
        published=truthfulqa.BINARY_PUBLISHED,
        hub=None,
        make_items=truthfulqa.binary_items,
        metrics=(Metric("accuracy", "the letter of the true answer is likelier", chance=share_of_right),),
        measure=truthfulqa.binary_metrics,
        paper=PaperSettings("high", relative_top=0.1, post_softmax=True),
    ),
    GenerationTask(
        name="truthfulqa-open",
        description="TruthfulQA, open-ended: two judges say whether generated answers are true and informative",
        files=("TruthfulQA.csv",),
        homepage=_TRUTHFULQA_HOME,
        published=truthfulqa.PUBLISHED,
        hub=_TRUTHFULQA_HUB,
        make_items=truthfulqa.open_items,
        metrics=(
            Metric("truth", "judged true"),
            Metric("info", "judged informative"),
            Metric("truth_info", "judged both"),
            Metric("reject", 'answered with "I have no comment"'),
        ),
        measure=truthfulqa.open_metrics,
        generation=Generation(50, truthfulqa.STOP),
        judged=True,
        paper=PaperSettings("high", relative_top=0.1, repetition_penalty=RECOMMENDED_PENALTY),
    ),
    *(
        ChoiceTask(
            name=f"factor-{subset}",
            description=f"FACTOR, {subset}: is the true ending of a text likelier than three that contradict it?",
            files=(f"{subset}_factor.csv",),
            homepage=_FACTOR_HOME,
            published=factor.PUBLISHED if subset == "news" else {},
            hub=None,
            make_items=factor.news_items if subset == "news" else factor.shortened_items,
            metrics=_FACTOR_METRICS,
            measure=factor.metrics,
            paper=_FACTOR_PAPER,
        )
        for subset in ("news", "wiki", "expert")
    ),
    ChoiceTask(
        name="memotrap",
        description="MemoTrap: does an instruction win against the familiar ending of a saying?",
        files=tuple(memotrap.PUBLISHED),
        separate_files=True,
        homepage="https://github.com/liujch1998/memo-trap",
        published=memotrap.PUBLISHED,
        hub=None,
        make_items=memotrap.items,
        metrics=(
            Metric("accuracy", "the right ending has the highest sum", chance=share_of_right),
            Metric("accuracy_per_token", "the right ending has the highest mean per token", chance=share_of_right),
        ),
        measure=memotrap.metrics,
        paper=PaperSettings("high", relative_top=0.1, post_softmax=True),
    ),
    GenerationTask(
        name="nq-open",
        description="NQ-open: questions that people typed, five examples, an answer that equals a known one",
        files=("NQ-open.dev.jsonl",),
        homepage="https://github.com/google-research-datasets/natural-questions/tree/master/nq_open",
        published=nq_open.PUBLISHED,
        hub=HubDataset("google-research-datasets/nq_open", "nq_open", "validation"),
        make_items=nq_open.items,
        metrics=nq_open.METRICS,
        measure=nq_open.metrics,
        generation=Generation(16, nq_open.STOP),
        paper=PaperSettings("low", relative_top=0.1, repetition_penalty=RECOMMENDED_PENALTY),
    ),
    GenerationTask(
        name="strategyqa",
        description="StrategyQA: yes or no, by a chain of thought",
        files=("train.json", "dev.json"),
        homepage="https://github.com/eladsegal/strategyqa",
        published=strategyqa.PUBLISHED,
        hub=HubDataset("ChilleD/StrategyQA", split="train+test"),
        make_items=strategyqa.items,
        metrics=_generation_metrics(chance=0.5),
        measure=strategyqa.metrics,
        generation=Generation(256, strategyqa.STOP),
        paper=PaperSettings("low", relative_top=0.1, repetition_penalty=RECOMMENDED_PENALTY),
    ),
    GenerationTask(
        name="gsm8k",
        description="GSM8K: the number that solves a word problem, by a chain of thought",
        files=("test.jsonl",),
        homepage="https://github.com/openai/grade-school-math",
        published=gsm8k.PUBLISHED,
        hub=HubDataset("openai/gsm8k", "main", "test"),
        make_items=gsm8k.items,
        metrics=_generation_metrics(chance=None),
        measure=gsm8k.metrics,
        generation=Generation(256, gsm8k.STOP),
        paper=PaperSettings("low", relative_top=0.1, repetition_penalty=RECOMMENDED_PENALTY),
    ),
    GenerationTask(
        name="vicuna",
        description="Vicuna questions: answers in a file that FastChat's judges read",
        files=("question.jsonl",),
        homepage="https://github.com/lm-sys/FastChat",
        published=vicuna.PUBLISHED,
        hub=None,
        make_items=vicuna.items,
        metrics=(),
        measure=None,
        generation=Generation(1024, vicuna.STOP, temperature=0.7),
        chat=True,
        paper=PaperSettings("low", relative_top=0.1, repetition_penalty=RECOMMENDED_PENALTY),
    ),
)

TASKS = {task.name: task for task in _TASKS}
"""All tasks by name."""
