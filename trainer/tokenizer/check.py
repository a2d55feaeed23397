"""Tokenizer check: whether a runtime that merges by score, without SentencePiece, will agree on the ids."""

from pathlib import Path

from conform.contract.finding import Finding
from conform.contract.spec import Contract
from conform.core.tokenizer.agreement import check_agreement, load_sentencepiece
from conform.core.tokenizer.check import check_model
from conform.core.tokenizer.tokenizer import read_tokenizer, read_vocabulary
from conform.core.tokenizer.vocabulary import check_vocabulary
from conform.trainer.tokenizer.recipe import find_tokenizer

__all__ = ["check_tokenizer"]


def check_tokenizer(path: Path, contract: Contract | None = None) -> list[Finding]:
    """Everything in the tokenizer that keeps a runtime from agreeing with it, or from fitting the contract.

    Raises InputError or TokenizerError when the file is not a SentencePiece model at all.
    """
    model = find_tokenizer(path)
    vocabulary = read_vocabulary(model)
    spec = contract.tokenizer if contract else None
    findings = check_model(vocabulary, spec)
    processor = load_sentencepiece(read_tokenizer(model), model)
    findings += check_agreement(vocabulary, processor, dummy_prefix=spec.add_dummy_prefix if spec else True)
    return findings + (check_vocabulary(vocabulary, contract) if contract else [])
