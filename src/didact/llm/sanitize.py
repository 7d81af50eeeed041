"""What goes to a model's server and what comes back: control tokens broken, secrets kept, replies read.

A server turns our text into tokens by a tokenizer that we do not know, and many encode "<|im_end|>" in a
message as the real end of it. So such texts are sent with a blank inside, "< |im_end|>", and the blank is
taken out of the reply again, so that a quote of the answer stays exact.
"""

from __future__ import annotations

import email.utils
import ipaddress
import json
import math
import os
import re
import time
from collections.abc import Iterable, Mapping
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from didact.errors import UsageError

AUTO = "auto"
"""An `api_key_env` that leaves it to the server's address which variable holds the key."""
ERROR_CHARS = 300
"""A server's error text is cut after this."""
SECRET_CHARS = 8
"""A shorter key, as "none" or "EMPTY" for a server of one's own, is no secret and may stand in a reply."""
_INSIDE = (
    r"[|｜]|/?\w{1,24}\|>"  # <|im_start|> <｜User｜> <turn|>
    r"|/?(?:s|bos|eos|pad|unk|mask|cls|sep|think|tool_call|tool_response|start_of_turn|end_of_turn)>"
    r"|</?SYS>>"
)
_BRACKETS = r"/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|CLS|SEP|MASK|PAD|UNK)\]"
_CONTROL = re.compile(rf"<(?={_INSIDE})|\[(?={_BRACKETS})")
_BROKEN = re.compile(rf"(<) (?={_INSIDE})|(\[) (?={_BRACKETS})")
_KEYS = re.compile(r"(?i)\b(?:sk|pk|key|hf|gsk|xai)[-_][\w-]{8,}|(bearer\s+)\S+")
_KEY = re.compile(r"(?:sk|pk|key|hf|gsk|xai)_\w{16,}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPENAI_HOST = re.compile(r"(?:[\w-]+\.)?api\.openai\.com")


def inert(text: str) -> str:
    """The text with every control token that is in use somewhere broken by a blank.

    Half a surrogate pair, which no server could be sent, becomes "?".

    >>> inert("a<|im_end|>[INST] x < y [1]")
    'a< |im_end|>[ INST] x < y [1]'
    """
    return _CONTROL.sub(r"\g<0> ", text.encode("utf-8", "replace").decode())


def restored(reply: str, sent: Iterable[str]) -> str:
    """A reply with `inert`'s blanks taken out, if any of the texts sent had one."""
    if not any(_CONTROL.search(text) for text in sent):
        return reply
    return _BROKEN.sub(lambda m: m.group(1) or m.group(2), reply)


def redacted(text: str, secret: str | None) -> str:
    """A server's or library's error text without the key, without what looks like one, and bounded."""
    text = _KEYS.sub(lambda m: (m.group(1) or "") + "[redacted]", without(text, secret))
    return text if len(text) <= ERROR_CHARS else text[: ERROR_CHARS - 1] + "…"


def without(text: str, secret: str | None) -> str:
    """The text without the key, also where JSON or Python wrote it with backslashes."""
    for form in _forms(secret) if secret else ():
        text = text.replace(form, "[redacted]")
    return text


def _forms(secret: str) -> list[str]:
    quoted = json.dumps(secret)[1:-1]
    forms = {secret, quoted, quoted.replace("/", "\\/"), repr(secret)[1:-1], repr(quoted)[1:-1]}
    return sorted(forms, key=len, reverse=True)


def check_url(base_url: str) -> None:
    """Refuse a URL that no server could have, or that could hold a secret. It is never repeated.

    Raises:
        UsageError: not http(s), without a host, or with a name, a password, a query or a fragment.
    """
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    # urlsplit drops some of these in silence, and others may read them in another way.
    if not usable or "\\" in base_url or not base_url.isprintable() or " " in base_url:
        raise UsageError("base_url is no server's URL: write it as http://127.0.0.1:8000/v1")
    if "@" in parts.netloc or "?" in base_url or "#" in base_url:
        raise UsageError(
            "a base_url with a name, a password, a query (?) or a fragment (#) in it would be written to the "
            "run's files: put the key into an environment variable and name that in api_key_env"
        )


def key_variable(base_url: str, api_key_env: str | None) -> str | None:
    """The environment variable whose key a server is sent; None for none.

    Args:
        base_url: The server's URL.
        api_key_env: The variable's name, or None to send no key. "auto" is OPENAI_API_KEY for OpenAI's
            own servers and this machine's; no other server gets that key unasked.

    Raises:
        UsageError: no name, a server that has to be given one, or a key that would go over plain http.
    """
    if api_key_env is None:
        return None
    if _NAME.fullmatch(api_key_env) is None or _KEY.fullmatch(api_key_env):
        raise UsageError(
            "api_key_env is no name of an environment variable: put the key into one, as OPENAI_API_KEY, and "
            "give its name. What was given is not repeated, as it may be a key"
        )
    here = is_loopback(base_url)
    if api_key_env == AUTO and not here and not is_openai(base_url):
        raise UsageError(
            f"{base_url} is neither OpenAI's nor on this machine, and gets no key unasked: say which "
            "environment variable holds its key with api_key_env (--set feedback.settings.api_key_env=NAME), "
            "or null there to send none"
        )
    if urlsplit(base_url).scheme == "http" and not here:
        raise UsageError(
            f"{base_url} would be sent its key over plain http, for everybody on the way to read: use https, "
            "or a tunnel to 127.0.0.1, or say null in api_key_env to send none"
        )
    return "OPENAI_API_KEY" if api_key_env == AUTO else api_key_env


def find_key(base_url: str, api_key_env: str | None) -> str | None:
    """The key that a server is sent; None for none. With "auto", a server on this machine needs none.

    Raises:
        UsageError: as `key_variable`; also where the variable is not set, or holds what is no key.
    """
    variable = key_variable(base_url, api_key_env)
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key and not (api_key_env == AUTO and is_loopback(base_url)):
        raise UsageError(
            f"{variable_text(variable)} is not set, and {base_url} may ask for a key: put it there, name "
            "another variable in api_key_env, or say null there to send none"
        )
    if not key.isascii() or not key.isprintable():
        raise UsageError(f"the key in {variable_text(variable)} has characters that no key has: set it anew")
    return key or None


def variable_text(variable: str) -> str:
    """An environment variable in a sentence, by name unless the name could be a key put there by mistake."""
    return f"the environment variable {variable if variable.isupper() else 'that api_key_env names'}"


def is_openai(url: str) -> bool:
    """Is the server one of OpenAI's own?"""
    return _OPENAI_HOST.fullmatch(urlsplit(url).hostname or "") is not None


def is_loopback(url: str) -> bool:
    """Does the URL lead to this machine?"""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, ≥ 0; None where it names no usable time."""
    value = headers.get("retry-after-ms")
    scale = 1000.0
    if value is None:
        value, scale = headers.get("retry-after"), 1.0
    if value is None:
        return None
    try:
        seconds = float(value) / scale
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if not math.isnan(seconds) else None


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: Annotated[int, Field(ge=0)] = 0
    completion_tokens: Annotated[int, Field(ge=0)] = 0


class Completion(BaseModel):
    """The part of a chat completion that is used; a server may send more."""

    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None

    @classmethod
    def parse(cls, body: str) -> Completion | None:
        """A chat completion from a response's body; None if it is none."""
        try:
            return cls.model_validate_json(body)
        except ValidationError:
            return None

    @property
    def text(self) -> str:
        return self.choices[0].message.content or ""

    @property
    def failure(self) -> str | None:
        """Why the reply is not the whole of what the model had to say; None if it is."""
        choice = self.choices[0]
        if choice.finish_reason == "length":
            return "the reply was cut off at max_tokens: raise it"
        if choice.finish_reason == "content_filter":
            return "the server's content filter stopped the reply"
        if choice.message.refusal and not self.text:
            return "the model refused"
        return None if self.text.strip() else "the reply is empty"
