"""Settings as people write them: accepted where the meaning is clear, otherwise advice that fits the mistake."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecard.config.load import load
from sidecard.config.sources import Override
from sidecard.config.units import bytes_in, seconds_in
from sidecard.errors import ConfigError

MIB = 1024 * 1024


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Name a settings file."""
    return tmp_path / "sidecard.toml"


def problems_of(file: Path, environ: dict[str, str] | None = None, *flags: str) -> str:
    """Return the problems of settings, one a line."""
    overrides = [Override(name, text, "--set") for name, _, text in (flag.partition("=") for flag in flags)]
    with pytest.raises(ConfigError) as caught:
        load(file if file.exists() else Path("/dev/null"), environ or {}, overrides)

    return "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512M", 512 * MIB),
        ("512MiB", 512 * MIB),
        ("512mb", 512 * 10**6),
        ("1.5g", 1536 * MIB),
        ("7", 7),
        (" 2 k ", 2048),
    ],
)
def test_sizes_with_units_are_accepted(text: str, expected: int, file: Path) -> None:
    """In a file, in the environment, and by a flag; a single letter is binary."""
    file.write_text(f'[cache]\nmax_bytes = "{text}"\n')
    assert load(file, {}).cache.max_bytes == expected
    assert load(Path("/dev/null"), {"SIDECARD_CACHE_MAX_BYTES": text}).cache.max_bytes == expected
    assert load(Path("/dev/null"), {}, [Override("cache.max_bytes", text, "--set")]).cache.max_bytes == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300),
        ("1h30m", 5400),
        ("1h 30min", 5400),
        ("90", 90),
        ("90 s", 90),
        ("500ms", 0.5),
        ("2 days", 172800),
        ("1.5H", 5400),
    ],
)
def test_durations_with_units_are_accepted(text: str, seconds: float, file: Path) -> None:
    """As for sizes."""
    file.write_text(f'[cache]\nttl_seconds = "{text}"\n[tasks.rag]\nttl_seconds = "{text}"\n')
    config = load(file, {"SIDECARD_FLIGHTS_WAIT_SECONDS": text})
    assert config.cache.ttl_seconds == config.tasks["rag"].ttl_seconds == config.flights.wait_seconds == seconds
    assert load(Path("/dev/null"), {"CACHE_TTL": text}).cache.ttl_seconds == seconds


@pytest.mark.parametrize("text", ["5 x", "m", "5m3", "1h-5m", "nan", "inf", "5m5", "9" * 400 + "d", "512MX"])
def test_other_units_are_errors_with_examples(text: str, file: Path) -> None:
    """The error shows what is accepted."""
    assert '"5m" or "1h30m"' in problems_of(file, {"CACHE_TTL": text})
    assert '"256MiB" or "256M"' in problems_of(file, {"SIDECARD_CACHE_MAX_BYTES": text})


@given(st.text())
def test_any_text_is_a_quantity_or_an_error(text: str) -> None:
    """Nothing else is raised."""
    for parse in (bytes_in, seconds_in):
        try:
            assert isinstance(parse(text), int | float)
        except ValueError:
            continue


@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_files_of_other_editors_are_read(begin: bytes, end: bytes, file: Path) -> None:
    """A byte order mark and other line ends mean nothing."""
    file.write_bytes(begin + end.join([b"[cache]", b"max_bytes = 7", b"[log]", b"level = 'error'", b""]))
    config = load(file, {})
    assert (config.cache.max_bytes, config.log.level) == (7, "error")


