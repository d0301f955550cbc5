"""On every system, each boot of a machine has an identity."""

import ctypes
import sys
from collections.abc import Callable

import pytest

from binance_oi.budget import boot
from binance_oi.budget.boot import SAME_BOOT_S, boot_identity, is_same_boot

MOMENT = 1_795_400_000.4  # the time of a boot, Unix s
ID = "5fca2a85-97f4-4f53-9a93-2a1ba5b3d8cd"


def reader(**files: str) -> Callable[[str], str]:
    """Make the `read` of a system with only these files; each key is the last part of a path."""

    def read(path: str) -> str:
        name = path.rpartition("/")[2]
        if name not in files:
            raise FileNotFoundError(path)
        return files[name]

    return read


def kernel(**values: bytes) -> Callable[[str], bytes]:
    """Make the `sysctl` of a kernel with only these values; each key is the last part of a name."""

    def sysctl(name: str) -> bytes:
        short = name.rpartition(".")[2]
        if short not in values:
            raise OSError(name)
        return values[short]

    return sysctl


def timeval(seconds: int) -> bytes:
    return seconds.to_bytes(8, sys.byteorder, signed=True) + bytes(8)


def test_linux_identifies_a_boot_by_its_boot_id() -> None:
    assert boot_identity(MOMENT, reader(boot_id=ID)) == ID
    named = boot_identity(MOMENT)
    assert named == boot_identity(0.0)  # the real kernel, whose answer does not depend on the time
    assert is_same_boot(named, named)


@pytest.mark.parametrize(
    "offsets, is_same",
    [
        ("monotonic  0 0\nboottime  0 0", True),
        ("monotonic  5 0\nboottime  0 0", True),
        ("monotonic  0 0\nboottime  -3600 0", False),
        ("monotonic  0 0\nboottime  0 500", False),
        ("", True),
    ],
)
def test_a_time_namespace_with_an_offset_boot_clock_counts_as_another_boot(
    offsets: str, is_same: bool
) -> None:
    outside = boot_identity(MOMENT, reader(boot_id=ID))
    inside = boot_identity(MOMENT, reader(boot_id=ID, timens_offsets=offsets))
    assert is_same_boot(outside, inside) is is_same


def test_macos_identifies_a_boot_by_its_session_uuid() -> None:
    values = kernel(bootsessionuuid=ID.encode() + b"\0", boottime=timeval(int(MOMENT)))
    assert boot_identity(MOMENT, reader(), values) == ID


@pytest.mark.parametrize(
    "values",
    [
        kernel(boottime=timeval(int(MOMENT))),
        kernel(bootsessionuuid=b"\0", boottime=timeval(int(MOMENT))),
        kernel(boottime=timeval(0)),
        kernel(boottime=b""),
        kernel(),
    ],
    ids=["FreeBSD", "an empty uuid", "a boot time of 0", "an empty boot time", "OpenBSD"],
)
def test_other_systems_identify_a_boot_by_its_time(
    values: Callable[[str], bytes],
) -> None:
    named = boot_identity(MOMENT, reader(), values)
    again = boot_identity(MOMENT + 1.0, reader(), values)  # as if the clock had been slewed
    after = boot_identity(MOMENT + 90.0, reader(), kernel(boottime=timeval(int(MOMENT) + 90)))
    assert is_same_boot(named, again)
    assert not is_same_boot(named, after)


def test_a_kernel_without_sysctl_identifies_a_boot_by_its_time() -> None:
    assert is_same_boot(boot_identity(MOMENT, reader()), f"since {MOMENT:.0f}")


@pytest.mark.parametrize("answer", [0, -1])
def test_a_sysctl_name_that_the_kernel_lacks_raises_os_error(
    answer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sysctlbyname(_name: bytes, value: ctypes.Array[ctypes.c_char], *_: object) -> int:
        value.value = b"here"
        return answer

    library = type("Library", (), {"sysctlbyname": staticmethod(sysctlbyname)})
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: library)
    if answer:
        with pytest.raises(OSError, match=r"kern\.x"):
            boot._sysctl("kern.x")
    else:
        assert boot._sysctl("kern.x").startswith(b"here\0")


@pytest.mark.parametrize(
    "one, other, same",
    [
        (ID, ID, True),
        (ID, "another", False),
        ("", "", False),
        ("", ID, False),
        ("since 1000", f"since {1000 + SAME_BOOT_S}", True),
        ("since 1000", f"since {1001 + SAME_BOOT_S}", False),
        ("since 1000", ID, False),
        ("since 1000", "since nan", False),
        ("since 1000", "since then", False),
    ],
)
def test_two_identities_match_only_if_they_are_of_one_boot(
    one: str, other: str, same: bool
) -> None:
    assert is_same_boot(one, other) is same
    assert is_same_boot(other, one) is same
