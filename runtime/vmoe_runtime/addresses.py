"""Recognizes URLs of files, such as s3://bucket/name, and removes secrets from URLs in texts that people may see."""

from __future__ import annotations

import re

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]{0,30}"  # without this length limit, searching a long word would take quadratic time
_ADDRESS = re.compile(rf"(?:{_SCHEME}::)*{_SCHEME}://[^\s'\")]")
_WEB = re.compile(rf"(?:{_SCHEME}::)*https?:/", re.IGNORECASE)
# Matches URLs even with one slash after the colon, because turning a URL into a `Path` removes the second slash.
# Punctuation at the end is not part of the URL.
_IN_TEXT = re.compile(rf"{_SCHEME}:/\S*[^\s.,:;'\")\]>]")
# The URL standard allows no slash in a password, but S3 keys may contain one. So the text from a colon to the last @ counts
# as a password, unless the colon starts a port number.
_USER = re.compile(r"(?<=:/)(/?)([^/?#]*@|[^/?#@:]*:(?!:|\d*(?:[/?#]|$)).*@)")


def is_address(source: object) -> bool:
    """Return whether `source` is the URL of a file or folder, rather than a path.

    Examples:
        >>> is_address("s3://bucket/photos"), is_address("simplecache::s3://bucket/photos"), is_address("photos")
        (True, True, False)
    """
    return isinstance(source, str) and _ADDRESS.match(source) is not None


def is_web(address: str) -> bool:
    """Return whether the URL `address` belongs to a web server.

    If the URL begins with the name of an fsspec cache, as in simplecache::https://example.org, that name is ignored.
    """
    return _WEB.match(address) is not None


def public_address(address: str) -> str:
    """Return a URL without the parts that may be secret.

    The user, the password and the query are removed. If the URL belongs to a web server, the fragment is removed too.

    Examples:
        >>> public_address("https://me:secret@example.org/b16.vmoe?token=1")
        'https://example.org/b16.vmoe'
    """
    return _without_user(address).partition("?")[0].partition("#" if is_web(address) else "?")[0].rstrip("/")


def without_secrets(text: str, *used: str) -> str:
    """Return `text` without secrets.

    Each URL in `text` is replaced by its `public_address`. Then each secret that occurs in the URLs `used` is removed from
    the whole text.

    Examples:
        >>> without_secrets('no bucket "me:secret@zoo" at https://example.org?token=1', "s3://me:secret@zoo/b16")
        'no bucket "zoo" at https://example.org'
    """
    text = _IN_TEXT.sub(lambda found: public_address(found[0]), text)
    for secret in (secret for address in used for secret in secrets_of(address)):
        text = text.replace(secret, "")
    return text


def secrets_of(text: str) -> list[str]:
    """Return the secrets in the first URL in `text`: its user, query and fragment.

    The list is empty if `text` contains no URL.
    """
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
