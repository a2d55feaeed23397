from pathlib import Path

from conform.core.tokenizer.pre import PRE_TOKENIZERS

FORMATS = Path(__file__).parents[3] / "docs/reference/formats.md"


def test_every_name_of_a_pre_tokenizer_is_in_the_documentation():
    rows = [line for line in FORMATS.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    for known in PRE_TOKENIZERS.values():
        (row,) = [row for row in rows if f"`{known.name}`" in row.split("|")[1]]
        assert all(other in row for other in known.names[1:])
        assert known.ignore_merges == ("ignore_merges" in row)
