"""Secrets in valid and invalid settings: no message contains one."""

import json
from pathlib import Path

import pytest

from sidecard.cli import main
from sidecard.cli.exit_codes import BAD_CONFIG
from sidecard.config.load import load
from sidecard.config.redaction import redacted
from sidecard.config.store_url import RedisAddress
from sidecard.observe.push import target as push_target
from sidecard.store.redis import access as redis_access

CANARY = "canary-7f3a9c"

WRONG_FILES = [
    f'store = "redis://u:{CANARY}@h"',
    f'push = ["{CANARY}"]',
    f'[store]\nurl = "redis://u:{CANARY}"',
    f'[store]\nurl = ["redis://u:{CANARY}@h"]',
    f'[store]\nurl = "http://u:{CANARY}@h"',
    f'[store]\npasswort = "{CANARY}"',
    f'[store]\npassword = ["{CANARY}"]',
    f'[store]\npassword = {{ file = "{CANARY}" }}',
    f'[store]\npassword = "{CANARY}',
    f'[store]\npassword = "{CANARY}"\npassword = "{CANARY}"',
    f'[store.password]\nvalue = "{CANARY}"',
    f'[backends]\napi_key = "{CANARY}"',
    f'[backends.cloud]\napi_key = "{CANARY}"',
    f'[backends.cloud]\nbreaker = "{CANARY}"',
    f'[tasks]\nrag = ["{CANARY}"]',
    f'[push]\nurl = "ftp://u:{CANARY}@h/api/v1/write"',
    f'[push]\nurl = "http://u:{CANARY}@h/nowhere"',
    f'[push]\npassword = ["{CANARY}"]',
    f'[calls]\nenabled = true\nurl = "mysql://u:{CANARY}@h/db"',
    f'[calls]\nenabled = true\nurl = "host=h password={CANARY}"',
    f'[http]\nlisten = "http://u:{CANARY}@127.0.0.1:9464"',
    f'[sovereign]\nallow = ["redis://u:{CANARY}@h"]',
    f'[sovereign]\nenabled = true\n[store]\nurl = "redis://u:{CANARY}@example.com"',
    f'[sovereign]\nenabled = true\n[push]\nurl = "http://u:a/{CANARY}@example.com/api/v1/write"',
]
WRONG_VARIABLES = [
    {"REDIS_URL": f"redis//u:{CANARY}@h"},
    {"SIDECARD_STORE_PASWORD": CANARY},
    {"SIDECARD_BACKENDS": f"https://u:{CANARY}@h"},
    {"SIDECARD_BACKENDS": json.dumps({"cloud": CANARY})},
    {"SIDECARD_PUSH": json.dumps({"password": CANARY})},
    {"SIDECARD_PUSH_URL": f"h/{CANARY}"},
    {"SIDECARD_API_KEY": CANARY},
]
WRONG_FLAGS = [f"store.password:{CANARY}", f"store.pasword={CANARY}", f"store.url=redis//{CANARY}@h", CANARY]
ADDRESSES = {
    f"redis://:{CANARY}@host/0": "redis://***@host/0",
    f"redis://user:a/{CANARY}@host": "redis://***@host",
    f"redis://user:{CANARY}/0": "***",
    f"postgresql://u:{CANARY}@[::1]:5,h2:6/db?sslmode=x": "postgresql://***@[::1]:5,h2:6/db?***",
    f"http://h/api/v1/write?key={CANARY}": "http://h/api/v1/write?***",
    f"http://h/api/v1/write#{CANARY}": "***",
    f"host=h password={CANARY}": "***",
    f"password={CANARY} url=http://h": "***",
    f"Server=h;Password={CANARY}": "***",
    CANARY: "***",
}


@pytest.mark.parametrize("text", WRONG_FILES)
def test_an_error_in_a_file_contains_no_secret(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a secret is in the wrong place, has the wrong type, or follows an invalid line."""
    file = tmp_path / "sidecard.toml"
    file.write_text(text, encoding="utf-8")
    assert main(["serve", "--check", "--config", str(file)]) == BAD_CONFIG
    printed = "".join(capsys.readouterr())
    assert printed.startswith("sidecard: ")
    assert CANARY not in printed


@pytest.mark.parametrize("environ", WRONG_VARIABLES, ids=lambda environ: next(iter(environ)))
def test_an_error_in_a_variable_contains_no_secret(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the variable only."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    assert main(["config", "check"]) == BAD_CONFIG
    printed = "".join(capsys.readouterr())
    assert next(iter(environ)) in printed
    assert CANARY not in printed


@pytest.mark.parametrize("text", WRONG_FLAGS)
def test_an_error_in_a_flag_contains_no_secret(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A unit's flags are in its log, but errors need not repeat them."""
    assert main(["serve", "--check", "--set", text]) == BAD_CONFIG
    assert CANARY not in "".join(capsys.readouterr())


@pytest.mark.parametrize(("url", "shown"), ADDRESSES.items())
def test_an_address_is_shown_without_secrets(url: str, shown: str) -> None:
    """Even if it is not a URL: `DATABASE_URL` may be that of an app in another language."""
    assert redacted(url) == shown
    assert CANARY not in json.dumps(load(None, {"DATABASE_URL": url}).shown())


def test_a_very_long_address_is_redacted_quickly() -> None:
    """The patterns must not backtrack."""
    assert redacted("http://" + "a," * 50_000 + "!") == "***"


@pytest.mark.parametrize("content", [f"{CANARY}\x01", f"{CANARY}\tx", f"{CANARY}\nx", f"{CANARY}\x7f"])
def test_an_error_about_a_token_contains_no_secret(content: str, tmp_path: Path) -> None:
    """The HTTP library's own error would contain the header."""
    file = tmp_path / "token"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(push_target.SecretError) as refused:
        push_target._secret(str(file))

    assert CANARY not in str(refused.value)
    assert str(file) in str(refused.value)


def test_a_password_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    """It is a fault of the store, which retries."""
    file = tmp_path / "password"
    file.write_bytes(CANARY.encode() + b"\xff")
    access = redis_access.RedisAccess(
        RedisAddress("single", (("h", 1),)), "", "", str(file), "", "", "", 1.0, lambda _: True
    )
    with pytest.raises(redis_access.FAULTS) as refused:
        access.credentials()

    assert CANARY not in repr(refused.value)
    assert str(file) in repr(refused.value)
