"""The stubs say what the binary is, and the types of the package hold together."""

import subprocess
import sys
from pathlib import Path

import yai_agentkit


def run(*command):
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_stubs_describe_the_binary():
    run("mypy.stubtest", "yai_agentkit._native")


def test_the_package_is_typed():
    assert Path(yai_agentkit.__file__).with_name("py.typed").exists()
    # The adapters' frameworks are not here.
    configuration = Path(__file__).parents[1] / "pyproject.toml"
    run("mypy", "--strict", "--config-file", str(configuration), "-p", "yai_agentkit")
