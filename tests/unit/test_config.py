"""Settings from flags, environment and file: which wins, and what is said of those that cannot be."""

from pathlib import Path

import pytest

from sidecard.config import DEFAULT_ORIGIN, load
from sidecard.core.settings import EngineSettings, SharedWith
from sidecard.errors import ConfigError
from sidecard.gathering import Override
from sidecard.sections import FIXED


@pytest.fixture(autouse=True)
def _no_file_of_this_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever is in /etc is not the tests' business."""
    monkeypatch.setattr("sidecard.config.DEFAULT_FILE", tmp_path / "none.toml")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Name a settings file."""
    return tmp_path / "sidecard.toml"


def problems_of(text: str = "", environ: dict[str, str] | None = None, *flags: Override, file: Path) -> tuple[str, ...]:
    """Load what must not load, and return what is said."""
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, environ or {}, flags)

    return caught.value.problems


def test_without_any_setting_the_engine_gets_its_own_defaults() -> None:
    """Two places name defaults; they must agree."""
    assert load(None, {}).engine_settings() == EngineSettings()


def test_flags_win_over_environment_over_older_names_over_file(file: Path) -> None:
    """Each layer hides the one below."""
    file.write_text(
        "[cache]\nttl_seconds = 1\nmax_bytes = 1\nsharing_window_seconds = 1\n[flights]\nwait_seconds = 1\n"
    )
    environ = {
        "CACHE_TTL": "2",
        "DEDUPLICATION_WINDOW": "2",
        "SIDECARD_CACHE_TTL_SECONDS": "3",
        "SIDECARD_CACHE_MAX_BYTES": "3",
    }
    config = load(file, environ, [Override("cache.max_bytes", "4", "--set")])

    assert config.flights.wait_seconds == 1
    assert config.cache.sharing_window_seconds == 2
    assert config.cache.ttl_seconds == 3
    assert config.cache.max_bytes == 4


def test_each_value_says_where_it_came_from(file: Path) -> None:
    """As `config show` prints it."""
    file.write_text("[flights]\nwait_seconds = 1\n[tasks.rag]\nttl_seconds = 2\n")
    origins = load(file, {"CACHE_TTL": "2"}, [Override("cache.max_bytes", "4", "--set")]).origins

    assert origins["flights.wait_seconds"] == f"{file}: flights.wait_seconds"
    assert origins["tasks.rag.ttl_seconds"] == f"{file}: tasks.rag.ttl_seconds"
    assert origins["cache.ttl_seconds"] == "environment variable CACHE_TTL"
    assert origins["cache.max_bytes"] == "flag --set"
    assert origins["log.level"] == DEFAULT_ORIGIN


def test_every_value_shown_has_an_origin_and_is_a_setting() -> None:
    """None is forgotten in either."""
    config = load(None, {"SIDECARD_TASKS": '{"rag": {"ttl_seconds": 5}}'})
    fixed = {setting.name for settings in FIXED.values() for setting in settings.values()}

    assert set(config.shown()) == set(config.origins) == fixed | {"tasks.rag.ttl_seconds"}


@pytest.mark.parametrize("setting", [setting for settings in FIXED.values() for setting in settings.values()])
def test_every_default_is_a_value_that_could_be_written(setting: object, file: Path) -> None:
    """What `config show` prints for a default reads back as that default."""
    shown = load(None, {}).shown()[setting.name]  # type: ignore[attr-defined]  # a parameter
    if shown is None or shown == "":
        return

    text = ",".join(map(str, shown)) if isinstance(shown, list) else str(shown)
    again = load(None, {}, [Override(setting.name, text, "--set")])  # type: ignore[attr-defined]  # a parameter
    assert again.shown() == load(None, {}).shown()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1024", 1024), ('"1024"', 1024), ('"256MiB"', 2**28), ('"1.5 GiB"', 3 * 2**29), ('"2kb"', 2000), ("0", 0)],
)
def test_byte_sizes_are_numbers_or_have_a_unit(text: str, expected: int, file: Path) -> None:
    """Both the thousands and the powers of two."""
    file.write_text(f"[cache]\nmax_bytes = {text}\n")
    assert load(file, {}).cache.max_bytes == expected


@pytest.mark.parametrize("text", ['"0660"', "0o660", "432"])
def test_a_mode_is_octal(text: str, file: Path) -> None:
    """TOML has octal numbers; 432 is what the loader makes of 0o660."""
    file.write_text(f"[socket]\nmode = {text}\n")
    assert load(file, {}).socket.mode == 0o660
    assert load(file, {}).shown()["socket.mode"] == "0660"


@pytest.mark.parametrize(
    ("line", "name", "value", "expected"),
    [
        ('cache.ttl_seconds = "soon"', "cache.ttl_seconds", "'soon'", "a number of seconds"),
        ("cache.ttl_seconds = -1", "cache.ttl_seconds", "-1", "between 0 and 31622400"),
        ("cache.ttl_seconds = nan", "cache.ttl_seconds", "nan", "a number of seconds"),
        ("cache.ttl_seconds = true", "cache.ttl_seconds", "True", "a number of seconds"),
        ('cache.max_bytes = "12 potatoes"', "cache.max_bytes", "'12 potatoes'", '"256MiB"'),
        ("cache.max_bytes = 1.5", "cache.max_bytes", "1.5", "a number of bytes"),
        ("flights.max_elections = 1.5", "flights.max_elections", "1.5", "a whole number"),
        ("socket.mode = 660", "socket.mode", "660", 'as text "0660"'),
        ('socket.mode = "rw"', "socket.mode", "'rw'", 'as text "0660"'),
        ('socket.path = ""', "socket.path", "''", "text that is not empty"),
        ('log.level = "loud"', "log.level", "'loud'", 'one of "debug", "info", "warning", "error"'),
        ('operators.uids = "root"', "operators.uids", "'root'", "a list of whole numbers"),
        ("operators.uids = [-1]", "operators.uids", "[-1]", "a list of whole numbers"),
        ('namespaces.a.shared_with = "some"', "namespaces.a.shared_with", "'some'", '"all", or a list of uids'),
        ('namespaces.a.shared_with = ["pid:1"]', "namespaces.a.shared_with", "['pid:1']", '"all", or a list of uids'),
        ("tasks.rag.ttl_seconds = []", "tasks.rag.ttl_seconds", "[]", "a number of seconds"),
        ("limits.max_frame_bytes = 33554432", "limits.max_frame_bytes", "33554432", "between 1024 and 33554431"),
        ('sovereign.enabled = "yes"', "sovereign.enabled", "'yes'", "true or false"),
    ],
)
def test_a_wrong_value_is_told_with_its_place_name_and_what_would_be_right(
    line: str, name: str, value: str, expected: str, file: Path
) -> None:
    """One sentence has all that is needed to mend it."""
    (problem,) = problems_of(line, file=file)
    assert problem.startswith(f"{file}: {name}: {name} is {value}; it should be ")
    assert expected in problem


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("SIDECARD_CACHE_TTL_SECONDS", "soon", "cache.ttl_seconds is 'soon'"),
        ("CACHE_TTL", "soon", "cache.ttl_seconds is 'soon'"),
        ("SOVEREIGN_MODE", "maybe", "sovereign.enabled is 'maybe'"),
        ("SIDECARD_TASKS", "[1]", "should be a table as JSON"),
        ("SIDECARD_TASKS", '{"rag": 5}', "tasks.rag is 5"),
        ("SIDECARD_OPERATORS_UIDS", "[1", "operators.uids is '[1'"),
    ],
)
def test_a_wrong_value_of_the_environment_is_told_with_its_variable(
    variable: str, text: str, expected: str, file: Path
) -> None:
    """Whoever reads it knows where to look."""
    (problem,) = problems_of("", {variable: text}, file=file)
    assert problem.startswith(f"environment variable {variable}")
    assert expected in problem


@pytest.mark.parametrize(
    ("text", "environ", "flags", "nearest"),
    [
        ("[cahce]", {}, [], "cache"),
        ("[cache]\nmax_byte = 1", {}, [], "cache.max_bytes"),
        ("[tasks.rag]\nttl = 1", {}, [], "tasks.ttl_seconds"),
        ("", {"SIDECARD_CACHE_MAXBYTES": "1"}, [], "SIDECARD_CACHE_MAX_BYTES"),
        ("", {"SIDECARD_SOKET": "1"}, [], "SIDECARD_SOCKET"),
        ("", {}, [Override("cache.ttl", "1", "--set")], "cache.ttl_seconds"),
        ("", {}, [Override("ttl_seconds", "1", "--set")], "cache.ttl_seconds"),
    ],
)
def test_an_unknown_setting_is_told_with_the_nearest_known_one(
    text: str, environ: dict[str, str], flags: list[Override], nearest: str, file: Path
) -> None:
    """Most are slips of the pen."""
    (problem,) = problems_of(text, environ, *flags, file=file)
    assert problem.endswith(f"the nearest known one is {nearest}")


def test_a_setting_of_a_later_version_is_told_so(file: Path) -> None:
    """It is not unknown, and naming a near one would mislead."""
    text = "[backends.local]\nmax_concurrent = 1\n[cache]\nstale_seconds = 5\n"
    assert [problem.partition(": ")[2] for problem in problems_of(text, file=file)] == [
        "backends: backends comes in a later version of sidecard; leave it out until then",
        "cache.stale_seconds: cache.stale_seconds comes in a later version of sidecard; leave it out until then",
    ]


def test_all_problems_are_told_at_once(file: Path) -> None:
    """Nobody likes to meet them one by one."""
    assert len(problems_of("[cache]\nttl_seconds = []\nsize = 1", {"SIDECARD_X": "1"}, file=file)) == 3


@pytest.mark.parametrize("text", ["[cache", "cache = 5", "tasks = 5"])
def test_a_file_that_is_no_table_of_tables_is_told(text: str, file: Path) -> None:
    """By its name."""
    (problem,) = problems_of(text, file=file)
    assert problem.startswith(str(file))


def test_a_file_that_is_named_and_not_there_is_a_problem(tmp_path: Path) -> None:
    """Whether by flag or by variable."""
    missing = tmp_path / "missing.toml"
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read"):
        load(missing, {})
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read"):
        load(None, {"SIDECARD_CONFIG": str(missing)})


def test_the_default_file_is_read_if_it_is_there(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Nothing needs to be said then; a file that is named replaces it."""
    file.write_text("[cache]\nttl_seconds = 7")
    monkeypatch.setattr("sidecard.config.DEFAULT_FILE", file)
    other = file.with_name("other.toml")
    other.write_text("")

    assert load(None, {}).cache.ttl_seconds == 7
    assert load(None, {"SIDECARD_CONFIG": str(other)}).cache.ttl_seconds == 300


