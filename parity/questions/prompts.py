"""Prompts: the texts that a runtime is examined on; real prose, and texts that tokenizers are known to get wrong."""

from conform.core.cases.text import hostile_texts

__all__ = ["HOSTILE_TEXTS", "PROMPTS", "PROSE"]

PROMPTS: tuple[str, ...] = (
    "The lighthouse keeper counted",
    "def area(width, height):\n    return",
)
"""Free-running generation starts from these, unless others are given."""

# Written for this file, so that no model has been trained on it.
PROSE = """\
On the morning of the inspection the harbour was quiet. Two barges lay at the northern quay, low in the water, and a \
man in a grey coat walked from one to the other with a notebook in his hand. He wrote down what he saw: the number of \
crates, the marks on them, the state of the ropes. Nobody had told him what to look for, and so he looked at \
everything. At noon the wind turned. The first barge swung away from the wall until its lines were tight, then came \
back and touched the stone with a low sound that could be heard across the basin. "That is the third time this week," \
said the woman who kept the lock. "It always waits until someone is watching." He laughed, but he wrote that down as \
well, with the hour beside it: 12:05. What is measured can be compared, and what has been compared can be trusted a \
little further than before. In the afternoon they opened the second hold. It held 48 boxes of glass, packed in straw, \
none of them broken; a set of brass weights from 1 gram to 5 kilograms; and a clock that had stopped at twenty past \
four. The weights were the reason for the journey. Every tenth year they were carried to the city, laid on the great \
balance one after another, and carried home again with a paper that said by how much each of them was wrong. No weight \
was ever right. The paper did not make them right either; it only said how far one could believe them.
"""
"""Held-out text for teacher forcing and likelihood."""

HOSTILE_TEXTS = tuple(hostile_texts("prompts").values())
"""What a tokenizer must agree on: spaces, control characters, scripts, combining marks, text that looks special."""
