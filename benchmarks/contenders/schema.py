"""Builds the rows' JSON Schema, for the tools that need it before they load.

dlt, the ceiling and this project infer it.
"""

from __future__ import annotations

from typing import Any

_KINDS = {
    "integer": ("id", "revision"),
    "number": ("cpu_load", "memory_gib", "disk_free"),
    "boolean": ("is_online", "needs_reboot"),
}
_TIMESTAMPS = ("created_at", "updated_at", "last_seen_at", "warranty_until")
_TEXTS = "uid hostname display_name status ip_address mac_address os_name os_version agent_version serial_number note"


def json_schema() -> dict[str, Any]:
    """Returns the schema of one row; every field except the id may be null."""
    properties: dict[str, Any] = {name: {"type": ["null", kind]} for kind, names in _KINDS.items() for name in names}
    properties |= {name: {"type": ["null", "string"], "format": "date-time"} for name in _TIMESTAMPS}
    properties |= {name: {"type": ["null", "string"]} for name in _TEXTS.split()}
    properties["id"] = {"type": "integer"}
    properties["tags"] = {"type": ["null", "array"], "items": {"type": "string"}}
    properties["organization"] = {
        "type": ["null", "object"],
        "properties": {
            "id": {"type": ["null", "integer"]},
            "name": {"type": ["null", "string"]},
            "site": {"type": ["null", "string"]},
        },
    }
    return {"type": "object", "properties": properties}
