"""The root of every error that a user can cause.

ConformError                 the command line prints its one sentence and exits with 2
├── ContractError            a spec that is missing, malformed or contradicts itself   (contract)
├── CheckpointError          a checkpoint that cannot be read                          (core)
├── GGUFError                a GGUF file that cannot be read                           (core)
├── PlanError                an export that cannot be planned                          (core)
├── QuantizeError            values that a quantizer must refuse                       (core)
├── ExportError              an export that could not be completed                     (core)
├── PluginError              a plugin that failed to load, clashes or misbehaves       (core)
├── RuntimeDriverError       a runtime that cannot be driven at all                    (parity)
├── TokenizerError           a tokenizer that cannot be trained, read or agreed on     (trainer)
├── DataError                token shards that are missing, changed or foreign         (trainer)
└── TrainError               a training run that cannot start or go on                 (trainer)

A failed *check* is not an error: it is a `Finding`.
"""

__all__ = ["ConformError", "ContractError"]


class ConformError(Exception):
    """What went wrong, where, what was found and expected, and what to do, in one sentence."""


class ContractError(ConformError):
    """A contract that is missing, malformed or contradicts itself."""
