"""`dola ui`: serves a local page that decodes greedily and with DoLa side by side, and shows the layers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from dola.cli import options
from dola.cli.models import ALIASES

if TYPE_CHECKING:
    from dola.loading.models import LoadedModel

LOCAL = "127.0.0.1"


def command(
    model: options.Model = "smollm2",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 means all of this machine's.")] = LOCAL,
    port: Annotated[int, typer.Option(help="Port; 0 means any free one.", callback=options.between(0, 65535))] = 7860,
    max_prompt_tokens: Annotated[int, typer.Option(help="Maximum length of a prompt.", callback=options.between(1))] = 512,
    max_new_tokens: Annotated[int, typer.Option(help="Maximum length of each answer.", callback=options.between(1))] = 128,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = False,
    dtype: options.DTypeOption = None,
    device: options.Device = None,
    trust_remote_code: options.TrustRemoteCode = False,
    config: options.ConfigFile = None,
) -> None:
    """Serve a page where both answers and their layers appear.

    The page shows what each layer predicts, and can load other models that need no code of their own. It fetches nothing but
    models and sends nothing. Ctrl-C ends it.

    \b
    Examples:
      dola ui --open
      dola ui --model gemma3-270m --max-new-tokens 200
      dola ui --model meta-llama/Llama-3.2-1B --dtype bfloat16 --port 8000
    """
    from dola.ui import server

    server.check_extra()
    with server.bind(host, port) as listening:  # a taken port fails before the model is loaded
        loaded = options.load_model(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        from dola.ui.models import Models
        from dola.ui.request import Limits
        from dola.ui.session import Session

        def load(name: str) -> LoadedModel:
            if name == model:
                return loaded
            return options.load_model(name, dtype=dtype, device=device, trust_remote_code=False)

        session = Session(Models(load), Limits(prompt_tokens=max_prompt_tokens, new_tokens=max_new_tokens))
        session.models.get(model)
        hosts = server.LOOPBACK if host in server.LOOPBACK else None
        app = server.application(session, model=model, models=ALIASES.split(", "), hosts=hosts)

        def ready() -> None:
            print(f"dola ui: {server.url(listening)}", flush=True)
            if hosts is None:
                print("Anyone who can reach this address can use this machine's models.", file=sys.stderr)
            if open_:
                typer.launch(server.url(listening))

        server.serve(app, listening, session=session, ready=ready)
