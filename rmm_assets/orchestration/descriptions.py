"""Builds the Markdown description of a resource's asset: where its rows come from, how they are read and loaded."""

from __future__ import annotations

from rmm_assets.config import Connection, Resource
from rmm_assets.loading.plan import LoadPlan


def describe(connection: Connection, plan: LoadPlan) -> str:
    """Returns the description of a resource's asset: the file's own text, a link to the vendor's docs, then facts."""
    resource = plan.resource
    facts = {
        "endpoint": f"`{resource.endpoint.method} {resource.path}`",
        "API": f"`{connection.client.base_url}`" if connection.client.base_url else "the embedded RMM",
        "primary key": ", ".join(f"`{key}`" for key in resource.keys) or "none",
        "paging": _paging(resource),
        "reads": "what changed since the last run" if plan.cursor is not None else "everything, each time",
        "write disposition": resource.disposition + (", every version is kept" if resource.history else ""),
        "rows gone at the source": {
            "keep": "stay as they are",
            "mark": "get `_absent_since`",
            "remove": "get `_absent_since`, and are deleted if the next complete read does not contain them either",
        }[resource.absent],
        "table": f"`{connection.dataset_name}.{resource.table}`",
    }
    if resource.parent:
        facts["one request per row of"] = f"`{resource.parent}`"
    lines = [f"| {name} | {value} |" for name, value in facts.items()]
    docs = resource.docs or connection.docs
    words = [resource.description, f"[API documentation]({_in_markdown(docs)})" if docs else None]
    return "\n\n".join([*filter(None, words), "\n".join(["| | |", "|---|---|", *lines])])


def _in_markdown(url: str) -> str:
    return url.replace("(", "%28").replace(")", "%29")


def _paging(resource: Resource) -> str:
    paginator = resource.endpoint.paginator
    if paginator is None:
        return "none"
    keys = {key: value for key, value in paginator.model_dump(exclude_unset=True).items() if key != "type"}
    return f"`{paginator.type}`" + (f" ({', '.join(f'{key} {value}' for key, value in keys.items())})" if keys else "")
