"""Which columns of a table there is room for, and how much of an id tells it apart."""

from __future__ import annotations

import pytest

from gateway.cli.prune_tables import Column, fitted, shortened

COLUMNS = (
    Column("ID"),
    Column("NAME", least=6),
    Column("KIND", goes=1),
    Column("MORE", goes=2),
    Column("WHY", least=8, folds=True),
)
ROW = ["12345", "a name of some length", "kind", "more", "because it is so"]


def names(width: int, row: list[str] = ROW) -> list[str]:
    return [one.name for one in fitted(COLUMNS, [row], width)[0]]


def test_where_there_is_room_everything_is_whole() -> None:
    assert fitted(COLUMNS, [ROW], 80) == (list(COLUMNS), [ROW])


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (41, ["ID", "NAME", "KIND", "MORE", "WHY"]),
        (40, ["ID", "NAME", "MORE", "WHY"]),
        (33, ["ID", "NAME", "WHY"]),
        (5, ["ID", "NAME", "WHY"]),
    ],
)
def test_where_there_is_none_columns_go_in_their_order(width: int, shown: list[str]) -> None:
    assert names(width) == shown


def test_reasons_give_way_before_names_and_are_not_cut() -> None:
    _, wide = fitted(COLUMNS, [ROW], 56)
    _, narrow = fitted(COLUMNS, [ROW], 44)

    assert wide[0][1] == "a name of some length"
    assert narrow[0][1] == "a name o…"
    assert narrow[0][-1] == "because it is so"


def test_a_column_that_says_nothing_goes() -> None:
    assert names(80, ["1", "a", "", "-", ""]) == ["ID", "NAME", "WHY"]


def test_what_steers_a_terminal_is_measured_as_it_is_shown() -> None:
    _, [row] = fitted((Column("A", least=4),), [["\x1b" * 9]], 10)

    assert row == ["\\x1b\\x1…"]


def test_ids_are_as_short_as_tells_them_apart() -> None:
    assert shortened(["abcd1", "abcd2", "x"], 2) == {"abcd1": "abcd1", "abcd2": "abcd2", "x": "x"}
    assert shortened(["abcdef", "xbcdef", "abcdef"], 3) == {"abcdef": "abc", "xbcdef": "xbc"}
    assert shortened([], 3) == {}
