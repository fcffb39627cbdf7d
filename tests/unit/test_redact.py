"""Command lines made fit to be shown: no secrets, and nothing that moves a cursor."""

from __future__ import annotations

import shlex
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfree._core.redact import MASK, command_line, mask, safe, shorten

# Each is a command line, and the same with its secrets masked.
MASKED = [
    ("prog --password=hunter2 --port 8000", "prog --password=*** --port 8000"),
    ("prog --password hunter2 --port 8000", "prog --password *** --port 8000"),
    ("prog --db-password a --dbPassword b", "prog --db-password *** --dbPassword ***"),
    ("prog --api-key a --apikey=b -apiKey c", "prog --api-key *** --apikey=*** -apiKey ***"),
    (
        "prog --token a --secret b --client-secret c",
        "prog --token *** --secret *** --client-secret ***",
    ),
    (
        "prog --auth a:b --auth-token=c --authtoken d",
        "prog --auth *** --auth-token=*** --authtoken ***",
    ),
    ("prog --auth-something a", "prog --auth-something ***"),
    ("prog --access-key a --secret-access-key b", "prog --access-key *** --secret-access-key ***"),
    ("prog --pass a --passphrase b --key c0ffee", "prog --pass *** --passphrase *** --key ***"),
    ("java -Ddb.password=a -Dtoken=b -jar x.jar", "java -Ddb.password=*** -Dtoken=*** -jar x.jar"),
    ("beam.smp -setcookie monster -port 5", "beam.smp -setcookie *** -port 5"),
    ("jupyter lab --ServerApp.token=a", "jupyter lab --ServerApp.token=***"),
    ("redis-server --requirepass secret --port 6379", "redis-server --requirepass *** --port 6379"),
    ("redis-server --masterauth secret", "redis-server --masterauth ***"),
    ("env PASSWORD=a FOO_TOKEN=b PORT=8000 prog", "env PASSWORD=*** FOO_TOKEN=*** PORT=8000 prog"),
    (
        "env AWS_SECRET_ACCESS_KEY=a/b+c= MYSQL_PWD=d x",
        "env AWS_SECRET_ACCESS_KEY=*** MYSQL_PWD=*** x",
    ),
    ("env PGPASSWORD=a DJANGO_SECRET_KEY=b x", "env PGPASSWORD=*** DJANGO_SECRET_KEY=*** x"),
    ("env 'PASSWORD=a b, c' prog", "env 'PASSWORD=***' prog"),
    (
        "docker run -e DB_TOKEN=a --env=DB_PASSWORD=b x",
        "docker run -e DB_TOKEN=*** --env=DB_PASSWORD=*** x",
    ),
    ("helm --set a=1,db.password=b", "helm --set a=1,db.password=***"),
    ("sh -c 'PASSWORD=a prog --port 8000'", "sh -c 'PASSWORD=*** prog --port 8000'"),
    (
        "sh -c \"PASSWORD='a b' prog --token c; prog -p 1\"",
        "sh -c 'PASSWORD=*** prog --token ***; prog -p 1'",
    ),
    (
        "bash -lc 'exec prog --password \"a b\" --port 1'",
        "bash -lc 'exec prog --password *** --port 1'",
    ),
    ("sh -c \"sh -c 'TOKEN=a prog' && sleep 1\"", "sh -c \"sh -c 'TOKEN=*** prog' && sleep 1\""),
    ("sh -c 'TOKEN=\"open quote and more'", "sh -c 'TOKEN=***'"),
    ("prog postgres://user:pw@host/db", "prog postgres://user:***@host/db"),
    ("prog redis://:pw@host:6379/0", "prog redis://:***@host:6379/0"),
    (
        "prog postgresql+asyncpg://u:p%40w@[::1]:5432/db",
        "prog postgresql+asyncpg://u:***@[::1]:5432/db",
    ),
    ("prog amqp://u:p@w@host", "prog amqp://u:***@host"),
    ("prog amqp://u:p/w@host", "prog amqp://u:***@host"),
    ("prog --url=https://u:p@host:8000/x", "prog --url=https://u:***@host:8000/x"),
    (
        "prog https://h/x?token=a,b&page=3&api_key=c#top",
        "prog https://h/x?token=***&page=3&api_key=***",
    ),
    ("prog 'Server=x;Password=a;Port=1'", "prog 'Server=x;Password=***;Port=1'"),
    (
        "curl -H 'Authorization: Bearer a.b' http://h:80/",
        "curl -H 'Authorization: ***' http://h:80/",
    ),
    ("curl -H 'authorization: Basic dTpw'", "curl -H 'authorization: ***'"),
    ("curl -H 'X-Api-Key: abc'", "curl -H 'X-Api-Key: ***'"),
    ("curl -H 'Authorization: abc'", "curl -H 'Authorization: ***'"),
    ("prog ghp_abcdefghijklmnop0123", "prog ***"),
    ("prog gho_abcdefghijklmnop0123 ghs_abcdefghijklmnop0123", "prog *** ***"),
    ("prog github_pat_11ABCDEFG_abcdefgh", "prog ***"),
    ("prog glpat-ABCdef123456_-xyz", "prog ***"),
    ("prog sk-proj-abcDEF123456 sk-abcdef123456", "prog *** ***"),
    ("prog xoxb-1234567890-abcdef", "prog ***"),
    ("prog AKIAIOSFODNN7EXAMPLE", "prog ***"),
    ("prog npm_abcdefghijklmnopqrstuvwxyz0123456789", "prog ***"),
    ("prog pypi-AgEIcHlwaS5vcmcCJDU3", "prog ***"),
    ("prog eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.SflKxwRJ", "prog ***"),
    ("prog --header=x:ghp_abcdefghijklmnop0123", "prog --header=x:***"),
]

