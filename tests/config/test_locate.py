"""The line of a key, held against what the parser of the standard library says."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.locate import MAX_DEPTH, locate_keys

if TYPE_CHECKING:
    from gateway.config.keys import KeyPath

TRICKY = r"""
"quoted.key" = "# no comment ] = ["  # a = comment
'lit"eral' = 'back\slash\'
a.b . c = 1
text = '''
[fake]
key = 1
'''''
more = \"\"\"
\\\"\"\" [[also.fake]]
b = 2\"\"\"\"
list = [ # ]
  "x]", 'y[',
  { in = 1, "a.b" = [2] },
]
[table]
x = { y = 1, z = "}" }
[[rows]]
n = 1
[[rows]]
n = 2
[rows.sub]
m = 3
[[rows.sub.rows]]
[[rows.sub.rows]]
k = 4
[table.deep."er.x"]
""".replace('\\"', '"')

NAMES = ["a", "b", "c-1", '"d.e"', "'f g'", '"\\u00e9"']
VALUES = [
    "1",
    '"#"',
    "'['",
    '"\\"]"',
    "'''\n[a]\nb = 1\n'''",
    '"""\n"" \\""" [a]\n"""""',
    '""""""',
    "''''''''",
    "[ # ]\n 1,\n '[' ]",
    '{ a = 1, b = ["}"] }',
    "[{ a = [[]] }, { b = '{' }]",
    "1979-05-27 07:32:00",
    "3.5e-1",
]
STATEMENTS = st.tuples(
    st.sampled_from(["", "", "[", "[["]),
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
    st.sampled_from([".", " . "]),
    st.sampled_from(VALUES),
    st.sampled_from(["", "  # b = 1 ] '''", "\n\n# [a]"]),
)


def test_every_kind_of_key_has_its_line() -> None:
    lines = locate_keys(TRICKY)
    text = TRICKY.split("\n")

    assert text[lines["quoted.key",] - 1].startswith('"quoted.key"')
    assert text[lines['lit"eral',] - 1].startswith("'lit")
    assert text[lines["a", "b", "c"] - 1].startswith("a.b . c")
    assert text[lines["text",] - 1].startswith("text")
    assert text[lines["more",] - 1].startswith("more")
    assert text[lines["list",] - 1].startswith("list")
    assert text[lines["table",] - 1] == "[table]"
    assert text[lines["table", "x"] - 1].startswith("x =")
    assert text[lines["rows", 0, "n"] - 1] == "n = 1"
    assert text[lines["rows", 1, "n"] - 1] == "n = 2"
    assert text[lines["rows", 1, "sub", "m"] - 1] == "m = 3"
    assert text[lines["rows", 1, "sub", "rows", 1, "k"] - 1] == "k = 4"
    assert text[lines["table", "deep", "er.x"] - 1].startswith("[table.deep")
    assert ("fake",) not in lines
    assert ("also",) not in lines


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lines_are_the_same_with_either_newline(newline: str) -> None:
    text = "a = 1\n\n[b]\nc = '''\n\n'''\nd = 2".replace("\n", newline)

    assert locate_keys(text) == {("a",): 1, ("b",): 3, ("b", "c"): 4, ("b", "d"): 7}


def test_a_key_of_endless_depth_counts_as_what_holds_it() -> None:
    lines = locate_keys(f"a = 1\n{'b.' * 5000}c = 1\nd = 1\n")

    assert max(map(len, lines)) == MAX_DEPTH
    assert (lines["b",], lines["d",]) == (2, 3)


def parsed(text: str) -> object:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def holds(tree: object, path: KeyPath) -> bool:
    for part in path:
        if isinstance(part, int):
            if not isinstance(tree, list) or part >= len(tree):
                return False
            tree = tree[part]
        else:
            if not isinstance(tree, dict) or part not in tree:
                return False
            tree = tree[part]
    return True


def first_line_with(text: str, path: KeyPath) -> int:
    """Return the line after the last one up to which the text parses and lacks the key."""
    lines = text.split("\n")
    lacking = [
        count
        for count in range(len(lines))
        if (tree := parsed("\n".join(lines[:count]))) is not None and not holds(tree, path)
    ]
    return lacking[-1] + 1


@given(st.lists(STATEMENTS, max_size=12))
def test_a_key_stands_on_the_first_line_that_the_parser_needs_for_it(
    drawn: list[tuple[str, list[str], str, str, str]],
) -> None:
    text, expected = "", 0
    for bracket, names, dot, value, after in drawn:
        key = dot.join(names)
        statement = f"{bracket}{key}{']' * len(bracket)}" if bracket else f"{key} = {value}"
        if parsed(f"{text}{statement}{after}\n") is not None:
            text += f"{statement}{after}\n"
            expected += not bracket
    lines = locate_keys(text)

    tree = parsed(text)
    assert isinstance(tree, dict)
    assert {path[0] for path in lines} == set(tree)
    assert len(lines) >= expected
    for path, line in lines.items():
        assert holds(tree, path)
        assert line == first_line_with(text, path)
