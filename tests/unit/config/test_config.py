"""Settings from flags, environment and file: precedence, and errors."""

from pathlib import Path

import msgspec
import pytest

from sidecard.config.load import load
from sidecard.config.model import FIXED, NAMED
from sidecard.config.sources import Override
from sidecard.core.operations.policies import DEFAULT_ORIGIN
from sidecard.core.settings import (
    LOCAL_MAX_CONCURRENT,
    BackendSettings,
    BreakerSettings,
    BudgetSettings,
    EngineSettings,
    RetrySettings,
    SharedWith,
)
from sidecard.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_file_of_this_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ignore settings files of this host."""
    monkeypatch.setattr("sidecard.config.load.DEFAULT_FILE", tmp_path / "none.toml")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Name a settings file."""
    return tmp_path / "sidecard.toml"


def problems_of(text: str = "", environ: dict[str, str] | None = None, *flags: Override, file: Path) -> tuple[str, ...]:
    """Load invalid settings, and return the problems."""
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, environ or {}, flags)

    return caught.value.problems


def test_the_default_configuration_equals_the_engines_defaults() -> None:
    """Defaults are written in two places."""
    assert load(None, {}).engine_settings() == EngineSettings()


def test_flags_precede_environment_precedes_legacy_names_precede_file(file: Path) -> None:
    """Each source hides the next."""
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


def test_each_value_has_an_origin(file: Path) -> None:
    """As `config show` prints it."""
    file.write_text("[flights]\nwait_seconds = 1\n[tasks.rag]\nttl_seconds = 2\n")
    origins = load(file, {"CACHE_TTL": "2"}, [Override("cache.max_bytes", "4", "--set")]).origins

    assert origins["flights.wait_seconds"] == f"{file}: flights.wait_seconds"
    assert origins["tasks.rag.ttl_seconds"] == f"{file}: tasks.rag.ttl_seconds"
    assert origins["cache.ttl_seconds"] == "environment variable CACHE_TTL"
    assert origins["cache.max_bytes"] == "flag --set"
    assert origins["log.level"] == DEFAULT_ORIGIN


def test_every_value_shown_has_an_origin_and_is_a_setting() -> None:
    """Shown values, origins and settings have the same names."""
    tables = {
        "SIDECARD_TASKS": '{"rag": {"ttl_seconds": 5}}',
        "SIDECARD_BACKENDS": '{"cloud": {"breaker": {"probes": 2}}}',
        "SIDECARD_BUDGETS": '{"daily": {"dollars": 1}}',
        "SIDECARD_NAMESPACES": '{"team": {}}',
    }
    names = {"tasks": "rag", "backends": "cloud", "budgets": "daily", "namespaces": "team"}
    config = load(None, tables)
    fixed = {setting.name for settings in FIXED.values() for setting in settings.values()}
    named = {f"{table}.{names[table]}.{key}" for table, settings in NAMED.items() for key in settings}

    assert set(config.shown()) == set(config.origins) == fixed | named
    assert config.origins["backends.cloud.breaker.probes"].endswith("SIDECARD_BACKENDS.cloud.breaker.probes")
    assert config.origins["backends.cloud.breaker.min_calls"] == DEFAULT_ORIGIN


def test_shown_values_are_plain_types() -> None:
    """They cross the wire and are printed as JSON."""
    config = load(
        None,
        {
            "SIDECARD_TASKS": '{"rag": {"backends": ["a", "b"], "route": "weighted"}}',
            "SIDECARD_BACKENDS": '{"cloud": {"locality": "local"}}',
            "SIDECARD_SOVEREIGN_ALLOW": "redis.internal, 100.64.0.0/10",
        },
    )
    shown = config.shown()

    assert msgspec.json.decode(msgspec.json.encode(shown)) == shown
    assert shown["tasks.rag.backends"] == ["a", "b"]
    assert shown["sovereign.allow"] == ["redis.internal", "100.64.0.0/10"]


