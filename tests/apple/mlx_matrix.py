"""docs/mlx-models.md: DoLa on a tiny random model of every model file of the installed mlx-lm.

    python tests/apple/mlx_matrix.py                  all that have no result yet, then the page
    python tests/apple/mlx_matrix.py olmo qwen3 ...   these again
    python tests/apple/mlx_matrix.py --page           the page alone

Scores are compared with the float64 judge: for a prompt, and for a token after it from the prompt's cache. The judge gets the
logits of earlier layers in another way than DoLa does, from the same model with its first blocks alone. Each file has a
process of its own, with a limit of memory and of time. Results are kept as they come, so an interrupted run continues.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from textwrap import fill
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "mlx-models.json"
PAGE = ROOT / "docs" / "mlx-models.md"
SECONDS, BYTES = 120, 6 * 2**30
"""Limits of one file: time, and address space."""
TOLERANCE = 1e-4
"""Largest difference of a score from the judge's, relative to the largest log-probability in its row."""
PROMPT, NEXT, LAYERS = [3, 9, 27, 17, 51], 40, (1, 2, 3)
RIGHT, REFUSED, WRONG, NOT_BUILT = "right", "refused", "wrong", "not built"


@dataclass
class Outcome:
    """What became of one model file."""

    name: str
    status: str
    note: str = ""
    error: float | None = None


def files() -> list[str]:
    """Every file of mlx-lm that has a model."""
    from mlx_lm import models

    (folder,) = models.__path__
    return sorted(
        (path.stem for path in Path(folder).glob("*.py") if "\nclass ModelArgs" in path.read_text(encoding="utf-8")),
        key=str.lower,
    )


def scores_of(model: Any) -> list[list[float]]:
    """Logits [V], or scores with a method on the model: of the prompt's last token, and of a next one from the cache."""
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    return [_last(model, tokens, cache) for tokens in (PROMPT, [NEXT])]


def scores_of_first(model: Any, blocks: int) -> list[list[float]]:
    """The same logits from a model's first blocks alone. All blocks fill the cache: some files read that of a later one."""
    from mlx_lm.models.cache import make_prompt_cache
    from tiny_mlx import first_blocks

    with first_blocks(model, blocks) as cache:
        try:
            found = [_last(model, PROMPT, cache)]
        except AttributeError:  # afm7 reads the last cache, which is that of a block that is not there
            found = [_last(model, PROMPT, make_prompt_cache(model))]
    cache = make_prompt_cache(model)
    _last(model, PROMPT, cache)
    with first_blocks(model, blocks):
        return [*found, _last(model, [NEXT], cache)]


def _last(model: Any, tokens: list[int], cache: Any) -> list[float]:
    import mlx.core as mx

    found: list[float] = model(mx.array([tokens]), cache=cache)[0, -1].astype(mx.float32).tolist()
    return found


def judged(mature: list[float], premature: list[list[float]]) -> list[float]:
    """The float64 judge's scores. Tokens that are not plausible have dola's floor, below all others."""
    from reference import dola_float64

    scores, log_p = dola_float64.contrast(mature, premature, relative_top=0.1), dola_float64.log_softmax(mature)
    return [p - 1000 if score == -float("inf") else score for score, p in zip(scores, log_p, strict=True)]


def difference(found: list[float], wanted: list[float]) -> float:
    """The largest difference, relative to the largest score above the floor."""
    size = max(abs(score) for score in wanted if score > -900)
    gaps = [0.0 if a == b else abs(a - b) for a, b in zip(found, wanted, strict=True)]  # both may be -inf
    return max(gap / (size if score > -900 else 1000) for gap, score in zip(gaps, wanted, strict=True))


