"""Receipt: what was certified, bound to the plugin's version and to the hash of each of its files."""

import hashlib
import importlib.metadata
import importlib.util
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conform.contract.finding import Finding
from conform.core.errors import PluginError
from conform.core.quantizer import Quantizer
from conform.plugins.registry import Plugin
from conform.plugins.testing.battery import Certificate

__all__ = ["FORMAT", "make_receipt", "receipt_findings", "source_hashes"]

FORMAT = 1


def make_receipt(certificate: Certificate, quantizer: Quantizer, plugin: Plugin) -> dict[str, Any]:
    """The receipt as a JSON object; its own digest covers everything else in it."""
    receipt: dict[str, Any] = {
        "format": FORMAT,
        "certified": bool(certificate),
        "quantizer": quantizer.name,
        "layout": {
            "ggml_type": quantizer.layout.ggml_type,
            "block_size": quantizer.layout.block_size,
            "variant": quantizer.layout.variant,
        },
        "plugin": {
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "files": source_hashes(plugin.module),
        },
        "battery": {"version": importlib.metadata.version("gguf-conform"), "files": source_hashes(__name__)},
        "environment": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "numpy": importlib.metadata.version("numpy"),
            "gguf": importlib.metadata.version("gguf"),
        },
        "checks": [
            {"check": result.check, "promise": result.promise, "outcome": result.outcome, "detail": result.detail}
            for result in certificate.results
        ],
    }
    return {**receipt, "digest": _digest(receipt)}


def source_hashes(module: str) -> dict[str, str]:
    """sha256 of each file of the outermost regular package that holds the module, or of the module alone.

    Raises PluginError when the module has no source file.
    """
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        spec = importlib.util.find_spec(".".join(parts[:length]))
        if spec is not None and spec.origin and Path(spec.origin).is_file():
            return _hashes(Path(spec.origin))
    raise PluginError(f"{module}: no source file, so nothing to bind a receipt to")


def receipt_findings(receipt: Mapping[str, Any], plugin: Plugin) -> list[Finding]:
    """Why a receipt does not describe what is installed now; empty when it still does."""
    where = f"receipt of {receipt.get('quantizer')}"
    findings = []
    content = {key: value for key, value in receipt.items() if key != "digest"}
    if receipt.get("format") != FORMAT or receipt.get("digest") != _digest(content):
        findings.append(Finding("error", where, "a receipt as it was written", "another format or digest"))
        return findings
    if not receipt["certified"]:
        findings.append(Finding("error", where, "certified", "not certified"))
    bound = receipt["plugin"]
    if (bound["distribution"], bound["version"]) != (plugin.distribution, plugin.version):
        findings.append(Finding("error", where, f"{bound['distribution']} {bound['version']}", plugin.owner))
    files = source_hashes(plugin.module)
    for name in sorted(bound["files"].keys() | files.keys()):
        expected, found = bound["files"].get(name, "no such file"), files.get(name, "no such file")
        if expected != found:
            findings.append(Finding("error", f"{where}: {name}", expected, found, "certify it again"))
    return findings


def _hashes(origin: Path) -> dict[str, str]:
    if origin.name != "__init__.py":
        return {origin.name: _sha256(origin)}
    files = sorted(path for path in origin.parent.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(origin.parent.parent).as_posix(): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
