"""The word list finds each forbidden phrase, and no text of the project has one."""

import pytest

from support.words import FORBIDDEN, HELD, ROOT, found, texts

# One text for each entry of the list: a sentence, a name, or two lines of a comment.
FAULTS = {
    "mend": "It mends the file.",
    "reckon": "The bucket reckons with it.",
    "told": "def test_a_waiter_is_told_so() -> None:",
    "bell": "self._bell = None",
    "wary": "A wary client waits.",
    "in vain": "The probe was in\n    # vain.",
    "for good": "It is closed for good.",
    "whoever has": "It stays with whoever has the lock.",
    "who has just": "A client who has just started.",
    "has just come": "An answer has just come.",
    "is looked at": "The file is\nlooked at again.",
    "it is said": "Of the others it is said how many they are.",
    "thick and fast": "Errors come thick and fast.",
    "nobody can say": "None when nobody can say.",
    "not known any more": "The count is not known any more.",
    "in the breath": "def test_who_leaves_in_the_breath_in_which_it_came() -> None:",
    "without a word": "It ends without a word.",
    "others are there": "others_were_there = True",
    "costs itself": "An odd row costs itself.",
    "nothing but silence": "A connection that holds nothing but silence.",
    "of before": "The file of before.",
    "is no slow one": "It hangs, and is no slow one.",
    "at the most": "Seconds to wait at the most.",
    "is not there": "A row that is not\n    # there yet.",
    "as well": "A slow exchange is silent as well.",
    "may be repeated": "Close the file. May be repeated.",
    "may be called again": "After that, it may be called again.",
    "whichever is there": "In polars or pandas, whichever is there.",
    "goes on from": "A record goes_on_from another one.",
    "heed": "The governor heeds it.",
}
FINE = """
A recommended amendment. Labelled bells_and_whistles. A vain hope in Vaino. There is for good reason
no limit. It costs the caller itself nothing. At the most recent rollover, the count of before-tests
is shown. Other clients are there. The retold story. Whoever logs in shares the pool.
An unheeded call, as well as a write that may be repeated at once.
"""


def test_every_forbidden_phrase_is_found() -> None:
    assert FAULTS.keys() == FORBIDDEN.keys()
    for name, text in FAULTS.items():
        assert [found_name for _, found_name in found(text)] == [name], text


def test_a_find_names_its_line() -> None:
    assert list(found("one\ntwo\nin vain\n")) == [(3, "in vain")]


def test_similar_words_are_not_found() -> None:
    assert list(found(FINE)) == []


@pytest.mark.parametrize("place", HELD)
def test_every_searched_folder_has_texts(place: str) -> None:
    assert any(file.is_relative_to(ROOT / place) for file in texts())


def test_no_text_of_the_project_has_a_forbidden_phrase() -> None:
    finds = {
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for file in texts()
        for line, name in found(file.read_text(encoding="utf-8"))
    }
    assert not finds