# Nothing in these is a secret, so nothing in them may be hidden.
READABLE = [
    "python -m http.server 8000",
    "prog --port 8000 --host 0.0.0.0",
    "prog --token-bucket 5 --max-tokens 512 --eos-token x --tokenizer gpt2",
    "uvicorn app:app --ssl-keyfile /etc/key.pem --ssl-certfile cert.pem",
    "prog --keyfile /path/key.pem --ssl-keyfile path --key server.key --private-key ~/.ssh/id",
    "prog --password-file /run/pw --token-path=/x --secret-name shop --auth-mode basic",
    "prog --author me --authors x --monkey a --passthrough b --passive c --bypass d --compass e",
    "prog --password --port 8000",
    "prog --password -p 8000",
    "prog --no-password 8000 --disable-auth 8000",
    "prog --password= --token=",
    "code-server --auth none --bind-addr 127.0.0.1:8080",
    "prog --sort-key name --public-key abc --partition-key=id",
    "mysqld --port 3306",
    "mysqldump -p shop",
    "docker run --name mysql -p3306:3306 mysql:8",
    "redis-cli -h db -p 6379",
    "curl -u me http://x",
    "env PORT=8000 PWD=/srv OLDPWD=/ KEYSPACE=a MONKEY=b prog",
    "prog http://localhost:8000/@vite/client",
    "npm i npm:react@18 @scope/pkg git@github.com:org/repo.git",
    "prog https://h/x?page=3&sort=name",
    "task-runner-service-1 sk-learn-integration-tests sk-SK npm_config_registry=x pypi-server",
    "sh -c 'cd /srv && exec python server.py --port 8000'",
    "bash -c 'A=1; echo \"x  y\" | grep \\$z'",
    "prog --basic authentication is basic",
]


@pytest.mark.parametrize(("line", "expected"), MASKED, ids=[line for line, _ in MASKED])
def test_secrets_are_masked(line: str, expected: str) -> None:
    assert mask(shlex.split(line)) == tuple(shlex.split(expected))


@pytest.mark.parametrize("line", READABLE)
def test_what_is_no_secret_stays_readable(line: str) -> None:
    words = tuple(shlex.split(line))

    assert mask(words) == words


def test_a_private_key_is_masked_whole_be_it_complete_or_not() -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----"

    assert mask(["prog", "--key", key, key[:45], f"<{key}>"]) == (
        "prog",
        "--key",
        *[MASK] * 2,
        "<***>",
    )


def test_a_private_key_after_a_secret_option_is_no_option_itself() -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----"

    assert mask(["prog", "--secret", key, "--port", "1"]) == (
        "prog",
        "--secret",
        MASK,
        "--port",
        "1",
    )


def test_masking_twice_changes_nothing_more() -> None:
    for line, _ in MASKED:
        once = mask(shlex.split(line))
        assert mask(once) == once


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=30), max_size=8))
def test_masking_takes_any_words_and_keeps_their_number(words: list[str]) -> None:
    assert len(mask(words)) == len(words)


@given(
    st.text("abcdefghijklmnopqrstuvwxyz0123456789!$%+/=@:,;", min_size=8, max_size=40),
    st.sampled_from(["--password", "--token", "--api-key", "--client-secret"]),
)
def test_no_part_of_a_secret_is_left(secret: str, option: str) -> None:
    for words in (
        ["prog", option, secret, "--port", "8000"],
        ["prog", f"{option}={secret}", "--port", "8000"],
        ["env", f"SHOP_TOKEN={secret}", "prog", "--port", "8000"],
        ["sh", "-c", f"PASSWORD='{secret}' prog --port 8000"],
        ["sh", "-c", f'prog {option} "x{secret}" --port 8000'.replace("$", "")],
    ):
        shown = " ".join(mask(words))
        assert secret[-8:] not in shown
        assert MASK in shown
        assert shown.endswith("--port 8000")


