import json
import os
import subprocess
import sys

import pytest

HEAVY = ("torch", "numba", "sentencepiece", "pyarrow", "matplotlib")


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_help_imports_no_heavy_module():
    code = (
        "import sys; from conform.core.cli.main import cli; "
        "cli.main(['--help'], standalone_mode=False); print(*sys.modules)"
    )
    modules = run_python(code).stdout.split()
    assert "conform.core.cli.main" in modules
    assert not set(HEAVY) & set(modules)


def test_every_command_explains_itself_without_heavy_modules():
    code = (
        "import sys; from conform.core.cli import main as cli\n"
        "for name in cli._COMMANDS: cli.cli.main([name, '--help'], standalone_mode=False)\n"
        f"sys.exit(' '.join(set({HEAVY}) & set(sys.modules)) or None)"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "arguments", [["contract", "show", "a" * 5000], ["verify", "a" * 5000], ["data", "show", "a" * 5000]]
)
def test_what_the_system_refuses_is_one_sentence_and_exit_2(arguments):
    command = [sys.executable, "-m", "conform.core.cli", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "File name too long" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_user_error_is_one_sentence_and_exit_2():
    result = subprocess.run(
        [sys.executable, "-m", "conform.core.cli", "contract", "show", "nope"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("conform: nope: no such contract")
    assert len(result.stderr.splitlines()) == 1


def test_an_error_brings_no_control_characters_to_the_terminal(tmp_path):
    (tmp_path / "file").write_text("{}")
    command = [sys.executable, "-m", "conform.core.cli", "contract", "check", str(tmp_path / "a\x1b[2J\nb")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.endswith(r"a\x1b[2J\nb: no such file or folder" + "\n")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_file_name_need_not_be_utf8(tmp_path, checkpoint, arguments):
    path = os.fsencode(tmp_path) + b"/\xff"
    os.rename(checkpoint, path)
    command = [sys.executable, "-m", "conform.core.cli", "export", path, "--quant", "q8_0", "--dry-run", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    checked = subprocess.run([*command[:3], "contract", "check", path, *arguments], capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "arguments", [["contract", "show", "nano"], ["contract", "list"], ["contract", "show", "nano", "--json"]]
)
def test_an_output_that_cannot_be_written_is_one_sentence_and_exit_2(arguments):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "conform.core.cli", *arguments]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr) == (2, "conform: the output: No space left on device\n")


def test_a_reader_that_leaves_early_is_no_error_message():
    command = f"{sys.executable} -m conform.core.cli contract list | true; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.stderr == ""
    assert result.stdout in ("0\n", "141\n")


def test_another_platform_is_refused_with_one_sentence():
    code = "import sys; sys.modules['fcntl'] = None; from conform.core.cli import main; "
    result = run_python(code + "sys.platform = 'win32'; main.main()")
    assert result.returncode == 2
    sentence = "win32: not a supported platform; conform runs on Linux and macOS (on Windows, in WSL)"
    assert result.stderr == f"conform: {sentence}\n"


def run_broken(command, *arguments):
    """`conform plugins …` in a process of its own where the listing does what the code says."""
    code = (
        "import asyncio, atexit, os, sys, threading; from conform.core.cli import main; import conform.plugins.host\n"
        f"def load_registry():\n    {command}\n"
        "conform.plugins.host.load_registry = load_registry\n"
        "main.main()"
    )
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("raise ZeroDivisionError('oops')", "ZeroDivisionError: oops"),
        ("raise ZeroDivisionError('one\\ntwo')", "ZeroDivisionError: one two"),
        ("raise MemoryError", "MemoryError"),
        ("raise EOFError('short')", "EOFError: short"),
        ("raise asyncio.CancelledError", "CancelledError"),
        ("raise ModuleNotFoundError('No module', name='numba')", "ModuleNotFoundError: No module"),
        ("sys.exit(0)", "SystemExit: 0"),
        ("sys.exit(1)", "SystemExit: 1"),
        ("sys.exit('gone')", "SystemExit: gone"),
    ],
)
def test_a_crash_is_one_line_and_exit_70(code, sentence):
    result = run_broken(code, "plugins")
    hint = "; run `conform --traceback COMMAND …` to see where\n"
    assert (result.returncode, result.stdout, result.stderr) == (70, "", f"conform: internal error: {sentence}{hint}")


def test_a_traceback_is_shown_when_asked_for():
    result = run_broken("raise ZeroDivisionError('oops')", "--traceback", "plugins")
    assert result.returncode == 70
    assert "in load_registry" in result.stderr
    assert result.stderr.endswith("\nconform: internal error: ZeroDivisionError: oops\n")


def test_a_thread_that_crashes_is_no_answer():
    code = (
        "t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join(); return conform.plugins.registry.Registry({})"
    )
    result = run_broken(code, "plugins")
    assert result.returncode == 70
    assert result.stderr.startswith("conform: internal error: in a thread: ZeroDivisionError: division by zero; run")
    assert len(result.stderr.splitlines()) == 1


def test_what_a_plugin_prints_does_not_reach_the_report():
    code = (
        "print('Python'); os.write(1, b'C\\n'); sys.__stdout__.write('saved\\n'); "
        "os.system('echo child'); atexit.register(print, 'the end'); return conform.plugins.registry.Registry({})"
    )
    result = run_broken(code, "plugins", "--json")
    assert json.loads(result.stdout) == {"failures": [], "plugins": []}
    assert sorted(result.stderr.splitlines()) == ["C", "Python", "child", "saved", "the end"]