@pytest.mark.parametrize(
    "name", ["socket.path", "http.listen", "store.password_file", "push.ca_file", "push.bearer_token_file"]
)
def test_home_is_expanded_and_variables_are_not(name: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell expands ``~`` only at the beginning of a word; the error about a variable says what to write."""
    monkeypatch.setenv("HOME", "/home/me")
    shown = load(Path("/dev/null"), {}, [Override(name, "~/s.x", "--set")]).shown()
    assert shown[name] == "/home/me/s.x"
    for variable in ("$HOME/x", "${HOME}/x"):
        assert "variables are not expanded: write the whole path" in problems_of(file, {}, f"{name}={variable}")


@pytest.mark.parametrize("name", ["store.url", "calls.url"])
def test_home_is_expanded_in_urls_of_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in paths."""
    monkeypatch.setenv("HOME", "/home/me")
    assert (
        load(Path("/dev/null"), {}, [Override(name, "sqlite:~/x.db", "--set")]).shown()[name] == "sqlite:/home/me/x.db"
    )


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("max_bytes = 512M", "max_bytes"),
        ("ttl_seconds = 5m", "ttl_seconds"),
        ("mode = 0660", "mode"),
        ("path = ~/s.sock", "path"),
        ("path = /run/s.sock", "path"),
        ("password = hunter2", "password"),
        ("enabled = yes", "enabled"),
    ],
)
def test_a_missing_quote_is_named_without_the_value(line: str, key: str, file: Path) -> None:
    """TOML's own error says only that the line ends too late. The value may be a password."""
    file.write_text(f"[x]\n{line}\n")
    problem = problems_of(file)
    assert f'text needs quotes: {key} = "..."' in problem
    assert line.split("= ")[1] not in problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[flights]\nttl_seconds = 1", "the nearest known ones are cache.ttl_seconds and tasks.NAME.ttl_seconds"),
        ("[cache]\nwait_seconds = 1", "the nearest known one is flights.wait_seconds"),
        ("[cache]\nlisten = ''", "the nearest known one is http.listen"),
        ("sharing_window_seconds = 1", "the nearest known one is cache.sharing_window_seconds"),
        ("[backend.cloud]\nweight = 1", "the nearest known one is backends"),
        ("[[backends]]\nweight = 1", "it should be a table, written [backends.NAME]"),
        ("[cache]\nmax_bytes = 1\n[cache]\n", "Cannot declare"),
    ],
)
def test_a_setting_in_the_wrong_place_is_found(text: str, expected: str, file: Path) -> None:
    """The same key of another section is nearer than a similar one of this section."""
    file.write_text(text)
    assert expected in problems_of(file)


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("SIDECARD_WAIT_SECONDS", "the nearest known one is SIDECARD_FLIGHTS_WAIT_SECONDS"),
        ("SIDECARD_TTL_SECONDS", "the nearest known one is SIDECARD_CACHE_TTL_SECONDS"),
        ("SIDECARD_BACKENDS_CLOUD_WEIGHT", """such as SIDECARD_BACKENDS='{"NAME": {...}}'"""),
    ],
)
def test_a_variable_without_its_section_is_found(variable: str, expected: str, file: Path) -> None:
    """Tables are one variable each."""
    assert expected in problems_of(file, {variable: "1"})


@pytest.mark.parametrize("listen", ["/run/x/s.sock", "/run/x/../x/s.sock", "/run/x//s.sock"])
def test_http_at_the_daemons_own_socket_is_an_error(listen: str, file: Path) -> None:
    """Both cannot listen there."""
    problem = problems_of(file, {"SIDECARD_SOCKET": "/run/x/s.sock", "SIDECARD_HTTP_LISTEN": listen})
    assert "which is the daemon's own socket; choose another path, or an address" in problem


def test_a_wrong_address_of_http_is_shown_without_secrets(file: Path) -> None:
    """The value helps to find the mistake."""
    assert "http.listen is ':9464'; it should be an address such as" in problems_of(file, {}, "http.listen=:9464")
    assert "without unix:" in problems_of(file, {}, "http.listen=unix:/run/x.sock")
    assert "hunter2" not in problems_of(file, {}, "http.listen=http://me:hunter2@h/")


@pytest.mark.parametrize(
    ("listen", "advice"),
    [
        ("80", "add the host"),
        (":9464", "add the host"),
        ("localhost", "add the port"),
        ("http://127.0.0.1:9464", "without a scheme"),
        ("unix:/run/h.sock", "without unix:"),
    ],
)
def test_parts_of_an_address_are_completed(listen: str, advice: str, file: Path) -> None:
    """The error says which part is missing, or too much."""
    assert advice in problems_of(file, None, f"http.listen={listen}")


@pytest.mark.parametrize("text", ["INFO", "Info", "info"])
def test_case_of_a_word_does_not_matter(text: str) -> None:
    """Other programs write log levels in capitals."""
    assert load(None, {"SIDECARD_LOG_LEVEL": text}).log.level == "info"


@pytest.mark.parametrize("name", ["cached_input_dollars_per_million_tokens", "cache_write_dollars_per_million_tokens"])
def test_a_price_of_cached_tokens_alone_is_an_error(name: str, file: Path) -> None:
    """Without the others it would apply to no call."""
    advice = f"backends.x.{name} is set without backends.x.input_dollars_per_million_tokens; set both, or neither"
    assert advice in problems_of(file, {}, f"backends.x.{name}=1")
