"""What can be made of a recording, and of the past: data files, charts, a page.

selection.py  which samples leave a recording
cells.py      cells of CSV that a spreadsheet takes for text
export.py     Parquet, CSV and JSON Lines
series.py     a series as one of them
curve.py      samples as a line, broken where nothing was recorded
chart.py      charts with matplotlib
drawing.py    charts as SVG text
markup.py     pieces of HTML
completeness.py  slots, gaps by reason, failed reads
movers.py     what the market did
page/         the page of the service and of a report: template, style, script
report.py     one HTML page
past.py       the past of many symbols as one file, over several runs
"""

from binance_oi.output.chart import plot
from binance_oi.output.export import export
from binance_oi.output.report import write_report
from binance_oi.output.series import export_series

__all__ = ["export", "export_series", "plot", "write_report"]
