"""What people and models write: parts of a message, items of a reply, calls and their results."""

import msgspec


class Text(msgspec.Struct, frozen=True, gc=False, tag="text"):
    """Plain text. May hold NUL and lone surrogates: tools print what they like."""

    text: str


class Image(msgspec.Struct, frozen=True, gc=False, tag="image", omit_defaults=True):
    """An image: `data` is base64 of the bytes, or `url` says where it lies."""

    media_type: str
    data: str = ""
    url: str = ""


Part = Text | Image
Content = tuple[Part, ...]


class ToolCall(msgspec.Struct, frozen=True, gc=False, tag="tool_call", omit_defaults=True):
    """A model's wish to run a tool.

    `id` is ours, unique in the session (`t<turn>.<n>`); `vendor_id` is what the provider called
    it and what it must be answered with. `arguments` is JSON text, byte for byte as written.
    """

    id: str
    tool: str
    arguments: str
    vendor_id: str = ""


class Reasoning(msgspec.Struct, frozen=True, gc=False, tag="reasoning", omit_defaults=True):
    """What the model says it thought. Signed or encrypted forms live in the raw items."""

    text: str


class Opaque(msgspec.Struct, frozen=True, gc=False, tag="opaque", omit_defaults=True):
    """An item of a kind this version does not know: kept, shown by name, sent back unchanged."""

    kind: str


ReplyItem = Text | Reasoning | ToolCall | Opaque


class Usage(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Tokens and money of one model call. `cost_micro_usd` is None where no price is known.

    `input_tokens` counts everything the provider read, cached tokens included. `estimated` is
    true where a call died before the provider could say what it cost.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_micro_usd: int | None = None
    estimated: bool = False


class UserItem(msgspec.Struct, frozen=True, gc=False, tag="user"):
    """What a person or program said."""

    content: Content


class ModelItem(msgspec.Struct, frozen=True, gc=False, tag="model", omit_defaults=True):
    """One reply of a model. `raw` are the provider's own items, in the dialect named, to be sent
    back unchanged to a model that speaks the same dialect from the same `provider`.
    """

    items: tuple[ReplyItem, ...]
    raw: tuple[msgspec.Raw, ...] = ()
    dialect: str = ""
    provider: str = ""


class ResultItem(msgspec.Struct, frozen=True, gc=False, tag="result", omit_defaults=True):
    """The result of a tool call, joined to it by `call_id` (ours) and `vendor_id` (theirs)."""

    call_id: str
    tool: str
    text: str
    is_error: bool = False
    vendor_id: str = ""


ContextItem = UserItem | ModelItem | ResultItem


def text_of(content: Content) -> str:
    """Return the text parts of `content`, joined; an image shows as its kind."""
    return "".join(p.text if isinstance(p, Text) else f"[{p.media_type}]" for p in content)


def as_content(value: "str | Content | Part") -> Content:
    """Return `value` as content: a plain string becomes one text part."""
    if isinstance(value, str):
        return (Text(value),)
    return value if isinstance(value, tuple) else (value,)
