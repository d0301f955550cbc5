"""Serves the page of the service: static files, which it holds in memory.

The rule of this file: it reads the files at the start and serves only these, so no path can lead to
another file. The page runs only its own scripts, and loads nothing from another host.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from binance_oi.arguments import StrPath, check_path
from binance_oi.web.messages import Body

HOME: Final = Path(__file__).parents[1] / "output" / "page"
MOST_FILE_BYTES: Final = 2 << 20  # bytes; larger files are not served
MOST_FILES: Final = 64  # entries of the directory, sorted by name; later ones are not served
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
# The content type for each ending. Files with other endings are not served.
KINDS: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
}


class Page:
    """Static files by the path of their URL.

    Args:
        files: The files; the path of the page itself is ``/``.
    """

    def __init__(self, files: Mapping[str, Body]) -> None:
        self._files = files

    @classmethod
    def of(cls, directory: StrPath | None) -> Self:
        """Read the files of a directory; ``index.html`` is the page itself.

        Args:
            directory: The directory; None uses the page of this package. If the directory has no
                file, the service has no page.
        """
        home = HOME if directory is None else check_path("page", directory)
        files: dict[str, Body] = {}
        for file in sorted(home.iterdir() if home.is_dir() else ())[:MOST_FILES]:
            kind = KINDS.get(file.suffix)
            if kind is not None and file.is_file() and os.path.getsize(file) <= MOST_FILE_BYTES:
                path = "/" if file.name == "index.html" else f"/{file.name}"
                files[path] = Body(file.read_bytes(), kind)
        return cls(files)

    def __len__(self) -> int:
        return len(self._files)

    def file(self, path: str) -> Body | None:
        """Return the file at this path; None if there is none."""
        return self._files.get(path)
