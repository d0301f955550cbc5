"""Writes recordings and history as data files, charts and an HTML report.

selection.py  omits samples with an impossible date
cells.py      writes CSV cells that a spreadsheet does not run as formulas
export.py     writes samples as Parquet, CSV or JSON Lines
series.py     writes a series in the same formats
curve.py      converts samples to a line that breaks where samples are missing
chart.py      draws charts with matplotlib
drawing.py    draws charts as SVG text
markup.py     escapes values and builds pieces of HTML
completeness.py  counts slots, gaps by reason and failed reads
movers.py     finds the largest changes of the market
page/         template, style and script of the HTML page of the service and of a report
report.py     writes a report: one HTML page
past.py       writes the history of many symbols into one file, over several runs
days.py       writes days of the exchange's archive, as rows and holes
"""

from binance_oi.output.chart import plot
from binance_oi.output.export import export
from binance_oi.output.report import write_report
from binance_oi.output.series import export_series

__all__ = ["export", "export_series", "plot", "write_report"]