def try_out(name: str) -> Outcome:
    """Build one file's model, and compare."""
    from tiny_mlx import tiny

    import dola.mlx
    from dola.errors import DolaError

    try:
        model = tiny(name)
        mature = scores_of(model)
    except Exception as error:
        return Outcome(name, NOT_BUILT, _words(error))
    try:
        with dola.mlx.attach(model, LAYERS):
            found = scores_of(model)
    except DolaError as error:
        return Outcome(name, REFUSED, error.message)
    premature = [scores_of_first(model, layer) for layer in LAYERS]
    errors = [difference(found[i], judged(mature[i], [each[i] for each in premature])) for i in range(len(mature))]
    if all(a == b for a, b in zip(found, mature, strict=True)):
        return Outcome(name, WRONG, "the scores are the logits")
    largest = max(errors)
    return Outcome(name, RIGHT if largest <= TOLERANCE else WRONG, f"errors {errors[0]:.1e}, {errors[1]:.1e}", largest)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def in_a_process(name: str) -> Outcome:
    """`try_out` in a process of its own."""
    command = [sys.executable, __file__, "--try", name]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=SECONDS,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES)),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Outcome(name, NOT_BUILT, f"took longer than {SECONDS} s")
    line = next((line for line in reversed(ended.stdout.splitlines()) if line.startswith("{")), None)
    if line is None:
        said = (ended.stderr.strip() or ended.stdout.strip()).splitlines()
        last = said[-1] if said else f"exit code {ended.returncode}"
        return Outcome(name, NOT_BUILT, f"the process ended: {last[:200]}")
    return Outcome(**json.loads(line))


def page(outcomes: list[Outcome]) -> str:
    """The page."""
    counts = Counter(outcome.status for outcome in outcomes)
    summary = (
        f"mlx-lm {version('mlx-lm')}, mlx {version('mlx')}: {len(outcomes)} files. {counts[RIGHT]} are right, "
        f"{counts[REFUSED]} are refused, {counts[WRONG]} are wrong, and of {counts[NOT_BUILT]} no tiny model was made."
    )
    lines = [HEAD, fill(summary, width=126) + "\n", "| file | with DoLa | largest error | note |", "|---|---|---|---|"]
    order = (WRONG, RIGHT, REFUSED, NOT_BUILT)
    for each in sorted(outcomes, key=lambda each: (order.index(each.status), each.name.lower())):
        error = "" if each.error is None else f"{each.error:.0e}"
        note = "" if each.status == RIGHT else " ".join(each.note.replace("|", "/").replace("`", "'").split())
        quoted = f"`{note}`" if each.status == NOT_BUILT else note
        lines.append(f"| {each.name} | {each.status} | {error} | {quoted} |")
    return "\n".join([*lines, ""])


HEAD = """# Models in MLX

At the end of this page you know which model files of mlx-lm have been decoded with DoLa, and how that was checked.

`tests/apple/mlx_matrix.py` makes a tiny random model of each file (float32, on a CPU) and computes DoLa's scores for a prompt
and for a token after it. "Right" means that they are those of a float64 judge, to 1e-4 of the largest score. The judge gets
the logits of earlier layers in another way: from the same model with its first blocks alone.

This list decides nothing. dola finds the parts of any model, checks them on the first forward, and refuses the model if they
do not reproduce its logits. `make mlx-models` makes this page.

- **refused**: dola refuses the model, with this reason.
- **wrong**: with DoLa other scores than the judge's.
- **not built**: no tiny model of it could be made or run here, so nothing is known.
"""


def main() -> None:
    """Try the files that the command line names, or those without a result, and write the page."""
    done = {made["name"]: Outcome(**made) for made in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    named, every = [name for name in sys.argv[1:] if not name.startswith("-")], files()
    for name in [] if "--page" in sys.argv else named or [name for name in every if name not in done]:
        done[name] = outcome = in_a_process(name)
        print(f"{name}: {outcome.status}. {outcome.note}", flush=True)
        RESULTS.write_text("[\n" + ",\n".join(json.dumps(asdict(done[each])) for each in every if each in done) + "\n]\n")
    PAGE.write_text(page([done[name] for name in every if name in done]), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    if sys.argv[1:2] == ["--try"]:
        print(json.dumps(asdict(try_out(sys.argv[2]))))
    else:
        main()
