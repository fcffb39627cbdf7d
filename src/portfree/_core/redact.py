"""Texts of processes, made fit to be shown: without secrets, and without what moves a cursor.

Everybody may read a log, and any user may have written a command line: where `mask` must guess, it
hides too much. The patterns stay texts, which `re` compiles when it needs them, not at import.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MASK = "***"


def command_line(argv: Sequence[str], limit: int = 300) -> str:
    """A command line in one piece: masked, quoted where it would be misread, and shortened."""
    words = list(argv)
    while words and not words[-1]:  # setproctitle(3) leaves the rest of the old argv behind, empty
        words.pop()
    # A hostile command line has some megabytes. `shorten` would cut off the same: 500 words are
    # longer than the limit.
    if len(words) > 1000:
        words = [*words[:500], "...", *words[-500:]]
    masked = mask([word if len(word) <= 10_000 else word[:10_000] + "..." for word in words])
    # A program that has set its own title has one word with spaces in it; quotes would be noise.
    if len(masked) == 1:
        return shorten(masked[0], limit)
    # Only where word borders would be lost: `$`, `*` and `~` in an argv are no riddle.
    plain = re.compile(r"[^\s\"'\\]+").fullmatch
    quoted = (word if plain(word) else "'" + word.replace("'", "'\"'\"'") + "'" for word in masked)
    return shorten(" ".join(quoted), limit)


def shorten(text: str, limit: int) -> str:
    """At most *limit* characters of a text: its head and its end, which tell processes apart."""
    if len(text) <= limit:
        return text
    room = max(limit - 5, 2)
    tail = room // 3
    return f"{text[: room - tail]} ... {text[-tail:] if tail else ''}"[: max(limit, 0)]


def age(seconds: float) -> str:
    """An age as people say it: ``3 s``, ``2 min``, ``3 h``, ``5 days``."""
    if seconds < 3_600:
        return f"{seconds // 60:.0f} min" if seconds >= 60 else f"{max(seconds, 0):.0f} s"
    days = int(seconds // 86_400)
    return f"{days} day{'s' * (days > 1)}" if days else f"{seconds // 3_600:.0f} h"


# What str.isspace() calls a space, and a terminal or a log reader takes for the end of a line.
_BREAKS = frozenset("\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029")


def safe(text: str) -> str:
    """The text with everything that is not printable turned into a visible escape: control
    characters (C0, DEL, C1) move cursors and recolour; bidirectional and other format characters
    reorder and hide; separators break lines; lone surrogates stand for bytes that were no UTF-8 and
    cannot be written. Spaces of every width are harmless, and names have them.
    """
    if text.isprintable():
        return text
    # In a locale without UTF-8 each of its bytes is a surrogate (PEP 383).
    with suppress(UnicodeError):
        text = text.encode("utf-8", "surrogateescape").decode()
    return "".join(
        char
        if char.isprintable() or (char.isspace() and char not in _BREAKS)
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


# The repeats below are bounded, or cannot start again within themselves: a hostile command line of
# some megabytes must not cost more than reading it a few times.

# A value ends with its header, and in a script with its quote. The scheme is part of it.
_AUTHORIZATION = r"""(?i)(authorization["']?\s?[:=]\s?["']?)[^"'\n]+"""

# The password of a URL (RFC 3986, 3.2.1) ends at the last @ before the path. One with a slash in it
# is no URL any more, yet people write it; digits and a slash are a port: http://host:80/@scope.
_IN_URL = r"""(://[^\s/?#:@\[\]"']*):(?:[^\s/?#"']{1,1000}|(?![0-9]+/)[^\s"']{1,250})@"""

# name=value, Name: value, --name value: as a word, in a query, in a script. A value is read as a
# shell does. An open quote takes all that is left: no half of a secret may show.
_NAME = r"(?<![\w.-])(--?)?([A-Za-z_][\w.-]*)(?:=|:[ ]|(?(1)[ ]+(?!-)|(?!)))"
_VALUE = r"""(?s:"(?:\\.|[^"\\])*"?|'[^']*'?|[^\s&;"'])+"""

# A name is cut into its words: "--db-password", "AWS_SECRET_ACCESS_KEY", "keyStorePassword". One of
# them says that the value is a secret, also inside of one word, as in PGPASSWORD and -Dtoken.
_NAME_WORD = r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+"
_SAYS_SO = (
    ".*(?:password|passwd|passphrase|secret|token|cookie|(?:api|access|auth)key|masterauth"
    "|(?:require|store|key|user|db)pass)"
    "|auth|authorization|bearer|credentials?|jwt|otp|passcode|passwords|pwd|secrets"
)
# The last word of a name that is about a secret, and the first word of one that has no value.
_ABOUT = (
    "backend|bucket|class|command|config|dir|directory|enabled|endpoint|env|expiry|field|file|format"
    "|header|id|interval|len|length|limit|method|mode|name|path|policy|port|prefix|provider|realm"
    "|required|scope|size|store|timeout|ttl|type|uri|url|user|username"
)
_SWITCH = "allow|ask|disable|enable|eos|max|min|no|skip|use|without"
# These keys open nothing, and neither does the path of a key.
_PLAIN_KEY = "cache|column|foreign|group|index|map|partition|primary|public|routing|shard|sort"
_PATH = r"(?:~|\.{1,2}|[A-Za-z]:)?[/\\][\w.@~ /\\-]+|[\w.@~/\\-]+\.(?:pem|key|crt|cer|p12|pfx|pub)"
_PLAIN_VALUE = r"(?is)|true|false|yes|no|on|off|none|null|\*{3}.*"

_WELL_KNOWN = (
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z0-9 ]{0,40}KEY-----|\Z)"
    r"|(?<![\w-])(?:gh[opsur]_\w{6,}|github_pat_\w{6,}"  # GitHub
    r"|(?:gl[a-z]{2,6}|sk|pypi)-(?=[a-z_-]{0,64}[0-9A-Z])[\w-]{6,}"  # GitLab, OpenAI, PyPI
    r"|(?:npm|hf)_[A-Za-z0-9]{16,}|(?:dckr_pat|[rsp]k_live|[rsp]k_test|whsec)_[\w-]{6,}"
    r"|(?:xox[a-z]|xapp)-[\w-]{6,}|(?:AKIA|ASIA)[A-Z0-9]{12,}|AIza[\w-]{20,}"  # Slack, AWS, Google
    r"|eyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*)?"  # JSON Web Tokens
    r"|(?i:bearer)[ ]+[^\s\"']+)"  # RFC 6750
)


