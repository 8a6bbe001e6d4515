"""The `dola` command. Needs the `cli` extra; without it, it says how to get it."""

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line: exit code 0, or 2 after a mistake of the user's, told without a traceback."""
    missing = [name for name in ("typer", "rich", "gguf") if find_spec(name) is None]
    if missing:
        print(
            f"The dola command needs {', '.join(missing)}.\nHint: pip install 'dola-decoding[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(2)
    from dola.cli.app import run

    run()
