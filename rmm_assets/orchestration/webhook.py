"""Posts alerts to a webhook of Slack, Mattermost or Microsoft Teams, or of anything that accepts one of their forms.

An alert may quote what an API sent, so its text is sent as plain text: it cannot mention people, make links or be
formatted. The webhook's URL is a secret, because anyone who knows it can post: it is read when a message is sent, and
appears in no message, error or log.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

WEBHOOK = "RMM_ALERT_WEBHOOK"
FORM = "RMM_ALERT_FORM"
BASE_URL = "RMM_DAGSTER_URL"

_HOSTS = {
    "slack": ("hooks.slack.com", "hooks.slack-gov.com"),
    "teams": (".webhook.office.com", ".logic.azure.com", ".api.powerplatform.com"),
}
_TIMEOUT = 10.0  # seconds; Dagster allows sixty per tick
_MAX_LINES = 20  # per message; receivers truncate longer ones
_MAX_LINE_LENGTH = 500


class WebhookError(Exception):
    """Raised when a message is not delivered; the text says why, without the webhook's URL."""


@dataclass(frozen=True)
class Alert:
    """One line of a message.

    Attributes:
        subject: What it is about, and the same as long as it is: `demo/devices`.
        text: What happened; may contain what an API sent.
        run_id: The run to link to.
    """

    subject: str
    text: str
    run_id: str = ""

    @property
    def line(self) -> str:
        line = " ".join(f"{self.subject} {self.text}".split())
        return line if len(line) <= _MAX_LINE_LENGTH else f"{line[:_MAX_LINE_LENGTH]}…"

    @property
    def url(self) -> str:
        base = os.environ.get(BASE_URL, "").rstrip("/")
        return f"{base}/runs/{self.run_id}" if base and self.run_id else ""

    @property
    def place(self) -> str:
        """The run as text: its URL, or its id if the URL of Dagster's UI is not known."""
        return self.url or (f"(run {self.run_id})" if self.run_id else "")


def post(alerts: Sequence[Alert]) -> None:
    """Posts alerts as one message to the webhook in `RMM_ALERT_WEBHOOK`: https, or http on this machine.

    Raises:
        WebhookError: The message was not delivered.
    """
    webhook = os.environ.get(WEBHOOK, "")
    form = os.environ.get(FORM) or form_of(webhook)
    if form not in _FORMS:
        raise WebhookError(f"{FORM} must be one of {', '.join(_FORMS)}")
    more = len(alerts) - _MAX_LINES
    shown = [*alerts[:_MAX_LINES], Alert(f"and {more}", "more")] if more > 0 else alerts
    # urllib does not log, and the URL is a secret.
    problem = (
        _send(webhook, _FORMS[form](shown)) if _is_address(webhook) else "it must be a URL that starts with https://"
    )
    # Raised outside of the `except` block: the original error's text may contain the URL.
    if problem:
        raise WebhookError(f"the message could not be delivered to the webhook in {WEBHOOK}: {problem}")


def _slack(alerts: Sequence[Alert]) -> dict[str, Any]:
    """Returns Slack's form: three characters are escaped, as mentions and links are in angle brackets."""
    lines = [
        f"{alert.line.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')} {alert.place}".rstrip()
        for alert in alerts
    ]
    return {"text": "\n".join(lines), "mrkdwn": False, "unfurl_links": False, "unfurl_media": False}


def _mattermost(alerts: Sequence[Alert]) -> dict[str, Any]:
    """Returns Mattermost's form: Markdown, which has neither mentions nor links within a code span."""
    return {"text": "\n".join(f"`{alert.line.replace('`', chr(39))}` {alert.place}".rstrip() for alert in alerts)}


def _teams(alerts: Sequence[Alert]) -> dict[str, Any]:
    """Returns an adaptive card: of its elements, a text run is the one that is not read as Markdown."""
    blocks = []
    for alert in alerts:
        inlines: list[dict[str, Any]] = [{"type": "TextRun", "text": alert.line}]
        if alert.place:
            link = {"selectAction": {"type": "Action.OpenUrl", "url": alert.url}} if alert.url else {}
            inlines.append({"type": "TextRun", "text": f" {alert.place}", **link})
        blocks.append({"type": "RichTextBlock", "inlines": inlines})
    card = {"type": "AdaptiveCard", "version": "1.4", "body": blocks, "msteams": {"width": "Full"}}
    return {
        "type": "message",
        "attachments": [{"contentType": "application/vnd.microsoft.card.adaptive", "content": card}],
    }


_FORMS = {"slack": _slack, "mattermost": _mattermost, "teams": _teams}


def form_of(webhook: str) -> str:
    """Returns the form that a webhook takes, by its host; Mattermost's if it is not known."""
    try:
        host = urlsplit(webhook).hostname or ""
    except ValueError:
        host = ""
    return next((form for form, hosts in _HOSTS.items() if host.endswith(hosts)), "mattermost")


def _is_address(webhook: str) -> bool:
    try:
        parts = urlsplit(webhook)
        return parts.scheme == "https" or (
            parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
        )
    except ValueError:
        return False


class _NoRedirect(HTTPRedirectHandler):
    """Refuses redirects: a redirected POST would be sent as a GET without the message."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _send(webhook: str, body: dict[str, Any]) -> str:
    """Posts a message, and returns what went wrong, or an empty string."""
    try:
        request = Request(webhook, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"})
        with build_opener(_NoRedirect).open(request, timeout=_TIMEOUT):
            return ""
    except HTTPError as error:
        return f"the receiver answered HTTP {error.code}"
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None)
        return f"{type(reason if isinstance(reason, Exception) else error).__name__}"
