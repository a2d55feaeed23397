import os

import pytest

from conform.core.errors import ConformError
from conform.parity.questions.tokenizer import open_tokenizer


@pytest.mark.timeout(20)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "tokenizer.model")
    with pytest.raises(ConformError, match="a pipe, not a regular file"):
        open_tokenizer(tmp_path / "tokenizer.model", None)


def test_what_is_no_model_is_refused_by_name(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"\xff" * 100)
    with pytest.raises(ConformError, match=r"tokenizer\.model: not a SentencePiece model"):
        open_tokenizer(tmp_path / "tokenizer.model", None)
