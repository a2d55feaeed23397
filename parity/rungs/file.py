"""file: the GGUF file against its contract, and against the checkpoint that it says it comes from."""

from collections.abc import Iterator

from conform.contract.finding import Finding
from conform.core.checkpoint.sidecar import file_sha256
from conform.core.errors import GGUFError
from conform.core.verify import verify_file
from conform.parity.evidence import Evidence, Source
from conform.parity.verdict import Measurement, RungResult, judged

__all__ = ["judge_file"]


def judge_file(evidence: Evidence) -> RungResult:
    """Closure of tensors and keys, offsets, sizes, values, and the digests that the file carries."""
    file = evidence.subject.file
    source = evidence.subject.source
    try:
        contract = source.contract if source else None
        findings = list(verify_file(file.path, evidence.subject.registry, contract).findings)
    except GGUFError as error:
        findings = [Finding("error", str(file.path), "a file that can be checked", str(error))]
    if source is not None:
        findings += _foreign(evidence, source)
    wrong = sum(finding.severity == "error" for finding in findings)
    compared = len(file.tensors) + len(file.metadata)
    return judged("file", compared, "tensors and keys", [Measurement("violations", wrong, 0)], findings)


def _foreign(evidence: Evidence, source: Source) -> Iterator[Finding]:
    """Digests of the file that are not those of what it is compared with."""
    metadata = evidence.subject.file.metadata
    expected = {
        "conform.checkpoint.digest": source.checkpoint.digest,
        "conform.contract.digest": source.contract.digest,
    }
    tokenizer = source.checkpoint.tokenizer_path
    if tokenizer is not None:
        expected["conform.tokenizer.digest"] = file_sha256(tokenizer)
    for key, digest in expected.items():
        found = metadata.get(key)
        if found is not None and found != digest:
            hint = "the file was exported from something else"
            yield Finding("error", key, digest, str(found), hint)
