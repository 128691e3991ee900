"""Addresses of files, such as s3://bucket/name, and what people may see of them."""

from __future__ import annotations

import re

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]{0,30}"  # without a limit, the time for a long word would be quadratic in its length
_ADDRESS = re.compile(rf"(?:{_SCHEME}::)*{_SCHEME}://[^\s'\")]")
_WEB = re.compile(rf"(?:{_SCHEME}::)*https?:/", re.IGNORECASE)
# One slash is enough, since an address that was made a Path loses the other one. Punctuation at the end is not part of it.
_IN_TEXT = re.compile(rf"{_SCHEME}:/\S*[^\s.,:;'\")\]>]")
# By the standard, a password has no slash, but S3's keys may. So anything after a colon that isn't a port counts as one.
_USER = re.compile(r"(?<=:/)(/?)([^/?#]*@|[^/?#@:]*:(?!:|\d*(?:[/?#]|$)).*@)")


def is_address(source: object) -> bool:
    """Whether a source is the address of a file or folder elsewhere, rather than a path.

    Examples:
        >>> is_address("s3://bucket/photos"), is_address("simplecache::s3://bucket/photos"), is_address("photos")
        (True, True, False)
    """
    return isinstance(source, str) and _ADDRESS.match(source) is not None


def is_web(address: str) -> bool:
    """Whether an address belongs to a web server, whether or not a cache of fsspec is chained before it."""
    return _WEB.match(address) is not None


def public_address(address: str) -> str:
    """An address without the parts that may be secret: user, password, query and, for a web server, fragment.

    Examples:
        >>> public_address("https://me:secret@example.org/b16.vmoe?token=1")
        'https://example.org/b16.vmoe'
    """
    return _without_user(address).partition("?")[0].partition("#" if is_web(address) else "?")[0].rstrip("/")


def without_secrets(text: str, *used: str) -> str:
    """A text in which every address is made public, and from which the secrets of the addresses `used` are removed.

    Examples:
        >>> without_secrets('no bucket "me:secret@zoo" at https://example.org?token=1', "s3://me:secret@zoo/b16")
        'no bucket "zoo" at https://example.org'
    """
    text = _IN_TEXT.sub(lambda found: public_address(found[0]), text)
    for secret in (secret for address in used for secret in secrets_of(address)):
        text = text.replace(secret, "")
    return text


def secrets_of(text: str) -> list[str]:
    """The secrets in the first address in a text: user, query and fragment; empty if the text has no address."""
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
