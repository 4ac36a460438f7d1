"""Laws of what a model gets of a tool's result."""

from __future__ import annotations

import base64
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import types

from gateway.tools.results import (
    FAILED,
    NOTHING,
    ONLY_IMAGES,
    ResultBounds,
    cut,
    failure,
    media_type_of,
    tool_result,
)

BOUNDS = ResultBounds()
HEADS = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/gif": b"GIF89a",
    "image/webp": b"RIFF\0\0\0\0WEBP",
}
URI = "file:///notes.txt"
AWKWARD = st.text(alphabet="ab\r\n\0e\u0301\u200d\ufe0f👩🏽🇩🇪\u0928\u093f", max_size=40)


def text(said: str) -> types.TextContent:
    return types.TextContent(type="text", text=said)


def picture(kind: str = "image/png", *, more: bytes = b"", said: str = "") -> types.ImageContent:
    data = base64.b64encode(HEADS[kind] + b"x" * 20 + more).decode()
    return types.ImageContent(type="image", data=data, mime_type=said or kind)


def result(
    *blocks: types.ContentBlock, error: bool = False, structured_content: object = None
) -> types.CallToolResult:
    return types.CallToolResult(
        content=list(blocks), is_error=error, structured_content=structured_content
    )


def shown(
    *blocks: types.ContentBlock,
    bounds: ResultBounds = BOUNDS,
    error: bool = False,
    structured_content: object = None,
) -> str:
    made = result(*blocks, error=error, structured_content=structured_content)
    return tool_result(made, bounds).text


def test_texts_are_joined_line_by_line() -> None:
    assert shown(text("one"), text(""), text("two\n"), text("three")) == "one\ntwo\n\nthree"


def test_a_result_without_anything_says_so() -> None:
    assert shown() == NOTHING
    assert shown(text(" \n")) == NOTHING


def test_an_error_of_the_tool_is_said_first() -> None:
    assert shown(text("no such file"), error=True) == f"{FAILED}\nno such file"
    assert shown(error=True) == f"{FAILED}\n{NOTHING}"


def test_structured_content_is_shown_where_there_is_no_text() -> None:
    content = {"answer": [42, None, "ä"], "big": 2**70}

    assert shown(structured_content=content) == (
        '{"answer":[42,null,"ä"],"big":1180591620717411303424}'
    )
    assert shown(text("42"), structured_content=content) == "42"


def test_structured_content_that_cannot_be_shown_is_named() -> None:
    assert shown(structured_content=["\ud800"]) == "[structured content that cannot be shown]"
    assert shown(structured_content=[float("nan")]) == '["NaN"]'


@pytest.mark.parametrize("kind", HEADS)
def test_an_image_is_what_its_bytes_say(kind: str) -> None:
    (image,) = tool_result(result(picture(kind, said="image/x-any")), BOUNDS).images

    assert image.media_type == kind
    assert image.data == picture(kind).data


def test_images_stand_behind_the_text() -> None:
    got = tool_result(result(picture(), text("a"), picture("image/gif")), BOUNDS)

    assert got.text == "a"
    assert [image.media_type for image in got.images] == ["image/png", "image/gif"]
    assert tool_result(result(picture()), BOUNDS).text == ONLY_IMAGES


def test_images_beyond_their_number_or_size_are_named() -> None:
    large = picture(more=b"y" * 300)
    bounds = ResultBounds(max_images=1, max_image_bytes=100)
    got = tool_result(result(large, picture(), picture("image/gif")), bounds)

    assert got.text == (
        f"[image left out: image/png, {len(large.data)} bytes; at most 100 bytes are shown]\n"
        f"[image left out: image/gif, {len(picture('image/gif').data)} bytes; at most 1 are shown]"
    )
    assert len(got.images) == 1
    assert tool_result(result(picture()), ResultBounds(max_images=0)).images == ()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param("", "neither PNG", id="empty"),
        pytest.param(base64.b64encode(b"<svg/>").decode(), "neither PNG", id="svg"),
        pytest.param("not base64 at all", "neither PNG", id="no-base64"),
        pytest.param(picture().data[:-3], "not whole", id="cut"),
        pytest.param(picture().data[:-8] + "!" * 8, "not whole", id="broken-within"),
        pytest.param(picture().data + "AAAA\ud800", "not whole", id="no-ascii"),
    ],
)
def test_an_image_that_a_provider_would_refuse_is_left_out(data: str, reason: str) -> None:
    image = types.ImageContent(type="image", data=data, mime_type="image/png")
    got = tool_result(result(image), BOUNDS)

    assert got.images == ()
    assert reason in got.text


