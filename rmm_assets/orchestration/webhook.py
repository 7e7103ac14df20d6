"""Posts alerts to a webhook of Slack, Mattermost or Microsoft Teams, or one that accepts the same format.

An alert may quote what an API sent, so it is posted as plain text, without mentions, links or formatting. The webhook's
URL is a secret, because anyone who knows it can post: it is read when a message is sent, and appears in no message, error
or log.
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
_TIMEOUT = 10.0  # seconds; Dagster allows 60 per tick
_MAX_LINES = 20  # per message; receivers truncate longer ones
_MAX_LINE_LENGTH = 500


class WebhookError(Exception):
    """Raised when a message cannot be delivered; the text says why, without the webhook's URL."""


@dataclass(frozen=True)
class Alert:
    """One line of a message.

    Attributes:
        subject: What the alert is about, such as `demo/devices`; identical for as long as the problem lasts.
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
        """The run's URL, or its id if the URL of Dagster's UI is not set."""
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
    problem = _send(webhook, _FORMS[form](shown)) if _is_address(webhook) else "the URL must start with https://"
    # Raised outside of the `except` block: the original error's text may contain the URL.
    if problem:
        raise WebhookError(f"the message could not be delivered to the webhook in {WEBHOOK}: {problem}")


def _slack(alerts: Sequence[Alert]) -> dict[str, Any]:
    """Returns Slack's format, with the three characters escaped that mentions and links consist of."""
    lines = [
        f"{alert.line.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')} {alert.place}".rstrip()
        for alert in alerts
    ]
    return {"text": "\n".join(lines), "mrkdwn": False, "unfurl_links": False, "unfurl_media": False}


def _mattermost(alerts: Sequence[Alert]) -> dict[str, Any]:
    """Returns Mattermost's format: Markdown, in code spans, where mentions and links have no effect."""
    return {"text": "\n".join(f"`{alert.line.replace('`', chr(39))}` {alert.place}".rstrip() for alert in alerts)}


def _teams(alerts: Sequence[Alert]) -> dict[str, Any]:
    """Returns an adaptive card of text runs, the only element that is not rendered as Markdown."""
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
    """Returns the format that a webhook's host accepts; Mattermost's for unknown hosts."""
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
    """Refuses redirects, because urllib would follow them with a GET without the message."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _send(webhook: str, body: dict[str, Any]) -> str:
    """Posts a message; returns what went wrong, or an empty string."""
    try:
        request = Request(webhook, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"})
        with build_opener(_NoRedirect).open(request, timeout=_TIMEOUT):
            return ""
    except HTTPError as error:
        return f"the receiver answered HTTP {error.code}"
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None)
        return f"{type(reason if isinstance(reason, Exception) else error).__name__}"
