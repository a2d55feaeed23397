"""Run: carries out a plan; the file appears under its name when it is complete and has been read again."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from conform.contract.finding import Finding
from conform.core.checkpoint.checkpoint import Checkpoint
from conform.core.errors import ExportError, InputError, QuantizeError
from conform.core.export.cost import Cost, measure_cost
from conform.core.export.journal import ExportJournal, fingerprint
from conform.core.export.plan import ExportPlan, TensorPlan
from conform.core.files.partial import PartialFile
from conform.core.gguf.read import GGUFFile, TensorInfo, read_gguf
from conform.core.gguf.write import align
from conform.core.quantizer import Float32
from conform.core.verify.keys import check_keys
from conform.core.verify.verify import open_gguf, verify_file

__all__ = ["ExportReport", "TensorReport", "run_export", "source_values"]

# Tensors that are in memory at the same time: one is read and written while the other is quantized.
_IN_FLIGHT = 2
_CHUNK = 8 << 20


@dataclass(frozen=True, slots=True)
class TensorReport:
    """What became of one tensor: the sha256 of its bytes, and what quantisation cost."""

    plan: TensorPlan
    sha256: str
    cost: Cost


@dataclass(frozen=True, slots=True)
class ExportReport:
    """One finished file."""

    path: Path
    size: int
    sha256: str
    checkpoint_digest: str
    bits_per_weight: float
    tensors: tuple[TensorReport, ...]


def run_export(plan: ExportPlan, progress: Callable[[str], None] | None = None) -> ExportReport:
    """Quantize, write, sync, verify, and only then publish; `progress` is given the name of each tensor done.

    An export that was interrupted or killed is resumed where it stopped, if plan and checkpoint are still the same.
    Raises CheckpointError, QuantizeError, PluginError or ExportError; nothing is left behind then.
    """
    _scan(plan)
    digest = plan.checkpoint.digest
    header = plan.header(digest)
    with (
        PartialFile(plan.target, len(header) + plan.data_bytes, resumable=True) as file,
        ExportJournal(plan.target, fingerprint(plan, header), resume=file.found) as journal,
    ):
        if not journal.done:
            file.clear()
        file.write(0, header)
        # A key that a runtime would obey is refused before the hours of a search, not after.
        _refuse(plan, check_keys(open_gguf(file.path, plan.catalog), plan.contract))
        job = _Job(plan.checkpoint, file, len(header), journal)
        reports = tuple(_run_tensors(plan, job, progress))
        plan.checkpoint.check_unchanged()
        file.write(0, plan.header(digest, {report.plan.spec.gguf_name: report.sha256 for report in reports}))
        file.sync()
        size, sha256 = _read_again(plan, file.path, len(header), reports)
        _refuse(plan, verify_file(file.path, plan.catalog, plan.contract).findings)
        file.publish()
    return ExportReport(plan.target, size, sha256, digest, plan.bits_per_weight, reports)


def source_values(checkpoint: Checkpoint, tensor: TensorPlan) -> Float32:
    """The values of one tensor as its quantizer gets them: read, then transformed as planned; or as planned alone."""
    if tensor.derived is not None:
        return tensor.derived
    values = checkpoint.read(tensor.spec.name)
    try:
        return tensor.transform.apply(values)
    except QuantizeError as error:
        raise QuantizeError(f"{tensor.spec.gguf_name}: {error}") from error


def _scan(plan: ExportPlan) -> None:
    # A search may take hours: a NaN in the last tensor should be found before it, not after.
    for tensor in plan.tensors:
        if tensor.derived is None:
            plan.checkpoint.check_finite(tensor.spec.name)


@dataclass(frozen=True, slots=True)
class _Job:
    """What the tensors of one file share."""

    checkpoint: Checkpoint
    file: PartialFile
    data_start: int
    journal: ExportJournal


def _run_tensors(plan: ExportPlan, job: _Job, progress: Callable[[str], None] | None) -> Iterator[TensorReport]:
    """Reports in the plan's order; at most _IN_FLIGHT tensors are in memory."""
    waiting: list[Future[TensorReport]] = []
    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        try:
            for tensor in plan.tensors:
                if len(waiting) == _IN_FLIGHT:
                    yield _finished(waiting.pop(0), progress)
                waiting.append(pool.submit(_run_tensor, job, tensor))
            while waiting:
                yield _finished(waiting.pop(0), progress)
        finally:
            for future in waiting:
                future.cancel()


