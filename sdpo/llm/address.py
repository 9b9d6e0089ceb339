"""URLs of servers: validation, display without secrets, and whether they are on this machine."""

import re
from ipaddress import ip_address
from urllib.parse import urlsplit, urlunsplit

from sdpo.errors import SettingError


def checked_url(url: str, setting: str = "SIMULATOR_URL") -> str:
    """Return the URL without trailing slashes. Raises SettingError if it is no valid HTTP URL."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or re.search(r"\s", url):
        raise SettingError(f"{setting} is not an address of the form http://host:8000/v1.")
    return url.rstrip("/")


def shown_url(url: str) -> str:
    """Return the URL without the parts that may contain a password or a key: user info, query and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_loopback(url: str) -> bool:
    """Return whether the URL is on this machine, so that no proxy may be used for it."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
