"""Server URLs and API keys: which key a server is sent, and no key in a log or an error."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from urllib.parse import urlsplit

from didact.errors import UsageError

AUTO = "auto"
"""An `api_key_env` that chooses the variable by the server's address."""
ERROR_CHARS = 300
"""A server's error text is cut to this length."""
SECRET_CHARS = 8
"""A shorter key, as "none" or "EMPTY" for a private server, is no secret."""
_KEY_LIKE = re.compile(r"(?i)\b(?:sk|pk|key|hf|gsk|xai)[-_][\w-]{8,}|(bearer\s+)\S+")
_KEY = re.compile(r"(?:sk|pk|key|hf|gsk|xai)_\w{16,}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPENAI_HOST = re.compile(r"(?:[\w-]+\.)?api\.openai\.com")


def check_url(base_url: str) -> None:
    """Refuse a URL that is malformed or could contain a secret, without repeating it.

    Raises:
        UsageError: not http(s), no host, or with a user name, a password, a query or a fragment.
    """
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    # urlsplit drops some of these characters, and other parsers may read them differently.
    if not usable or "\\" in base_url or not base_url.isprintable() or " " in base_url:
        raise UsageError("base_url is no server's URL: write it as http://127.0.0.1:8000/v1")
    if "@" in parts.netloc or "?" in base_url or "#" in base_url:
        raise UsageError(
            "a base_url with a name, a password, a query (?) or a fragment (#) in it would be written to the "
            "run's files: put the key into an environment variable and name that in api_key_env"
        )


def is_loopback(url: str) -> bool:
    """True if the URL points to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def sends_in_clear(url: str) -> bool:
    """True if a key would travel unencrypted over a network."""
    return urlsplit(url).scheme == "http" and not is_loopback(url)


def key_variable(base_url: str, api_key_env: str | None) -> str | None:
    """The environment variable whose key a server is sent; None for none. "auto" is OPENAI_API_KEY for
    OpenAI's servers and for this machine; any other server needs a name.

    Raises:
        UsageError: not a variable's name, a server that needs one, or a key that would be sent in the clear.
    """
    if api_key_env is None:
        return None
    if _NAME.fullmatch(api_key_env) is None or _KEY.fullmatch(api_key_env):
        raise UsageError(
            "api_key_env is no name of an environment variable: put the key into one, as OPENAI_API_KEY, and "
            "give its name. The value given is not repeated, as it may be a key"
        )
    is_openai = _OPENAI_HOST.fullmatch(urlsplit(base_url).hostname or "") is not None
    if api_key_env == AUTO and not is_loopback(base_url) and not is_openai:
        raise UsageError(
            f"{base_url} is neither OpenAI's nor on this machine, and gets no key by default: name the "
            "environment variable of its key in api_key_env (--set feedback.settings.api_key_env=NAME), or "
            "set it to null to send none"
        )
    if sends_in_clear(base_url):
        raise UsageError(
            f"{base_url} would be sent its key over plain http: use https, or a tunnel to 127.0.0.1, or set "
            "api_key_env to null to send none"
        )
    return "OPENAI_API_KEY" if api_key_env == AUTO else api_key_env


def find_key(base_url: str, api_key_env: str | None) -> str | None:
    """The key for a server; None for none. With "auto", a server on this machine needs none.

    Raises:
        UsageError: as `key_variable`; also if the variable is not set or cannot hold a key.
    """
    variable = key_variable(base_url, api_key_env)
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key and not (api_key_env == AUTO and is_loopback(base_url)):
        raise UsageError(
            f"{describe_variable(variable)} is not set, and {base_url} may need a key: set it, name another "
            "variable in api_key_env, or set api_key_env to null to send none"
        )
    if not key.isascii() or not key.isprintable():
        raise UsageError(f"the key in {describe_variable(variable)} has characters that no key has")
    return key or None


def optional_key(base_url: str, variable: str) -> str | None:
    """The key in a variable if it is set and does not travel in the clear; else None."""
    return None if sends_in_clear(base_url) else os.environ.get(variable, "").strip() or None


def describe_variable(variable: str) -> str:
    """A variable's name for an error, unless it could be a key that was given as a name."""
    return f"the environment variable {variable if variable.isupper() else 'that api_key_env names'}"


def redact(text: str, secret: str | None) -> str:
    """An error text of a server without the key or anything like one, cut to `ERROR_CHARS`."""
    text = _KEY_LIKE.sub(lambda m: (m.group(1) or "") + "[redacted]", remove_secret(text, secret))
    return text if len(text) <= ERROR_CHARS else text[: ERROR_CHARS - 1] + "…"


def remove_secret(text: str, secret: str | None) -> str:
    """The text without the key, in plain, JSON-escaped or Python-escaped form."""
    if not secret:
        return text
    quoted = json.dumps(secret)[1:-1]
    forms = {secret, quoted, quoted.replace("/", "\\/"), repr(secret)[1:-1], repr(quoted)[1:-1]}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "[redacted]")
    return text
