"""Candidate: one runtime with one GGUF file, and what is known of where the file came from."""

from dataclasses import dataclass, replace
from pathlib import Path

from conform.contract.inventory import TensorSpec
from conform.contract.spec import Contract
from conform.core.checkpoint.checkpoint import Checkpoint, contract_of, open_checkpoint
from conform.core.errors import ConformError, InputError
from conform.core.export.transform import transform_of
from conform.core.gguf.read import GGUFFile
from conform.core.quantizer import Float32
from conform.core.runtime import Runtime
from conform.core.verify.verify import open_gguf
from conform.parity.custody import Custody
from conform.parity.errors import RuntimeDriverError
from conform.parity.launcher import Launcher
from conform.parity.questions.sequences import Scope
from conform.parity.questions.tokenizer import PromptTokenizer, open_tokenizer
from conform.plugins.registry import Registry

__all__ = ["Candidate", "Source", "check_scope", "open_candidate"]


@dataclass(frozen=True, slots=True)
class Source:
    """What the file was exported from."""

    checkpoint: Checkpoint
    contract: Contract

    def stored(self, spec: TensorSpec) -> Float32:
        """The values that the exporter was to store: ternarised where the contract is, rotary rows interleaved."""
        return transform_of(self.contract.model, spec).apply(self.checkpoint.read(spec.name))


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is judged, and what it is compared with; without a source or a tokenizer some rungs are not run."""

    file: GGUFFile
    runtime: Runtime
    registry: Registry
    source: Source | None = None
    tokenizer: PromptTokenizer | None = None
    launcher: Launcher | None = None

    def kept(self, custody: Custody) -> "Candidate":
        """The same candidate, file and program in custody; only the runtime where nothing can start it anew."""
        file = replace(self.file, path=custody.keep_file(self.file.path).path)
        if self.launcher is None:
            return replace(self, file=file)
        launcher = self.launcher.kept(custody)
        runtime = launcher.open(file)
        custody.at_end(runtime.close)
        return replace(self, file=file, launcher=launcher, runtime=runtime)


def open_candidate(
    model: Path,
    launcher: Launcher,
    registry: Registry,
    *,
    checkpoint: Path | None = None,
    contract: str | None = None,
    tokenizer: Path | None = None,
) -> Candidate:
    """The runtime with that GGUF file; the checkpoint, when none is named, is the one beside the file.

    Raises ConformError naming the file, checkpoint, tokenizer or program that cannot be used.
    """
    if not model.is_file():
        raise ConformError(f"{model}: no such file; give the path of a GGUF file")
    file = open_gguf(model.resolve(), registry)
    source = _source(file, checkpoint, contract)
    runtime = launcher.open(file)
    return Candidate(file, runtime, registry, source, _tokenizer(source, tokenizer), launcher)


def check_scope(scope: Scope, candidate: Candidate) -> None:
    """Pass when every prompt can be asked: none is ever left out in silence.

    Raises RuntimeDriverError naming the prompt that cannot, or a tokenizer of another model.
    """
    file, tokenizer = candidate.file, candidate.tokenizer
    embedding = file.tensors.get("token_embd.weight")
    if tokenizer and embedding and tokenizer.size > embedding.shape[0]:
        raise RuntimeDriverError(
            f"the tokenizer has {tokenizer.size} pieces, but the embedding of {file.path} has only "
            f"{embedding.shape[0]} rows; it belongs to another model"
        )
    context = file.metadata.get(f"{file.metadata.get('general.architecture')}.context_length")
    for prompt in scope.prompts:
        if "\0" in prompt:
            raise RuntimeDriverError("a prompt with a NUL character cannot be passed on a command line")
        tokens = len(tokenizer.ids(prompt)) if tokenizer else 0
        if isinstance(context, int) and tokens >= context:
            raise RuntimeDriverError(
                f"the prompt {prompt[:40]!r} has {tokens} tokens; the model's context is {context}"
            )


def _source(file: GGUFFile, asked: Path | None, contract: str | None) -> Source | None:
    """The checkpoint asked for, else the one beside the file if the file says that it was exported from it."""
    if asked is not None:
        checkpoint = open_checkpoint(asked)
        return Source(checkpoint, contract_of(checkpoint, contract))
    try:
        checkpoint = open_checkpoint(file.path.parent)
        if checkpoint.digest != file.metadata.get("conform.checkpoint.digest"):
            return None
    except InputError:
        return None
    return Source(checkpoint, contract_of(checkpoint, contract))


def _tokenizer(source: Source | None, asked: Path | None) -> PromptTokenizer | None:
    path = asked or (source.checkpoint.tokenizer_path if source else None)
    if path is None:
        return None
    return open_tokenizer(path, source.contract.tokenizer if source else None)
