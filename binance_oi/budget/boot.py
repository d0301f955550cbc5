"""Identifies the current boot of the machine. A stored record may come from an earlier boot.

The rule of this file: it makes and compares the names of boots, and nothing else. A monotonic clock
restarts at each boot, so a stored monotonic time means nothing without the name of its boot.
"""

import sys
from collections.abc import Callable
from pathlib import Path

SAME_BOOT_S = 2.0  # s by which the moment of one boot may differ when two processes compute it
_SINCE = "since "


def _read(path: str) -> str:
    return Path(path).read_text().strip()


def _sysctl(name: str) -> bytes:
    """Return a value of the kernel by its name, on macOS and the BSDs.

    Raises:
        OSError: The system has no such value, or no such call.
    """
    import ctypes  # the import takes 10 ms, and Linux does not need it

    try:
        ask = ctypes.CDLL(None).sysctlbyname
    except (AttributeError, TypeError) as error:  # on Linux and OpenBSD, or on Windows
        raise OSError(f"no such call: {error}") from None
    value, size = ctypes.create_string_buffer(64), ctypes.c_size_t(64)
    if ask(name.encode(), value, ctypes.byref(size), None, 0):
        raise OSError(f"no such value: {name}")
    return value.raw[: size.value]


def boot_identity(
    moment: float,
    read: Callable[[str], str] = _read,
    sysctl: Callable[[str], bytes] = _sysctl,
) -> str:
    """Return the name of this boot of the machine. Monotonic times of one boot are comparable.

    On Linux it is the kernel's boot id, with the offset of a time namespace. On macOS it is the id
    of the boot session. Elsewhere it is the moment of the boot. That moment seems to move when a
    user sets the wall clock, and then we do not trust earlier records.

    Args:
        moment: The moment of the boot by our clocks, Unix s; used if the system has no other name.
        read: Returns the text of a file; raises OSError if there is none.
        sysctl: Returns a value of the kernel; raises OSError if there is none.
    """
    try:
        return read("/proc/sys/kernel/random/boot_id") + _namespace(read)
    except OSError:
        pass
    try:
        session = sysctl("kern.bootsessionuuid").rstrip(b"\0").decode("ascii", "replace")
        if session:
            return session
    except OSError:
        pass
    try:
        seconds = int.from_bytes(sysctl("kern.boottime")[:8], sys.byteorder, signed=True)
        if seconds > 0:
            return f"{_SINCE}{seconds}"
    except OSError:
        pass
    return f"{_SINCE}{moment:.0f}"


def _namespace(read: Callable[[str], str]) -> str:
    """Return the offset of our time namespace, as text; empty if it has none."""
    try:
        offsets = read("/proc/self/timens_offsets")
    except OSError:
        return ""
    for line in offsets.splitlines():
        name, *offset = line.split()
        if name == "boottime" and any(part.strip("-0") for part in offset):
            return " + " + " ".join(offset)
    return ""


def is_same_boot(one: str, other: str) -> bool:
    """Whether two names stand for one boot of the machine; an empty name stands for none."""
    if one == other:
        return bool(one)
    if not (one.startswith(_SINCE) and other.startswith(_SINCE)):
        return False
    try:
        gap = float(one.removeprefix(_SINCE)) - float(other.removeprefix(_SINCE))
    except ValueError:
        return False
    return abs(gap) <= SAME_BOOT_S