def test_a_file_that_is_not_utf8_is_a_problem(file: Path) -> None:
    """And no traceback."""
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(file, {})


def test_empty_variables_count_as_not_set() -> None:
    """Compose files and unit files set them so."""
    empty = dict.fromkeys(("REDIS_URL", "CACHE_TTL", "SIDECARD_CACHE_MAX_BYTES", "SIDECARD_CONFIG"), "")
    assert load(None, empty) == load(None, {})


def test_tables_come_as_json_or_by_flag() -> None:
    """Names of tasks may have dots."""
    config = load(
        None,
        {"SIDECARD_TASKS": '{"rag": {"ttl_seconds": 60}}', "SIDECARD_NAMESPACES": '{"team": {"shared_with": "all"}}'},
        [
            Override("tasks.v1.chat.ttl_seconds", "5", "--set"),
            Override("namespaces.two.shared_with", "7,gid:8", "--set"),
        ],
    )

    assert config.engine_settings().task_ttl_seconds == {"rag": 60.0, "v1.chat": 5.0}
    assert config.engine_settings().shared_namespaces == {
        "team": SharedWith(everyone=True),
        "two": SharedWith(uids=frozenset({7}), gids=frozenset({8})),
    }


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:secret@host/0", "redis://***@host/0"),
        ("redis://user:sec/ret@host", "redis://***@host"),
        ("redis://host?password=secret", "redis://host?***"),
        ("user:secret@host", "***@host"),
        ("sqlite:/var/lib/x.db", "sqlite:/var/lib/x.db"),
    ],
)
def test_passwords_are_never_shown(url: str, shown: str) -> None:
    """Not even those that the URL's grammar would hide."""
    config = load(None, {"REDIS_URL": url})
    assert config.store.url == url
    assert config.shown()["store.url"] == shown


