"""Tests deploy/kubernetes against what dagster-k8s and Kubernetes accept: `make test-cluster`, which installs both packages."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from dagster._config import process_config

from rmm_assets_tests.deploy.dockerfile import PROJECT

VALUES: dict[str, Any] = yaml.safe_load((PROJECT / "deploy" / "kubernetes" / "values.yaml").read_text())
[DEPLOYMENT] = VALUES["dagster-user-deployments"]["deployments"]


def snake(value: Any) -> Any:
    """Returns keys as the chart's templates write them into dagster.yaml."""
    if isinstance(value, dict):
        return {re.sub(r"(?<!^)(?=[A-Z])", "_", key).lower(): snake(one) for key, one in value.items()}
    return value


def test_the_run_launcher_accepts_its_settings() -> None:
    from dagster_k8s import K8sRunLauncher
    from dagster_k8s.job import UserDefinedDagsterK8sConfig

    said = VALUES["runLauncher"]
    assert said["type"] == "K8sRunLauncher"
    settings = dict(said["config"]["k8sRunLauncher"])
    # Its parts are Kubernetes objects, whose keys dagster-k8s checks itself.
    run = {re.sub(r"(?=[A-Z])", "_", key).lower(): one for key, one in settings.pop("runK8sConfig").items()}
    UserDefinedDagsterK8sConfig.from_dict(run)
    required = {
        "dagster_home": "/opt/dagster",
        "instance_config_map": "x",
        "postgres_password_secret": "x",
        "service_account_name": "x",
    }
    settings = {**required, **snake(settings), "run_k8s_config": run}
    checked = process_config(K8sRunLauncher.config_type(), settings)
    assert checked.success, checked.errors


def test_run_monitoring_and_retries_have_dagsters_own_names() -> None:
    from dagster._core.instance.config import dagster_instance_config_schema

    schema: Any = dagster_instance_config_schema()
    daemon = VALUES["dagsterDaemon"]
    for name in ("run_monitoring", "run_retries"):
        settings = snake(daemon["runMonitoring" if name == "run_monitoring" else "runRetries"])
        checked = process_config(schema[name].config_type, settings)
        assert checked.success, checked.errors


def test_the_pod_of_the_code_location_fits_kubernetes_schema() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    container = {
        "name": DEPLOYMENT["name"],
        "image": f"{DEPLOYMENT['image']['repository']}:{DEPLOYMENT['image']['tag']}",
        "args": DEPLOYMENT["codeServerArgs"],
        "env": DEPLOYMENT["env"],
        "envFrom": [{"secretRef": secret} for secret in DEPLOYMENT["envSecrets"]],
        "ports": [{"containerPort": DEPLOYMENT["port"]}],
        **{name: DEPLOYMENT[name] for name in ("volumeMounts", "securityContext", "resources")},
    }
    pod = {
        "containers": [container], "volumes": DEPLOYMENT["volumes"], "securityContext": DEPLOYMENT["podSecurityContext"],
    }  # fmt: skip
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "rmm"}, "spec": pod}
    validate.validate(document, "1.32", strict=True)


def test_no_secret_is_in_the_values() -> None:
    text = (PROJECT / "deploy" / "kubernetes" / "values.yaml").read_text()
    assert not re.search(r"password: *\S|api_key: *\S|://[^/\s]*:[^/\s]*@", text, re.IGNORECASE)
    names = {one["name"] for one in DEPLOYMENT["env"]}
    assert not [name for name in names if re.search("KEY|PASSWORD|CREDENTIALS|LIMITS", name)]


def test_the_chart_is_that_of_the_pinned_dagster() -> None:
    pinned = re.search(r"^dagster==(.+)$", (PROJECT / "deploy" / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    for file in ("deploy/kubernetes/values.yaml", "docs/how-to/deploy.md"):
        assert f"--version {pinned[1]} " in (PROJECT / file).read_text()
