"""What to do about an error of the hub: a token, another mirror, or the network.

401, 403           the hub wants a token that may read the repository
404                the repository or the file is not there: name another
429, 5xx           the hub is busy or broken: later, or a mirror of it
no answer at all   the network, a proxy, or offline mode
"""

from __future__ import annotations

TOKEN = "the hub wants a token that may read it: set HF_TOKEN, or run: hf auth login"
MIRROR = "it is not there: name another repository or variant"
BUSY = "the hub is busy: try again later, or name a mirror of it in HF_ENDPOINT"
NETWORK = (
    "no answer: check the network and its proxy (HTTPS_PROXY), unset HF_HUB_OFFLINE, "
    "or name a mirror of the hub in HF_ENDPOINT"
)
# Names of the clients' errors, which are of several libraries that need not be installed.
NETWORK_NAMES = (
    "connect",
    "timeout",
    "offline",
    "localentrynotfound",
    "proxy",
    "ssl",
    "resolution",
)


def http_status(error: BaseException) -> int | None:
    """Return the status that an error or one of its causes carries; None where nobody answered."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            return status
        error = error.__cause__ or error.__context__
    return None


def remedy(error: BaseException) -> str:
    """Say what helps against an error of the hub's client; empty where nothing is known.

    Example: an error with status 401 -> "the hub wants a token …"
    """
    status = http_status(error)
    if status in (401, 403):
        return TOKEN
    if status == 404:
        return MIRROR
    if status == 429 or (status or 0) >= 500:
        return BUSY
    names = [type(cause).__name__.lower() for cause in _causes(error)]
    if any(part in name for name in names for part in NETWORK_NAMES):
        return NETWORK
    return ""


def _causes(error: BaseException | None) -> list[BaseException]:
    causes = []
    while error is not None:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes
