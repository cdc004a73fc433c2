"""The tree of errors: raised in the core, caught once in ``cli``.

    GgufxError              what a user can mend: exit status 2
    ├── RunError            the run folder, its adapter's or base's files, its config.json
    ├── SourceError         stored tensors: a truncated file, a missing shard, an unknown dtype
    ├── MergeError          an adapter that does not fit its base, or that cannot be merged exactly
    ├── ProfileError        an unknown level, or a profile that cannot be read
    ├── PlanError           family, profiles and shapes do not fit together
    ├── TokenizerError      a tokenizer that cannot be expressed in GGUF
    ├── WeightError         a weight that is not finite, or does not fit the output type
    ├── OutputError         an output that exists, a disk that is full
    ├── ProofError          a finished file differs from its run
    ├── ReportError         a report.json that cannot be read
    └── EngineError         llama.cpp could not load or evaluate a file

A message says what, where, found, expected, and what to do.
"""


class GgufxError(Exception):
    """The root: everything that is reported to the user as a message, never as a traceback."""


class RunError(GgufxError):
    """The run folder, or a file of it, is not what it should be."""


class SourceError(GgufxError):
    """Stored tensors cannot be read as they are."""


class MergeError(GgufxError):
    """The adapter does not fit the base, or cannot be merged exactly."""


class ProfileError(GgufxError):
    """A level is unknown, or its profile cannot be read."""


class PlanError(GgufxError):
    """Family, profiles and shapes do not fit together."""


class TokenizerError(GgufxError):
    """The tokenizer cannot be expressed in GGUF."""


class WeightError(GgufxError):
    """A weight is not finite, or does not fit the type it is to be written in."""


class OutputError(GgufxError):
    """An output exists already, or cannot be written."""


class ProofError(GgufxError):
    """A finished file differs from the run it was made from."""


class ReportError(GgufxError):
    """A report.json cannot be read."""


class EngineError(GgufxError):
    """llama.cpp could not load or evaluate a file."""