def test_a_wrong_url_is_told_without_its_text(file: Path) -> None:
    """An error goes to a log."""
    (problem,) = problems_of('[store]\nurl = ["redis://:secret@host"]', file=file)
    assert "secret" not in problem


def test_what_is_set_and_cannot_be_done_yet_is_told() -> None:
    """One sentence each; sovereign holds by itself, because nothing here opens a connection."""
    config = load(None, {"REDIS_URL": "redis://h", "DATABASE_URL": "x", "METRICS_ENABLED": "1", "SOVEREIGN_MODE": "1"})
    assert [sentence.split()[0] for sentence in config.unmet()] == ["store.url", "calls.url", "metrics.enabled"]
    assert load(None, {}).unmet() == []


def test_a_renewal_later_than_the_lease_is_a_problem(file: Path) -> None:
    """The lease would end before every renewal."""
    (problem,) = problems_of("[flights]\nlease_seconds = 3\nrenew_seconds = 3", file=file)
    assert "it should be less than flights.lease_seconds, which is 3" in problem
    file.write_text("[flights]\nlease_seconds = 3")
    assert load(file, {}).flights.lease_seconds == 3


def test_a_namespace_with_a_colon_is_a_problem(file: Path) -> None:
    """A colon stands between a uid and a name."""
    (problem,) = problems_of('[namespaces."1000:team"]\nshared_with = "all"', file=file)
    assert "choose a name without one" in problem


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SIDECARD_SOCKET": "/a", "SIDECARD_SOCKET_PATH": "/b", "RUNTIME_DIRECTORY": "/c"}, "/a"),
        ({"SIDECARD_SOCKET_PATH": "/b", "RUNTIME_DIRECTORY": "/c"}, "/b"),
        ({"RUNTIME_DIRECTORY": "/c"}, "/c/sidecard.sock"),
    ],
)
def test_the_socket_is_where_the_first_word_says(environ: dict[str, str], expected: str) -> None:
    """`SIDECARD_SOCKET` is what clients read too, so it comes first."""
    assert load(None, environ).socket.path == expected


def test_a_socket_path_that_is_too_long_is_a_problem() -> None:
    """The kernel's own error would not say by how much."""
    with pytest.raises(ConfigError, match="longer than 107 bytes"):
        load(None, {"SIDECARD_SOCKET": "/" + "x" * 120})
