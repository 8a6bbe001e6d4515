"""mlx-lm's server with a method: each request says in its body how it is decoded.

mlx-lm serves requests of one model in one batch, and compares the models that requests name to decide who may share it. So
the method is a part of that name (`Asked`): requests with other settings wait for the batch to end, as those of another model
do, and the model then gets their method. What the cache of prompts holds is the same with every method.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm import server
from mlx_lm.models.cache import LRUPromptCache

from dola.errors import ConfigError, UsageError
from dola.methods.config import MethodConfig
from dola.mlx.loading import load
from dola.mlx.parts import find
from dola.mlx.session import attach
from dola.serving.settings import Served, like_options

DEFAULT = "default_model"
"""mlx-lm's name for the model that the server was started with."""

THEIRS = ("seed",)
"""Fields of mlx-lm's that a setting of a method has the name of: not taken for that setting without its prefix."""

SECONDS_TO_END = 0.5
"""Until the thread that decodes has ended. Python joins it before MLX clears what the thread kept, and if Python itself ends
meanwhile, MLX aborts the process."""


class Asked(str):
    """The name of a model in a request, with the method of that request. Names with other methods are unequal.

    Args:
        name: As the request has it.
        config: The settings of the method, or None for plain decoding.
    """

    config: MethodConfig | None

    def __new__(cls, name: str, config: MethodConfig | None) -> Asked:
        """A string with a method: see the class."""
        made = super().__new__(cls, name)
        made.config = config
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Asked) and str(self) == str(other) and self.config == other.config

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return super().__hash__()


class Provider(server.ModelProvider):  # type: ignore[misc]
    """Loads models as mlx-lm does, and puts the method of a request on the model before it is decoded.

    Attributes:
        served: What the server does for which request, once the model is loaded.
        error: Why the model cannot be served, or None.
        is_settled: Set when one of the two is known.

    Args:
        cli_args: mlx-lm's own arguments.
        settings: The server's settings, as `Served.of` reads them.
    """

    served: Served

    def __init__(self, cli_args: argparse.Namespace, settings: Mapping[str, Any]) -> None:
        super().__init__(cli_args)
        self._settings = settings
        self.error: Exception | None = None
        self.is_settled = threading.Event()
        self._names = {DEFAULT, cli_args.model, str(Path(cli_args.model).resolve())}
        self._model_map.update(dict.fromkeys(self._names, cli_args.model))

    def load_default(self) -> None:
        """Load the model that is served, and decode one token with the method. Runs in the thread that decodes."""
        try:
            super().load_default()
            parts = find(self.model)
            self.served = Served.of(self._settings, num_layers=parts.num_layers, tied=parts.tied)
            with attach(self.model, self.served.config):
                mx.eval(self.model(mx.array([[0]])))  # the first forward checks the readout
        except Exception as error:
            self.error = error
        finally:
            self.is_settled.set()

    def load(self, model_path: str, adapter_path: str | None = None, draft_model_path: str | None = None) -> tuple[Any, Any]:
        """Load the model that a request names, with the method that it asks for.

        Raises:
            ModelFileError: See `dola.mlx.load`.
            ModelError, LensError: See `dola.mlx.attach`.
        """
        config = model_path.config if isinstance(model_path, Asked) else None
        super().load(str(model_path), adapter_path, draft_model_path)
        there = getattr(self.model, "dola", None)
        if there is not None and there.config != config:
            there.remove()
            there = None
        if there is None and config is not None:
            attach(self.model, config)
        return self.model, self.tokenizer

    def asked(self, name: str, body: Mapping[str, Any]) -> str:
        """The model and the method that the body of a request asks for.

        Raises:
            ConfigError: An option that does not exist, a value that is not allowed, or a method for another model.
        """
        if inner := [key for key, value in body.items() if isinstance(value, dict) and like_options(value)]:
            raise ConfigError(
                f"{next(iter(like_options(body[inner[0]])))!r} is inside {inner[0]!r}, where this server does not look.",
                hint="give it in the body itself, beside the prompt",
            )
        config = self.served.of_request({key: value for key, value in body.items() if key not in THEIRS})
        if name in self._names:
            return Asked(name, config)
        if config is not None:
            raise ConfigError(
                f"The model {name!r} was asked for with the method {config.method!r}; this server decodes only "
                f"{self.cli_args.model!r} with a method.",
                hint='omit "model", or decode plainly: "dola_layers": "off"',
            )
        return name


class Handler(server.APIHandler):  # type: ignore[misc]
    """mlx-lm's handler of requests. Wrong options of dola get HTTP 400 and the reason, as its own do."""

    requested_model: str

    def validate_model_parameters(self) -> None:
        """Check the options of a request.

        Raises:
            ValueError: One is wrong.
        """
        super().validate_model_parameters()
        self.requested_model = self.response_generator.model_provider.asked(self.requested_model, self.body)


def serve(arguments: Sequence[str], settings: Mapping[str, Any], *, on_ready: Callable[[Served, str, int], None]) -> None:
    """Run mlx-lm's server until it is interrupted.

    Args:
        arguments: mlx-lm's own arguments, with --model.
        settings: The server's settings, as `Served.of` reads them.
        on_ready: Called with what is served, the host and the port once the model is loaded.

    Raises:
        UsageError: The server cannot listen there, or was started with several processes.
        ConfigError: A setting that is not allowed, or layers that the model lacks.
        ModelFileError: The model cannot be loaded.
        ModelError: DoLa cannot be used with it.
    """

    def run(host: str, port: int, provider: Provider) -> None:
        if not 0 <= port < 2**16:  # a larger one would be taken modulo 65536
            raise UsageError(f"--port {port} is not a port; allowed are 0 to 65535.", hint="--port 8080")
        if mx.distributed.init().size() > 1:
            raise UsageError(
                "dola mlx-server was started in several processes, and layers are read in one.",
                hint="start it without mlx.launch",
            )
        generator = server.ResponseGenerator(provider, LRUPromptCache(provider.cli_args.prompt_cache_size))
        try:
            provider.is_settled.wait()
            if provider.error is not None:
                raise provider.error
            on_ready(provider.served, host, port)
            server._run_http_server(host, port, generator, handler_class=Handler)
        except OSError as error:
            why = error.strerror or error
            raise UsageError(
                f"The server cannot listen on {host}:{port}: {why}.", hint="--host 127.0.0.1 --port 8081"
            ) from error
        finally:
            generator.stop_and_join()
            time.sleep(SECONDS_TO_END)

    with _in_place_of(server, load=load, run=run, ModelProvider=lambda args: Provider(args, settings)):
        before, sys.argv = sys.argv, ["dola mlx-server", *arguments]
        try:
            server.main()
        finally:
            sys.argv = before


@contextmanager
def _in_place_of(module: Any, **others: Any) -> Iterator[None]:
    """Names of a module, replaced inside: mlx-lm's `main` reads its arguments, and then calls these."""
    before = {name: getattr(module, name) for name in others}
    try:
        for name, value in others.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)
