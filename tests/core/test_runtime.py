"""What a view says of itself."""

import pytest

from conform.core.runtime import View


@pytest.mark.parametrize(
    ("view", "names"),
    [
        (View(), ("text",)),
        (View(ids=True, tensors=True), ("text", "ids", "tensors")),
        (View(logprobs=5, hidden=True), ("text", "best 5 logprobs", "hidden state")),
        (View(logits=True, layers=True), ("text", "logits", "layers")),
    ],
)
def test_a_view_is_named_from_the_text_inwards(view, names):
    assert view.names == names
