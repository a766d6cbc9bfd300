"""URLs of PostgreSQL that name several servers, as libpq has them: `postgresql://user@a:5432,b:5432/name`."""

import re
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

#: A host, in brackets if it is an IPv6 address, and its port.
_HOST = re.compile(r"(?:\[(?P<six>[^\]]*)\]|(?P<name>[^:\[\]]*))(?::(?P<port>\d{0,5}))?")
_MAX_PORT = 65535


def hosts_of(url: str) -> list[tuple[str, str]]:
    """Return the hosts that stand before the database's name, each with its port; '' where there is none.

    Raises:
        ValueError: a port is no number.
    """
    hosts = []
    for one in urlsplit(url).netloc.rpartition("@")[2].split(","):
        found = _HOST.fullmatch(one)
        if found is None or int(found["port"] or 0) > _MAX_PORT:
            raise ValueError("a port is no number")
        hosts.append((unquote(found["six"] or found["name"] or ""), found["port"] or ""))
    return hosts


def split_hosts(url: str) -> str:
    """Return `url` as SQLAlchemy reads it, which takes several hosts only as parameters."""
    hosts = hosts_of(url)
    if len(hosts) == 1:
        return url
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    query = parse_qsl(parts.query)
    # As with libpq, a parameter `host` stands above those.
    if not any(name == "host" for name, _ in query):
        names, ports = zip(*hosts, strict=True)
        query += [("host", ",".join(names)), ("port", ",".join(ports))]
    return f"{parts.scheme}://{user}{at}{parts.path}?{urlencode(query)}"
