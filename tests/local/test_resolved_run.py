"""run.json is its owner's alone and holds no password; with the environment of a part it is the whole run again."""

import os
from collections.abc import Callable

import pytest

from tristream.config.load import load_run_file
from tristream.config.run_file import RunFile
from tristream.config.secrets import secret_environment, without_password, without_secrets
from tristream.local.resolved_run import write_run_file

MakeSettings = Callable[..., RunFile]


@pytest.fixture
def settings(make_settings: MakeSettings) -> RunFile:
    run: RunFile = make_settings(
        monitoring={"clickhouse_url": "http://writer:p@ss%2Fword@clickhouse:8123/runs"},
        store={"uri": "https://key:sesame@host/bucket"},
    )
    run.run.folder.path.mkdir(parents=True)
    return run


def test_nobody_else_can_read_it_at_any_time(settings: RunFile) -> None:
    path = settings.run.folder.run_file
    path.write_text("an old one")
    path.chmod(0o644)
    before = os.umask(0)
    try:
        write_run_file(settings)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_holds_no_password_and_parts_have_them_from_their_environment(settings: RunFile) -> None:
    write_run_file(settings)
    path = settings.run.folder.run_file
    for secret in ("p@ss", "word@", "sesame"):
        assert secret not in path.read_text()
    assert load_run_file(path, environment={}).monitoring.clickhouse_url == "http://writer@clickhouse:8123/runs"
    secrets = secret_environment(settings)
    assert set(secrets) == {"TRISTREAM__MONITORING__CLICKHOUSE_URL", "TRISTREAM__STORE__URI"}
    assert load_run_file(path, environment=secrets) == settings


def test_a_run_without_secrets_stays_as_it_is(make_settings: MakeSettings) -> None:
    settings = make_settings(monitoring={"clickhouse_url": "http://reader@host/x"})
    assert without_secrets(settings) == settings
    assert secret_environment(settings) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://:secret@host/x", "http://@host/x"),
        ("http://a:b:c@d@host/x", "http://a@host/x"),
        ("http://host:8123/a@b", "http://host:8123/a@b"),
        ("see http://a:b@c and http://d:e@f", "see http://a@c and http://d@f"),
        ("12:30 @ noon", "12:30 @ noon"),
    ],
)
def test_only_the_password_of_an_address_goes(text: str, expected: str) -> None:
    assert without_password(text) == expected
