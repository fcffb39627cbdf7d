"""Texts that came from processes, made fit to be shown: no secrets, nothing that moves a cursor.

A command line is shown to whoever reads a terminal, a log or the page of a CI job, which may be the
whole world; it was written by whoever started the process, which may be anybody. So `mask` hides
too much rather than too little where it has to guess, and `safe` lets only printable text through.
"""

from __future__ import annotations

import re
from contextlib import suppress

TYPE_CHECKING = False  # typing costs a start-up milliseconds; checkers know this name
if TYPE_CHECKING:
    from collections.abc import Sequence

MASK = "***"

# Longer than nearly every command line that a person typed, short enough for one log record.
COMMAND_LIMIT = 300


def command_line(argv: Sequence[str], limit: int = COMMAND_LIMIT) -> str:
    """A command line in one piece: masked, quoted where it would be misread, and shortened."""
    words = list(argv)
    while words and not words[-1]:  # setproctitle(3) leaves the rest of the old argv behind, empty
        words.pop()
    # Whatever is cut off here would be cut off by `shorten` as well: 500 words are longer than the
    # limit. It bounds the time that a hostile command line of some megabytes can cost.
    if len(words) > 1000:
        words = [*words[:500], "...", *words[-500:]]
    masked = mask([word if len(word) <= 10_000 else word[:10_000] + "..." for word in words])
    # A program that set its own title has one word with spaces in it; quotes would be noise.
    return shorten(masked[0] if len(masked) == 1 else " ".join(map(_quoted, masked)), limit)


def _quoted(word: str) -> str:
    """Quoted only where word borders would be lost: `$`, `*` and `~` in an argv are no riddle."""
    if word and not re.search(r"[\s\"'\\]", word):
        return word
    return "'" + word.replace("'", "'\"'\"'") + "'"


def shorten(text: str, limit: int) -> str:
    """At most *limit* characters of a text: its head and its end, which tell processes apart."""
    if len(text) <= limit:
        return text
    room = max(limit - 5, 2)
    tail = room // 3
    return f"{text[: room - tail]} ... {text[-tail:] if tail else ''}"[: max(limit, 0)]


