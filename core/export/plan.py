"""Plan: decides everything about an export before a weight is read."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conform.contract.check import check_tensors
from conform.contract.finding import Finding
from conform.contract.inventory import TensorSpec, gguf_inventory, inventory
from conform.contract.spec import Contract
from conform.core.catalog import Catalog
from conform.core.checkpoint.checkpoint import Checkpoint
from conform.core.codec import Codec
from conform.core.errors import PlanError
from conform.core.export.fit import Misfit, describe_misfits, fit_storage
from conform.core.export.policy import TypeOverride, storage_choices
from conform.core.export.rope import check_rope
from conform.core.export.transform import Transform, derived_values, transform_of
from conform.core.export.tuning import Tuning
from conform.core.gguf.seal import UNKNOWN_SHA256, refuse_seal_keys, seal, tensor_line
from conform.core.gguf.write import ALIGNMENT, TensorEntry, align, encode_header
from conform.core.i2_s.format import layout_of_variant
from conform.core.metadata import ExportFacts, KeyValue, gather_metadata
from conform.core.quantizer import Float32
from conform.core.tokenizer.vocabulary import Vocabulary, check_vocabulary

__all__ = ["ExportPlan", "TensorPlan", "check_export", "plan_export"]

# Runtimes read rope_freqs.weight as float32 and as nothing else.
_DERIVED_TYPE = "f32"


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor: where it comes from, what is done to it, and where its bytes go, from the start of the data.

    `derived` are its values where they are in no checkpoint. `skipped` are the quantizers that it was to be stored by
    before, and that do not take its rows.
    """

    spec: TensorSpec
    transform: Transform
    codec: Codec
    nbytes: int
    offset: int
    importance: Float32 | None = field(default=None, compare=False)
    derived: Float32 | None = field(default=None, compare=False)
    skipped: tuple[Misfit, ...] = ()

    @property
    def bits_per_weight(self) -> float:
        """Bits of the file for each weight of this tensor."""
        return 8 * self.nbytes / math.prod(self.spec.shape)

    def seal_line(self, sha256: str) -> str:
        """What the file's seal says of this tensor, given the digest of its bytes."""
        layout = self.codec.layout
        return tensor_line(
            self.spec.gguf_name, layout.ggml_type, self.spec.shape, layout_of_variant(layout.variant), sha256
        )


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """One file. Its header needs digests that are known at the end; the header's size does not depend on them.

    `notes` say what is not stored as it was asked for, and why.
    """

    checkpoint: Checkpoint
    contract: Contract
    target: Path
    tensors: tuple[TensorPlan, ...]
    facts: ExportFacts
    catalog: Catalog
    notes: tuple[str, ...] = ()

    def metadata(self, checkpoint_digest: str) -> dict[str, KeyValue]:
        """The keys of the file but its seal, given the digest of the checkpoint's content."""
        return gather_metadata(
            self.catalog.metadata_writers, dataclasses.replace(self.facts, checkpoint_digest=checkpoint_digest)
        )

    def header(self, checkpoint_digest: str = UNKNOWN_SHA256, sha256: Mapping[str, str] | None = None) -> bytes:
        """The bytes before the tensor data; `sha256` maps a tensor's name to the digest of its bytes."""
        entries = [
            TensorEntry(tensor.spec.gguf_name, tensor.spec.shape, tensor.codec.layout.ggml_type, tensor.offset)
            for tensor in self.tensors
        ]
        metadata = self.metadata(checkpoint_digest)
        refuse_seal_keys(metadata)
        lines = [tensor.seal_line((sha256 or {}).get(tensor.spec.gguf_name, UNKNOWN_SHA256)) for tensor in self.tensors]
        return encode_header(seal(metadata, lines), entries, ALIGNMENT)

    @property
    def weights(self) -> int:
        """The number of weights."""
        return sum(math.prod(tensor.spec.shape) for tensor in self.tensors if tensor.derived is None)

    @property
    def data_bytes(self) -> int:
        """Bytes of tensor data, padding included."""
        last = self.tensors[-1]
        return align(last.offset + last.nbytes)

    @property
    def bits_per_weight(self) -> float:
        """Bits of tensor data for each weight of the model."""
        return 8 * self.data_bytes / self.weights


