"""Texts: what the tokens rung asks a runtime to tokenize."""

from conform.parity.questions.prompts import PROMPTS, PROSE
from conform.parity.questions.sequences import Scope
from conform.parity.questions.start import StartPrompt
from conform.parity.questions.tokenizer import PromptTokenizer

__all__ = ["texts_to_tokenize"]


def texts_to_tokenize(start: StartPrompt, scope: Scope, tokenizer: PromptTokenizer, context: int) -> list[str]:
    """The start prompt, the user's prompts, ours, the hostile texts and a piece of prose, as far as each fits."""
    texts = dict.fromkeys((start.prompt, *scope.prompts, *PROMPTS, *scope.texts, PROSE[:400]))
    return [text for text in texts if 0 < len(tokenizer.ids(text)) <= context]
