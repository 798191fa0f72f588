"""Settings found by fuzzing: absurd values are errors, never tracebacks."""

import json
from pathlib import Path

import pytest

from sidecard.cli import main
from sidecard.cli.exit_codes import BAD_CONFIG
from sidecard.config.load import load
from sidecard.daemon.systemd import Notifier
from sidecard.errors import ConfigError
from sidecard.observe.logs import open_log

DEEP = 20_000

FILES = {
    "nested too deep": "a = " + "[" * DEEP,
    "a number of seconds beyond all floats": "[cache]\nttl_seconds = " + "9" * 400,
    "a number beyond what Python reads": "[cache]\nttl_seconds = " + "9" * 5000,
    "a size beyond all floats": '[cache]\nmax_bytes = "' + "9" * 400 + '.5GiB"',
    "infinity": "[cache]\nttl_seconds = inf",
    "no number": "[cache]\nttl_seconds = nan",
    "a pattern that repeats beyond counting": '[calls]\nredact = ["a{99999999999999999999}"]',
    "a pattern that is nested too deep": f'[calls]\nredact = ["{"(" * DEEP}"]',
}
VARIABLES = {
    "a table that is nested too deep": ("SIDECARD_TASKS", "[" * 200_000),
    "a list that is nested too deep": ("SIDECARD_OPERATORS_UIDS", "[" * 200_000),
    "bytes that are no text": ("SIDECARD_PUSH_JOB", "\udcff"),
    "a path that is no text": ("SIDECARD_SOCKET", "/tmp/\udcff.sock"),
    "half a character in JSON": ("SIDECARD_TASKS", '{"\\ud800": {"ttl_seconds": 5}}'),
    "half a character in a list": ("SIDECARD_HTTP_ALLOW_HOSTS", '["\\ud800"]'),
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_an_absurd_file_is_an_error(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The daemon does not start; a running one keeps its settings."""
    file = tmp_path / "sidecard.toml"
    file.write_text(text, encoding="utf-8")
    assert main(["serve", "--check", "--config", str(file)]) == BAD_CONFIG
    assert capsys.readouterr().err.startswith(f"sidecard: {file}: ")


@pytest.mark.parametrize(("name", "value"), VARIABLES.values(), ids=VARIABLES)
def test_an_absurd_variable_is_an_error(name: str, value: str) -> None:
    """The error names it; variables may contain any bytes."""
    with pytest.raises(ConfigError) as wrong:
        load(None, {name: value})

    assert name in str(wrong.value)
    json.dumps(wrong.value.problems, ensure_ascii=False).encode()


def test_a_socket_directory_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    """Its path is logged and shown."""
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load(None, {"RUNTIME_DIRECTORY": "/run/\udcff"})


@pytest.mark.parametrize("said", ["9" * 5000, "9" * 400, "٣٠", "³"])
def test_an_absurd_watchdog_is_ignored(said: str) -> None:
    """A daemon must start whatever systemd's variables contain."""
    assert Notifier({"WATCHDOG_USEC": said}, 1).watchdog_seconds is None


class Lines:
    """A stream that keeps its text."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        """Keep the text."""
        self.text += text

    def flush(self) -> None:
        """Do nothing."""

    def isatty(self) -> bool:
        """Return false."""
        return False


def test_a_name_that_is_not_utf8_can_be_logged() -> None:
    """A state directory may have such a name."""
    stream = Lines()
    open_log("info", "json", lambda: 0.0, stream).write("info", "serving", state="/var/\udcff", pid=5)
    assert json.loads(stream.text)["state"] == "/var/\\udcff"
    assert json.loads(stream.text)["pid"] == 5