# --- safe ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain text, ümläut, 日本, 👍", "plain text, ümläut, 日本, 👍"),
        ("\x1b[31mred\x07\x00", r"\x1b[31mred\x07\x00"),
        ("a\nb\r\tc\x0b\x0c", r"a\nb\r\tc\x0b\x0c"),
        ("\x7f\x80\x85\x9b31m", r"\x7f\x80\x85\x9b31m"),
        ("\u202egpj\u2066\u200b\ufeff\u200d", r"\u202egpj\u2066\u200b\ufeff\u200d"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\udcff", r"\udcff"),
        ("\U000e0041", r"\U000e0041"),
        ("a\xa0b\u202fc\u3000d", "a\xa0b\u202fc\u3000d"),
        ("\x1c\x1d\x1e\x1f", r"\x1c\x1d\x1e\x1f"),
        (r"C:\new\x1b", r"C:\new\x1b"),
    ],
)
def test_what_is_not_printable_is_escaped(raw: str, shown: str) -> None:
    assert safe(raw) == shown


@given(st.text(st.characters()))
def test_nothing_that_moves_a_cursor_is_left_in_any_text(text: str) -> None:
    shown = safe(text)

    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert len(shown.splitlines()) <= 1
    shown.encode()
    assert all(char in shown for char in text if char.isprintable())


# --- shorten, command_line -----------------------------------------------------------------------


def test_a_short_text_is_not_shortened() -> None:
    assert shorten("python server.py", 16) == "python server.py"


def test_of_a_long_text_the_head_and_the_end_are_kept() -> None:
    short = shorten("python " + "x" * 1_000_000 + " --port 8000", 60)

    assert len(short) == 60
    assert short.startswith("python xxx")
    assert short.endswith("xx --port 8000")
    assert " ... " in short


@given(st.text(max_size=200), st.integers(0, 220))
def test_shortened_is_never_longer_than_the_limit(text: str, limit: int) -> None:
    assert len(shorten(text, limit)) <= limit
    assert len(text) > limit or shorten(text, limit) == text


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["python3", "-m", "http.server", "8000"], "python3 -m http.server 8000"),
        (["sh", "-c", "exec a $B"], "sh -c 'exec a $B'"),
        (["echo", "it's", "", 'a"b'], """echo 'it'"'"'s' '' 'a"b'"""),
        (["ls", "*.py", "~", "$HOME"], "ls *.py ~ $HOME"),
        (["nginx: master process /usr/sbin/nginx"], "nginx: master process /usr/sbin/nginx"),
        (["gunicorn: master [app]", "", ""], "gunicorn: master [app]"),
        (["gunicorn: master --token abc", ""], "gunicorn: master --token ***"),
        ([], ""),
        (["", ""], ""),
    ],
)
def test_a_command_line_can_be_read_and_copied(argv: list[str], line: str) -> None:
    assert command_line(argv) == line


def test_a_secret_at_either_end_of_a_long_command_line_is_masked() -> None:
    words = ["prog", "--token", "s3cret", *map(str, range(5000)), "--password", "s3cret"]
    line = command_line(words)

    assert line.startswith("prog --token *** 0 1")
    assert line.endswith("4999 --password ***")
    assert "s3cret" not in line
    assert len(line) == 300


def test_a_secret_that_is_longer_than_a_command_line_may_be_is_masked() -> None:
    assert command_line(["prog", "--url", "https://h/?token=" + "s" * 50_000]) == (
        "prog --url https://h/?token=***"
    )


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "a-",
        "a://b:",
        "-sk-",
        '"',
        "x'",
        "a=b ",
        "eyJaaaaa.",
        "bearer ",
        '" \'"',
        "a: ",
        "?a=b&",
        "-----BEGIN A",
        "-----BEGIN PRIVATE KEY-----",
        "authorization: ",
        "--password ",
        "--token=",
        "--a-key=/a",
        "//a:b",
        "passwordA",
    ],
)
@pytest.mark.timeout(60)
def test_the_time_for_a_hostile_command_line_grows_no_faster_than_its_length(piece: str) -> None:
    # A pattern that is linear takes less than a second for that, a quadratic one some hours.
    mask([piece * (500_000 // len(piece))])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("k\udcc3\udca4se", "käse"),
        ("a\udc80", "a\\udc80"),
        ("\udcc3\udca4\n", "ä\\n"),
        ("\udce2\udc80\udcae", "\\u202e"),
    ],
)
def test_what_a_locale_without_utf8_has_cut_into_bytes(text: str, shown: str) -> None:
    assert safe(text) == shown
