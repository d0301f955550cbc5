"""Makes a report from the files of the service's page: template, style sheet and three scripts.

The rule of this file: a report is the live page as one file, with the style, the scripts and the
data inside. Its content security policy allows only this style and these scripts, by their hashes,
and images inside the file.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib.resources import files

SCRIPTS = ("format.js", "chart.js", "page.js")
# A report puts markup in these places of the live page.
_PLACES = re.compile(r"<!--still:(\w+)-->")
_STATUS = '<p id="status" role="status">connecting</p>'
_NEEDS = "This page needs its script to follow the market"
_LINKED = re.compile(r'<link rel="stylesheet"[^>]*>\n|<script src=[^>]*></script>\n')


@cache
def part(name: str) -> str:
    """Return the text of one of the page's files."""
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def still(title: str, data: object, parts: Mapping[str, str]) -> str:
    """Return one HTML file that shows the page at one moment.

    Args:
        title: The title, as plain text.
        data: The state of the page, in the form that page.js reads.
        parts: Markup by name. ``status`` is required. The other names are places in the template,
            which stay empty if `parts` does not have them.
    """
    style = part("page.css")
    script = "\n".join(part(name) for name in SCRIPTS)
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    page = _LINKED.sub("", part("index.html"))
    page = _PLACES.sub(lambda place: parts.get(place[1], ""), page)
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n"
    )
    page = page.replace("<title>Open interest</title>\n", head)
    page = page.replace("<h1>Open interest</h1>", f"<h1>{escape(title)}</h1>")
    page = page.replace(_STATUS, parts["status"]).replace(_NEEDS, "The chart needs the script")
    block = f'<script type="application/json" id="still">{_in_script(data)}</script>\n'
    return page.replace("</body>", f"{block}<script>{script}</script>\n</body>")


def _in_script(data: object) -> str:
    """Return JSON that cannot end the script element around it."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _hash(text: str) -> str:
    """Return the source expression of a policy that allows exactly this text.

    Source: CSP Level 3, 2.3.1.
    """
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
