"""What DoLa costs: it, plain greedy decoding and the code of transformers 4, timed in turns on one model.

cases.py       what is decoded: prompts of a stated length, prompts whose answers repeat their context, random tokens
source.py      where the model comes from: a name, or a well-known shape with random weights
baseline.py    the loop of transformers 4, rebuilt, as something to be faster than
ways.py        the ways of decoding, and one timed run of one of them
measure.py     many runs in turns, and what is made of their times
memory.py      peak memory, each way in a process of its own
results.py     the results, as dataclasses that become JSON
machine.py     on what it was measured
table.py       the result as a terminal shows it
chart.py       the picture
"""