def _finished(future: Future[TensorReport], progress: Callable[[str], None] | None) -> TensorReport:
    report = future.result()
    if progress is not None:
        progress(report.plan.spec.gguf_name)
    return report


def _run_tensor(job: _Job, tensor: TensorPlan) -> TensorReport:
    name = tensor.spec.gguf_name
    done = job.journal.done.get(name)
    if done is not None and _hash_written(job, tensor) == done[0]:
        report = TensorReport(tensor, *done)
    else:
        values = source_values(job.checkpoint, tensor)
        packed = tensor.codec.pack(name, values, tensor.importance)
        job.file.write(job.data_start + tensor.offset, packed)
        cost = measure_cost(values, tensor.codec.unpack(name, packed, tensor.spec.shape), tensor.importance)
        report = TensorReport(tensor, hashlib.sha256(packed.data).hexdigest(), cost)
    job.journal.add(name, report.sha256, report.cost)
    return report


def _hash_written(job: _Job, tensor: TensorPlan) -> str:
    digest = hashlib.sha256()
    for start in range(0, tensor.nbytes, _CHUNK):
        digest.update(job.file.read(job.data_start + tensor.offset + start, min(_CHUNK, tensor.nbytes - start)))
    return digest.hexdigest()


def _read_again(plan: ExportPlan, path: Path, data_start: int, reports: tuple[TensorReport, ...]) -> tuple[int, str]:
    """Size and sha256 of the file on the disk, once its header and every tensor have been found to be as planned."""
    sizes = {(tensor.codec.layout.ggml_type, tensor.spec.shape): tensor.nbytes for tensor in plan.tensors}
    try:
        found = read_gguf(path, lambda ggml_type, shape: sizes.get((ggml_type, shape)))
    except InputError as error:
        raise ExportError(f"{plan.target}: what was written cannot be read again: {error}") from error
    _compare(plan, found, data_start)
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            digest.update(file.read(data_start))
            for report in reports:
                _compare_content(plan, report, file, digest)
    except OSError as error:
        raise ExportError(f"{plan.target}: what was written cannot be read again: {error.strerror}") from error
    return found.size, digest.hexdigest()


def _refuse(plan: ExportPlan, findings: Iterable[Finding]) -> None:
    """Pass when the verifier found nothing wrong. Raises ExportError naming what it found."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        more = f"; and {len(errors) - 1} more violations" if len(errors) > 1 else ""
        raise ExportError(
            f"{plan.target}: what was written does not conform to contract {plan.contract.name}, and is not published: "
            f"{errors[0]}{more}"
        )


def _compare(plan: ExportPlan, found: GGUFFile, data_start: int) -> None:
    planned = [
        TensorInfo(
            tensor.spec.gguf_name,
            tensor.spec.shape,
            tensor.codec.layout.ggml_type,
            data_start + tensor.offset,
            tensor.nbytes,
        )
        for tensor in plan.tensors
    ]
    if list(found.tensors.values()) != planned or found.size != data_start + plan.data_bytes:
        raise ExportError(f"{plan.target}: what was written reads back as something other than what was planned")


def _compare_content(plan: ExportPlan, report: TensorReport, file: BinaryIO, digest: "hashlib._Hash") -> None:
    content = hashlib.sha256()
    left = report.plan.nbytes
    while left and (chunk := file.read(min(left, _CHUNK))):
        left -= len(chunk)
        content.update(chunk)
        digest.update(chunk)
    padding = file.read(align(report.plan.nbytes) - report.plan.nbytes)
    digest.update(padding)
    if content.hexdigest() != report.sha256 or any(padding):
        name = report.plan.spec.gguf_name
        raise ExportError(
            f"{plan.target}: {name} reads back differently from what was written; the disk or the memory is faulty"
        )
