"""Every knob, typed, read from the environment once.

A wrong or misspelt value stops the process with a sentence that names the variable. The description of
each field is what the table in docs/settings.md prints.
"""

import difflib
import os
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from workers import naive_zones, time_zones
from workers.database_url import hosts_of
from workers.errors import OperatorError
from workers.naive_zones import NaiveZone

PREFIX = "ROOMKEEPER_"
#: Named as in the applications' documents, so that one environment serves an API service and its workers.
UNPREFIXED = {"database_url": "DATABASE_URL"}

MIB = 1024 * 1024
#: The longest period that a setting may name: what PostgreSQL can take from any date that is met.
MAX_SECONDS = 100 * 366 * 24 * 3600
MAX_DAYS = 100 * 366
#: The shortest period that retention may be given: below it is a slip of the pen.
LEAST_DAYS = 1


class SettingsError(OperatorError):
    """A setting is wrong. The message names the variable and says what is allowed."""


class Settings(BaseModel):
    """The platform's configuration. Build it with `load` or `get_settings`, never directly."""

    # Not Pydantic's own `BaseSettings`: that reads the process's environment beside the one that it is given.
    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, validate_default=True, allow_inf_nan=False
    )

    database_url: SecretStr = Field(
        validation_alias="DATABASE_URL",
        description="PostgreSQL, `postgresql://user:password@host:port/name`; the role must bypass row "
        "level security. Several servers, `host1:port1,host2:port2`: the one that takes writes is used.",
    )
    broker_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="The Redis-compatible broker; `noeviction` and AOF are required for durability.",
    )
    apps: tuple[str, ...] = Field(
        default=("echoroom", "openchat", "connect", "pern", "audiorooms"),
        description="The applications whose jobs run, comma separated.",
    )
    schemas: dict[str, str] = Field(
        default={},
        description="What the applications' schemas are really called, `openchat=public,pern=chat`.",
    )
    naive_zones: dict[str, NaiveZone] = Field(
        default={},
        description="The time zone that default times of an application hold in columns without one, where "
        "sessions had another than UTC: `openchat=Europe/Berlin until 2026-12-01T09:00Z`; without `until`, "
        "they still have.",
    )
    storage_root: Path = Field(
        default=Path("/var/lib/roomkeeper/storage"),
        description="The directory of the `local` object store; the API services write uploads into it.",
    )
    quarantine_root: Path = Field(
        default=Path("/var/lib/roomkeeper/quarantine"),
        description="Where infected files of the `local` store are moved; nothing may serve this directory.",
    )
    storage_url: str = Field(
        default="/files",
        description="What a key of the local store is prefixed with to make a URL.",
    )
    s3_bucket: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        description="The bucket of the `s3` object store; without one there is no such store.",
    )
    s3_endpoint: str | None = Field(
        default=None, description="Where the `s3` store is, `https://host:port`; Amazon's if unset."
    )
    s3_region: str | None = Field(
        default=None, description="The region of the `s3` store; from boto3's own configuration if unset."
    )
    s3_access_key: SecretStr | None = Field(
        default=None,
        description="The access key's name; unset, with its secret, boto3 looks for credentials itself: "
        "instance roles, `AWS_*`.",
    )
    s3_secret_key: SecretStr | None = Field(default=None, description="The access key's secret.")
    s3_quarantine_bucket: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        description="Where infected files of the `s3` store are moved; its own bucket if unset.",
    )
    s3_quarantine_prefix: str = Field(
        default="quarantine/",
        pattern=r"^([A-Za-z0-9_-]+/)+$",
        description="What their keys begin with there; nothing may serve them.",
    )
    s3_public_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^?#]+$",
        description="What a key of the `s3` store is prefixed with to make a URL; unset, URLs are signed "
        "ones, which expire.",
    )
    s3_url_seconds: int = Field(
        default=7 * 24 * 3600,
        ge=60,
        le=7 * 24 * 3600,
        description="How long signed URLs hold; a week is the most that S3 allows.",
    )
    s3_timeout_seconds: float = Field(
        default=20, gt=0, description="How long the `s3` store may be silent; a request is tried three times."
    )
    clamd: str = Field(
        default="unix:/run/clamav/clamd.ctl",
        description="The virus scanner, `unix:/path/to/socket` or `tcp://host:port`.",
    )
    max_file_bytes: int = Field(
        default=100 * MIB,
        gt=0,
        description="The largest attachment, in bytes; must not exceed any size limit of clamd.",
    )
    attachment_lease_seconds: float = Field(
        default=9,
        ge=1,
        description="After this long without a sign of life of its worker another takes it over; "
        "the recovery job enqueues it.",
    )
    attachment_attempts: int = Field(
        default=3,
        ge=1,
        description="How often a file may fail or kill its worker before it needs an operator.",
    )
    attachment_retry_seconds: float = Field(
        default=10,
        gt=0,
        description="The first pause before a file is tried again; doubles each time, with jitter.",
    )
    attachment_retry_max_seconds: float = Field(
        default=300, gt=0, description="The longest pause before a file is tried again."
    )
    attachment_missing_seconds: float = Field(
        default=3600,
        ge=0,
        le=MAX_SECONDS,
        description="How long a file whose object is not in the store waits for it, from when the platform "
        "first learns of its row; then it fails.",
    )
    attachment_grace_seconds: float = Field(
        default=30,
        ge=0,
        description="How long a new row may be without a message before the recovery job enqueues it.",
    )
    attachment_requeue_seconds: float = Field(
        default=900,
        gt=0,
        description="How long the recovery job waits before it enqueues the same file again.",
    )
    row_wait_seconds: float = Field(
        default=60,
        gt=0,
        le=MAX_SECONDS,
        description="How long the message of an attachment or a room waits for a row that does not exist, "
        "before it becomes a dead letter.",
    )
    delivery_wait_seconds: float = Field(
        default=300,
        gt=0,
        description="How long a status waits for its message to exist before it becomes a dead letter.",
    )
    drain_every_seconds: float = Field(
        default=1, gt=0, description="How often the statuses in the inbox are merged."
    )
    audit_every_seconds: float = Field(
        default=60,
        gt=0,
        description="How often counters of conversations are recounted, three seconds' worth.",
    )
    recover_every_seconds: float = Field(
        default=5, gt=0, description="How often the recovery job looks for attachments without a worker."
    )
    scan_timeout_seconds: float = Field(
        default=120, gt=0, description="How long clamd may take over one file before it counts as 'not yet'."
    )
    signature_max_age_days: float = Field(
        default=3, gt=0, description="Virus signatures that are older than this are a fault."
    )
    rescan_every_seconds: float = Field(
        default=15, gt=0, description="How often served files are scanned again when signatures are new."
    )
    rescan_share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="The share of one scanner thread's time that rescans may take; 0 for no rescans.",
    )
    outbox_every_seconds: float = Field(
        default=1, gt=0, description="How often tasks that were enqueued in SQL are published."
    )
    outbox_keep_seconds: float = Field(
        default=24 * 3600, ge=0, description="How long published tasks are kept for inspection."
    )
    sweep_every: dict[str, float] = Field(
        default={},
        description="How often policies and rollups run, in seconds, instead of their own schedule: "
        "`echoroom.typing=2,openchat.sessions=3600`.",
    )
    sweep_after: dict[str, float] = Field(
        default={},
        description="The periods of policies, in seconds, instead of their own: `echoroom.ghosts=900`.",
    )
    sweep_off: tuple[str, ...] = Field(
        default=(), description="Policies and rollups that do not run, comma separated."
    )
    sweep_seconds: float = Field(
        default=5, gt=0, description="How long one run of a policy may take; the next one does the rest."
    )
    rollup_zones: dict[str, str] = Field(
        default={},
        description="The time zones whose days rollups count, where not UTC: "
        "`audiorooms.room_analytics=Europe/Berlin`. The same on every host; a change takes "
        "`roomkeeper rollup zone`, too.",
    )
    retention_days: dict[str, float] = Field(
        default={},
        description="The periods of retention policies, in days: `pern.messages=365,connect.logs=400`. One "
        "without a documented period is off until it is set here; `roomkeeper policies` lists them.",
    )
    retention_factor: float = Field(
        default=5,
        ge=1,
        description="A retention run that would delete more than so many times the usual rows stops, and "
        "waits for `roomkeeper retention approve`.",
    )
    retention_floor: int = Field(
        default=10_000, ge=1, description="A retention run may always delete this many rows."
    )
    approval_hours: float = Field(
        default=24, gt=0, description="How long an approval of `roomkeeper retention approve` holds."
    )
    archive_root: Path | None = Field(
        default=None,
        description="The directory that rows are archived in before retention deletes them; nothing may "
        "serve it. Not beside ROOMKEEPER_ARCHIVE_BUCKET.",
    )
    archive_bucket: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        description="The bucket that rows are archived in, on the server of the `s3` store; nothing may "
        "serve it. Without a place for archives, policies that archive do not run.",
    )
    archive_off: tuple[str, ...] = Field(
        default=(),
        description="Retention policies that delete without an archive, comma separated; not all may.",
    )
    reconcile_prefixes: tuple[str, ...] = Field(
        default=("derived/",),
        description="What the keys of attachments' objects begin with, comma separated: objects below them "
        "that no row names are orphans. Nothing else in the store is listed.",
    )
    reconcile_grace_hours: float = Field(
        default=7 * 24, gt=0, description="An object younger than this is no orphan: its row may follow."
    )
    reconcile_share: float = Field(
        default=0.05,
        gt=0,
        le=1,
        description="If more than this share of the objects, or of the rows, would be orphans, nothing is "
        "changed: more likely something else is wrong.",
    )
    socketio_url: SecretStr | None = Field(
        default=None,
        description="The Redis of the API services' `@socket.io/redis-adapter`: events of "
        "sweeps are emitted through it to users. Nothing is emitted if unset.",
    )
    strip_originals: tuple[str, ...] = Field(
        default=(),
        description="The applications whose originals lose their personal metadata (place, camera, text); "
        "their rows' size and hash are set to what is then stored.",
    )
    external_template_hosts: tuple[str, ...] = Field(
        default=(),
        description="The hosts from which office documents may fetch templates and other parts when they are "
        "opened, such as `fs01` or `templates.example.com`; `*` for any. Documents that fetch from elsewhere "
        "are refused.",
    )
    work_root: Path | None = Field(
        default=None,
        description="Where files are while they are processed; the system's temporary directory if unset.",
    )
    identify_timeout_seconds: float = Field(
        default=20, gt=0, description="How long identifying a file may take."
    )
    draw_timeout_seconds: float = Field(
        default=60, gt=0, description="How long rendering one file's thumbnails may take."
    )
    draw_memory_bytes: int = Field(
        default=1024 * MIB, gt=0, description="The address space of the process that renders, in bytes."
    )
    draw_decoded_bytes: int = Field(
        default=640 * MIB,
        gt=0,
        description="The most that one decoded picture may take, in bytes: width × height × 1 (black and "
        "white, grey, palette), 2 (16 bits of grey) or 4 (colour). A JPEG is decoded at down to an eighth of "
        "its width and height. Beyond it the file is served without thumbnails.",
    )
    draw_animation_frames: int = Field(
        default=120,
        ge=2,
        description="The most frames that an animation keeps in thumbnails; of more, every second, third… "
        "is kept and shown for longer.",
    )
    draw_animation_pixels: int = Field(
        default=24_000_000,
        gt=0,
        description="The most pixels of all frames together in an animation's preview, which is scaled "
        "down to fit, but never below its thumbnail.",
    )
    task_soft_limit_seconds: int = Field(
        default=300, gt=0, description="After this long a task is asked to stop and its file waits."
    )
    task_hard_limit_seconds: int = Field(
        default=330, gt=0, description="After this long a task's process is killed."
    )
    visibility_timeout_seconds: int = Field(
        default=60,
        ge=5,
        description="How long the broker waits for a silent worker before others get its messages; a live "
        "worker's messages are refreshed, however long they take.",
    )
    statement_timeout_ms: int = Field(
        default=30_000, gt=0, description="The longest that one SQL statement may run."
    )
    lock_timeout_ms: int = Field(
        default=5_000, gt=0, description="The longest that one SQL statement may wait for a lock."
    )
    prepared_statements: bool = Field(
        default=False,
        description="Whether statements that are run often are prepared, which saves the database some work. "
        "Not behind a transaction pooler, unless it keeps prepared statements.",
    )
    worker_processes: int = Field(
        default=2, gt=0, description="The processes of one worker, each doing one task at a time."
    )
    shutdown_seconds: int = Field(
        default=20,
        ge=0,
        description="How long a worker may finish its tasks after SIGTERM; a container must grant it longer.",
    )
    flower_user: str = Field(default="operator", description="The name that Flower asks for.")
    flower_password: SecretStr | None = Field(
        default=None, description="The password that Flower asks for; Flower does not start without one."
    )
    flower_address: str = Field(default="127.0.0.1", description="The address that Flower listens on.")
    flower_port: int = Field(default=5555, ge=1, le=65535, description="The port that Flower listens on.")
    metrics_address: str = Field(default="127.0.0.1", description="The address that metrics are served on.")
    metrics_port: int = Field(
        default=9464, ge=1, le=65535, description="The port that `roomkeeper metrics` listens on."
    )
    worker_metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="The port that a worker serves its own counts on; none by default. Not two on one host.",
    )
    health_file: Path | None = Field(
        default=None, description="A file that a worker or beat touches while it is alive, for health checks."
    )
    log_format: str = Field(
        default="json", pattern="^(json|text)$", description="`json`, a line an event, or `text` for people."
    )

    @field_validator("database_url")
    @classmethod
    def _postgres(cls, value: SecretStr) -> SecretStr:
        if _scheme(value.get_secret_value()) not in {"postgresql", "postgres"}:
            raise ValueError("must begin with postgresql://")
        return value

    @field_validator("broker_url", "socketio_url")
    @classmethod
    def _redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and _scheme(value.get_secret_value()) not in {"redis", "rediss"}:
            raise ValueError("must begin with redis:// or rediss://")
        return value

    @field_validator("clamd")
    @classmethod
    def _scanner(cls, value: str) -> str:
        if not re.fullmatch(r"unix:/.+|tcp://.+:\d+", value):
            raise ValueError("must be unix:/path/to/socket or tcp://host:port")
        return value

    @field_validator(
        "apps",
        "strip_originals",
        "external_template_hosts",
        "sweep_off",
        "archive_off",
        "reconcile_prefixes",
        mode="before",
    )
    @classmethod
    def _names(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("external_template_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if host != "*" and not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", host):
                raise ValueError(f"{host!r} must be the name of a host, such as fs01, or *")
        return tuple(host.lower() for host in value)

    @field_validator("schemas", mode="before")
    @classmethod
    def _renames(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        renames = {}
        for pair in filter(None, (part.strip() for part in value.split(","))):
            name, equals, real = pair.partition("=")
            if not (equals and name.strip() and real.strip()):
                raise ValueError("must be pairs like openchat=public, separated by commas")
            renames[name.strip()] = real.strip()
        return renames

    @field_validator("rollup_zones", mode="before")
    @classmethod
    def _zones(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        zones = {}
        for pair in filter(None, (part.strip() for part in value.split(","))):
            name, _, zone = (part.strip() for part in pair.partition("="))
            if fault := time_zones.fault_of(zone):
                raise ValueError(
                    "must be pairs like audiorooms.room_analytics=Europe/Berlin, separated by commas; "
                    f"of {name}, {fault}"
                )
            zones[name] = zone
        return zones

    @field_validator("naive_zones", mode="before")
    @classmethod
    def _naive_zones(cls, value: object) -> object:
        return naive_zones.parse(value) if isinstance(value, str) else value

    @field_validator("sweep_every", "sweep_after", "retention_days", mode="before")
    @classmethod
    def _seconds(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value
        found: dict[str, float] = {}
        for pair in filter(None, (part.strip() for part in value.split(","))):
            name, _, number = (part.strip() for part in pair.partition("="))
            try:
                found[name] = float(number)
            except ValueError:
                raise ValueError("must be pairs like echoroom.typing=5, separated by commas") from None
            days = info.field_name == "retention_days"
            most, unit = (MAX_DAYS, "days") if days else (MAX_SECONDS, "seconds")
            if not (0 < found[name] <= most):
                raise ValueError(f"must have {unit} above 0 and at most {most}, a hundred years")
        return found

    @field_validator("retention_days")
    @classmethod
    def _days(cls, value: dict[str, float]) -> dict[str, float]:
        for name, days in value.items():
            if days < LEAST_DAYS:
                raise ValueError(
                    f"must have days, {LEAST_DAYS} at least: with {name}={days:g} nearly all rows would go"
                )
        return value

    @field_validator("s3_endpoint")
    @classmethod
    def _server(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if (
                parts.scheme not in {"http", "https"}
                or not parts.hostname
                or parts.username is not None
                or parts.path.strip("/")
            ):
                raise ValueError("must be https://host:port, without a path")
        return value

    @field_validator("s3_quarantine_prefix")
    @classmethod
    def _quarantine_is_apart(cls, value: str) -> str:
        if value.startswith("derived/"):
            raise ValueError("must not begin with derived/, where pictures are served from")
        return value

    @model_validator(mode="after")
    def _keys_come_in_pairs(self) -> Self:
        if (self.s3_access_key is None) != (self.s3_secret_key is None):
            raise ValueError(f"{PREFIX}S3_ACCESS_KEY and {PREFIX}S3_SECRET_KEY must be set both or neither")
        return self

    @field_validator("storage_root", "quarantine_root", "archive_root", "work_root", "health_file")
    @classmethod
    def _the_same_wherever_a_program_starts(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_absolute():
            raise ValueError(
                "must be an absolute path, such as /var/lib/roomkeeper/storage: a relative one means another "
                "place to each program that starts somewhere else"
            )
        return value

    @model_validator(mode="after")
    def _one_archive(self) -> Self:
        if self.archive_root is not None and self.archive_bucket is not None:
            raise ValueError(f"{PREFIX}ARCHIVE_ROOT and {PREFIX}ARCHIVE_BUCKET must not both be set")
        if self.archive_bucket is not None and self.archive_bucket == self.s3_bucket:
            raise ValueError(
                f"{PREFIX}ARCHIVE_BUCKET must not be {PREFIX}S3_BUCKET, whose objects are served"
            )
        return self

    def naive_zone(self, app: str, moment: datetime) -> str:
        """Return the time zone in which default times of an application's columns without one are written."""
        found = self.naive_zones.get(app)
        return "UTC" if found is None else found.at(moment)

    @model_validator(mode="after")
    def _limits_fit(self) -> Self:
        if self.task_soft_limit_seconds >= self.task_hard_limit_seconds:
            raise ValueError(
                f"{PREFIX}TASK_SOFT_LIMIT_SECONDS must be less than {PREFIX}TASK_HARD_LIMIT_SECONDS, or a "
                "task would be killed before it was asked to stop"
            )
        return self


def _scheme(url: str) -> str:
    """Return the URL's scheme, if its host and port make sense."""
    try:
        parts = urlsplit(url)
        hosts_of(url)
    except ValueError:
        # Its own words may repeat a piece of the password.
        raise ValueError(
            "must have a number for a port, if any, and / ? # @ in a password as %2F %3F %23 %40"
        ) from None
    return parts.scheme


def variable(field: str) -> str:
    """Return the environment variable that sets `field`."""
    return UNPREFIXED.get(field, PREFIX + field.upper())


def load(environment: Mapping[str, str]) -> Settings:
    """Read the settings from `environment`.

    Raises:
        SettingsError: a value is missing, wrong, or its variable is misspelt; one sentence for each.
    """
    known = {variable(field): field for field in Settings.model_fields}
    faults = []
    values: dict[str, Any] = {}
    for name, value in environment.items():
        if name in known:
            values[known[name]] = value
        elif name.startswith(PREFIX):
            likely = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {likely[0]}?" if likely else "; see docs/settings.md."
            faults.append(f"{name} is not a setting{hint}")
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        faults += [_sentence(fault) for fault in error.errors(include_url=False)]
    if faults:
        raise SettingsError("\n".join(faults))
    return settings


def _sentence(fault: Any) -> str:
    """Say what is wrong with one variable, without its value where that may be a secret."""
    if not fault["loc"]:
        return f"{fault['msg'].removeprefix('Value error, ')}."
    field = str(fault["loc"][0])
    name = field if field in UNPREFIXED.values() else variable(field)
    if fault["type"] == "missing":
        return f"{name} is not set; it must be given."
    shown = fault["input"]
    secret = isinstance(shown, SecretStr) or name.endswith(("_URL", "_PASSWORD", "_ENDPOINT"))
    got = "" if secret else f" (got {shown!r})"
    return f"{name} is wrong{got}: {fault['msg'].removeprefix('Value error, ')}."


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return this process's settings, read at the first call.

    Raises:
        SettingsError: see `load`.
    """
    return load(os.environ)
