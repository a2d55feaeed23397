"""Export request: what a user asks of an export, and the plans that follow from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from conform.contract.finding import Finding
from conform.contract.infer import Inference
from conform.contract.inventory import inventory
from conform.contract.spec import Contract
from conform.core.catalog import Catalog
from conform.core.checkpoint.checkpoint import Checkpoint, contract_of, open_checkpoint
from conform.core.checkpoint.inference import inference_of
from conform.core.errors import CheckpointError, PlanError
from conform.core.export.fit import fit_storage
from conform.core.export.measure import mix_under
from conform.core.export.plan import ExportPlan, check_export, plan_export
from conform.core.export.policy import TypeOverride, storage_choices
from conform.core.export.target import export_targets
from conform.core.export.tuning import Tuning
from conform.core.gguf.imatrix import check_imatrix, read_imatrix
from conform.core.quantizer import Float32
from conform.core.tokenizer.tokenizer import tokenizer_of
from conform.core.tokenizer.vocabulary import Vocabulary

__all__ = ["ExportRequest", "ExportSource", "open_source", "plan_request", "unfit_quants"]


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """Everything that an export is asked but the checkpoint; None leaves the choice to the checkpoint, or means none.

    `quants` are names of quantizers; with `target_bpw` they are mixed into one file. Those that are `optional` as well
    are left out where they do not take the model's rows. The first of the `fallbacks` that can stores what they do not
    take.
    """

    quants: tuple[str, ...]
    output: str | None = None
    contract: str | None = None
    tokenizer: Path | None = None
    overrides: tuple[TypeOverride, ...] = ()
    imatrix: Path | None = None
    target_bpw: float | None = None
    tuning: Tuning = field(default_factory=Tuning)
    fallbacks: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExportSource:
    """What is exported, and everything in which it differs from its contract.

    `importance` maps GGUF names to weights, None without a matrix; `inference` says where the contract comes from, None
    where the checkpoint or the user names it.
    """

    checkpoint: Checkpoint
    contract: Contract
    vocabulary: Vocabulary
    importance: Mapping[str, Float32] | None
    findings: tuple[Finding, ...]
    inference: Inference | None = None


def open_source(checkpoint: Path, request: ExportRequest) -> ExportSource:
    """The checkpoint with its contract, tokenizer and importance matrix, all checked; no weight is read.

    Raises CheckpointError, ContractError, GGUFError or PlanError for what cannot be used at all.
    """
    opened = open_checkpoint(checkpoint)
    inference = inference_of(opened, request.contract)
    contract = inference.contract if inference is not None else contract_of(opened, request.contract)
    if contract.model.tied_embeddings:
        opened = opened.without_tied_copy()
    tokenizer = request.tokenizer or opened.tokenizer_path
    if tokenizer is None:
        raise CheckpointError(
            f"{opened.folder}: no tokenizer.model or tokenizer.json beside the weights; name one with --tokenizer"
        )
    found = tokenizer_of(tokenizer, contract)
    findings = check_export(opened, contract, found.vocabulary)
    if inference is not None and found.vocabulary.add_bos is None:
        findings.append(_assumed_bos(contract))
    importance, warnings = _importance(contract, request.imatrix)
    found_in_all = (*findings, *found.findings, *warnings)
    return ExportSource(opened, contract, found.vocabulary, importance, found_in_all, inference)


def plan_request(
    request: ExportRequest, source: ExportSource, catalog: Catalog, progress: Callable[[str], None] | None = None
) -> list[ExportPlan]:
    """One plan for each quantizer, or one for the mix; only a mix reads weights, naming each tensor to `progress`.

    Raises PlanError, PluginError, and for a mix whatever reading and quantizing raise.
    """

    def plan(quant: str | Mapping[str, str], target: Path, others: Sequence[str] = ()) -> ExportPlan:
        return plan_export(
            source.checkpoint,
            source.contract,
            source.vocabulary,
            catalog,
            quant,
            target,
            overrides=request.overrides,
            importance=source.importance,
            tuning=request.tuning,
            fallbacks=(*others, *request.fallbacks),
        )

    unfit = unfit_quants(request, source, catalog)
    quants = [name for name in request.quants if name not in unfit]
    labels: Sequence[str] = quants if request.target_bpw is None else [f"{request.target_bpw:.2f}bpw"]
    targets = export_targets(labels, source.contract.name, source.checkpoint.folder, request.output)
    if request.target_bpw is None:
        return [plan(name, target) for name, target in targets.items()]
    (target,) = targets.values()
    # A quantizer that does not take a tensor's rows leaves that tensor to the others.
    plans = [plan(name, target, quants) for name in quants]
    fixed = {tensor.spec.gguf_name: tensor.codec.name for tensor in plans[0].tensors}
    mixed = plan({**fixed, **mix_under(plans, request.target_bpw, progress)}, target)
    return [replace(mixed, notes=tuple(dict.fromkeys(note for each in plans for note in each.notes)))]


def unfit_quants(request: ExportRequest, source: ExportSource, catalog: Catalog) -> Mapping[str, str]:
    """Optional quantizer → why no file is made with it: rows of the model that neither it nor the fallback takes.

    Raises PlanError when that leaves none. A mix leaves out none, because it asks for each tensor.
    """
    specs, policy = inventory(source.contract.model), source.contract.storage
    unfit = {}
    for name in request.optional if request.target_bpw is None else ():
        try:
            fit_storage(specs, storage_choices(specs, policy, name, request.overrides), catalog, request.fallbacks)
        except PlanError as error:
            unfit[name] = str(error)
    if request.quants and set(request.quants) <= unfit.keys():
        raise PlanError(unfit[request.quants[0]])
    return unfit


def _assumed_bos(contract: Contract) -> Finding:
    found = f"{str(contract.tokenizer.add_bos).lower()} assumed"
    return Finding("warning", "tokenizer.add_bos", "a file that says it", found, "libraries differ")


def _importance(contract: Contract, path: Path | None) -> tuple[Mapping[str, Float32] | None, list[Finding]]:
    if path is None:
        return None, []
    matrix = read_imatrix(path)
    findings = check_imatrix(matrix, inventory(contract.model))
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        more = f", and {len(errors) - 1} more such entries" if len(errors) > 1 else ""
        raise PlanError(f"{path}: {errors[0]}{more}")
    return matrix.weights(), findings
