"""Forms with files: `multipart/form-data` as RFC 7578 has it, of a body that is in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from email.parser import HeaderParser

from perdure.core.errors import InvalidRequest


@dataclass(frozen=True)
class Upload:
    """A file in a form."""

    filename: str
    media_type: str
    data: bytes


@dataclass(frozen=True)
class Form:
    """The fields of a form and its files, by name; the last of several."""

    fields: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Upload] = field(default_factory=dict)


def read_form(content_type: str, body: bytes) -> Form:
    """Return the form. Raises `InvalidRequest` (E-BODY-FORM)."""
    head = Message()
    head["content-type"] = content_type
    boundary = head.get_boundary()
    if head.get_content_type() != "multipart/form-data" or not boundary:
        raise InvalidRequest("E-BODY-FORM", "The body is no multipart/form-data.")
    mark = b"\r\n--" + boundary.encode("latin-1", "replace")
    _, *parts = (b"\r\n" + body).split(mark)
    if not parts or not parts[-1].startswith(b"--"):
        raise InvalidRequest("E-BODY-FORM", "The form does not end: its last boundary is missing.")
    fields: dict[str, str] = {}
    files: dict[str, Upload] = {}
    for part in parts[:-1]:
        lines, found, data = part.lstrip(b" \t").removeprefix(b"\r\n").partition(b"\r\n\r\n")
        about = HeaderParser().parsestr(lines.decode("utf-8", "replace"))  # as browsers write them
        name = about.get_param("name", header="content-disposition")
        if not found or not isinstance(name, str):
            raise InvalidRequest("E-BODY-FORM", "A part of the form has no name.")
        filename = about.get_filename()
        if filename is None and about.get_param("filename", header="content-disposition") is None:
            fields[name] = data.decode("utf-8", "replace")
        else:
            files[name] = Upload(filename or "upload", about.get_content_type(), data)
    return Form(fields, files)
