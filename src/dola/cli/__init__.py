"""The `dola` command. It needs typer and rich from the extra `cli`; without them, it says how to install them.

A verb that needs more checks that itself: gguf if it loads a GGUF file, vLLM in `dola serve`.
"""

import sys
from importlib.util import find_spec

from dola.installed.hints import install_line


def main() -> None:
    """Run the command line: exit code 0, or 2 after a user's mistake, reported without a traceback."""
    missing = [name for name in ("typer", "rich") if find_spec(name) is None]
    if missing:
        needs = f"The command needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed."
        print(f"dola: {needs}\nHint: {install_line('cli')}", file=sys.stderr)
        raise SystemExit(2)
    try:
        from dola.cli.app import run
    except KeyboardInterrupt:  # modules are still being imported
        raise SystemExit(130) from None
    run()