def age(seconds: float) -> str:
    """An age as one says it: ``3 s``, ``2 min``, ``3 h``, ``5 days``."""
    if seconds < 60:
        return f"{max(seconds, 0):.0f} s"
    if seconds < 3_600:
        return f"{seconds // 60:.0f} min"
    if seconds < 86_400:
        return f"{seconds // 3_600:.0f} h"
    days = int(seconds // 86_400)
    return f"{days} day" if days == 1 else f"{days} days"


def safe(text: str) -> str:
    """The text with everything that is not printable turned into a visible escape.

    Control characters (C0, DEL, C1) move cursors and recolour; bidirectional and other format
    characters reorder and hide; separators break lines; lone surrogates stand for bytes that were
    no UTF-8 and cannot be written. Spaces of every width are harmless, and names have them.
    """
    if text.isprintable():
        return text
    # In a locale without UTF-8 each of its bytes is a surrogate (PEP 383).
    with suppress(UnicodeError):
        text = text.encode("utf-8", "surrogateescape").decode()
    return "".join(
        char if char.isprintable() or (char.isspace() and char not in _BREAKS) else _escape(char)
        for char in text
    )


# What str.isspace() calls a space and a terminal or a log reader takes for the end of a line.
_BREAKS = frozenset("\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029")


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


# --- masking -------------------------------------------------------------------------------------


def mask(argv: Sequence[str]) -> tuple[str, ...]:
    """The words of a command line, with values that look like secrets replaced by ``***``.

    Masked are the values of options, assignments, query parameters and headers whose *name* says
    password, token, secret or key; the password in a URL; and words that have the *shape* of a
    known token. A name that says it is the path, the length or the like of a secret masks nothing.
    """
    reader = _Reader()
    return tuple(reader.read(word) for word in argv)


# A name is cut into its words: "--db-password", "AWS_SECRET_ACCESS_KEY", "keyStorePassword".
_NAME_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

# What one of the words may be. The first kind also without a border before it, as in PGPASSWORD,
# --requirepass, -Dtoken and -setcookie.
_SECRET_WORD = re.compile(
    r".*(?:password|passwd|passphrase|secret|token|cookie|(?:api|access|secret|auth)key"
    r"|(?:require|store|key|user|db)pass|masterauth)"
    r"|authorization|bearer|credentials?|jwt|otp|passcode|passwords|pwd|secrets"
)
# Secret only at the end of a name: --db-pass is, --pass-env is not.
_SECRET_LAST = re.compile("pass|pw")
# The last word of a name that is *about* a secret: --password-file, --token-bucket, --auth-mode.
_ABOUT = re.compile(
    "alg|algorithm|audience|backend|buckets?|ca|cache|cert|class|command|config|count|dir|directory"
    "|domain|enabled|endpoint|env|expires|expiration|expiry|field|file|filename|format|header|hosts?"
    "|interval|issuer|len|length|lifetime|limits?|max|method|min|mode|names?|path|plugin|policy|port"
    "|prefix|prompt|provider|rate|realm|refresh|required|scheme|scopes?|server|size|stdin|store"
    "|template|timeout|ttl|type|uri|url|user|username|version"
)
# The first word of a name that takes no value, or whose token is one of a language model.
_SWITCH = re.compile(
    "allow|ask|bos|disable|enable|eos|has|hide|is|max|min|no|num|pad|prompt|require|sep|show|skip"
    "|unk|use|without"
)
# Keys that open nothing.
_PLAIN_KEY = re.compile(
    "cache|column|foreign|group|hot|index|map|partition|primary|public|routing|shard|sort"
)
_PLAIN_VALUE = re.compile(r"|true|false|yes|no|on|off|none|null|\*{3}.*", re.IGNORECASE | re.DOTALL)
_AUTH_METHOD = re.compile("basic|bearer|digest|ldap|oauth2?|password", re.IGNORECASE)

# A path to a key is no secret. Base64 has no dot, and seldom starts with a slash.
_PATH = re.compile(
    r"(?:~|\.{1,2}|[A-Za-z]:)?[/\\][\w.@~ /\\-]+"
    r"|[\w.@~/\\-]+\.(?:pem|key|crt|cer|p12|pfx|der|pub|jks)"
)


def _is_secret(name: str, value: str) -> bool:
    """Whether a name says that its value is a secret, unless the value plainly is none."""
    words = [word.lower() for word in _NAME_WORDS.findall(name)]
    if not words or name in ("PWD", "OLDPWD") or _PLAIN_VALUE.fullmatch(value):
        return False
    before, last = words[-2] if len(words) > 1 else "", words[-1]
    if _ABOUT.fullmatch(last) or (before and _SWITCH.fullmatch(words[0])):
        return False
    if any(map(_SECRET_WORD.fullmatch, words)) or _SECRET_LAST.fullmatch(last):
        return True
    if last == "key":
        strong = before in ("access", "api")
        return strong or not (_PLAIN_KEY.fullmatch(before) or _PATH.fullmatch(value))
    if last == "auth":
        return not (_AUTH_METHOD.fullmatch(value) or _PATH.fullmatch(value))
    return "auth" in words


# Options that mean a secret in one family of programs only, by the start of the program's name.
_ATTACHED = {"mysql": "-p", "mariadb": "-p", "sshpass": "-p"}  # -pSECRET
_SEPARATE = {  # -a SECRET
    "redis": ("a",),
    "valkey": ("a",),
    "keydb": ("a",),
    "sshpass": ("p",),
    "mongo": ("p",),
    "ldap": ("w",),
}
_LOGINS = {"curl": ("u", "U", "user", "proxy-user")}  # -u USER:SECRET
_FAMILIES = tuple({*_ATTACHED, *_SEPARATE, *_LOGINS})

_OPTION = re.compile(r"-{1,2}([A-Za-z][\w.-]*)")
_ASSIGNMENT = re.compile(r"(-{0,2}([A-Za-z_][\w.-]*)=)(.*)", re.DOTALL)
# A word as a shell sees it. An open quote takes all that is left: no half of a secret may show.
_SHELL_WORD = re.compile(r"""(?:"(?:\\.|[^"\\])*"?|'[^']*'?|\\.|[^\s"'\\;&|()<>])+""", re.DOTALL)

# Its value is a script: sh -c, bash -lc.
_SCRIPT_OPTION = re.compile(r"[a-z]{0,2}c|command")

# Quotes within quotes within quotes: nobody writes more, and recursion needs an end.
_DEEPEST = 4


class _Reader:
    """Reads the words of one command, and remembers what the word before asks for."""

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
        self._family = ""
        self._option = ""  # the name of the option just read, while its value may follow

    def read(self, word: str) -> str:
        """The word, masked."""
        word = _PRIVATE_KEY.sub(MASK, word)
        option, self._option = self._option, ""
        if word.startswith("-"):
            return self._read_option(word)
        if option and self._is_secret_value(option, word):
            return MASK
        if option in _LOGINS.get(self._family, ()) and ":" in word:
            return word.partition(":")[0] + ":" + MASK
        if len(option) < 2:  # in `--name mysql -p3306:3306`, mysql is no program
            self._enter(word)
        if not _SCRIPT_OPTION.fullmatch(option):
            match = _ASSIGNMENT.fullmatch(word)
            if match and _is_secret(match[2], match[3]):
                return match[1] + MASK
        return self._read_text(word)

    def _read_option(self, word: str) -> str:
        attached = _ATTACHED.get(self._family)
        if attached and word.startswith(attached) and word != attached:
            return attached + MASK
        if match := _OPTION.fullmatch(word):
            self._option = match[1]
        elif (match := _ASSIGNMENT.fullmatch(word)) and _is_secret(match[2], match[3]):
            return match[1] + MASK
        return self._read_text(word)

    def _is_secret_value(self, option: str, word: str) -> bool:
        return _is_secret(option, word) or option in _SEPARATE.get(self._family, ())

    def _enter(self, word: str) -> None:
        """Note whose options come next: of ``docker exec db mysql -pSECRET``, those of mysql."""
        program = re.split(r"[/\\]", word)[-1].lower()
        for family in _FAMILIES:
            if program.startswith(family):
                self._family = family

    def _read_text(self, text: str) -> str:
        """Mask within a text, and if it has several words, in each as a shell would see it."""
        text = _mask_within(text)
        if self._depth == _DEEPEST or not re.search(r"\s", text):
            return text
        words = _Reader(self._depth + 1)
        return _SHELL_WORD.sub(lambda match: words.read_quoted(match[0]), text)

    def read_quoted(self, word: str) -> str:
        quote = word[0]
        if len(word) > 1 and quote in "\"'" and word[-1] == quote:
            return quote + self.read(word[1:-1]) + quote
        return self.read(word)


def _mask_within(text: str) -> str:
    """Mask what can be told from a text alone, wherever in it that stands."""
    text = _CREDENTIALS.sub(rf"\1{MASK}", text)
    text = _USERINFO.sub(rf"\1\2:{MASK}@", text)
    text = _mask_values(text, _PARAMETER, _PARAMETER_VALUE)
    text = _mask_values(text, _NAME, _VALUE)
    return _TOKEN.sub(MASK, text)


def _mask_values(text: str, names: re.Pattern[str], values: re.Pattern[str]) -> str:
    parts, done = [], 0
    for name in names.finditer(text):
        # The value is no part of the match for the name: it may hold names itself, as in
        # --env=PASSWORD=x and x = {password: "y"}.
        value = values.match(text, name.end()) if name.start() >= done else None
        if value and _is_secret(name[1], value[0].strip("\"'")):
            parts += [text[done : name.end()], MASK]
            done = value.end()
    return "".join([*parts, text[done:]])


# The repeats below are bounded, or cannot start again within themselves: a hostile command line of
# some megabytes must not cost more than reading it a few times.

_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?"
    r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\Z)",
    re.DOTALL,
)

