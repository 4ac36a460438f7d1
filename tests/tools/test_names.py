"""Laws of the names under which tools are offered."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from gateway.tools.names import MAX_NAME_CHARS, offered_names

FIT = re.compile(r"[A-Za-z0-9_-]{1,64}")
SERVERS = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,31}", fullmatch=True)
TOOLS = st.lists(
    st.one_of(
        st.text(),
        st.text(alphabet="ab._/-", min_size=1, max_size=4),
        st.text(alphabet="ab.", min_size=55, max_size=70),
    )
)


@given(SERVERS, TOOLS)
def test_each_tool_has_a_name_that_every_provider_takes_and_none_is_shared(
    server: str, tools: list[str]
) -> None:
    names = offered_names(server, tools)

    assert names.keys() == set(tools)
    assert len(set(names.values())) == len(names)
    assert all(FIT.fullmatch(name) for name in names.values())
    assert all(name.startswith(f"{server}_") for name in names.values())


@given(SERVERS, TOOLS, st.randoms())
def test_names_do_not_depend_on_the_order_of_a_listing(
    server: str, tools: list[str], random: object
) -> None:
    shuffled = list(tools)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # it is a random.Random

    assert offered_names(server, shuffled) == offered_names(server, tools)


@given(SERVERS, TOOLS, st.text(alphabet="abc_-", min_size=1, max_size=8))
def test_a_fit_name_that_is_not_too_long_is_kept_whatever_else_there_is(
    server: str, tools: list[str], tool: str
) -> None:
    assert offered_names(server, [*tools, tool])[tool] == f"{server}_{tool}"


def test_what_providers_do_not_take_becomes_an_underscore() -> None:
    assert offered_names("fs", ["files.read", "größe"]) == {
        "files.read": "fs_files_read",
        "größe": "fs_gr__e",
    }


def test_of_tools_that_become_alike_all_but_the_one_that_was_so_end_in_a_hash() -> None:
    names = offered_names("fs", ["a.b", "a_b", "a/b"])

    assert names["a_b"] == "fs_a_b"
    assert names["a.b"] == "fs_a_b_2e7336dc8eba"
    assert names["a/b"] == "fs_a_b_c14cddc033f6"


def test_a_name_that_is_cut_ends_in_a_hash_and_stays_the_same() -> None:
    fits, cut = "x" * (MAX_NAME_CHARS - 3), "x" * (MAX_NAME_CHARS - 2)
    alone = offered_names("fs", [cut])[cut]

    assert offered_names("fs", [fits])[fits] == f"fs_{fits}"
    assert len(alone) == MAX_NAME_CHARS
    assert re.fullmatch(r"fs_x+_[0-9a-f]{12}", alone)
    assert offered_names("fs", [cut, fits, f"{cut}x"])[cut] == alone


def test_a_tool_named_like_the_hash_of_another_takes_no_name_away() -> None:
    thief = "a_b_2e7336dc8eba"
    names = offered_names("fs", ["a.b", "a_b", thief])

    assert names[thief] == f"fs_{thief}"
    assert len(set(names.values())) == 3
