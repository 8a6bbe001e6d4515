"""All errors that dola raises deliberately.

    DolaError
    ├── ConfigError (ValueError)          a value of DoLaConfig that is not allowed
    │   └── LayersError                   layers that do not exist, or name no candidate, in this model
    ├── ModelError (ValueError)           a model that DoLa cannot decode with
    │   └── ReadoutError                  the parts found do not reproduce the model's own logits
    ├── AttachError (ValueError)          attach where something is attached already
    ├── InputError (ValueError)           a call that the method does not define: labels, training mode, no tokens, NaN
    ├── CaptureError (RuntimeError)       a forward pass in which a candidate layer did not run: it never decodes without DoLa
    ├── ModelFileError (ValueError)       a model name, folder or file that cannot be loaded
    ├── DownloadError (RuntimeError)      an embedded model that could not be fetched or is damaged
    ├── MissingExtraError (ImportError)   an optional dependency that is not installed
    ├── VersionsError (ImportError)       torch or transformers is missing, or its version does not fit
    ├── DataError (ValueError)            a data set that cannot be read, or a row that lacks what its task needs
    ├── LensError (ValueError)            a lens that cannot be read, or does not belong to the model
    ├── TraceError (ValueError)           a trace file of another version, a truncated one, or a file that is not a trace
    ├── JudgeError (RuntimeError)         a judge of answers that did not reply, or replied neither yes nor no
    └── UsageError (ValueError)           an invalid command line: contradicting options, unreadable files

The message says what is wrong, which value was given and what is allowed. `hint` says what to do, ready to paste.
"""


class DolaError(Exception):
    """Base class of all dola errors.

    Args:
        message: What is wrong, which value was given, and what is allowed.
        hint: How to fix it. Shown after the message, and available separately as `.hint` for user interfaces.

    Examples:
        >>> try:
        ...     dola.DoLaConfig("middle")
        ... except dola.DolaError as error:  # error.message says what is wrong, error.hint what to do
        ...     print(type(error).__name__)
        LayersError
    """

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(f"{message}\nHint: {hint}")
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[DolaError], message: str, hint: str) -> DolaError:
    """Rebuild an unpickled error: pickle cannot pass keyword-only arguments by itself."""
    return kind(message, hint=hint)


class ConfigError(DolaError, ValueError):
    """A value of `DoLaConfig` that is not allowed."""


class LayersError(ConfigError):
    """Layers that do not exist, or that leave no candidate, in this model."""


class ModelError(DolaError, ValueError):
    """A model that DoLa cannot decode with."""


class ReadoutError(ModelError):
    """The final norm, head and logit transform that were found do not reproduce the model's own logits."""


class AttachError(DolaError, ValueError):
    """DoLa is attached to this model already."""


class InputError(DolaError, ValueError):
    """A call that the method does not define."""


class CaptureError(DolaError, RuntimeError):
    """A candidate layer did not run in a forward pass, so there is nothing to contrast with."""


class ModelFileError(DolaError, ValueError):
    """A model name, folder or file that cannot be loaded."""


class DownloadError(DolaError, RuntimeError):
    """An embedded model could not be fetched, or what was fetched is damaged."""


class MissingExtraError(DolaError, ImportError):
    """An optional dependency is not installed."""


class VersionsError(DolaError, ImportError):
    """torch or transformers is missing, cannot be imported, or has a version that does not fit."""


class DataError(DolaError, ValueError):
    """A data set cannot be read, is not the one that was expected, or has a row that lacks what its task needs."""


class LensError(DolaError, ValueError):
    """A lens file cannot be read, or the lens belongs to a different model."""


class TraceError(DolaError, ValueError):
    """A trace that cannot be read: truncated, damaged, of another version, or not a trace."""


class JudgeError(DolaError, RuntimeError):
    """A judge of answers cannot be reached, or replies neither yes nor no."""


class UsageError(DolaError, ValueError):
    """The command line is invalid: its options contradict each other, or its files cannot be read."""
