import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from conform.core.errors import PluginError
from conform.plugins.cli.plugins import plugins
from conform.plugins.project import new_project, project_files

from .conftest import pip_install, run_conform


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A new project, and the folder into which pip installed it."""
    folder = tmp_path_factory.mktemp("new")
    project = new_project("four-bits", folder)
    return project, pip_install(project, folder / "installed")


def test_a_new_project_passes_certification_once_installed(installed):
    done = run_conform("plugins", "certify", "four_bits", installed=installed[1])
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_new_project_passes_its_own_tests_once_installed(installed):
    project, target = installed
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(project)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=project, env={**os.environ, "PYTHONPATH": str(target)}
    )
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


def test_a_new_project_is_complete_and_keeps_no_name_of_the_template():
    files = project_files("four-bits")
    assert set(files) == {"README.md", "four_bits.py", "pyproject.toml", "tests/test_four_bits.py"}
    assert "class FourBits" in files["four_bits.py"]
    for path, text in files.items():
        assert "template" not in (path + text).lower(), path


def test_the_command_says_what_to_type_next(tmp_path):
    result = CliRunner().invoke(plugins, ["new", "four-bits", "--in", str(tmp_path)], standalone_mode=False)
    assert result.return_value == 0
    assert "conform plugins certify four_bits" in result.output
    assert (tmp_path / "four-bits" / "pyproject.toml").is_file()


@pytest.mark.parametrize(
    "name", ["", "Four", "four_bits", "4bits", "../four", "four bits", "-four", "four-", "a" + "/b"]
)
def test_a_name_that_is_no_distribution_is_refused(name, tmp_path):
    with pytest.raises(PluginError, match="expected words of lower-case letters"):
        new_project(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["json", "numpy", "class"])
def test_a_name_that_python_uses_is_refused(name, tmp_path):
    with pytest.raises(PluginError, match="choose another name"):
        new_project(name, tmp_path)


def test_a_name_that_is_a_quantizer_already_is_refused(tmp_path):
    result = CliRunner().invoke(plugins, ["new", "i2-s", "--in", str(tmp_path)], standalone_mode=False)
    assert isinstance(result.exception, PluginError)
    assert "offers a quantizer i2_s already" in str(result.exception)


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "four-bits").mkdir()
    with pytest.raises(PluginError, match="exists already"):
        new_project("four-bits", tmp_path)
    assert list((tmp_path / "four-bits").iterdir()) == []


def test_a_folder_that_does_not_exist_is_reported(tmp_path):
    with pytest.raises(PluginError, match="cannot be written"):
        new_project("four-bits", tmp_path / "nowhere")