@pytest.mark.parametrize(
    ("section", "shape"), [("retries", RetrySettings), ("budgets", BudgetSettings), ("backends", BackendSettings)]
)
def test_every_setting_of_the_core_has_a_parser(section: str, shape: type[msgspec.Struct]) -> None:
    """The core defines these settings; the schema has their parsers."""
    fields = set(shape.__struct_fields__)
    if section == "backends":
        fields = fields - {"breaker"} | {f"breaker.{name}" for name in BreakerSettings.__struct_fields__}

    assert fields == set((FIXED | NAMED)[section])


@pytest.mark.parametrize("setting", [setting for settings in FIXED.values() for setting in settings.values()])
def test_every_default_can_be_written_as_a_value(setting: object, file: Path) -> None:
    """The shown default is parsed to the same default."""
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
    """Units of thousands and powers of two."""
    file.write_text(f"[cache]\nmax_bytes = {text}\n")
    assert load(file, {}).cache.max_bytes == expected


@pytest.mark.parametrize("text", ['"0660"', "0o660", "432"])
def test_a_mode_is_octal(text: str, file: Path) -> None:
    """TOML has octal numbers; it turns 0o660 into 432."""
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
        ('socket.path = ""', "socket.path", "''", "the path of a socket"),
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
def test_an_invalid_value_is_reported_with_place_name_and_valid_values(
    line: str, name: str, value: str, expected: str, file: Path
) -> None:
    """One sentence is enough to correct it."""
    (problem,) = problems_of(line, file=file)
    assert problem.startswith(f"{file}: {name} is {value}; it should be ")
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
def test_an_invalid_value_of_the_environment_is_reported_with_its_variable(
    variable: str, text: str, expected: str, file: Path
) -> None:
    """The place is the variable's name."""
    (problem,) = problems_of("", {variable: text}, file=file)
    assert problem.startswith(f"environment variable {variable}")
    assert expected in problem


@pytest.mark.parametrize(
    ("text", "environ", "flags", "nearest"),
    [
        ("[cahce]", {}, [], "cache"),
        ("[cache]\nmax_byte = 1", {}, [], "cache.max_bytes"),
        ("[tasks.rag]\nttl = 1", {}, [], "tasks.rag.ttl_seconds"),
        ("", {"SIDECARD_CACHE_MAXBYTES": "1"}, [], "SIDECARD_CACHE_MAX_BYTES"),
        ("", {"SIDECARD_SOKET": "1"}, [], "SIDECARD_SOCKET"),
        ("", {}, [Override("cache.ttl", "1", "--set")], "cache.ttl_seconds"),
    ],
)
def test_an_unknown_setting_is_reported_with_the_nearest_known_one(
    text: str, environ: dict[str, str], flags: list[Override], nearest: str, file: Path
) -> None:
    """Most are typing errors."""
    (problem,) = problems_of(text, environ, *flags, file=file)
    assert problem.endswith(f"the nearest known one is {nearest}")


def test_an_error_in_a_file_names_its_setting_once(file: Path) -> None:
    """Whether it is unknown, invalid, or conflicts with another."""
    for text, sentence in (
        ("[tasks.rag]\nsimilar = 'yes'", "tasks.rag.similar is 'yes'; it should be true or false"),
        ("[tasks.rag]\nsim = 1", "there is no setting tasks.rag.sim; the nearest known one is tasks.rag.similar"),
        ("[http]\nlisten = '0.0.0.0:1'", "http.listen is 0.0.0.0:1, which other hosts may reach without a password"),
    ):
        (problem,) = problems_of(text, file=file)
        assert problem.startswith(f"{file}: {sentence}")


def test_namespace_limits_reach_the_engine(file: Path) -> None:
    """Limits of 0 are left out."""
    file.write_text('[namespaces.team]\nmax_bytes = "2 MiB"\n[namespaces.other]\nshared_with = "all"\n')
    config = load(file, {"SIDECARD_NAMESPACES": '{"third": {"max_bytes": 0}}'})

    assert config.engine_settings().namespace_max_bytes == {"team": 2 * 1024 * 1024}
    assert config.shown()["namespaces.other.max_bytes"] == 0


def test_all_problems_are_reported_together(file: Path) -> None:
    """Not only the first."""
    assert len(problems_of("[cache]\nttl_seconds = []\nsize = 1", {"SIDECARD_X": "1"}, file=file)) == 3


