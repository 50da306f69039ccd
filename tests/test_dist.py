"""What `make dist` builds: clean wheels that work without this tree, each on its own. Takes about ten seconds."""

import fcntl
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from uv import find_uv_bin

ROOT = Path(__file__).parent.parent
CORE = "nebula-serving"
PLUGINS = sorted(path.parent.name for folder in ("plugins", "contrib") for path in ROOT.glob(f"{folder}/nebula-*/pyproject.toml"))
PINS = ["--constraints", str(ROOT / "constraints.txt")]

# One build serves them all. pytest-xdist 3.8 loses groups under pytest 9.2 (pytest-xdist issue 1386): hence the lock below.
pytestmark = pytest.mark.xdist_group("dist")


def uv(*arguments: str | Path) -> None:
    subprocess.run([find_uv_bin(), "--quiet", *arguments], check=True, cwd=ROOT)


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder of freshly built wheels, in a path with a space."""
    own = tmp_path_factory.getbasetemp()
    shared = (own if worker_id == "master" else own.parent) / "with space"  # a worker's folder lies in that of the run
    shared.mkdir(exist_ok=True)
    built = shared / "built"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            build(shared / "dist")
            built.touch()
    return shared / "dist"


def build(folder: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    environ["NEBULA_PURE_PYTHON"] = "1"  # to compile takes a minute, and is what `make setup` has done
    subprocess.run(["make", "dist", f"DIST={folder}"], check=True, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL)


@pytest.fixture
def environment(dist: Path, tmp_path: Path) -> Path:
    """A virtual environment with nothing in it but the core and one plugin, from those wheels."""
    folder = tmp_path / "environment"
    uv("venv", "--python", sys.executable, folder)
    uv("pip", "install", "--python", folder, *PINS, "--find-links", dist, CORE, "nebula-strategy-least-pending")
    return folder


def plugins(environment: Path) -> dict[str, dict[str, Any]]:
    """What `nebula plugins` lists there, started outside this tree."""
    nebula = [environment / "bin/nebula", "plugins", "--json"]
    answer = subprocess.run(nebula, check=True, cwd=environment, env={"HOME": str(environment)}, capture_output=True)
    return {plugin["name"]: plugin for plugin in json.loads(answer.stdout)["plugins"]}


def test_every_package_has_one_wheel_and_the_core_a_source_archive(dist: Path) -> None:
    wheels = sorted(wheel.name.split("-")[0].replace("_", "-") for wheel in dist.glob("*.whl"))

    assert wheels == sorted([CORE, *PLUGINS])
    assert len(list(dist.iterdir())) == len(wheels) + 1


def test_a_wheel_holds_its_package_and_nothing_else(dist: Path) -> None:
    for wheel in dist.glob("*.whl"):
        names = zipfile.ZipFile(wheel).namelist()
        name, version, *_ = wheel.name.split("-")
        package = "nebula_core" if name == "nebula_serving" else name
        own = [entry for entry in names if entry.startswith(f"{package}/")]
        about = [entry for entry in names if entry.startswith(f"{name}-{version}.dist-info/")]

        assert sorted(own + about) == sorted(names)
        assert f"{package}/py.typed" in own
        assert [entry for entry in own if "tests/" in entry or "__pycache__" in entry] == []


def test_the_source_archive_holds_the_core_and_nothing_else(dist: Path) -> None:
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        tops = {name.split("/")[1] for name in opened.getnames()}

    assert tops == {"nebula_core", "README.md", "LICENSE", "settings.toml", "hatch_build.py", "pyproject.toml", ".gitignore", "PKG-INFO"}


def test_the_core_and_one_plugin_work_without_the_others(environment: Path) -> None:
    found = plugins(environment)

    assert set(found) == {"store_embedded", "strategy_least_pending"}
    assert found["strategy_least_pending"]["provides"] == ["strategy:least_pending"]
    assert found["strategy_least_pending"]["enabled"]


def test_removing_a_plugin_removes_its_feature_and_nothing_else(environment: Path) -> None:
    before = plugins(environment)
    uv("pip", "uninstall", "--python", environment, "nebula-strategy-least-pending")
    after = plugins(environment)

    assert before.pop("strategy_least_pending")
    assert after == before
