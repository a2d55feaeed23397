"""Write a contract of your own: change a shipped one, write the spec file, read it back, see what it implies.

    python examples/write_a_contract.py small.toml

The same by hand: copy what `conform contract show nano` prints, and edit it.
"""

import dataclasses
import sys
from pathlib import Path

from conform.contract import Contract, load_contract
from conform.contract.dump import dump_contract
from conform.contract.inventory import inventory


def small_contract() -> Contract:
    """A model of two layers. Every field must be given; here the others are those of `nano`."""
    nano = load_contract("nano")
    dimensions = {"layers": 2, "hidden": 512, "heads": 4, "kv_heads": 2, "head_dim": 64, "rope_dim": 64, "ffn": 256}
    model = dataclasses.replace(nano.model, **dimensions, vocab=512, context=128)
    return dataclasses.replace(nano, name="small", why="the smallest model that shows everything", model=model)


def main(target: Path) -> None:
    """Print the digest that will travel with the model, and the tensors that a checkpoint must hold."""
    target.write_text(dump_contract(small_contract()))
    contract = load_contract(str(target))
    print(f"{contract.name}  {contract.digest}")
    for tensor in inventory(contract.model):
        print(f"{tensor.name}  {tensor.shape}  {tensor.storage_class}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
