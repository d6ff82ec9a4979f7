"""The application in whose name Globus is asked; an IOC never logs in by asking a person."""

from typing import TYPE_CHECKING, Any

from hpc_bridge.errors import ConsentRequired
from hpc_bridge.globus.settings import GlobusSettings
from phasing.errors import MissingExtra

if TYPE_CHECKING:
    import globus_sdk

APP_NAME = "phaseline"


def sdk() -> Any:
    """Import the SDK. Raises MissingExtra."""
    try:
        import globus_sdk.token_storage
    except ImportError as error:
        raise MissingExtra("globus-sdk", "globus") from error
    return globus_sdk


def make_app(settings: GlobusSettings) -> "globus_sdk.GlobusApp":
    """Return a client app, whose tokens stay in memory, or a person's app, whose tokens were stored by a login.

    Raises ConsentRequired when there is no secret.
    """
    globus_sdk = sdk()
    if not settings.as_person:
        # consents of a client app are its own: it may answer a request for one by itself
        config = globus_sdk.GlobusAppConfig(token_storage="memory", auto_redrive_gares=True)
        options = client_options(settings)
        asking = globus_sdk.ConfidentialAppAuthClient(settings.client_id, settings.secret, app_name=APP_NAME, **options)
        return globus_sdk.ClientApp(APP_NAME, login_client=asking, config=config)  # type: ignore[no-any-return]
    config = globus_sdk.GlobusAppConfig(
        token_storage=_storage(settings), request_refresh_tokens=True, token_validation_error_handler=None
    )
    asking = globus_sdk.NativeAppAuthClient(settings.client_id, app_name=APP_NAME, **client_options(settings))
    return globus_sdk.UserApp(APP_NAME, login_client=asking, config=config)  # type: ignore[no-any-return]


def client_options(settings: GlobusSettings) -> dict[str, Any]:
    """What every client of the SDK is made with: how often a request is repeated, and how long one may take."""
    from globus_sdk.transport import RequestsTransport, RetryConfig

    return {
        "retry_config": RetryConfig(max_retries=settings.retries, max_sleep=settings.poll_s),
        "transport": RequestsTransport(http_timeout=settings.timeout_s),
    }


def consent_url(settings: GlobusSettings, scopes: list[str]) -> str:
    """Return the address at which a person grants scopes; a client app's are granted by its owner on its own page."""
    if not settings.as_person:
        return "https://app.globus.org/settings/developers"
    client = sdk().NativeAppAuthClient(settings.client_id, app_name=APP_NAME)
    client.oauth2_start_flow(requested_scopes=scopes, refresh_tokens=True)
    return str(client.oauth2_get_authorize_url(prompt="login"))


def login(settings: GlobusSettings, app: "globus_sdk.GlobusApp") -> None:
    """Let a person log in on the terminal for all clients that the app has; tokens are stored for the IOC."""
    if not settings.as_person:
        raise ConsentRequired("this installation is a service account: it logs in by itself")
    app.login(force=True)


def _storage(settings: GlobusSettings) -> Any:
    settings.folder.mkdir(parents=True, exist_ok=True)
    return sdk().token_storage.JSONTokenStorage(settings.folder / "globus-tokens.json")
