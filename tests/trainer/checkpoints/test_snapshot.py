import pytest

from conform.trainer.checkpoints.snapshot import divide


def test_small_models_have_one_file():
    assert divide([("a", 10), ("b", 20)], "model", 100) == {"a": "model.safetensors", "b": "model.safetensors"}


def test_large_models_are_divided_in_order():
    files = divide([("a", 60), ("b", 60), ("c", 30), ("d", 20)], "model", 100)
    assert files == {
        "a": "model-00001-of-00003.safetensors",
        "b": "model-00002-of-00003.safetensors",
        "c": "model-00002-of-00003.safetensors",
        "d": "model-00003-of-00003.safetensors",
    }


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_tensor_larger_than_a_file_has_its_own(position):
    sizes = [("a", 10), ("b", 10)]
    sizes.insert(position, ("huge", 1000))
    files = divide(sizes, "model", 100)
    assert [name for name, file in files.items() if file == files["huge"]] == ["huge"]
