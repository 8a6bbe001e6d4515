"""Does it help? Evaluates DoLa and its controls on a task, and tests whether differences are statistically significant.

sample.py      the items: all of a task's data, or some of them drawn with a seed
ways.py        the ways that are compared: vanilla, DoLa, the paper's recipe, and the controls
course.py      the course of a run: all items at once, or in blocks with a look after each
scored.py      multiple-choice tasks, block by block
choice.py      every way from one pass over the model, and the metrics of each item
forecast.py    how long a run takes, said after its first seconds
generation.py  tasks that are answered with generated text
evaluate.py    the evaluation of a model on a task, whichever kind it is
row_result.py  one row: its means and its comparison with vanilla
report.py      the results of all rows, the verdicts on them, and what explains them
reading.py     how to read a report, and signs that its items made the result
reasons.py     what explains a difference: length, the repetition penalty
item_traces.py  what each layer says about the answers that changed most
details.py     the sections below the table, the same in every format
markdown_page.py  the report as Markdown
table.py       the report as a table on a terminal
chart.py       the report as a chart
"""
