from collections import Counter

import pytest

from conform.contract.huggingface.family import Only, read_families
from conform.contract.huggingface.model import model_facts
from conform.contract.huggingface.settings import Settings
from conform.contract.quantisation import PLAIN

FAMILIES = read_families()


def test_no_key_means_two_things():
    listed = [key for meaning in (*FAMILIES.only, *FAMILIES.irrelevant) for key in meaning.keys]
    assert Counter([*FAMILIES.understood, *listed]).most_common(1)[0][1] == 1


@pytest.mark.parametrize("name", FAMILIES.families)
def test_only_what_is_understood_has_a_default(name):
    assert set(FAMILIES.families[name].absent) <= set(FAMILIES.understood)


class Recorder(dict):
    """A configuration that notes which keys are asked for."""

    def __init__(self, values):
        super().__init__(values)
        self.asked = set()

    def __getitem__(self, key):
        self.asked.add(key)
        return super().__getitem__(key)

    def __contains__(self, key):
        self.asked.add(key)
        return super().__contains__(key)

    def get(self, key, default=None):
        self.asked.add(key)
        return super().get(key, default)


def test_every_key_that_is_read_is_listed_as_understood():
    config = Recorder(
        {
            "model_type": "llama",
            "hidden_size": 128,
            "num_attention_heads": 8,
            "num_hidden_layers": 2,
            "intermediate_size": 256,
            "vocab_size": 400,
        }
    )
    model_facts(Settings(config, FAMILIES.families["llama"], "config.json"), PLAIN)
    ids = {"bos_token_id", "eos_token_id"}
    assert config.asked | ids | {"quantization_config"} == set(FAMILIES.understood)


@pytest.mark.parametrize("name", FAMILIES.families)
def test_an_absent_key_means_what_the_library_takes_it_for(name):
    mapping = pytest.importorskip("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    library = mapping[name]()
    for key, value in FAMILIES.families[name].absent.items():
        if key == "rope_theta":
            assert library.rope_parameters == {"rope_theta": value, "rope_type": "default"}
        elif key != "dtype":  # None to the library, which then reads float32
            assert getattr(library, key) == value


@pytest.mark.parametrize(
    ("only", "value", "allowed"),
    [
        (Only(("k",), (False,), ""), None, True),
        (Only(("k",), (False,), ""), False, True),
        (Only(("k",), (False,), ""), 0, False),
        (Only(("k",), (False,), ""), [], False),
        (Only(("k",), (1,), ""), 1.0, True),
        (Only(("k",), (1,), ""), True, False),
        (Only(("k",), ("a",), "", each=True), ["a", "a"], True),
        (Only(("k",), ("a",), "", each=True), ["a", "b"], False),
        (Only(("k",), ("a",), "", each=True), "a", False),
        (Only(("k",), ({},), ""), {}, True),
        (Only(("k",), ({},), ""), {"0": []}, False),
    ],
)
def test_a_key_may_say_what_is_listed_and_null(only, value, allowed):
    assert only.allows(value) is allowed
