"""The page of `dola ui` as a Hugging Face Space: one model, for whoever comes by."""

import os

import dola
from dola.ui import server
from dola.ui.models import Models
from dola.ui.request import Limits
from dola.ui.session import Session

MODEL = os.environ.get("MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")
# A Space is a container, and the hub's proxy reaches it from outside: not on a loopback address.
HOST, PORT = os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"), int(os.environ.get("GRADIO_SERVER_PORT", "7860"))


def main() -> None:
    session = Session(Models(dola.load, [MODEL]), Limits(prompt_tokens=256, new_tokens=64, at_once=2, lens=False))
    session.models.get(MODEL)
    app = server.application(session, model=MODEL, models=[], choose=False)
    with server.bind(HOST, PORT) as listening:
        server.serve(app, listening, session=session, ready=lambda: print(f"serving {MODEL} at {server.url(listening)}"))


if __name__ == "__main__":
    main()
