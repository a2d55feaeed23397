"""Verify: a GGUF file against its contract; every violation is a finding, all at once."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conform.contract.finding import Finding, failed
from conform.contract.inventory import TensorSpec, gguf_inventory
from conform.contract.spec import Contract
from conform.core.catalog import Catalog
from conform.core.errors import ConformError, GGUFError
from conform.core.gguf.read import GGUFFile, read_gguf
from conform.core.gguf.types import ggml_type
from conform.core.verify.implied import implied_contract
from conform.core.verify.keys import NO_SUCH_KEY, check_keys
from conform.core.verify.rope import check_factors
from conform.core.verify.seal import check_seal
from conform.core.verify.values import check_values

__all__ = ["Verification", "embedded_contract", "open_gguf", "verify_file"]


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of comparing a file with a contract: every violation, errors and warnings alike.

    The contract is `implied` when neither the user nor the file names one: the file was held to its own keys.
    """

    file: Path
    contract: Contract
    findings: tuple[Finding, ...]
    implied: bool = False

    @property
    def sound(self) -> bool:
        """True when no finding is an error."""
        return not failed(self.findings)

    @property
    def conforms(self) -> bool:
        """True when it is sound, and somebody said what it must conform to."""
        return self.sound and not self.implied


def verify_file(path: Path, catalog: Catalog, contract: Contract | None = None) -> Verification:
    """The file against the contract, else against the one that it carries, else against the one that its keys imply.

    Raises InputError when the file cannot be parsed at all, or when its keys say too little of a model.
    """
    file = open_gguf(path, catalog)
    findings = list(_check_provenance(file, contract))
    implied = contract is None and not any(key.startswith("conform.") for key in file.metadata)
    contract = contract or (implied_contract(file) if implied else embedded_contract(file))
    findings += [finding for finding in check_keys(file, contract) if not (implied and finding.found == NO_SUCH_KEY)]
    findings += _check_closure(file, contract)
    findings += _check_extents(file)
    findings += check_values(file, catalog)
    findings += check_seal(file)
    return Verification(path, contract, tuple(findings), implied)


def open_gguf(path: Path, catalog: Catalog) -> GGUFFile:
    """The file's header, with the sizes of types that only a plugin knows."""

    def size(type_id: int, shape: tuple[int, ...]) -> int | None:
        try:
            return catalog.decoder(type_id).nbytes(shape)
        except ConformError:
            return None

    return read_gguf(path, size)


def embedded_contract(file: GGUFFile) -> Contract:
    """The contract that the file carries.

    Raises InputError when it carries none, a malformed one, or one that does not have the digest it states.
    """
    canonical = file.metadata.get("conform.contract")
    if not isinstance(canonical, str):
        raise GGUFError(f"{file.path}: carries no contract; name the one to compare it with by --contract")
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()
    if file.metadata.get("conform.contract.digest") != digest:
        raise GGUFError(
            f"{file.path}: conform.contract has digest {digest}, conform.contract.digest says "
            f"{file.metadata.get('conform.contract.digest')}; the file was edited or damaged"
        )
    name = str(file.metadata.get("conform.contract.name", "embedded"))
    return Contract.from_canonical(canonical, name, f"{file.path}: conform.contract")


def _check_provenance(file: GGUFFile, contract: Contract | None) -> Iterator[Finding]:
    stated = file.metadata.get("conform.contract.digest")
    if contract is not None and stated is not None and stated != contract.digest:
        hint = "the file was exported under another contract; `conform contract diff` shows what differs"
        yield Finding("error", "conform.contract.digest", contract.digest, str(stated), hint)


def _check_closure(file: GGUFFile, contract: Contract) -> Iterator[Finding]:
    expected = {spec.gguf_name: spec for spec in gguf_inventory(contract.model)}
    for name, spec in expected.items():
        if name not in file.tensors:
            yield Finding("error", name, f"shape {_dims(spec.shape)}", "no such tensor", "the contract needs it")
        else:
            yield from _check_tensor(file, spec, contract)
    for name, tensor in file.tensors.items():
        if name not in expected:
            yield Finding("error", name, "no such tensor", f"a tensor of shape {_dims(tensor.shape)}")


def _check_tensor(file: GGUFFile, spec: TensorSpec, contract: Contract) -> Iterator[Finding]:
    tensor = file.tensors[spec.gguf_name]
    if tensor.shape != spec.shape:
        hint = "it is transposed" if tensor.shape == spec.shape[::-1] else ""
        yield Finding("error", tensor.name, f"shape {_dims(spec.shape)}", f"shape {_dims(tensor.shape)}", hint)
    if spec.derived:
        yield from check_factors(file, spec, contract.model)
        return
    kind = ggml_type(tensor.ggml_type)
    stored = kind.name if kind else f"type {tensor.ggml_type}"
    policy = contract.storage.of(spec.storage_class)
    if kind is not None and policy not in (stored, "quant"):
        yield Finding("warning", tensor.name, f"{policy}, by the contract's storage policy", stored)


def _check_extents(file: GGUFFile) -> Iterator[Finding]:
    """Offsets ascend, are aligned and leave no gap but padding; all data lies in the file, and nothing follows it."""
    position = file.data_start
    for tensor in file.tensors.values():
        if tensor.problem:
            yield Finding("error", tensor.name, "a tensor whose size is known", tensor.problem)
            return
        if (tensor.offset - file.data_start) % file.alignment:
            yield Finding("error", tensor.name, f"an offset aligned to {file.alignment}", str(tensor.offset))
        if tensor.offset != position:
            relation = "overlaps the tensor before it" if tensor.offset < position else "leaves a gap before it"
            yield Finding("error", tensor.name, f"offset {position}", f"offset {tensor.offset}", relation)
        if tensor.offset + tensor.nbytes > file.size:
            hint = "the file is truncated, or its header is damaged"
            end = tensor.offset + tensor.nbytes
            yield Finding("error", tensor.name, f"a file of {end} bytes or more", f"{file.size} bytes", hint)
        position = max(position, _aligned(tensor.offset + tensor.nbytes, file.alignment))
    yield from _check_end(file, position)


def _check_end(file: GGUFFile, end: int) -> Iterator[Finding]:
    last = max((tensor.offset + tensor.nbytes for tensor in file.tensors.values()), default=file.data_start)
    if file.size > end:
        yield Finding("error", "end of file", f"{end} bytes", f"{file.size} bytes", "something follows the last tensor")
    elif last <= file.size < end:
        hint = f"the last tensor is not padded to {file.alignment} bytes"
        yield Finding("warning", "end of file", f"{end} bytes", f"{file.size} bytes", hint)


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _dims(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
