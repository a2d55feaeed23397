"""Candidate: one runtime with one GGUF file, and what is known of where the file came from."""

from dataclasses import dataclass, replace
from pathlib import Path

from conform.contract.inventory import TensorSpec
from conform.contract.load import load_contract
from conform.contract.spec import Contract
from conform.core.checkpoint.checkpoint import Checkpoint, contract_of, open_checkpoint
from conform.core.errors import ConformError, InputError
from conform.core.export.transform import derived_values, transform_of
from conform.core.gguf.read import GGUFFile
from conform.core.quantizer import Float32
from conform.core.runtime import Runtime
from conform.core.verify.verify import open_gguf
from conform.parity.custody import Custody
from conform.parity.errors import RuntimeDriverError
from conform.parity.launcher import Launcher
from conform.parity.questions.sequences import Scope
from conform.parity.questions.tokenizer import PromptTokenizer, open_tokenizer, tokenizer_of_file
from conform.plugins.registry import Registry

__all__ = ["Candidate", "Source", "check_scope", "open_candidate", "require_file"]


@dataclass(frozen=True, slots=True)
class Source:
    """What the file was exported from."""

    checkpoint: Checkpoint
    contract: Contract

    @property
    def trained_here(self) -> bool:
        """Whether the sidecar says that conform's own trainer wrote the checkpoint, by the contract beside it."""
        sidecar = self.checkpoint.sidecar
        return sidecar is not None and sidecar.trainer is not None

    def is_same(self, other: "Source") -> bool:
        """Whether both are the same weights, read by the same contract."""
        mine, theirs = self.checkpoint, other.checkpoint
        same_place = mine.path.resolve() == theirs.path.resolve()
        return same_place and mine.digest == theirs.digest and self.contract == other.contract

    def stored(self, spec: TensorSpec) -> Float32:
        """The values that the exporter was to store: ternarised where the contract is, rotary rows interleaved."""
        if spec.derived:
            return derived_values(self.contract.model, spec)
        return transform_of(self.contract.model, spec).apply(self.checkpoint.read(spec.name))


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is judged, and what it is compared with; without a source or a tokenizer some rungs are not run.

    `asked` is the contract that was asked for where there is no source that has one.
    """

    file: GGUFFile
    runtime: Runtime
    registry: Registry
    source: Source | None = None
    tokenizer: PromptTokenizer | None = None
    launcher: Launcher | None = None
    asked: Contract | None = None

    @property
    def contract(self) -> Contract | None:
        """The source's contract, else the one that was asked for; None leaves the file with the one that it carries."""
        return self.source.contract if self.source else self.asked

    def kept(self, custody: Custody) -> "Candidate":
        """The same candidate, file and program in custody; only the runtime where nothing can start it anew."""
        file = replace(self.file, path=custody.keep_file(self.file.path).path)
        if self.launcher is None:
            return replace(self, file=file)
        launcher = self.launcher.kept(custody)
        runtime = launcher.open(file)
        custody.at_end(runtime.close)
        return replace(self, file=file, launcher=launcher, runtime=runtime)


def require_file(model: Path) -> None:
    """Pass when there is such a file. Raises ConformError."""
    if not model.exists():
        raise ConformError(f"{model}: no such file; give the path of a GGUF file")


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
    require_file(model)
    file = open_gguf(model.resolve(), registry)
    source = _source(file, checkpoint, contract)
    asked = load_contract(contract) if source is None and contract is not None else None
    runtime = launcher.open(file)
    return Candidate(file, runtime, registry, source, _tokenizer(file, source, tokenizer, asked), launcher, asked)


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
        return _source_of(open_checkpoint(asked), contract)
    try:
        checkpoint = open_checkpoint(file.path.parent)
        if checkpoint.digest != file.metadata.get("conform.checkpoint.digest"):
            return None
    except InputError:
        return None
    return _source_of(checkpoint, contract)


def _source_of(checkpoint: Checkpoint, asked: str | None) -> Source:
    contract = contract_of(checkpoint, asked)
    # A head of its own that the contract ties would be passed over in silence.
    return Source(checkpoint.without_tied_copy() if contract.model.tied_embeddings else checkpoint, contract)


def _tokenizer(
    file: GGUFFile, source: Source | None, asked: Path | None, contract: Contract | None
) -> PromptTokenizer | None:
    """That of the file asked for, else of the checkpoint, else the file's own as far as its keys say all of it."""
    path = asked or (source.checkpoint.tokenizer_path if source else None)
    if path is None:
        return tokenizer_of_file(file)
    contract = source.contract if source else contract
    return open_tokenizer(path, contract.tokenizer if contract else None)
