"""The wheel contains only the package; the sdist contains all that building and testing need.

Rule of this file: it builds both with the build backend itself, without a network or an isolated
environment. `nox -s build` checks that the wheel alone can be installed and imported.
"""

import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import binance_oi

ROOT = Path(__file__).resolve().parents[1]
VERSION = binance_oi.__version__
INFO = f"binance_oi-{VERSION}.dist-info"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return directory


@pytest.fixture(scope="module")
def wheel(dist: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(dist / f"binance_oi-{VERSION}-py3-none-any.whl") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(wheel: dict[str, bytes]) -> Message:
    return email.message_from_bytes(wheel[f"{INFO}/METADATA"])


def sources(folder: str) -> set[str]:
    """The project's files in a folder of the checkout."""
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    found = {
        str(path.relative_to(ROOT).as_posix()) for path in files if "__pycache__" not in path.parts
    }
    assert found, folder
    return found


def test_the_wheel_is_the_package_and_its_metadata(wheel: dict[str, bytes]) -> None:
    metadata = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    assert set(wheel) == sources("binance_oi") | {f"{INFO}/{name}" for name in metadata}
    assert "binance_oi/py.typed" in wheel


def test_the_sdist_has_everything_to_build_and_to_test(dist: Path) -> None:
    top = f"binance_oi-{VERSION}"
    with tarfile.open(dist / f"{top}.tar.gz") as archive:
        names = {name.removeprefix(f"{top}/") for name in archive.getnames()}
    assert sources("binance_oi") | sources("tests") | sources("examples") <= names
    root = {"CHANGELOG.md", "LICENSE", "README.md", "noxfile.py", "pyproject.toml", "PKG-INFO"}
    assert root <= names
    rest = {name.split("/")[0] for name in names} - {
        "binance_oi",
        "tests",
        "examples",
        ".ci",
        ".docs",
        ".github",
    }
    assert rest == root | {".gitignore"}


def test_the_metadata_states_licence_versions_and_dependencies(metadata: Message) -> None:
    assert (metadata["License-Expression"], metadata["License-File"]) == ("MIT", "LICENSE")
    assert (metadata["Version"], metadata["Requires-Python"]) == (VERSION, ">=3.11")
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert sorted(required) == ["aiohttp<4,>=3.14.4", "aiolimiter>=1.2", "msgspec>=0.20"]
    assert {"cli", "parquet"} <= set(metadata.get_all("Provides-Extra", []))
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_the_command_is_installed(wheel: dict[str, bytes]) -> None:
    points = wheel[f"{INFO}/entry_points.txt"].decode()
    assert "binance-oi = binance_oi.__main__:main" in points
    assert "[pytest11]\nbinance_oi.testing.plugin = binance_oi.testing.plugin" in points


def test_the_metadata_pins_no_transitive_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    named = {re.split(r"[^\w-]", line)[0] for line in [*project["dependencies"], *extras]}
    assert named >= {"aiohttp", "aiolimiter", "msgspec", "pyarrow"}
    assert not named & {"multidict", "attrs", "propcache", "yarl"}


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment in which Python finds a copy of the package without its metadata."""
    monkeypatch.chdir(tmp_path)  # Python searches the current directory too
    shutil.copytree(ROOT / "binance_oi", tmp_path / "copy" / "binance_oi")
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("binance_oi", "_binance_oi", "__editable__")):
            (libraries / path.name).symlink_to(path)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "copy"), str(libraries)])}


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "import binance_oi; print('binance-oi', binance_oi.__version__)"],
        ["-c", "from binance_oi.sending.wire import USER_AGENT as u; print(*u.split('/'))"],
        ["-m", "binance_oi", "--version"],
    ],
    ids=["import", "user agent", "command"],
)
def test_a_copy_of_the_package_without_metadata_knows_its_version(
    copied: dict[str, str], arguments: list[str]
) -> None:
    known = "from importlib.metadata import version; version('aiohttp'); version('binance-oi')"
    python = [sys.executable, "-S"]  # without site-packages
    checked = subprocess.run([*python, "-c", known], env=copied, capture_output=True, text=True)
    assert checked.stderr.splitlines()[-1].endswith(
        "PackageNotFoundError: No package metadata was found for binance-oi"
    )
    shown = subprocess.run([*python, *arguments], env=copied, capture_output=True, text=True)
    assert (shown.stdout, shown.stderr) == (f"binance-oi {VERSION}\n", "")