@pytest.mark.parametrize("text", ["[cache", "cache = 5", "tasks = 5"])
def test_a_file_that_is_not_a_table_of_tables_is_reported(text: str, file: Path) -> None:
    """The problem begins with the file's name."""
    (problem,) = problems_of(text, file=file)
    assert problem.startswith(str(file))


def test_a_missing_named_file_is_a_problem(tmp_path: Path) -> None:
    """Named by flag or by variable."""
    missing = tmp_path / "missing.toml"
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read"):
        load(missing, {})
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read"):
        load(None, {"SIDECARD_CONFIG": str(missing)})


def test_the_default_file_is_read_if_it_exists(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """A named file replaces it."""
    file.write_text("[cache]\nttl_seconds = 7")
    monkeypatch.setattr("sidecard.config.load.DEFAULT_FILE", file)
    other = file.with_name("other.toml")
    other.write_text("")

    assert load(None, {}).cache.ttl_seconds == 7
    assert load(None, {"SIDECARD_CONFIG": str(other)}).cache.ttl_seconds == 300


def test_a_file_that_is_not_utf8_is_a_problem(file: Path) -> None:
    """It is reported without a traceback."""
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(file, {})


def test_empty_variables_count_as_not_set() -> None:
    """Compose files and unit files set empty variables."""
    empty = dict.fromkeys(("REDIS_URL", "CACHE_TTL", "SIDECARD_CACHE_MAX_BYTES", "SIDECARD_CONFIG"), "")
    assert load(None, empty) == load(None, {})


def test_tables_can_be_set_by_json_and_by_flag() -> None:
    """Names of tasks may contain dots."""
    config = load(
        None,
        {"SIDECARD_TASKS": '{"rag": {"ttl_seconds": 60}}', "SIDECARD_NAMESPACES": '{"team": {"shared_with": "all"}}'},
        [
            Override("tasks.v1.chat.ttl_seconds", "5", "--set"),
            Override("namespaces.two.shared_with", "7,gid:8", "--set"),
        ],
    )

    assert {name: task.ttl_seconds for name, task in config.engine_settings().tasks.items()} == {
        "rag": 60.0,
        "v1.chat": 5.0,
    }
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
    """Not even those that a URL parser would not recognize."""
    config = load(None, {"DATABASE_URL": url})
    assert config.calls.url == url
    assert config.shown()["calls.url"] == shown


def test_the_password_of_the_store_is_never_shown() -> None:
    """In the URL and in its own setting."""
    config = load(None, {"REDIS_URL": "redis://user:secret@host/1", "SIDECARD_STORE_PASSWORD": "secret"})
    shown = config.shown()
    assert (shown["store.url"], shown["store.password"]) == ("redis://***@host/1", "***")
    assert load(None, {}).shown()["store.password"] == ""


def test_an_invalid_url_is_reported_without_its_text(file: Path) -> None:
    """Errors are logged."""
    (problem,) = problems_of('[store]\nurl = ["redis://:secret@host"]', file=file)
    assert "secret" not in problem


def test_settings_with_less_effect_than_expected_produce_warnings() -> None:
    """One sentence each."""
    environ = {"DATABASE_URL": "x", "METRICS_ENABLED": "0", "SIDECARD_PUSH_URL": "http://h:1/api/v1/import"}
    config = load(None, environ | {"SIDECARD_CACHE_VIEW_BYTES": "4K"})
    assert [sentence.split()[0] for sentence in config.warnings()] == ["calls.url", "push.url", "cache.view_bytes"]
    assert load(None, {}).warnings() == []


def test_a_setting_beyond_its_bound_produces_a_warning() -> None:
    """Peers of one uid beyond all, and views beyond a quarter of the cache. Lowering only the bound is no mistake."""
    bounds = {"SIDECARD_LIMITS_MAX_PEERS": "100", "SIDECARD_CACHE_MAX_BYTES": "4MiB"}
    assert load(None, bounds).warnings() == []
    for name, most in {"SIDECARD_LIMITS_MAX_PEERS_PER_UID": 100, "SIDECARD_CACHE_VIEW_BYTES": 1 << 20}.items():
        assert [len(load(None, bounds | {name: str(most + one)}).warnings()) for one in (0, 1)] == [0, 1]


def test_sovereign_mode_warns_about_calls_without_a_backend() -> None:
    """Their destination is unknown; an operator can declare them remote."""
    (sentence,) = load(None, {"SOVEREIGN_MODE": "1"}).warnings()
    assert sentence.endswith('set backends.default.locality = "remote".')
    assert (
        load(None, {"SOVEREIGN_MODE": "1"}, [Override("backends.default.locality", "remote", "--set")]).warnings() == []
    )


def test_sovereign_mode_rejects_outside_addresses(file: Path) -> None:
    """Each is reported with its place; listed addresses are accepted."""
    text = '[sovereign]\nenabled = true\n[store]\nurl = "redis://:secret@redis.example/0"\n'
    database = {"DATABASE_URL": "postgresql://db.example/calls", "SIDECARD_CALLS_ENABLED": "true"}
    problems = problems_of(text, database, file=file)

    assert [problem.partition(" is on, and ")[2].partition(",")[0] for problem in problems] == [
        "store.url leads to redis.example",
        "calls.url leads to db.example",
    ]
    assert problems[0].startswith(f"{file}: store.url: ")
    assert problems[1].startswith("environment variable DATABASE_URL: ")
    assert "secret" not in "".join(problems)

    environ = {"DATABASE_URL": "sqlite:/x.db", "SIDECARD_SOVEREIGN_ALLOW": "REDIS.example."}
    assert load(file, environ).store.url == "redis://:secret@redis.example/0"
    file.write_text(text.replace("true", "false"))
    assert load(file, {}).engine_settings().sovereign is False


def test_sovereign_mode_ignores_addresses_that_are_not_used() -> None:
    """A stack gives DATABASE_URL to all of its containers."""
    environ = {"SOVEREIGN_MODE": "true", "DATABASE_URL": "postgresql://db.example/app"}
    assert load(None, environ).calls.enabled is False


BACKENDS = """
[backends.cloud]
max_concurrent = 8
adaptive = true
timeouts = "slow"
input_dollars_per_million_tokens = 3
output_dollars_per_million_tokens = 15
[backends.cloud.breaker]
failure_rate = 0.25
[backends."gpt-4.1".breaker]
probes = 3
[backends.ollama]
locality = "local"
[backends.local]
weight = 2
[backends.plain]
"""


def test_a_backend_combines_its_settings_with_its_defaults(file: Path) -> None:
    """A backend may be declared without settings."""
    file.write_text(BACKENDS)
    backends = load(file, {}).engine_settings().backends

    assert backends == {
        "cloud": BackendSettings(
            max_concurrent=8,
            adaptive=True,
            timeouts="slow",
            input_dollars_per_million_tokens=3,
            output_dollars_per_million_tokens=15,
            breaker=BreakerSettings(failure_rate=0.25),
        ),
        "gpt-4.1": BackendSettings(breaker=BreakerSettings(probes=3)),
        "ollama": BackendSettings(locality="local", max_concurrent=LOCAL_MAX_CONCURRENT),
        "local": BackendSettings(locality="local", max_concurrent=LOCAL_MAX_CONCURRENT, weight=2),
        "plain": BackendSettings(),
    }


@pytest.mark.parametrize(
    ("name", "given", "locality", "max_concurrent"),
    [
        ("local", {}, "local", LOCAL_MAX_CONCURRENT),
        ("local", {"locality": "remote"}, "remote", 0),
        ("local", {"max_concurrent": 0}, "local", 0),
        ("default", {}, "local", 0),
        ("default", {"locality": "local"}, "local", LOCAL_MAX_CONCURRENT),
        ("default", {"locality": "remote"}, "remote", 0),
        ("x", {}, "remote", 0),
        ("x", {"locality": "local"}, "local", LOCAL_MAX_CONCURRENT),
        ("x", {"locality": "local", "max_concurrent": 1}, "local", 1),
        ("x", {"locality": "remote", "max_concurrent": 9}, "remote", 9),
    ],
)
def test_the_locality_of_a_backend_implies_its_default_limit(
    name: str, given: dict[str, object], locality: str, max_concurrent: int
) -> None:
    """A local backend has few slots; this host cannot know a remote one's."""
    settings = load(None, {"SIDECARD_BACKENDS": msgspec.json.encode({name: given}).decode()}).backends[name]
    assert (settings.locality, settings.max_concurrent) == (locality, max_concurrent)


def test_backends_can_be_set_by_flag() -> None:
    """Their names may contain dots, or equal that of a nested table."""
    flags = {
        "backends.gpt-4.1.max_queue": "7",
        "backends.gpt-4.1.breaker.open_seconds": "5",
        "backends.breaker.weight": "3",
        "backends.breaker.breaker.probes": "2",
    }
    config = load(None, {}, [Override(name, text, "--set") for name, text in flags.items()])

    assert config.backends == {
        "gpt-4.1": BackendSettings(max_queue=7, breaker=BreakerSettings(open_seconds=5)),
        "breaker": BackendSettings(weight=3, breaker=BreakerSettings(probes=2)),
    }
    assert {name: config.origins[name] for name in flags} == dict.fromkeys(flags, "flag --set")


def test_tables_of_the_environment_change_single_settings_of_the_file(file: Path) -> None:
    """Also in a nested table."""
    file.write_text(BACKENDS)
    cloud = load(file, {"SIDECARD_BACKENDS": '{"cloud": {"breaker": {"failure_rate": 1}}}'}).backends["cloud"]
    assert (cloud.breaker.failure_rate, cloud.max_concurrent) == (1, 8)


def test_tasks_budgets_and_retries_reach_the_engine(file: Path) -> None:
    """With the engine's own types."""
    file.write_text(
        """
        [tasks.rag]
        backends = ["local", "7"]
        route = "weighted"
        [tasks.chat]
        ttl_seconds = 1
        [budgets.daily]
        dollars = 5
        [budgets.rag]
        dollars = 0.5
        task = "rag"
        backend = "cloud"
        period_seconds = 3600
        hard = true
        [retries]
        share = 0
        backoff_seconds = 1
        [limits]
        max_backends = 9
        """
    )
    settings = load(file, {"SIDECARD_RETRIES_FLOOR_PER_SECOND": "0.5"}).engine_settings()

    assert settings.task("rag").backends == ("local", "7")
    assert settings.task("rag").route == "weighted"
    assert settings.budgets == {
        "daily": BudgetSettings(dollars=5),
        "rag": BudgetSettings(dollars=0.5, period_seconds=3600, task="rag", backend="cloud", hard=True),
    }
    assert settings.retries == RetrySettings(share=0, backoff_seconds=1, floor_per_second=0.5)
    assert settings.max_backends == 9


def test_a_list_of_names_by_flag_is_comma_separated_or_json() -> None:
    """A name may consist of digits."""
    for text in ("a, 7", '["a", "7"]'):
        assert load(None, {}, [Override("tasks.rag.backends", text, "--set")]).tasks["rag"].backends == ("a", "7")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[backends.x.breaker]\nfailure_rate = 0", "a number, above 0 and at most 1"),
        ("[backends.x.breaker]\nfailure_rate = 1.1", "a number, above 0 and at most 1"),
        ("[backends.x.breaker]\nslow_rate = 0", "a number, above 0 and at most 1"),
        ("[backends.x.breaker]\nprobes = 0", "a whole number, between 1 and 1000"),
        ("[backends.x]\nweight = 0", "a number, above 0 and at most 1000000000"),
        ("[backends.x]\nlocality = 'near'", 'one of "local", "remote"'),
        ("[backends.x]\ntimeouts = 'success'", 'one of "failure", "slow", "nothing"'),
        ("[backends.x]\nbreaker = 5", "backends.x.breaker is 5; it should be a table, written [backends.x.breaker]"),
        ("[backends.x.breaker]\nprobe = 1", "the nearest known one is backends.x.breaker.probes"),
        (
            "[backends.x.breakers]\nprobes = 1",
            "there is no setting backends.x.breakers; the nearest known one is backends.x.",
        ),
        ("[backends]\nmax_queue = 1", "backends.max_queue is 1; it should be a table of settings"),
        ("[retries]\nshare = 1.5", "a number, between 0 and 1"),
        ("[tasks.x]\nroute = 'shortest'", 'one of "order", "cheapest", "fastest", "least_busy", "weighted"'),
        ("[tasks.x]\nbackends = 'a'", "a list of at most 16 names"),
        ("[tasks.x]\nbackends = ['']", "a list of at most 16 names"),
        (f"[tasks.x]\nbackends = {['a'] * 17}", "a list of at most 16 names"),
        ("[sovereign]\nallow = ['redis.internal:6379']", "a list of host names, IP addresses and networks"),
        ("[sovereign]\nallow = ['10.0.0.1/8']", "a list of host names, IP addresses and networks"),
        ("[sovereign]\nallow = ['0x7f.1']", "a list of host names, IP addresses and networks"),
        ("[sovereign]\nallow = 'localhost'", "a list of host names, IP addresses and networks"),
        ("[budgets.x]\ndollars = -1", "a number, between 0 and 1000000000"),
    ],
)
def test_an_invalid_setting_in_a_named_table_is_reported(text: str, said: str, file: Path) -> None:
    """With the valid values."""
    (problem,) = problems_of(text, file=file)
    assert said in problem


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[backends.x.breaker]\nopen_seconds = 20\nmax_open_seconds = 10",
            (
                "backends.x.breaker.open_seconds is 20; it should be at most "
                "backends.x.breaker.max_open_seconds, which is 10"
            ),
        ),
        (
            "[backends.x.breaker]\nmax_open_seconds = 5",
            (
                "backends.x.breaker.max_open_seconds is 5; it should be at least "
                "backends.x.breaker.open_seconds, which is 10"
            ),
        ),
        (
            "[backends.x.breaker]\nmin_calls = 101",
            ("backends.x.breaker.min_calls is 101; it should be at most backends.x.breaker.window_calls, which is 100"),
        ),
        (
            "[retries]\nbackoff_seconds = 9",
            ("retries.backoff_seconds is 9; it should be at most retries.max_backoff_seconds, which is 8"),
        ),
        (
            "[backends.x]\ninput_dollars_per_million_tokens = 1",
            (
                "backends.x.input_dollars_per_million_tokens is set without "
                "backends.x.output_dollars_per_million_tokens; set both (0 is a valid price), or neither"
            ),
        ),
        (
            "[backends.x]\nrequests_per_minute = 0.5",
            (
                "backends.x.requests_per_minute is 0.5, which lets no call through; "
                "it should be 1 or more, or 0 for no limit"
            ),
        ),
        (
            "[backends.x]\nadaptive = true",
            ("backends.x.adaptive is true, but there is no limit to stay below; set backends.x.max_concurrent"),
        ),
        (
            "[budgets.x]\nhard = true",
            "budgets.x: budget 'x' has no limit; add budgets.x.dollars",
        ),
        ("[budgets.x]", "budgets.x: budget 'x' has no limit; add budgets.x.dollars"),
        ('[backends.""]', "backends.: '' is no valid name in backends; choose a name of 1 to 128 characters"),
    ],
)
def test_conflicting_settings_are_reported_once(text: str, said: str, file: Path) -> None:
    """The sentence names both settings."""
    assert problems_of(text, file=file) == (f"{file}: {said}",)


