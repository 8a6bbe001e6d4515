"""The cost of DoLa: DoLa, plain greedy decoding and the code of transformers 4, timed in turns on one model.

cases.py       prompts: of a given length, with answers that repeat their context, or of random tokens
source.py      the model: by name, or a well-known shape with random weights
baseline.py    the decoding loop of transformers 4, rebuilt for comparison
ways.py        the ways of decoding, and one timed run of one of them
measure.py     many runs in turns, and statistics of their times
memory.py      peak memory, each way in its own process
results.py     the results, as dataclasses that become JSON
machine.py     the machine and versions of a measurement
table.py       the result as a table on a terminal
chart.py       the result as a chart
"""
