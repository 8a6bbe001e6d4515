"""Runs the notebook of the examples, in this Python: for its test, and by itself to keep the outputs (`make notebook`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parents[1] / "examples" / "see_the_layers.ipynb"


def read() -> Any:
    """The notebook as it is on disk."""
    import nbformat

    return nbformat.read(NOTEBOOK, as_version=4)


def run(notebook: Any) -> Any:
    """`notebook`, executed from the top by a fresh kernel; an error of a cell is raised."""
    from nbclient import NotebookClient

    settings = {"resources": {"metadata": {"path": str(NOTEBOOK.parent)}}, "record_timing": False}
    NotebookClient(notebook, timeout=600, startup_timeout=600, kernel_name="python3", **settings).execute()
    for cell in notebook.cells:
        cell.outputs = [each for each in cell.get("outputs", []) if each.get("name") != "stderr"]  # progress bars
        if cell.cell_type != "code":
            del cell["outputs"]
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return notebook


if __name__ == "__main__":
    import nbformat

    nbformat.write(run(read()), NOTEBOOK)
    print(f"{NOTEBOOK}: {NOTEBOOK.stat().st_size:,} bytes")
