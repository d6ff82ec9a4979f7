"""What Globus and its SDK say, as the bridge's own errors: one line, and never a secret."""

from collections.abc import Iterator
from contextlib import contextmanager

from hpc_bridge.errors import BackendUnavailable, BridgeError, ConsentRequired, TaskFailed
from hpc_bridge.globus.apps import consent_url, sdk
from hpc_bridge.globus.settings import GlobusSettings

_BUSY = (408, 425, 429)


class Consent(ConsentRequired):
    """A consent that a person has to grant; ``url`` is where."""

    def __init__(self, text: str, url: str) -> None:
        super().__init__(text)
        self.url = url


@contextmanager
def named_errors(settings: GlobusSettings, what: str) -> Iterator[None]:
    """Turn the SDK's errors into the bridge's; ``what`` was asked, such as "Transfer"."""
    globus_sdk = sdk()
    try:
        yield
    except globus_sdk.AuthAPIError as error:
        raise _refused_login(error, what) from error
    except globus_sdk.GlobusAPIError as error:
        raise _named(settings, error, what) from error
    except globus_sdk.NetworkError as error:
        raise BackendUnavailable(f"{what} cannot be reached: {_line(str(error))}") from error
    except globus_sdk.GlobusSDKUsageError as error:
        raise TaskFailed(f"{what}: {_line(str(error))}") from error
    except globus_sdk.token_storage.TokenValidationError as error:
        scopes = ["urn:globus:auth:scope:transfer.api.globus.org:all"]
        text = f"{what}: nobody has logged in, or the login is over: run `phaseline globus login` ({_line(str(error))})"
        raise Consent(text, consent_url(settings, scopes)) from error


def _refused_login(error: Exception, what: str) -> BridgeError:
    status = getattr(error, "http_status", 0)
    if status in _BUSY or status >= 500:
        return BackendUnavailable(f"Globus Auth cannot be asked for {what}: {status}")
    # what the service says of a refused client may name the client, never the secret
    return TaskFailed(f"Globus Auth refuses this client for {what}: its secret is wrong, expired or revoked ({status})")


def _named(settings: GlobusSettings, error: Exception, what: str) -> BridgeError:
    status, code = getattr(error, "http_status", 0), getattr(error, "code", "")
    message = _line(_message(error))
    consent = getattr(error, "info", None)
    scopes = _required_scopes(consent)
    if scopes:
        text = f"{what} needs a consent that is missing: {message}"
        return Consent(text, consent_url(settings, scopes))
    if status in _BUSY or status >= 500:
        return BackendUnavailable(f"{what} is not available now ({status} {code}): {message}")
    if status == 401:
        return BackendUnavailable(f"{what} does not accept the login: {message}")
    return TaskFailed(f"{what} refuses ({status} {code}): {message}")


def _message(error: Exception) -> str:
    """The sentence of an error, which Compute calls its reason."""
    said = getattr(error, "raw_json", None) or {}
    return str(said.get("reason") or getattr(error, "message", None) or error)


def _required_scopes(info: object) -> list[str]:
    """The scopes that an error asks for, in either of the two forms that the services use."""
    consent = getattr(info, "consent_required", None)
    if consent:
        return [str(scope) for scope in consent.required_scopes or []]
    wanted = getattr(info, "authorization_parameters", None)
    if wanted:
        return [str(scope) for scope in getattr(wanted, "required_scopes", None) or []]
    return []


def _line(text: str) -> str:
    return " ".join(text.split())[:300]
