"""The files of the page are small, and use nothing that could run text as code."""

import re

import pytest

from binance_oi.output.page import SCRIPTS, part


def test_the_chart_has_at_most_400_lines() -> None:
    assert len(part("chart.js").splitlines()) <= 400


def test_the_page_links_the_scripts_of_a_report_in_their_order() -> None:
    assert tuple(re.findall(r'<script src="([\w.]+)" defer>', part("index.html"))) == SCRIPTS


def test_all_scripts_share_one_number_format() -> None:
    text = "".join(map(part, SCRIPTS))
    assert text.count("new Intl.NumberFormat") == 1
    assert "toLocaleString" not in text


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_script_inserts_text_as_markup_or_code(script: str) -> None:
    unsafe = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|\.style\b"
    )
    assert not re.findall(unsafe, part(script))
