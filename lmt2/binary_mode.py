"""CloudEvents in binary mode: an event's attributes are its record's headers, and the value is the data alone.

Source: Kafka Protocol Binding for CloudEvents 1.0.2, section 3.2.
"""

import re
from collections.abc import Mapping

from lmt2.errors import EventError

PREFIX, CONTENT_TYPE = "ce_", "content-type"
STRUCTURED = b"application/cloudevents"  # a record of this type has its attributes in the value, whatever the headers
JSON = re.compile(r"(application|text)/([\w.-]+\+)?json\s*(;.*)?", re.IGNORECASE)


def attributes(headers: Mapping[str, bytes]) -> dict[str, str]:
    """The event's attributes by name; none if the record is in another mode.

    Raises:
        EventError: a header is no UTF-8, or the data is not JSON.
    """
    names = [name for name in headers if name.startswith(PREFIX)]
    if not names or headers.get(CONTENT_TYPE, b"").startswith(STRUCTURED):
        return {}
    content_type = _text(headers, CONTENT_TYPE) if CONTENT_TYPE in headers else "application/json"
    if not JSON.fullmatch(content_type):
        raise EventError(f"{CONTENT_TYPE}: {content_type} can't be read; send the data as application/json")
    found = {name.removeprefix(PREFIX): _text(headers, name) for name in names}
    return {"specversion": "", "datacontenttype": content_type, **found}


def _text(headers: Mapping[str, bytes], name: str) -> str:
    try:
        return headers[name].decode("utf-8")
    except UnicodeDecodeError as error:
        raise EventError(f"the header {name} is not UTF-8: {error.reason} at byte {error.start}") from error