# Authorization: Bearer SECRET, and a bare "Bearer SECRET" (RFC 6750). "Basic" is a word of its own.
_CREDENTIALS = re.compile(
    r"""(authorization["']?[ ]?[:=][ ]?["']?(?:[a-z][\w-]{0,30}[ ]+)?|\bbearer[ ]+)"""
    r"""[^\s"']+""",
    re.IGNORECASE,
)

# The password of a URL (RFC 3986, 3.2.1) ends at the last @ before the path. One with a slash in it
# is no URL any more, yet people write it; digits and a slash are a port: http://host:80/@scope.
_USERINFO = re.compile(
    r"((?<![\w+.-])[A-Za-z][\w+.-]*://)([^\s/?#:@\[\]\"']*)"
    r":(?:[^\s/?#\"']{1,1000}|(?![0-9]+/)[^\s\"']{1,250})@"
)

# ?name=value&name=value
_PARAMETER = re.compile(r"(?<=[?&])([\w.\[\]-]{1,100})=")
_PARAMETER_VALUE = re.compile(r"[^\s&#\"']+")

# name=value, "name": "value", Name: value. An Authorization has been masked by then.
_NAME = re.compile(
    r"""(?<![\w.-])-*(?!(?:proxy-)?authorization\b)([A-Za-z_][\w.-]*)"""
    r"""(?:["'][ ]?:[ ]?|[ ]?:[ ]|["']?[ ]?=[ ]?)""",
    re.IGNORECASE,
)
_VALUE = re.compile(
    r""""(?:\\.|[^"\\])*"?|'[^']*'?|[^\s,;&"'=][^\s,;&"']*""",
    re.DOTALL,
)

_TOKEN = re.compile(
    r"(?<![\w-])(?:"
    r"gh[opsur]_[A-Za-z0-9]{6,}|github_pat_\w{6,}"  # GitHub
    r"|gl[a-z]{2,6}-(?=[a-z_-]{0,64}[0-9A-Z])[\w-]{8,}"  # GitLab
    r"|sk-(?=[a-z_-]{0,64}[0-9A-Z])[\w-]{6,}"  # OpenAI, Anthropic and others
    r"|[rsp]k_(?:live|test)_\w{6,}|whsec_\w{6,}"  # Stripe
    r"|xox[a-z]-[\w-]{6,}|xapp-[\w-]{6,}"  # Slack
    r"|(?:AKIA|ASIA)[A-Z0-9]{12,}"  # AWS
    r"|AIza[\w-]{20,}|ya29\.[\w-]{6,}"  # Google
    r"|npm_[A-Za-z0-9]{16,}|pypi-(?=[a-z_-]{0,64}[0-9A-Z])[\w-]{8,}|dckr_pat_[\w-]{6,}"
    r"|hf_[A-Za-z0-9]{16,}|hvs\.[\w-]{6,}|dop_v1_\w{6,}|SG\.[\w-]{6,}\.[\w-]{6,}"
    r"|eyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*)?"  # a JSON Web Token
    r")"
)
