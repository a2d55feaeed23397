"""Verify source: a GGUF file against the checkpoint that it was made from, which decides what no digest in it can."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from conform.contract.finding import Finding
from conform.contract.inventory import TensorSpec, inventory
from conform.contract.spec import Contract
from conform.core.catalog import Catalog
from conform.core.checkpoint.checkpoint import Checkpoint, contract_of, open_checkpoint
from conform.core.errors import CheckpointError, PluginError, QuantizeError
from conform.core.export.cost import measure_cost
from conform.core.export.transform import transform_of
from conform.core.gguf.read import GGUFFile
from conform.core.gguf.types import ggml_type
from conform.core.i2_s.format import LAYOUT_KEY, USUAL_LAYOUT, variant_of_layout
from conform.core.quantizer import Float32
from conform.core.tokenizer.settings import tokenizer_digest
from conform.core.tokenizer.tokenizer import tokenizer_of
from conform.core.tokenizer.vocabulary import Vocabulary, check_vocabulary
from conform.core.verify.verify import Verification, open_gguf, verify_file

__all__ = ["check_pieces", "check_tokenizer", "origin_digests", "verify_against"]

_CASTS = ("f32", "f16", "bf16")


def verify_against(
    path: Path, catalog: Catalog, checkpoint: Path, contract: str | None = None, tokenizer: Path | None = None
) -> Verification:
    """All that `verify_file` finds, and everything in which the file is not what the checkpoint implies.

    `contract` and `tokenizer` replace those of the checkpoint. Raises InputError for what cannot be used at all.
    """
    source = open_checkpoint(checkpoint)
    asked = contract_of(source, contract)
    if asked.model.tied_embeddings:
        source = source.without_tied_copy()
    tokenizer = tokenizer or source.tokenizer_path
    if tokenizer is None:
        raise CheckpointError(
            f"{source.folder}: no tokenizer.model or tokenizer.json beside the weights; name one with --tokenizer"
        )
    verification = verify_file(path, catalog, asked)
    file = open_gguf(path, catalog)
    digests = {**origin_digests(source, asked), "conform.tokenizer.digest": tokenizer_digest(tokenizer)}
    findings = [*verification.findings, *_check_origin(file, digests), *check_tokenizer(file, tokenizer, asked)]
    for spec in inventory(asked.model):
        findings += _check_weights(file, spec, source, asked, catalog)
    source.check_unchanged()
    return dataclasses.replace(verification, findings=tuple(findings))


def origin_digests(checkpoint: Checkpoint, contract: Contract) -> Mapping[str, str]:
    """The digests of what an export is made from, by the key under which it carries them."""
    digests = {"conform.checkpoint.digest": checkpoint.digest, "conform.contract.digest": contract.digest}
    if (tokenizer := checkpoint.tokenizer_path) is not None:
        digests["conform.tokenizer.digest"] = tokenizer_digest(tokenizer)
    return digests


def check_tokenizer(file: GGUFFile, path: Path, contract: Contract) -> list[Finding]:
    """Everything in which the tokenizer at that path is not the contract's, and the file's pieces are not its own.

    Raises InputError when the tokenizer, or a file beside it, cannot be used at all.
    """
    found = tokenizer_of(path, contract)
    findings = [*check_vocabulary(found.vocabulary, contract), *found.findings]
    return [*findings, *check_pieces(file, found.vocabulary), *_check_chat_template(file, found.vocabulary)]


def check_pieces(file: GGUFFile, vocabulary: Vocabulary) -> Iterator[Finding]:
    """The first piece, score, type and merge that is not the tokenizer's."""
    expected: Mapping[str, Sequence[object]] = {
        "tokenizer.ggml.tokens": vocabulary.pieces,
        "tokenizer.ggml.scores": vocabulary.scores,
        "tokenizer.ggml.token_type": vocabulary.types,
        "tokenizer.ggml.merges": vocabulary.merges,
    }
    for key, items in expected.items():
        found = file.metadata.get(key)
        if not isinstance(found, list):
            continue  # reported already
        if len(found) != len(items):
            if key == "tokenizer.ggml.merges":  # for the others that is reported already
                yield Finding("error", key, f"{len(items)} items, as the tokenizer has", f"{len(found)} items")
            continue
        wrong = [number for number, pair in enumerate(zip(items, found, strict=True)) if pair[0] != pair[1]]
        if wrong:
            first = wrong[0]
            hint = f"{len(wrong)} of {len(items)} items are not those of the tokenizer"
            yield Finding("error", f"{key}[{first}]", repr(items[first]), repr(found[first]), hint)


def _check_chat_template(file: GGUFFile, vocabulary: Vocabulary) -> Iterator[Finding]:
    found, expected = file.metadata.get("tokenizer.chat_template"), vocabulary.chat_template
    if found != expected:
        hint = "a runtime that chats would put other text before the model"
        yield Finding("error", "tokenizer.chat_template", f"{expected!r:.80}", f"{found!r:.80}", hint)


def _check_origin(file: GGUFFile, expected: Mapping[str, str]) -> Iterator[Finding]:
    for key, digest in expected.items():
        found = file.metadata.get(key)
        if found is not None and found != digest:
            yield Finding("error", key, digest, f"{found!r:.80}", "the file was exported from something else")


def _check_weights(
    file: GGUFFile, spec: TensorSpec, source: Checkpoint, contract: Contract, catalog: Catalog
) -> Iterator[Finding]:
    tensor = file.tensors.get(spec.gguf_name)
    if tensor is None or tensor.problem or tensor.shape != spec.shape or tensor.offset + tensor.nbytes > file.size:
        return  # reported already
    seen = source.tensors.get(spec.name)
    if seen is None or seen.shape != spec.shape:
        yield Finding("error", spec.gguf_name, f"{spec.name} of that shape in {source.path}", "no such tensor")
        return
    try:
        values = transform_of(contract.model, spec).apply(source.read(spec.name))
        problem = _difference(file, spec, values, contract, catalog)
    except (PluginError, QuantizeError) as error:
        problem = f"bytes that cannot be compared: {error}"
    if problem:
        yield Finding("error", spec.gguf_name, "the values of the checkpoint", problem)


def _difference(file: GGUFFile, spec: TensorSpec, values: Float32, contract: Contract, catalog: Catalog) -> str:
    """In what the stored values are not those of the checkpoint, "" when they may be.

    A cast, and i2_s of a ternary matrix, must be exact. What a search has found cannot be told from here; it has to lie
    nearer to the values than zeros do, which another tensor's values do not.
    """
    tensor = file.tensors[spec.gguf_name]
    kind = ggml_type(tensor.ggml_type)
    name = kind.name if kind else f"type {tensor.ggml_type}"
    layout = str(file.metadata.get(LAYOUT_KEY, USUAL_LAYOUT))
    codec = catalog.decoder(tensor.ggml_type, variant_of_layout(layout) if name == "i2_s" else "")
    packed = file.packed(tensor.name)
    if name in _CASTS:
        return "" if np.array_equal(packed, codec.pack(tensor.name, values)) else f"other values in {name}"
    decoded = codec.unpack(tensor.name, np.ascontiguousarray(packed), spec.shape)
    if name == "i2_s" and contract.model.is_ternary and spec.storage_class == "linear":
        return "" if np.array_equal(decoded, values) else "other ternary values in i2_s"
    error = measure_cost(values, decoded).relative_error
    return "" if error < 1 else f"values in {name} whose relative error is {error:.3g}"
