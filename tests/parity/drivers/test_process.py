import dataclasses
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from conform.core.runtime import Limits
from conform.parity.drivers.process import run_program
from conform.parity.errors import RuntimeDriverError

QUICK = Limits(seconds=20.0, memory=1 << 30, output=1 << 20)


def python(code, limits=QUICK, environment=None):
    return run_program([sys.executable, "-I", "-c", code], environment or {}, limits)


def test_output_and_status_are_returned():
    done = python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    assert (done.ending, done.code, done.stdout, done.stderr) == ("exited", 3, b"out\n", b"err\n")


def test_a_signal_is_not_an_exit():
    done = python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert (done.ending, done.code) == ("signalled", 11)


def test_the_environment_is_the_one_given(monkeypatch):
    monkeypatch.setenv("BITNET_FORCE_TOKENS", "1")
    done = python("import os; print(sorted(os.environ))", environment={"ONLY": "this"})
    assert b"ONLY" in done.stdout
    assert b"BITNET" not in done.stdout


def test_stdin_is_closed():
    assert python("import sys; print(repr(sys.stdin.read()))").stdout == b"''\n"


def test_no_shell_sees_the_arguments():
    done = run_program([sys.executable, "-I", "-c", "import sys; print(sys.argv[1])", "$(id) `id` ;"], {}, QUICK)
    assert done.stdout == b"$(id) `id` ;\n"


def test_a_program_that_hangs_is_killed_with_its_children(tmp_path):
    pid_file = tmp_path / "pid"
    code = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(pid_file)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    started = time.monotonic()
    done = python(code, Limits(seconds=3.0, memory=1 << 30, output=1 << 20))
    assert done.ending == "timed out"
    assert time.monotonic() - started < 15
    assert gone(int(pid_file.read_text()))


LEAVES_ITS_SESSION = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        {}
        open(sys.argv[1], 'w').write(str(os.getpid()))
        os.closerange(0, 3)
        time.sleep(60)
    os._exit(0)
os.wait()
while not os.path.exists(sys.argv[1]) or not open(sys.argv[1]).read(): time.sleep(0.01)
"""
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="descendants are followed through /proc")


@linux_only
@pytest.mark.parametrize(
    ("disguise", "end"),
    [
        ("pass", "pass"),
        ("os.closerange(0, 3); time.sleep(0.3)", "time.sleep(0.6)"),
        ("pass", "time.sleep(0.3); os.abort()"),
        ("pass", "time.sleep(60)"),
    ],
    ids=["at once", "slowly", "crashing", "hanging"],
)
def test_a_descendant_that_left_its_session_dies_with_the_program(tmp_path, disguise, end):
    pid_file = tmp_path / "pid"
    code = LEAVES_ITS_SESSION.format(disguise) + end
    run_program([sys.executable, "-I", "-c", code, pid_file], {}, Limits(2.0, 1 << 30, 1 << 20))
    assert gone(int(pid_file.read_text()))


@linux_only
def test_a_descendant_that_hid_its_environment_and_was_seen_dies_with_the_program(tmp_path):
    pid_file = tmp_path / "pid"
    hidden = f"os.execve({sys.executable!r}, ['x', '-I', '-c', 'import time; time.sleep(60)'], {{}})"
    code = (
        "import os, sys, time\n"
        "if (pid := os.fork()) == 0:\n"
        "    os.setsid()\n"
        f"    {hidden}\n"
        "open(sys.argv[1], 'w').write(str(pid))\n"
        "time.sleep(0.5)\n"
    )
    run_program([sys.executable, "-I", "-c", code, pid_file], {}, QUICK)
    assert gone(int(pid_file.read_text()))


@linux_only
def test_programs_side_by_side_do_not_kill_each_other():
    code = "import os, time\ntime.sleep(1)\nprint('done')"
    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(lambda seconds: python(f"{code}; time.sleep({seconds})"), (0, 0.2, 0.4, 0.6)))
    assert [done.stdout for done in ended] == [b"done\n"] * 4


@linux_only
def test_the_memory_of_descendants_counts(tmp_path):
    half = "x = bytearray(96 << 20); x[::4096] = b'1' * len(x[::4096]); import time; time.sleep(20)"
    code = f"import subprocess, sys; [subprocess.Popen([sys.executable, '-c', {half!r}]) for _ in 'ab']; {half}"
    assert python(code, Limits(seconds=15.0, memory=200 << 20, output=1 << 20)).ending == "too much memory"


def test_the_working_folder_is_the_one_given(tmp_path):
    limits = dataclasses.replace(QUICK, folder=tmp_path)
    done = python("import os, tempfile; print(os.getcwd(), tempfile.gettempdir(), os.environ['HOME'])", limits)
    assert done.stdout.decode().split() == [str(tmp_path.resolve())] * 3


def test_a_grandchild_that_keeps_the_pipes_does_not_delay_the_end():
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    started = time.monotonic()
    done = python(code)
    assert done.ending == "exited"
    assert time.monotonic() - started < 15


def test_endless_output_is_cut():
    done = python("import sys\nwhile True: sys.stdout.write('x' * 65536)")
    assert done.ending == "too much output"
    assert len(done.stdout) < 2 << 20


def test_endless_output_on_stderr_is_cut():
    assert python("import sys\nwhile True: sys.stderr.write('x' * 65536)").ending == "too much output"


@pytest.mark.skipif(sys.platform != "linux", reason="memory is watched through /proc and prlimit")
def test_memory_is_limited():
    code = "import time\nx = bytearray(1 << 29)\nx[::4096] = b'1' * len(x[::4096])\ntime.sleep(20)"
    done = python(code, Limits(seconds=15.0, memory=128 << 20, output=1 << 20))
    assert done.ending == "too much memory" or (done.ending == "exited" and b"MemoryError" in done.stderr)


@pytest.mark.parametrize("closed", ["sys.stdout.close(); sys.stderr.close()", "os.close(1); os.close(2)"])
def test_closed_pipes_do_not_hide_a_hang(closed):
    done = python(f"import os, sys, time; {closed}; time.sleep(60)", Limits(2.0, 1 << 30, 1 << 20))
    assert done.ending == "timed out"


def test_missing_programs_are_one_sentence(tmp_path):
    with pytest.raises(RuntimeDriverError, match="no such program"):
        run_program([tmp_path / "none"], {}, QUICK)


def test_files_that_are_no_programs_are_one_sentence(tmp_path):
    text = tmp_path / "text"
    text.write_text("hello")
    with pytest.raises(RuntimeDriverError, match="not executable"):
        run_program([text], {}, QUICK)
    text.chmod(0o755)
    with pytest.raises(RuntimeDriverError, match="cannot be started"):
        run_program([text], {}, QUICK)


def test_a_folder_is_no_program(tmp_path):
    with pytest.raises(RuntimeDriverError):
        run_program([tmp_path], {}, QUICK)


def test_an_argument_that_is_too_long_is_one_sentence():
    with pytest.raises(RuntimeDriverError, match="cannot be started"):
        run_program([sys.executable, "x" * (1 << 22)], {}, QUICK)


def gone(pid):
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if (status := process_state(pid)) in {"Z", ""}:
            return True
        time.sleep(0.05)
    return status == "Z"


def process_state(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""
