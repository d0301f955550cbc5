"""Each user id has one directory for the shared file, and no other user can change that directory.

Rule of this file: a test makes its own directories, unless it runs real processes.
"""

import errno
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from binance_oi.budget import MachineBudget, place
from binance_oi.budget.place import VARIABLE, budget_directory, check_private, is_on_network
from binance_oi.budget.pool_file import FILE_NAME
from binance_oi.budget.usage import Receipt
from support import ROOT

NAME = f"binance-oi-{os.getuid()}"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Make three directories like `/tmp`: users may create files, but not replace those of others.

    `budget_directory` then looks only at these directories.
    """
    made = [tmp_path / name for name in ("memory", "disk", "temporary")]
    for each in made:
        each.mkdir()
        each.chmod(0o1777)
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(place, "PLACES", tuple(map(str, made)))
    mounts = tmp_path / "mountinfo"
    mounts.write_text("22 1 8:1 / / rw - ext4 /dev/sda rw\n")
    monkeypatch.setattr(place, "MOUNTS", str(mounts))
    place._is_place_on_network.cache_clear()
    place._warn_once.cache_clear()
    return made


def mount(tmp_path: Path, where: Path, kind: str) -> None:
    with open(tmp_path / "mountinfo", "a") as file:
        name = str(where).replace("\\", "\\134").replace(" ", "\\040")
        file.write(f"30 22 0:50 / {name} rw,relatime shared:1 - {kind} server:/x rw\n")


# -- one directory in every environment ------------------------------------------------------------


def shown(environment: dict[str, str], cwd: Path) -> str:
    """Return the path of the shared file that `binance-oi budget` shows in this environment."""
    done = subprocess.run(
        [sys.executable, "-m", "binance_oi", "budget"],
        env=environment | {"PYTHONPATH": str(ROOT)},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    (path,) = re.findall(r"\S+/budget-\d+", done.stderr)  # shown even before it exists
    return str(path)


def test_a_login_shell_and_cron_and_a_service_find_the_same_file(tmp_path: Path) -> None:
    for name in ("run", "tmp", "home"):
        (tmp_path / name).mkdir(mode=0o700)
    login = {
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "TMPDIR": str(tmp_path / "tmp"),
        "HOME": str(tmp_path / "home"),
        "XDG_CACHE_HOME": str(tmp_path / "home"),
        "USER": "somebody",
    }
    environments = [login, {"HOME": "/nonexistent", "TMPDIR": "/nonexistent"}]
    files = {shown(environment, tmp_path) for environment in environments}
    files.add(shown({"HOME": ""}, Path("/")))
    assert len(files) == 1
    assert Path(files.pop()).parent.name == NAME


def test_a_ban_reaches_a_process_with_another_environment(
    places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    login = MachineBudget().pool("exchange")
    login.hold(300, ban=True)
    for name in ("XDG_RUNTIME_DIR", "TMPDIR", "HOME"):
        monkeypatch.setenv(name, str(places[2]))
    monkeypatch.chdir("/")
    assert MachineBudget().pool("exchange").held_for(ban=True)
    assert (places[0] / NAME / FILE_NAME).exists()


def test_a_user_without_a_passwd_entry_has_a_directory(
    places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 54_321)
    assert budget_directory() == places[0] / "binance-oi-54321"


def test_finding_the_directory_does_not_create_it(places: list[Path]) -> None:
    assert budget_directory() == places[0] / NAME
    assert os.listdir(places[0]) == []


# -- which directory -------------------------------------------------------------------------------


def unusable(where: Path, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "missing":
        where.rmdir()
    elif how == "a file":
        where.rmdir()
        where.touch()
    elif how == "replaceable":
        where.chmod(0o777)
    elif how == "read only":
        access = os.access

        def only_elsewhere(path: str, mode: int) -> bool:
            return not str(path).startswith(str(where)) and access(path, mode)

        monkeypatch.setattr(os, "access", only_elsewhere)
    else:
        mount(tmp_path, where, how)


@pytest.mark.parametrize(
    "how",
    ["missing", "a file", "replaceable", "read only", "nfs4", "cifs", "fuse.sshfs", "9p", "ceph"],
)
def test_every_process_skips_an_unusable_directory_without_a_warning(
    how: str,
    places: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    unusable(places[0], how, tmp_path, monkeypatch)
    assert {budget_directory() for _ in range(2)} == {places[1] / NAME}
    assert caplog.records == []


@pytest.mark.parametrize("how", ["link", "file", "loose", "foreign"])
def test_a_directory_that_is_not_private_is_skipped_with_a_warning(
    how: str,
    places: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    taken = places[0] / NAME
    if how == "link":
        (places[2] / "theirs").mkdir(mode=0o700)
        taken.symlink_to(places[2] / "theirs")
    elif how == "file":
        taken.touch()
    else:
        taken.mkdir(mode=0o700)
    if how == "loose":
        taken.chmod(0o770)
    if how == "foreign":
        lstat = os.lstat

        def foreign(path: str) -> os.stat_result:
            found = lstat(path)
            uid = os.getuid() + 1 if str(path) == str(taken) else found.st_uid
            return os.stat_result((*found[:4], uid, *found[5:]))

        monkeypatch.setattr(os, "lstat", foreign)
    assert {budget_directory() for _ in range(2)} == {places[1] / NAME}
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert str(taken) in warning.getMessage()


def test_without_a_usable_directory_nothing_is_shared_and_a_warning_names_the_remedy(
    places: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    for each in places:
        each.rmdir()
    with pytest.raises(OSError, match=VARIABLE):
        budget_directory()
    pool = MachineBudget().pool("exchange")
    assert isinstance(pool.charge(1), Receipt)
    (warning,) = caplog.records
    assert all(str(each) in warning.getMessage() for each in places)
    assert VARIABLE in warning.getMessage()


def test_a_system_without_user_ids_has_no_directory(
    places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "getuid")
    with pytest.raises(OSError, match="not available"):
        budget_directory()
    assert places


@pytest.mark.parametrize("wrong", ["relative/path", "network"])
def test_the_variable_must_name_an_absolute_local_directory(
    wrong: str, places: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = tmp_path / "shared"
    monkeypatch.setenv(VARIABLE, str(chosen))
    assert budget_directory() == chosen
    place._is_place_on_network.cache_clear()
    if wrong == "network":
        mount(tmp_path, chosen, "nfs")
    else:
        monkeypatch.setenv(VARIABLE, wrong)
    with pytest.raises(OSError, match=VARIABLE):
        budget_directory()
    monkeypatch.setenv(VARIABLE, "")  # the same as unset
    assert budget_directory() == places[0] / NAME


def test_the_directory_argument_takes_precedence_over_the_variable(places: list[Path]) -> None:
    pool = MachineBudget(directory=places[1] / "given").pool("exchange")
    pool.charge(1)
    assert (places[1] / "given" / FILE_NAME).exists()


# -- temporary errors ------------------------------------------------------------------------------


TEMPORARY = ("EIO", "ESTALE", "ENOMEM", "EACCES", "EMFILE", "EINTR", "ETIMEDOUT")


def failing(call: str, name: str, where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a call of the system fail with the error `name` for `where` and everything in it."""
    real, number = getattr(os, call), getattr(errno, name)

    def failed(path: str, *rest: object, **more: object) -> object:
        if str(path).startswith(str(where)):
            raise OSError(number, os.strerror(number), path)
        return real(path, *rest, **more)

    monkeypatch.setattr(os, call, failed)


