"""Settings: a wrong one is told in a sentence that names the variable, and never with a secret in it."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from workers.naive_zones import NaiveZone
from workers.settings import MAX_SECONDS, Settings, SettingsError, load, variable

DATABASE = "postgresql://user:hunter2@db/chat"
#: One wrong value for each setting, and a piece of the sentence that must follow the variable's name.
WRONG = {
    "database_url": ("mysql://user:hunter2@db/chat", "must begin with postgresql://"),
    "broker_url": ("amqp://user:hunter2@broker", "must begin with redis:// or rediss://"),
    "schemas": ("openchat", "must be pairs like openchat=public"),
    "clamd": ("/run/clamd.ctl", "must be unix:/path/to/socket or tcp://host:port"),
    "max_file_bytes": ("0", "greater than 0"),
    "draw_decoded_bytes": ("many", "valid integer"),
    "attachment_lease_seconds": ("0.5", "greater than or equal to 1"),
    "attachment_attempts": ("0", "greater than or equal to 1"),
    "attachment_retry_seconds": ("inf", "finite number"),
    "attachment_retry_max_seconds": ("nan", "finite number"),
    "attachment_missing_seconds": ("-1", "greater than or equal to 0"),
    "attachment_grace_seconds": ("-1", "greater than or equal to 0"),
    "attachment_requeue_seconds": ("0", "greater than 0"),
    "recover_every_seconds": ("0", "greater than 0"),
    "scan_timeout_seconds": ("soon", "valid number"),
    "signature_max_age_days": ("0", "greater than 0"),
    "rescan_every_seconds": ("0", "greater than 0"),
    "row_wait_seconds": ("0", "greater than 0"),
    "delivery_wait_seconds": ("0", "greater than 0"),
    "drain_every_seconds": ("0", "greater than 0"),
    "audit_every_seconds": ("0", "greater than 0"),
    "outbox_every_seconds": ("0", "greater than 0"),
    "outbox_keep_seconds": ("-1", "greater than or equal to 0"),
    "sweep_every": ("echoroom.typing=0", "must have seconds above 0"),
    "sweep_after": ("echoroom.ghosts", "must be pairs like echoroom.typing=5"),
    "sweep_seconds": ("0", "greater than 0"),
    "rollup_zones": ("audiorooms.room_analytics=Berlin", "there is no time zone 'Berlin'"),
    "retention_days": ("pern.messages=0.5", "must have days, 1 at least"),
    "retention_factor": ("0.5", "greater than or equal to 1"),
    "retention_floor": ("0", "greater than or equal to 1"),
    "approval_hours": ("0", "greater than 0"),
    "storage_root": ("storage", "must be an absolute path"),
    "quarantine_root": ("./quarantine", "must be an absolute path"),
    "archive_root": ("", "must be an absolute path"),
    "work_root": ("tmp", "must be an absolute path"),
    "health_file": ("healthy", "must be an absolute path"),
    "archive_bucket": ("My_Bucket", "should match pattern"),
    "reconcile_grace_hours": ("0", "greater than 0"),
    "reconcile_share": ("0", "greater than 0"),
    "socketio_url": ("amqp://user:hunter2@broker", "must begin with redis:// or rediss://"),
    "rescan_share": ("1.1", "less than or equal to 1"),
    "identify_timeout_seconds": ("0", "greater than 0"),
    "naive_zones": ("openchat=CET", "must be openchat=Europe/Berlin"),
    "metrics_port": ("0", "greater than or equal to 1"),
    "worker_metrics_port": ("65536", "less than or equal to 65535"),
    "s3_bucket": ("My_Bucket", "should match pattern"),
    "s3_endpoint": ("s3.example.org", "must be https://host:port, without a path"),
    "s3_quarantine_bucket": ("no", "should match pattern"),
    "s3_quarantine_prefix": ("derived/", "must not begin with derived/"),
    "s3_public_url": ("ftp://cdn", "should match pattern"),
    "s3_url_seconds": ("604801", "less than or equal to 604800"),
    "s3_timeout_seconds": ("0", "greater than 0"),
    "draw_animation_frames": ("1", "greater than or equal to 2"),
    "draw_animation_pixels": ("0", "greater than 0"),
    "draw_timeout_seconds": ("0", "greater than 0"),
    "draw_memory_bytes": ("1.5", "valid integer"),
    "task_soft_limit_seconds": ("0", "greater than 0"),
    "task_hard_limit_seconds": ("0", "greater than 0"),
    "visibility_timeout_seconds": ("4", "greater than or equal to 5"),
    "statement_timeout_ms": ("0", "greater than 0"),
    "external_template_hosts": ("fs01, https://fs02", "must be the name of a host"),
    "lock_timeout_ms": ("0", "greater than 0"),
    "prepared_statements": ("perhaps", "valid boolean"),
    "worker_processes": ("0", "greater than 0"),
    "shutdown_seconds": ("-1", "greater than or equal to 0"),
    "flower_port": ("65536", "less than or equal to 65535"),
    "log_format": ("xml", "^(json|text)$"),
}
#: Any text will do for these; `tasks.apps` has its say about the names of applications.
FREE = {
    "apps",
    "strip_originals",
    "sweep_off",
    "archive_off",
    "reconcile_prefixes",
    "metrics_address",
    "storage_url",
    "s3_region",
    "s3_access_key",
    "s3_secret_key",
    "flower_user",
    "flower_password",
    "flower_address",
}


def fault(**environment: str) -> str:
    """Return what `load` says of an environment that it must refuse."""
    with pytest.raises(SettingsError) as caught:
        load({"DATABASE_URL": DATABASE} | environment)
    return str(caught.value)


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `roomkeeper ARGUMENTS` to its end, with no setting but those given."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ROOMKEEPER_")}
    inherited.pop("DATABASE_URL", None)
    return subprocess.run(
        [str(Path(sys.executable).with_name("roomkeeper")), *arguments],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_setting_has_its_wrong_value_here() -> None:
    assert set(WRONG) | FREE == set(Settings.model_fields)


@pytest.mark.parametrize(("field", "value", "piece"), [(name, *wrong) for name, wrong in WRONG.items()])
def test_a_wrong_value_is_told_with_its_variable(field: str, value: str, piece: str) -> None:
    message = fault(**{variable(field): value})
    assert message.startswith(f"{variable(field)} is wrong")
    assert piece in message
    assert "hunter2" not in message
    assert message.count("\n") == 0


def test_all_faults_are_told_at_once() -> None:
    message = fault(
        ROOMKEEPER_DRAW_DECODED_BYTES="0", ROOMKEEPER_LOG_FORMAT="xml", ROOMKEEPER_NONSENSE_OF_MINE="1"
    )
    assert len(message.splitlines()) == 3


def test_what_must_be_given_is_asked_for() -> None:
    with pytest.raises(SettingsError, match=r"^DATABASE_URL is not set; it must be given\.$"):
        load({})


def test_a_misspelt_variable_gets_a_hint() -> None:
    message = fault(ROOMKEEPER_BROKER_ULR="redis://:hunter2@broker")
    assert message == "ROOMKEEPER_BROKER_ULR is not a setting; did you mean ROOMKEEPER_BROKER_URL?"


def test_a_variable_like_no_other_is_refused_too() -> None:
    assert fault(ROOMKEEPER_QQQQ="1").startswith("ROOMKEEPER_QQQQ is not a setting")


def test_variables_of_others_are_left_alone() -> None:
    assert load({"DATABASE_URL": DATABASE, "PATH": "/bin", "ROOMKEEPERISH": "1"}).worker_processes == 2


def test_the_process_own_environment_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOMKEEPER_WORKER_PROCESSES", "7")
    assert load({"DATABASE_URL": DATABASE}).worker_processes == 2


def test_a_task_is_asked_to_stop_before_it_is_killed() -> None:
    message = fault(ROOMKEEPER_TASK_SOFT_LIMIT_SECONDS="330", ROOMKEEPER_TASK_HARD_LIMIT_SECONDS="330")
    assert (
        "ROOMKEEPER_TASK_SOFT_LIMIT_SECONDS must be less than ROOMKEEPER_TASK_HARD_LIMIT_SECONDS" in message
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("broker_url", "redis://:hunter2@broker:port/0"),
        # A slash in a password that was not escaped: what follows the colon reads as a port.
        ("broker_url", "redis://:hunter2/x@broker/0"),
        ("broker_url", "redis://:x@broker:99999/hunter2"),
        ("database_url", "postgresql://user:hunter2@db:port/chat"),
        ("database_url", "postgresql://user:hunter2/x@db/chat"),
        ("database_url", "postgresql://user:hunter2@db:99999/chat"),
    ],
)
def test_an_address_that_makes_no_sense_is_told_without_its_password(field: str, value: str) -> None:
    message = fault(**{variable(field): value})
    assert message.startswith(f"{variable(field)} is wrong: ")
    assert "hunter2" not in message


def test_secrets_are_not_in_what_settings_print() -> None:
    settings = load(
        {
            "DATABASE_URL": DATABASE,
            "ROOMKEEPER_BROKER_URL": "redis://:hunter2@b",
            "ROOMKEEPER_FLOWER_PASSWORD": "hunter2",
        }
    )
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_lists_and_pairs_are_read() -> None:
    settings = load(
        {"DATABASE_URL": DATABASE, "ROOMKEEPER_APPS": " openchat, pern,", "ROOMKEEPER_SCHEMAS": "a=b, c = d"}
    )
    assert (settings.apps, settings.schemas) == (("openchat", "pern"), {"a": "b", "c": "d"})


def test_periods_of_policies_are_read() -> None:
    settings = load(
        {
            "DATABASE_URL": DATABASE,
            "ROOMKEEPER_SWEEP_EVERY": " a.b=2.5, c.d = 60,",
            "ROOMKEEPER_SWEEP_AFTER": f"a.b={MAX_SECONDS}",
            "ROOMKEEPER_SWEEP_OFF": "a.b, c.d",
        }
    )
    assert settings.sweep_every == {"a.b": 2.5, "c.d": 60}
    assert settings.sweep_after == {"a.b": MAX_SECONDS}
    assert settings.sweep_off == ("a.b", "c.d")


@pytest.mark.parametrize("seconds", ["-1", "0", str(MAX_SECONDS + 1), "inf", "nan", "soon", ""])
@pytest.mark.parametrize("variable", ["ROOMKEEPER_SWEEP_EVERY", "ROOMKEEPER_SWEEP_AFTER"])
def test_a_period_that_is_none_is_told(variable: str, seconds: str) -> None:
    assert fault(**{variable: f"a.b=1,c.d={seconds}"}).startswith(f"{variable} is wrong")


def test_a_policy_that_is_none_ends_a_worker_with_just_the_sentence() -> None:
    ended = run("worker", "maintenance", DATABASE_URL=DATABASE, ROOMKEEPER_SWEEP_OFF="echoroom.typng")
    assert (ended.returncode, ended.stdout) == (1, "")
    message = "ROOMKEEPER_SWEEP_OFF names 'echoroom.typng', which is not a policy or a rollup: "
    assert ended.stderr.startswith(message)
    assert ended.stderr.endswith("Did you mean 'echoroom.typing'?\n")


def test_a_worker_with_a_wrong_setting_ends_with_just_the_sentence() -> None:
    ended = run(
        "worker",
        "attachments",
        DATABASE_URL="mysql://user:hunter2@db/chat",
        ROOMKEEPER_WORKER_PROCESSES="none",
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines() == [
        "DATABASE_URL is wrong: must begin with postgresql://.",
        "ROOMKEEPER_WORKER_PROCESSES is wrong (got 'none'): Input should be a valid integer, unable to parse "
        "string as an integer.",
    ]


def test_a_kind_of_worker_that_is_none_ends_with_just_the_sentence() -> None:
    ended = run("worker", "attachment", DATABASE_URL=DATABASE)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "'attachment' is not a kind of worker: attachments, delivery, maintenance.\n"


def test_an_application_that_is_none_ends_a_worker_with_just_the_sentence() -> None:
    ended = run("worker", "attachments", DATABASE_URL=DATABASE, ROOMKEEPER_APPS="openchad")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("ROOMKEEPER_APPS names 'openchad', which is not an application: ")
    assert ended.stderr.endswith("Did you mean 'openchat'?\n")


def test_files_of_a_killed_worker_are_taken_over_within_15_seconds() -> None:
    """The lease ends, then the recovery job enqueues the file; docs/reliability.md promises this."""
    defaults = load({"DATABASE_URL": DATABASE})
    assert defaults.attachment_lease_seconds + defaults.recover_every_seconds <= 15
    # A renewal may wait for a lock and be tried once more before the lease ends.
    assert (
        defaults.attachment_lease_seconds / 3 + defaults.lock_timeout_ms / 1000
        < defaults.attachment_lease_seconds
    )


@pytest.mark.parametrize(
    "value",
    [
        "openchat",
        "openchat=Mars/Olympus",
        "openchat=Europe/Berlin until noon",
        "openchat=Europe/Berlin until 2026-12-01",
    ],
)
def test_zones_of_default_times_that_are_wrong(value: str) -> None:
    assert "ROOMKEEPER_NAIVE_ZONES is wrong" in fault(ROOMKEEPER_NAIVE_ZONES=value)


def test_zones_of_default_times() -> None:
    given = " openchat = Europe/Berlin until 2026-12-01T10:00+01:00 ,"
    zones = load({"DATABASE_URL": DATABASE, "ROOMKEEPER_NAIVE_ZONES": given}).naive_zones
    until = datetime(2026, 12, 1, 9, tzinfo=UTC)
    assert zones == {"openchat": NaiveZone("Europe/Berlin", until)}
    assert [zones["openchat"].at(until - timedelta(seconds=1)), zones["openchat"].at(until)] == [
        "Europe/Berlin",
        "UTC",
    ]
