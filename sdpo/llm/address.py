"""URLs of servers: validation, display without secrets, and whether they are on this machine."""

import base64
import re
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit, urlunsplit

from sdpo.errors import SettingError


def checked_url(url: str, setting: str = "SIMULATOR_URL") -> str:
    """Return the URL of the API, without trailing slashes. Raises SettingError if it is no valid HTTP URL."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or re.search(r"\s", url):
        raise SettingError(f"{setting} is not an address of the form http://host:8000/v1.")
    return url.rstrip("/").removesuffix("/chat/completions")


def api_url(url: str, setting: str) -> str:
    """Return `checked_url`, with /v1 if the URL has no path: only the server was named, not its API."""
    url = checked_url(url, setting)
    return url if urlsplit(url).path else f"{url}/v1"


def shown_url(url: str) -> str:
    """Return the URL without the parts that may contain a password or a key: user info, query and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def without_credentials(text: str) -> str:
    """Return a text in which the addresses have no user and no password."""
    return re.sub(r"(?<=//)[^/\s?#]*@", "", text)


def has_version(url: str) -> bool:
    """Return whether the URL's path names a version of the API, such as /v1: otherwise it may lack it."""
    return re.search(r"/v\d\w*(?:/|$)", urlsplit(url).path) is not None


def credentials(url: str) -> tuple[str, str | None]:
    """Return the URL without its user and password, and the two as an Authorization header; None if it has none."""
    parts = urlsplit(url)
    user_info, _, host = parts.netloc.rpartition("@")
    if not user_info:
        return url, None
    user, _, password = user_info.partition(":")
    encoded = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
    return urlunsplit(parts._replace(netloc=host)), f"Basic {encoded}"


def is_loopback(url: str) -> bool:
    """Return whether the URL is on this machine, so that no proxy may be used for it."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
