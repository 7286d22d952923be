"""Errors of the hub say what helps: a token, another mirror, or the network."""

import types

import pytest

from data import hub_errors


class ConnectError(Exception):
    """As the hub's client calls it."""


def failed(status: int | None, error: type[Exception] = OSError) -> Exception:
    error = error("failed")
    if status:
        error.response = types.SimpleNamespace(status_code=status)
    return error


@pytest.mark.parametrize(
    "error, remedy",
    [
        (failed(401), hub_errors.TOKEN),
        (failed(403), hub_errors.TOKEN),
        (failed(404), hub_errors.MIRROR),
        (failed(429), hub_errors.BUSY),
        (failed(503), hub_errors.BUSY),
        (failed(None, ConnectError), hub_errors.NETWORK),
        (failed(None, TimeoutError), hub_errors.NETWORK),
        (failed(None), ""),
        (failed(416), ""),
    ],
)
def test_each_error_has_its_remedy(error, remedy):
    """By status, or by the name of an error without one, also as the cause of another."""
    assert hub_errors.remedy(error) == remedy
    outer = RuntimeError("outer")
    outer.__cause__ = error
    assert hub_errors.remedy(outer) == remedy


def test_remedies_name_what_to_set():
    """Token, network and mirror by their variables."""
    assert "HF_TOKEN" in hub_errors.TOKEN and "HTTPS_PROXY" in hub_errors.NETWORK
    assert "HF_ENDPOINT" in hub_errors.NETWORK and "HF_ENDPOINT" in hub_errors.BUSY
