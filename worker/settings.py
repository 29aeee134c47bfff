"""Settings of the worker: flags, then environment, then a TOML file, then defaults."""

import ipaddress
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import msgspec
from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from dspex.runtime import DspexError
from dspex.runtime.bridge import Limits, PoolSettings
from dspex.worker.open_runtime import LEASE_SECONDS, MAX_RUNNING, POOL

_MIN_TOKEN = 16


class SettingsError(DspexError):
    """A setting of the worker cannot be used: which one, its value, what to do."""


class WorkerSettings(BaseSettings):
    """What `dspex worker` is told; each is also DSPEX_NAME and a key of a file."""

    model_config = SettingsConfigDict(
        env_prefix="DSPEX_", extra="forbid", frozen=True, defer_build=True
    )

    app: str = ""
    """module:attribute, or a directory of program files."""
    lm: str = "embedded"
    """The model where the app names none: embedded, openai:MODEL or anthropic:MODEL."""
    base_url: str | None = None
    """Another server that speaks OpenAI's API."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds for a model call, retries included; 60, and 120 of the embedded model."""
    store: str | None = None
    """Where runs are kept: a SQLite file or postgresql://...; else in memory."""
    host: str = "127.0.0.1"
    port: int = Field(default=8600, ge=0, le=65_535)
    """0 takes a free one."""
    token: SecretStr | None = None
    """What a client must show to use the worker; needed to listen beyond loopback."""
    max_runs: int = Field(default=1_000, ge=1)
    """Accepted runs that may be unfinished; beyond that, 503."""
    max_running: int = Field(default=MAX_RUNNING, ge=1)
    """Runs that are executed at a time, with a store; beyond that, runs wait in it."""
    lease_seconds: float = Field(default=LEASE_SECONDS, gt=0)
    """With a store: a worker that shows no life for so long loses its runs."""
    resume: bool = True
    """With a store: whether it executes runs that others accepted or left."""
    max_streams: int = Field(default=5_000, ge=1)
    """Open event streams; beyond that, 503."""
    max_body_bytes: int = Field(default=1_000_000, ge=1)
    body_timeout: float = Field(default=10.0, gt=0)
    """Seconds that the body of a request has to arrive; beyond that, 408."""
    rate_per_minute: float = Field(default=60_000.0, gt=0)
    """Requests of one token (or one address without token); beyond that, 429.

    Ten seconds' worth, and at least ten, may come at once.
    """
    max_wait: float = Field(default=60.0, gt=0)
    """The longest `?wait=`, in seconds."""
    pool_min: int = Field(default=POOL.min_size, ge=0)
    """Processes that stand ready for python steps, once a program has one."""
    pool_max: int = Field(default=POOL.max_size, ge=1)
    """Processes that run python steps at a time; beyond that, steps wait."""
    pool_memory_bytes: int | None = Field(default=None, ge=50_000_000)
    """What such a process may allocate over what dspy takes."""
    pool_cpu_seconds: int | None = Field(default=None, ge=1)
    """The CPU time of one run of a python step."""
    drain_timeout: float = Field(default=30.0, ge=0)
    """Seconds that accepted runs have to finish after SIGTERM."""
    shutdown_timeout: float = Field(default=5.0, ge=0)
    """Seconds that actors have to end in order."""
    keep_text: bool | Literal["hash"] = True
    """Whether prompts and completions are kept with the runs and shown."""
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"

    _loopback: ClassVar = ("localhost", "127.0.0.1", "::1")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host in self._loopback:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def pool(self) -> PoolSettings:
        """How many processes run python steps, and within which limits."""
        return replace(
            POOL,
            min_size=self.pool_min,
            max_size=self.pool_max,
            limits=Limits(
                memory_bytes=self.pool_memory_bytes, cpu_seconds=self.pool_cpu_seconds
            ),
        )

    @model_validator(mode="after")
    def _check_pool(self) -> Self:
        if self.pool_max < self.pool_min:
            raise ValueError(
                f"pool_max is {self.pool_max}, less than pool_min, {self.pool_min}"
            )
        return self

    @model_validator(mode="after")
    def _check_exposure(self) -> Self:
        if self.token is not None:
            if len(self.token.get_secret_value()) < _MIN_TOKEN:
                raise ValueError(f"token is shorter than {_MIN_TOKEN} characters")
        elif not self.is_loopback:
            raise ValueError(
                f"host {self.host!r} can be reached from outside: set DSPEX_TOKEN "
                "to a long random secret, or listen on 127.0.0.1"
            )
        return self

    def to_toml(self) -> str:
        """Give the settings as a TOML file, secrets hidden."""
        lines: list[str] = []
        for name, value in self.model_dump(mode="json").items():
            if value is None:
                lines.append(f"# {name} is not set")
            else:
                # A JSON string, number or truth value is one of TOML, too.
                lines.append(f"{name} = {msgspec.json.encode(value).decode()}")
        return "\n".join(lines)


def read_settings(
    flags: Mapping[str, Any],  # Any: as the settings declare
    *,
    file: Path | None = None,
) -> WorkerSettings:
    """Give the settings; a flag that is None was not given.

    Raises:
        SettingsError: the file cannot be read, or a value cannot be used.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            problem = getattr(error, "strerror", None) or str(error)
            raise SettingsError(f"{file}: cannot read settings: {problem}") from error

    class _Layered(WorkerSettings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            lowest = InitSettingsSource(settings_cls, init_kwargs=values)
            return init_settings, env_settings, lowest

    try:
        return _Layered(**{k: v for k, v in flags.items() if v is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        text = f"setting {name!r}: {message}" if name else message
        raise SettingsError(text) from error
