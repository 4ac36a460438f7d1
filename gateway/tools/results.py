"""What a model gets of a tool's result: a text within bounds, and the images behind it. Pure.

What is left out is named in the text. Nothing of a result is read as anything but data.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pydantic_core

from gateway.model import Image, ToolResult, clean_name, clean_text
from gateway.text import whole

if TYPE_CHECKING:
    from mcp import types

    from gateway.tools.settings import McpServerSettings

NOTHING: Final = "[The tool returned nothing.]"
ONLY_IMAGES: Final = "[The tool returned images without a text.]"
FAILED: Final = "[The tool reports an error.]"
_HEAD_CHARS: Final = 24
"""So much base64 tells what kind of image it is."""


@dataclass(frozen=True, slots=True)
class ResultBounds:
    """How much of a result a model gets."""

    max_chars: int = 50_000
    max_images: int = 4
    max_image_bytes: int = 5_000_000
    """Of one image, in bytes of base64."""

    @classmethod
    def of(cls, settings: McpServerSettings) -> ResultBounds:
        """Return the bounds of a server."""
        return cls(settings.max_result_chars, settings.max_images, settings.max_image_bytes)


def tool_result(result: types.CallToolResult, bounds: ResultBounds) -> ToolResult:
    """Return what a model gets of a result."""
    shown = _Shown(bounds)
    for block in result.content:
        shown.add(block)
    texts = shown.texts
    if result.structured_content is not None and not any(text.strip() for text in texts):
        texts = [*texts, _json(result.structured_content)]
    text = "\n".join(filter(None, texts))
    if not text.strip():
        text = ONLY_IMAGES if shown.images else NOTHING
    if result.is_error:
        text = f"{FAILED}\n{text}"

    # Cleaned once it is short: on the event loop, that of a huge text would take its time.
    return ToolResult(clean_text(cut(text, bounds.max_chars)), tuple(shown.images))


def failure(text: str, bounds: ResultBounds) -> ToolResult:
    """Return a failure that a model can read."""
    return ToolResult(clean_text(cut(text, bounds.max_chars)))


def cut(text: str, max_chars: int) -> str:
    """Return the beginning of a text, with a note where that is not all of it.

    The note is not counted. No character that people see as one is cut in two.
    """
    if len(text) <= max_chars:
        return text

    end = whole(text, max_chars)
    return f"{text[:end]}\n[cut: these are the first {end} of {len(text)} characters]"


def media_type_of(data: str) -> str | None:
    """Return the kind of an image by its first bytes; None if no model takes such a one.

    Args:
        data: The image in base64.
    """
    try:
        head = base64.b64decode(data[:_HEAD_CHARS], validate=True)
    except ValueError:
        return None

    kinds = {
        "image/png": head.startswith(b"\x89PNG\r\n\x1a\n"),
        "image/jpeg": head.startswith(b"\xff\xd8\xff"),
        "image/gif": head.startswith((b"GIF87a", b"GIF89a")),
        "image/webp": head.startswith(b"RIFF") and head[8:12] == b"WEBP",
    }
    return next((kind for kind, found in kinds.items() if found), None)


@dataclass(slots=True)
class _Shown:
    """The parts of a result, one after the other."""

    bounds: ResultBounds
    texts: list[str] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)

    def add(self, block: types.ContentBlock) -> None:
        """Take one part."""
        if block.type == "text":
            self.texts.append(block.text)
        elif block.type == "image":
            self._add_image(block.data, block.mime_type)
        elif block.type == "audio":
            kind, size = _named(block.mime_type), len(block.data)
            self.texts.append(f"[audio left out: {kind}, {size} bytes of base64]")
        elif block.type == "resource_link":
            self.texts.append(f"[link to a resource: {_named(block.uri)} ({_named(block.name)})]")
        else:
            self._add_resource(block.resource)

    def _add_resource(
        self, resource: types.TextResourceContents | types.BlobResourceContents
    ) -> None:
        self.texts.append(f"[resource {_named(resource.uri)}]")
        kind = resource.mime_type or "of an unknown kind"
        if hasattr(resource, "text"):
            self.texts.append(resource.text)
        elif kind.startswith("image/"):
            self._add_image(resource.blob, kind)
        else:
            size = len(resource.blob)
            self.texts.append(f"[content left out: {_named(kind)}, {size} bytes of base64]")

    def _add_image(self, data: str, kind: str) -> None:
        data = "".join(data.split())
        reason = self._unfit(data)
        if reason:
            self.texts.append(f"[image left out: {_named(kind)}, {len(data)} bytes; {reason}]")
        else:
            self.images.append(Image(media_type_of(data) or kind, data))

    def _unfit(self, data: str) -> str:
        """Return why a model does not get an image; empty if it does.

        A provider refuses a whole request for one image that it cannot read.
        """
        if len(self.images) >= self.bounds.max_images:
            return f"at most {self.bounds.max_images} are shown"
        if len(data) > self.bounds.max_image_bytes:
            return f"at most {self.bounds.max_image_bytes} bytes are shown"
        if media_type_of(data) is None:
            return "it is neither PNG, JPEG, GIF nor WebP"

        return "" if _is_base64(data) else "it is not whole"


def _is_base64(data: str) -> bool:
    try:
        binascii.a2b_base64(data, strict_mode=True)
    except ValueError:
        return False

    return True


def _json(value: object) -> str:
    try:
        return pydantic_core.to_json(value, inf_nan_mode="strings").decode()
    except ValueError:  # nested too deep, or a text that UTF-8 cannot say
        return "[structured content that cannot be shown]"


def _named(text: str) -> str:
    return clean_name(str(text))
