"""Does it help? A task, a model, DoLa and its controls, and whether the difference is more than noise.

sample.py      which items: a task's data, or so many of them drawn with a seed
ways.py        what is compared: vanilla, DoLa, the paper's recipe, and the controls
choice.py      multiple-choice tasks: every way from one pass over the model
generation.py  tasks that are answered with generated text
evaluate.py    the evaluation of a model on a task, whichever kind it is
report.py      what was found, with intervals and sentences; Markdown and JSON
table.py       the report as a terminal shows it
chart.py       the picture
"""
