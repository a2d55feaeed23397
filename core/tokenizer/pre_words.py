"""Words: what a pre-tokenizer makes of a probe corpus, as a digest; the library `tokenizers` runs it.

A stranger's regular expression may take for ever or abort the library, so it is tried in a process of its own.
"""

import functools
import hashlib
import itertools
import json
import subprocess
import sys
from collections.abc import Sequence

from conform.core.cases.text import hostile_texts

__all__ = ["strange_words_digest", "words_digest"]

# One of each kind of character that some pre-tokenizer tells apart, and the contractions.
_ALPHABET = (
    *("a", "Z", "é", "ʰ", "漢", "\u0301", "1", "٣", "Ⅷ", " ", "\n", "\r", "\t", "\u00a0", ".", "/", "$", "_", "🙂"),
    *("\u200b", "'s", "'LL", "'re", "'Ve", "'m", "'t", "'D", "'ſ"),
)
_RUNS = (4, 5, 7, 8)
_SECONDS = 15


def words_digest(definition: str) -> str:
    """sha256 of the words of every probe; `definition` is what a tokenizer.json says under `pre_tokenizer`.

    Raises ValueError when `tokenizers` cannot read it.
    """
    from tokenizers import Tokenizer

    # Only a whole tokenizer can be read from JSON.
    model = '{"type": "BPE", "vocab": {}, "merges": []}'
    try:
        splitter = Tokenizer.from_str(f'{{"model": {model}, "pre_tokenizer": {definition}}}').pre_tokenizer
        words = [[word for word, _ in splitter.pre_tokenize_str(probe)] for probe in _probes()]
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"the library tokenizers does not read it: {error!s:.100}") from error
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()


@functools.cache
def strange_words_digest(definition: str) -> str:
    """The same of a definition that nobody vouches for.

    Raises ValueError also when the library is aborted by it, or needs more than a quarter of a minute.
    """
    import tokenizers  # noqa: F401 - where it is missing this says so, and the other process could only fail

    command = [sys.executable, "-P", "-m", __name__]
    try:
        done = subprocess.run(
            command,
            input=definition.encode(),
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"it did not cut the probe corpus into words in {_SECONDS} seconds") from error
    if done.returncode:
        reason = done.stdout.decode(errors="replace") or "its pattern aborts the library tokenizers"
        raise ValueError(f"{reason:.200}")
    return done.stdout.decode()


@functools.cache
def _probes() -> Sequence[str]:
    """The hostile texts, every pair as a text of its own, and all triples and runs in one text each."""
    pairs = map("".join, itertools.product(_ALPHABET, repeat=2))
    triples = "".join(map("".join, itertools.product(_ALPHABET, repeat=3)))
    runs = "".join(first * length + last for first in _ALPHABET for last in _ALPHABET for length in _RUNS)
    return (*hostile_texts("tokenizer").values(), *pairs, triples, runs)


def _main() -> int:
    """Answer in standard output: the digest of the definition in standard input, or with status 1 what is wrong."""
    try:
        answer, status = words_digest(sys.stdin.read()), 0
    except ValueError as error:
        answer, status = str(error), 1
    sys.stdout.write(answer)
    return status


if __name__ == "__main__":
    sys.exit(_main())