def test_line_ends_within_base64_do_not_count() -> None:
    data = picture(more=b"z" * 90).data
    folded = "\r\n".join([data[:76], data[76:], ""])
    image = types.ImageContent(type="image", data=folded, mime_type="image/png")

    assert tool_result(result(image), BOUNDS).images[0].data == data


def test_sound_and_resources_are_named() -> None:
    blob = base64.b64encode(b"data").decode()
    named = shown(
        types.AudioContent(type="audio", data="AAAA", mime_type="audio/wav"),
        types.ResourceLink(type="resource_link", uri=URI, name="notes\u202e"),
        types.EmbeddedResource(
            type="resource", resource=types.TextResourceContents(uri=URI, text="noted")
        ),
        types.EmbeddedResource(
            type="resource",
            resource=types.BlobResourceContents(uri=URI, blob=blob, mime_type="application/pdf"),
        ),
    )

    assert named.splitlines() == [
        "[audio left out: audio/wav, 4 bytes of base64]",
        f"[link to a resource: {URI} (notes�)]",
        f"[resource {URI}]",
        "noted",
        f"[resource {URI}]",
        "[content left out: application/pdf, 8 bytes of base64]",
    ]


def test_a_resource_that_is_an_image_is_shown_as_one() -> None:
    resource = types.BlobResourceContents(uri=URI, blob=picture().data, mime_type="image/png")
    got = tool_result(result(types.EmbeddedResource(type="resource", resource=resource)), BOUNDS)

    assert got.text == f"[resource {URI}]"
    assert [image.data for image in got.images] == [picture().data]


def test_a_text_is_cut_and_says_how_much_is_shown() -> None:
    bounds = ResultBounds(max_chars=10)

    assert shown(text("0123456789"), bounds=bounds) == "0123456789"
    assert shown(text("0123456789a"), bounds=bounds) == (
        "0123456789\n[cut: these are the first 10 of 11 characters]"
    )


def test_an_error_that_is_cut_still_says_that_it_is_one() -> None:
    assert shown(text("x" * 900), error=True, bounds=ResultBounds(max_chars=100)).startswith(FAILED)


def test_what_no_store_takes_is_replaced() -> None:
    assert shown(text("a\0b\ud800c")) == "ab\ufffdc"
    assert failure("a\0b\udc00", BOUNDS).text == "ab\ufffd"


@given(AWKWARD, st.integers(1, 40))
def test_a_cut_shows_the_beginning_and_counts_right(said: str, most: int) -> None:
    shown_text = cut(said, most)
    if len(said) <= most:
        assert shown_text == said
        return

    head, _, note = shown_text.rpartition("\n")
    assert said.startswith(head)
    assert len(head) <= most
    assert note == f"[cut: these are the first {len(head)} of {len(said)} characters]"


@given(
    st.integers(1, 30), st.sampled_from(["e\u0301", "👩🏽", "👩\u200d👩", "🇩🇪", "\r\n", "❤\ufe0f"])
)
def test_no_character_that_people_see_is_cut_in_two(most: int, unit: str) -> None:
    head, _, _ = cut(f"a{unit * 30}", most).rpartition("\n")

    assert head == f"a{unit * ((most - 1) // len(unit))}"


def test_a_tower_of_marks_is_cut_all_the_same() -> None:
    head, _, _ = cut("a" + "\u0301" * 500, 300).rpartition("\n")

    assert len(head) == 300
    assert unicodedata.category(head[-1]) == "Mn"


@given(st.binary(max_size=40))
def test_any_bytes_are_an_image_of_a_known_kind_or_none(data: bytes) -> None:
    assert media_type_of(base64.b64encode(data).decode()) in {None, *HEADS}


@given(
    st.lists(
        st.one_of(
            st.text().map(text),
            st.sampled_from([picture(), picture("image/webp")]),
            st.text().map(lambda data: types.ImageContent(type="image", data=data, mime_type=data)),
        )
    ),
    st.booleans(),
    st.integers(1, 50),
)
def test_any_result_stays_within_its_bounds(
    blocks: list[types.ContentBlock],
    error: bool,  # noqa: FBT001 - hypothesis draws it
    most: int,
) -> None:
    bounds = ResultBounds(max_chars=most, max_images=2)
    got = tool_result(result(*blocks, error=error), bounds)

    assert got.text.strip()
    assert len(got.images) <= 2
    assert len(got.text) <= most + len("\n[cut: these are the first 50 of 9999999 characters]")
    assert "\0" not in got.text
    assert got.text.encode()
