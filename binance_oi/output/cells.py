"""Writes CSV cells that a spreadsheet takes for text.

The rule of this file: a spreadsheet runs any cell that begins like a formula. With a leading
apostrophe, it shows the cell as text. A reader of the file can remove the apostrophe again.

Source: https://owasp.org/www-community/attacks/CSV_Injection, 2026-11.
"""

# Spreadsheets in some languages also run the full-width forms. The apostrophe is in the list so
# that a reader can distinguish an apostrophe of the value from ours.
_FORMULA = tuple("=+-@\t\r\n＝＋－＠'")
_QUOTE = "'"


def quoted(cell: str) -> str:
    """Put an apostrophe before a cell that begins like a formula."""
    return _QUOTE + cell if cell.startswith(_FORMULA) else cell


def unquoted(cell: str) -> str:
    """Remove the apostrophe that `quoted` put before a cell."""
    rest = cell[len(_QUOTE) :]
    return rest if cell.startswith(_QUOTE) and rest.startswith(_FORMULA) else cell
