"""Launcher: the driver, the program and the limits with which a runtime is started."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from conform.core.gguf.read import GGUFFile
from conform.core.runtime import Limits, Runtime, RuntimeDriver
from conform.parity.custody import Custody
from conform.parity.errors import RuntimeDriverError
from conform.parity.goref.toolchain import build_goref
from conform.parity.guard import companions_of, open_guarded
from conform.plugins.registry import Registry

__all__ = ["DEFAULT_DRIVER", "Launcher", "find_launcher"]

DEFAULT_DRIVER = "bitnet-go"
"""The driver of goref, which is judged when no program is named."""


@dataclass(frozen=True, slots=True)
class Launcher:
    """Starts one program on any GGUF file."""

    driver: RuntimeDriver
    owner: str
    program: Path
    limits: Limits

    def open(self, file: GGUFFile) -> Runtime:
        """The runtime with that file.

        Raises RuntimeDriverError when the program cannot be started, or is conform itself.
        """
        if self.program.resolve() in {Path(sys.executable).resolve(), Path(sys.argv[0]).resolve()}:
            raise RuntimeDriverError(f"{self.program}: this is conform itself; it cannot judge its own reference")
        return open_guarded(self.driver, self.owner, self.program, file, self.limits)

    def kept(self, custody: Custody) -> "Launcher":
        """The launcher of what custody keeps of the program and its companions, working in custody's folder."""
        companions = companions_of(self.driver, self.owner, self.program)
        program = custody.keep_program(self.program.resolve(), companions).path
        return replace(self, program=program, limits=replace(self.limits, folder=custody.folder))


def find_launcher(registry: Registry, driver: str, program: Path | None, limits: Limits) -> Launcher:
    """The launcher for that driver and program; without a program, goref is built and judged.

    Raises RuntimeDriverError when no such driver exists, or one that needs a program is given none.
    """
    drivers = registry.runtime_drivers
    if driver not in drivers:
        failures = "".join(f"; {failure}" for failure in registry.failures)
        raise RuntimeDriverError(f"{driver}: no such driver; there are {', '.join(drivers)}{failures}")
    if program is None and driver != DEFAULT_DRIVER:
        raise RuntimeDriverError(f"the driver {driver} needs a program to judge; name it with --runtime")
    owner = registry.owner(driver, "runtime driver")
    return Launcher(drivers[driver], owner, build_goref() if program is None else program, limits)