@pytest.mark.parametrize(
    "text",
    [
        "[backends.x.breaker]\nmin_calls = 5000\nwindow_calls = 'many'",
        "[backends.x]\nadaptive = true\nmax_concurrent = 'few'",
        "[backends.x]\ninput_dollars_per_million_tokens = 1\noutput_dollars_per_million_tokens = 'one'",
        "[budgets.x]\ndollars = 'five'",
        "[flights]\nrenew_seconds = 20\nlease_seconds = 'long'",
    ],
)
def test_an_invalid_value_causes_no_conflict_with_other_settings(text: str, file: Path) -> None:
    """One mistake is one problem."""
    (problem,) = problems_of(text, file=file)
    assert "it should be a " in problem


@pytest.mark.parametrize(
    "text", ["[backends.local]\nadaptive = true", "[backends.x.breaker]\nmin_calls = 5\nwindow_calls = 5"]
)
def test_settings_without_a_conflict_are_accepted(text: str, file: Path) -> None:
    """A local backend has a default limit; a window may be exactly as long as needed."""
    file.write_text(text)
    assert load(file, {}).backends


def test_a_renewal_later_than_the_lease_is_a_problem(file: Path) -> None:
    """The lease would end before every renewal."""
    (problem,) = problems_of("[flights]\nlease_seconds = 3\nrenew_seconds = 3", file=file)
    assert "it should be less than flights.lease_seconds, which is 3" in problem
    file.write_text("[flights]\nlease_seconds = 3")
    assert load(file, {}).flights.lease_seconds == 3


