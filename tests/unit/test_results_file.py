"""Results that an interrupted run continues from."""

import json

from dola.results_file import ResultsFile

NAN = float("nan")


def test_an_item_that_json_cannot_hold_is_found_again(tmp_path):
    path = tmp_path / "results.jsonl"
    with ResultsFile.open(path, lambda: {"what": "a test"}) as kept:
        kept.add(0, {"value": 1.5})
        kept.add(1, {"value": [NAN]})
        kept.add(2, {"value": -1.0})
        assert set(kept.items) == {0, 1, 2}
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=lambda name: 1 / 0)
    with ResultsFile.open(path, lambda: {"what": "a test"}) as kept:
        assert kept.items == {0: {"value": 1.5}, 2: {"value": -1.0}}