def mask(argv: Sequence[str]) -> tuple[str, ...]:
    """The words of a command line, with what SECURITY.md calls a secret replaced by ``***``."""
    masked, option = [], ""
    for word in argv:
        script = re.fullmatch("-[a-z]{0,2}c", option)  # sh -c "TOKEN=x command": not all is value
        name, is_assigned, value = ("", "", word) if script else word.partition("=")
        if option and not word.startswith("-") and _is_secret(option, word):
            masked.append(MASK)
        elif is_assigned and re.fullmatch(r"-{0,2}[\w.-]+", name) and _is_secret(name, value):
            masked.append(f"{name}={MASK}")
        else:
            masked.append(_mask_within(word))
        option = word if re.fullmatch(r"--?[A-Za-z][\w.-]*", word) else ""
    return tuple(masked)


def _mask_within(text: str) -> str:
    text = re.sub(_AUTHORIZATION, rf"\1{MASK}", re.sub(_WELL_KNOWN, MASK, text))
    text = re.sub(_IN_URL, rf"\1:{MASK}@", text)
    parts, done = [], 0
    for name in re.finditer(_NAME, text):
        # The value is no part of the match, for it may hold names itself: --env=PASSWORD=x.
        value = re.compile(_VALUE).match(text, name.end()) if name.start() >= done else None
        if value and _is_secret(name[2], value[0].strip("\"'")):
            parts += [text[done : name.end()], MASK]
            done = value.end()
    return "".join([*parts, text[done:]])


def _is_secret(name: str, value: str) -> bool:
    """Whether a name says that its value is a secret, unless the value plainly is none."""
    words = [word.lower() for word in re.findall(_NAME_WORD, name)]
    if not words or name in ("PWD", "OLDPWD") or re.fullmatch(_PLAIN_VALUE, value):
        return False
    *before, last = words
    if re.fullmatch(_ABOUT, last) or (before and re.fullmatch(_SWITCH, before[0])):
        return False
    if last == "key" and before[-1:] not in (["access"], ["api"]):
        plain = before and re.fullmatch(_PLAIN_KEY, before[-1])
        return not (plain or re.fullmatch(_PATH, value))
    return last in ("key", "pass", "pw") or any(re.fullmatch(_SAYS_SO, word) for word in words)
