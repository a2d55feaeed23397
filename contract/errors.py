"""The root of every error that a user can cause.

ConformError                 the command line prints its one sentence and exits with 2
├── InputError               a file that cannot be read, or does not hold what it should: what shared readers raise
│   ├── ContractError        a contract that is missing or contradicts itself          (contract)
│   ├── CheckpointError      a checkpoint that cannot be used                          (core)
│   ├── GGUFError            a GGUF file that cannot be parsed                         (core)
│   └── DataError            text or token shards that cannot be used                  (trainer)
├── PlanError                an export that cannot be planned                          (core)
├── QuantizeError            values that a quantizer must refuse                       (core)
├── ExportError              an export that could not be completed                     (core)
├── PluginError              a plugin that failed to load, clashes or misbehaves       (core)
├── RuntimeDriverError       a runtime that cannot be driven at all                    (parity)
├── ForeignError             another implementation that cannot run a checkpoint       (parity)
├── TokenizerError           a tokenizer that cannot be trained, read or agreed on     (trainer)
└── TrainError               a training run that cannot start or go on                 (trainer)

To survive an unreadable input, whatever it is, catch InputError. A failed *check* is not an error: it is a `Finding`.
"""

__all__ = ["ConformError", "ContractError", "InputError"]


class ConformError(Exception):
    """What went wrong, where, what was found and expected, and what to do, in one sentence."""


class InputError(ConformError):
    """A file that cannot be read, or does not hold what it should."""


class ContractError(InputError):
    """A contract that is missing or contradicts itself."""
