"""The `dola` command. Needs the `cli` extra; without it, it says how to get it."""

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line: exit code 0, or 2 after a mistake of the user's, told without a traceback."""
    missing = [name for name in ("typer", "rich", "gguf") if find_spec(name) is None]
    if missing:
        print(
            f"dola: the command needs {', '.join(missing)}; the `cli` extra has them.\nHint: pip install 'dola-decoding[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(2)
    try:
        from dola.cli.app import run
    except KeyboardInterrupt:  # modules are still being imported
        raise SystemExit(130) from None
    run()