@pytest.mark.parametrize("name", TEMPORARY)
@pytest.mark.parametrize("call", ["stat", "lstat"])
def test_a_temporary_error_does_not_select_the_next_directory(
    call: str, name: str, places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(call, name, places[0], monkeypatch)
    with pytest.raises(OSError, match=re.escape(os.strerror(getattr(errno, name)))):
        budget_directory()


@pytest.mark.parametrize("name", ["ENOENT", "ENOTDIR", "ELOOP"])
def test_a_missing_directory_selects_the_next_one(
    name: str, places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing("stat", name, places[0], monkeypatch)
    assert budget_directory() == places[1] / NAME


@pytest.mark.parametrize("call", ["stat", "lstat", "statvfs"])
def test_a_process_without_access_works_alone_and_warns_once_and_joins_later(
    call: str, places: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    budgets = [MachineBudget(clock=lambda: now[0]) for _ in range(2)]
    other = budgets[0].pool("exchange")
    other.hold(600, ban=True)
    with monkeypatch.context() as broken:
        failing(call, "EIO", places[0], broken)
        if call == "statvfs":  # `access` fails first but gives no reason, so `statvfs` is asked
            broken.setattr(os, "access", lambda path, mode: False)
        pool = budgets[1].pool("exchange")
        assert os.listdir(places[1]) == os.listdir(places[2]) == []
        now[0] += 1.5
        pool.charge(1)
        assert os.listdir(places[1]) == os.listdir(places[2]) == []
        assert len(caplog.records) == 1
    now[0] += 2.5
    assert not isinstance(pool.charge(1), Receipt)
    assert pool.held_for(ban=True)


# -- the table of mounts ---------------------------------------------------------------------------


def test_the_innermost_and_latest_mount_decides_whether_a_path_is_on_a_network(
    places: list[Path], tmp_path: Path
) -> None:
    inside = tmp_path / "a b" / "inside"
    mount(tmp_path, tmp_path / "a b", "nfs")
    assert is_on_network(str(inside))
    assert not is_on_network(str(tmp_path / "a bc"))
    mount(tmp_path, tmp_path / "a b", "tmpfs")  # mounted over the first one
    assert not is_on_network(str(inside))
    mount(tmp_path, tmp_path, "nfs")
    assert not is_on_network(str(inside))
    assert is_on_network(str(places[0]))


def test_without_a_table_of_mounts_a_path_counts_as_local(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not is_on_network("/proc")
    monkeypatch.setattr(place, "MOUNTS", "/nonexistent")
    assert not is_on_network("/proc")


def test_a_missing_directory_raises_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check_private(tmp_path / "missing")
