"""Talking to Grafana through grafana-client: what goes wrong is one line with a remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from tristream.runtime.errors import TryAgainError, UserError

TIMEOUT_SECONDS = 15.0
FORBIDDEN = (
    "give the token's service account the role Editor, and for the data source `datasources:create` and"
    " `datasources:write`, or Admin"
)


def connect(url: str, token: str) -> Any:  # noqa: ANN401 - grafana-client's GrafanaApi
    """A client of Grafana's API; nothing is asked yet.

    Raises:
        UserError: the package is not installed, the address is none, or there is no token.
    """
    try:
        import grafana_client
    except ModuleNotFoundError as error:
        raise UserError(
            f"package '{error.name}' is not installed", where="tristream grafana", remedy="pip install 'tristream[ops]'"
        ) from None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            f"'{url}' is not an address of Grafana" if url else "no address of Grafana is given",
            where="--url",
            remedy="write it as https://grafana.example.org, or set GRAFANA_URL",
        )
    if not token and not parts.username:
        raise UserError(
            "no token is given",
            where="--token",
            remedy="make a service account with a token in Grafana, under Administration, and set GRAFANA_TOKEN",
        )
    # grafana-client writes api right behind the path.
    address = parts._replace(path=parts.path.rstrip("/") + "/").geturl()
    return grafana_client.GrafanaApi.from_url(address, credential=token or None, timeout=TIMEOUT_SECONDS)


@contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Say what goes wrong while Grafana is asked.

    Raises:
        UserError: the token is refused or may not do this, or Grafana refuses what is sent.
        TryAgainError: it does not answer, or answers that something is wrong with itself.
    """
    from grafana_client.client import GrafanaClientError, GrafanaServerError, GrafanaTimeoutError
    from niquests.exceptions import JSONDecodeError, RequestException

    try:
        yield
    except GrafanaClientError as error:
        raise UserError(f"{what}: {error.message}", where="Grafana", remedy=_remedy(error.status_code)) from None
    except JSONDecodeError:
        raise UserError(
            f"{what}: the answer is not Grafana's", where="Grafana", remedy="check the address, with its path if any"
        ) from None
    except (GrafanaServerError, GrafanaTimeoutError, RequestException) as error:
        raise TryAgainError(f"Grafana does not do it ({what}): {' '.join(str(error).split())[:300]}") from None


def _remedy(status_code: int) -> str:
    if status_code == 401:
        return "the token is refused: make a new one, and set GRAFANA_TOKEN"
    if status_code == 403:
        return FORBIDDEN
    if status_code == 404:
        return "check the address, with its path if any"
    if status_code == 412:
        return "what is there comes from a provisioning file or was changed meanwhile: change it there, or try again"
    return "see the message of Grafana"


def find(question: Any, *arguments: str) -> Any:  # noqa: ANN401 - JSON
    """The answer to a question, or None where Grafana has no such thing."""
    from grafana_client.client import GrafanaClientError

    try:
        return question(*arguments)
    except GrafanaClientError as error:
        if error.status_code == 404:
            return None
        raise
