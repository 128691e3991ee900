"""Addresses of files, such as s3://bucket/name, and what people may see of them."""

from __future__ import annotations

import re

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]{0,30}"  # without a limit, a long word would take time by its square
_ADDRESS = re.compile(rf"(?:{_SCHEME}::)*{_SCHEME}://[^\s'\")]")
_WEB = re.compile(rf"(?:{_SCHEME}::)*https?:/", re.IGNORECASE)
# As a path, an address keeps one of its slashes. Marks at its end are the sentence's.
_IN_TEXT = re.compile(rf"{_SCHEME}:/\S*[^\s.,:;'\")\]>]")
# A password with a slash, as keys of S3 have, is no part of an address by the standard; but what is no port is one here.
_USER = re.compile(r"(?<=:/)(/?)([^/?#]*@|[^/?#@:]*:(?!:|\d*(?:[/?#]|$)).*@)")


def is_address(source: object) -> bool:
    """Whether it is the address of a file or folder elsewhere, and no path.

    Examples:
        >>> is_address("s3://bucket/photos"), is_address("simplecache::s3://bucket/photos"), is_address("photos")
        (True, True, False)
    """
    return isinstance(source, str) and _ADDRESS.match(source) is not None


def is_web(address: str) -> bool:
    """Whether it is of a web server, also behind a cache of fsspec."""
    return _WEB.match(address) is not None


def public_address(address: str) -> str:
    """An address without user, password, query and, of a web server, fragment, which may be secrets.

    Examples:
        >>> public_address("https://me:secret@example.org/b16.vmoe?token=1")
        'https://example.org/b16.vmoe'
    """
    return _without_user(address).partition("?")[0].partition("#" if is_web(address) else "?")[0].rstrip("/")


def without_secrets(text: str, *used: str) -> str:
    """A text with every address in it made public, and without the secrets of these addresses wherever they are.

    Examples:
        >>> without_secrets('no bucket "me:secret@zoo" at https://example.org?token=1', "s3://me:secret@zoo/b16")
        'no bucket "zoo" at https://example.org'
    """
    text = _IN_TEXT.sub(lambda found: public_address(found[0]), text)
    for secret in (secret for address in used for secret in secrets_of(address)):
        text = text.replace(secret, "")
    return text


def secrets_of(text: str) -> list[str]:
    """What is left out of the first address in a text, if there is one: the user, the query and the fragment."""
    found = _IN_TEXT.search(text)
    if found is None:
        return []
    address = text[found.start() :]
    users = [user[2] for user in _USER.finditer(address)]
    rest = _without_user(address)[len(public_address(address)) :]
    pieces = [*users, *(user[:-1] for user in users if ":" in user), *re.findall("[?#][^?#]+", rest)]
    return [piece for piece in pieces if piece]


def _without_user(address: str) -> str:
    return _USER.sub(r"\1", address)
