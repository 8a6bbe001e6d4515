"""Small data sets in the layouts of the tasks, and tiny models to run on them."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

from command import TEMPLATE, tokenizer
from families import tiny

SENTENCE = "the cat sat on a mat and then went home to eat fish with friends near old river bank under blue sky"
WORDS = SENTENCE.split()


def words(draw: random.Random, count: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(count))


def factor(path: Path, rows: int = 40, *, seed: int = 0) -> Path:
    """FACTOR's layout. The true ending is of any length."""
    draw = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["full_prefix", "turncated_prefixes", "completion", *(f"contradiction_{i}" for i in range(3))])
        for _ in range(rows):
            prefix = words(draw, 6)
            writer.writerow([prefix, prefix[:10], *(words(draw, draw.randint(2, 6)) for _ in range(4))])
    return path


def truthfulqa(path: Path, rows: int = 30) -> Path:
    """TruthfulQA's layout; right answers are longer than wrong ones, which is the artifact that the length control shows."""
    draw = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["Question", "Best Answer", "Correct Answers", "Incorrect Answers"])
        for i in range(rows):
            right, wrong = [words(draw, 6) for _ in range(2)], [words(draw, 2) for _ in range(3)]
            writer.writerow([f"Why {words(draw, 3)} {i}?", right[0], "; ".join(right), "; ".join(wrong)])
    return path


def memotrap(path: Path, rows: int = 4) -> Path:
    """MemoTrap's layout, whose lists are written as Python writes them."""
    draw = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "classes", "answer_index"])
        for i in range(rows):
            writer.writerow([f"End with a word: {words(draw, 3)}", [f" {words(draw, 1)}.", f" {words(draw, 2)}."], i % 2])
    return path


def gsm8k(path: Path, rows: int = 6) -> Path:
    lines = [json.dumps({"question": f"What is {i} plus one?", "answer": f"It is.\n#### {i + 1}"}) for i in range(rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def vicuna(path: Path, rows: int = 3) -> Path:
    lines = [json.dumps({"question_id": 80 + i, "turns": [f"Tell me of {words(random.Random(i), 3)}."]}) for i in range(rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def long_window(folder: Path) -> Path:
    """A tiny model whose window holds the prompts of all tasks, with a byte-level tokenizer and a chat template."""
    tiny("llama", max_position_embeddings=6000).save_pretrained(folder)
    made = tokenizer()
    made.chat_template = TEMPLATE
    made.save_pretrained(folder)
    return folder
