"""Owns the address of a PostgreSQL database: what it may say, and how it is shown, which is without its password.

    postgresql://USER[:PASSWORD]@HOST[:PORT]/NAME[?OPTION=VALUE&...]

What is not exactly that is refused, and never shown: half a password may be in any part of it."""

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

OPTIONS = frozenset(
    {
        *("channel_binding", "connect_timeout", "gssencmode", "host", "passfile", "target_session_attrs"),
        *("sslcert", "sslcrl", "sslkey", "sslmode", "sslrootcert"),
    }
)
"""What may follow the `?`: options of libpq. `host` is the directory of a Unix socket, where there is no other host."""
SHAPE = "postgresql://USER@HOST:PORT/NAME"
_WORD = r"[^:/?#@\[\]\s]"
_ADDRESS = re.compile(
    rf"postgres(?:ql)?:/{{2}}(?:(?P<user>{_WORD}+)(?::(?P<password>{_WORD}*))?@)?"
    rf"(?P<host>[0-9A-Za-z._-]*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{{1,5}}))?/(?P<name>{_WORD}+)(?:\?(?P<options>[^#]*))?"
)


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """Where a database is. `options` are pairs for libpq."""

    name: str
    user: str = ""
    password: str = field(default="", repr=False)
    host: str = ""
    port: int | None = None
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "DatabaseAddress":
        """The address that `text` gives; ValueError, which shows nothing of it."""
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise ValueError(f"not of the shape {SHAPE}; special characters are percent-encoded, as in %40 for @")
        try:
            options = tuple(parse_qsl(found["options"] or "", strict_parsing=bool(found["options"])))
        except ValueError:
            raise ValueError("what follows the ? is not of the shape OPTION=VALUE&OPTION=VALUE") from None
        if not {key for key, _ in options} <= OPTIONS:
            raise ValueError(f"after the ? it takes only {', '.join(sorted(OPTIONS))}")
        port = int(found["port"]) if found["port"] else None
        if port is not None and not 0 < port <= 65_535:
            raise ValueError("the port is above 65535, or 0")
        return cls(
            name=unquote(found["name"]),
            user=unquote(found["user"] or ""),
            password=unquote(found["password"] or ""),
            host=found["host"].strip("[]"),
            port=port,
            options=options,
        )

    def __str__(self) -> str:
        """As it may be shown."""
        user = f"{self.user}:***" if self.password else self.user
        host = f"[{self.host}]" if ":" in self.host else self.host
        place = f"{host}:{self.port}" if self.port else host
        options = "&".join(f"{key}={value}" for key, value in self.options)
        return f"postgresql://{user}{'@' if user else ''}{place}/{self.name}{'?' if options else ''}{options}"