def test_a_namespace_with_a_colon_is_a_problem(file: Path) -> None:
    """A colon separates a uid from a name."""
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
def test_the_socket_path_is_the_first_that_applies(environ: dict[str, str], expected: str) -> None:
    """Clients read `SIDECARD_SOCKET` too, so it comes first."""
    assert load(None, environ).socket.path == expected


def test_a_socket_path_that_is_too_long_is_a_problem() -> None:
    """The error names the limit, unlike the kernel's."""
    with pytest.raises(ConfigError, match="longer than 107 bytes"):
        load(None, {"SIDECARD_SOCKET": "/" + "x" * 120})


@pytest.mark.parametrize("listen", ["0.0.0.0:9464", "[::]:9464", "10.0.0.1:9464", "myhost:9464"])
def test_an_http_address_that_other_hosts_reach_must_be_allowed(listen: str, file: Path) -> None:
    """The listener has no password."""
    (problem,) = problems_of(f'[http]\nlisten = "{listen}"', file=file)
    assert "set http.allow_remote = true" in problem
    assert load(None, {"SIDECARD_HTTP_LISTEN": listen, "SIDECARD_HTTP_ALLOW_REMOTE": "1"}).http.listen == listen


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:9464", "localhost:0", "[::1]:1", "/run/sidecard/http.sock", "127.3.2.1:80"]
)
def test_an_http_address_of_this_host_is_accepted(listen: str) -> None:
    """Loopback addresses and socket paths."""
    assert load(None, {"SIDECARD_HTTP_LISTEN": listen}).http.listen == listen