def check_export(checkpoint: Checkpoint, contract: Contract, vocabulary: Vocabulary) -> list[Finding]:
    """Everything in which checkpoint and tokenizer differ from the contract."""
    findings = check_tensors(checkpoint.tensors, contract.model) + check_vocabulary(vocabulary, contract)
    findings += check_rope(contract.model)
    stated = checkpoint.sidecar.tokenizer_digest if checkpoint.sidecar else None
    if stated is not None and stated != vocabulary.digest:
        hint = "the checkpoint was trained with another tokenizer"
        findings.append(Finding("error", "tokenizer", f"sha256 {stated}", f"sha256 {vocabulary.digest}", hint))
    return findings


def plan_export(
    checkpoint: Checkpoint,
    contract: Contract,
    vocabulary: Vocabulary,
    catalog: Catalog,
    quant: str | Mapping[str, str],
    target: Path,
    *,
    overrides: Sequence[TypeOverride] = (),
    importance: Mapping[str, Float32] | None = None,
    tuning: Tuning | None = None,
    fallbacks: Sequence[str] = (),
) -> ExportPlan:
    """The plan of one file: `quant` is one quantizer, or one for each GGUF name that the policy leaves open.

    `importance` maps GGUF names to (cols,) weights of the squared error. A tensor whose rows its quantizer does not
    take is stored by the first of the `fallbacks` that does.
    Raises PlanError naming every tensor that no quantizer takes, and PluginError for an unknown quantizer.
    """
    specs = gguf_inventory(contract.model)
    choices = storage_choices(inventory(contract.model), contract.storage, quant, overrides)
    choices |= {spec.gguf_name: (_DERIVED_TYPE,) for spec in specs if spec.derived}
    fits = fit_storage(specs, choices, catalog, fallbacks)
    tuning = tuning or Tuning()
    chosen = {name: tuning.apply(catalog.codec(name)) for name in sorted({fit.quantizer for fit in fits.values()})}
    tuning.check(tuple(chosen.values()))
    tensors: list[TensorPlan] = []
    offset = 0
    for spec in specs:
        fit = fits[spec.gguf_name]
        codec = chosen[fit.quantizer]
        weights = importance.get(spec.gguf_name) if importance else None
        nbytes = codec.nbytes(spec.shape)
        _check_importance(spec, codec, weights)
        transform = transform_of(contract.model, spec)
        derived = derived_values(contract.model, spec) if spec.derived else None
        tensors.append(TensorPlan(spec, transform, codec, nbytes, offset, weights, derived, fit.skipped))
        offset = align(offset + nbytes)
    facts = _facts(contract, vocabulary, tensors)
    return ExportPlan(checkpoint, contract, target, tuple(tensors), facts, catalog, describe_misfits(fits, specs))


def _check_importance(spec: TensorSpec, codec: Codec, weights: Float32 | None) -> None:
    if weights is None and codec.quantizer.needs_importance:
        raise PlanError(f"{spec.gguf_name}: {codec.name} needs an importance matrix; give one with --imatrix")
    if weights is not None and weights.shape != spec.shape[-1:]:
        raise PlanError(
            f"{spec.gguf_name}: the importance matrix has {weights.shape[0]} columns, the tensor {spec.shape[-1]}; "
            "it was measured on another model"
        )


def _facts(contract: Contract, vocabulary: Vocabulary, tensors: Sequence[TensorPlan]) -> ExportFacts:
    linear = {tensor.codec.layout for tensor in tensors if tensor.spec.storage_class == "linear"}
    return ExportFacts(
        contract=contract,
        vocabulary=vocabulary,
        checkpoint_digest=UNKNOWN_SHA256,
        alignment=ALIGNMENT,
        linear_layouts=tuple(sorted(linear, key=lambda layout: (layout.ggml_type, layout.variant))),
        quantizers=tuple(sorted({tensor.codec.name for tensor in tensors})),
        plugins=tuple(sorted({tensor.codec.owner for tensor in tensors})),
    )
