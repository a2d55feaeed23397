import pytest

from conform.core.errors import CheckpointError
from conform.core.tokenizer.tokenizer import read_vocabulary


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"IQ== 0\nIg== 1\n", "a tiktoken vocabulary"),
        (b'{"version": "1.0", "model": {"type": "Unigram"}}', "a JSON text"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    ],
)
def test_another_file_of_the_same_name_is_recognised(tmp_path, content, what):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"tokenizer\.model: is {what}, not a SentencePiece model; "):
        read_vocabulary(tmp_path / "tokenizer.model")