@pytest.mark.parametrize("listen", ["9464", ":9464", "localhost", "localhost:http", "localhost:65536", "::1:9464"])
def test_an_invalid_http_address_is_reported(listen: str, file: Path) -> None:
    """With an example of a valid one."""
    (problem,) = problems_of(f'[http]\nlisten = "{listen}"', file=file)
    assert '"127.0.0.1:9464"' in problem


def test_the_url_of_the_call_log_is_checked_only_if_enabled(file: Path) -> None:
    """DATABASE_URL may be an app's, in the syntax of its own library."""
    assert load(None, {"DATABASE_URL": "mysql+aiomysql://h/db"}).calls.enabled is False
    (problem,) = problems_of("[calls]\nenabled = true", {"DATABASE_URL": "mysql://user:secret@h/db"}, file=file)
    assert "postgresql://" in problem
    assert "secret" not in problem


@pytest.mark.parametrize(
    "url", ["http://h:8428", "ftp://h/api/v1/write", "h/api/v1/write", "http://h/api/v1/import/csv"]
)
def test_a_push_target_without_a_known_path_is_reported(url: str, file: Path) -> None:
    """The path determines the format."""
    (problem,) = problems_of(f'[push]\nurl = "{url}"', file=file)
    assert "/api/v1/import/prometheus" in problem


def test_an_invalid_pattern_is_reported(file: Path) -> None:
    """Before it is applied to a prompt."""
    (problem,) = problems_of('[calls]\nredact = ["[0-9"]', file=file)
    assert "regular expressions" in problem
