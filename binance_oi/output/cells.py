"""Cells of CSV that a spreadsheet takes for text.

The rule of this file: a spreadsheet runs a cell that begins like a formula, whoever wrote it. A
leading apostrophe makes it text, and can be taken away again.

Source: https://owasp.org/www-community/attacks/CSV_Injection, 2026-11.
"""

# Full-width forms are included: spreadsheets of some languages treat them alike. The apostrophe is
# included, so that a reader can distinguish an apostrophe of the value from ours.
_FORMULA = tuple("=+-@\t\r\n＝＋－＠'")
_QUOTE = "'"


def quoted(cell: str) -> str:
    """The cell as text for a spreadsheet: with an apostrophe, if it begins like a formula."""
    return _QUOTE + cell if cell.startswith(_FORMULA) else cell


def unquoted(cell: str) -> str:
    """What `quoted` made of it before."""
    rest = cell[len(_QUOTE) :]
    return rest if cell.startswith(_QUOTE) and rest.startswith(_FORMULA) else cell
