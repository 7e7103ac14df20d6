"""Tests that the secret is looked up when a run starts: without it, definitions load and the run says what to set."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from rmm_assets.orchestration.assets import build_connection_defs
from rmm_assets.orchestration.resources import RmmApi, api_resource
from rmm_assets.simulator import Simulator
from rmm_assets_tests.orchestration.bench import KEY, check_alone, connection, devices, failures, run, sync

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _no_key(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACME_API_KEY", raising=False)


def test_without_the_variable_definitions_load_and_the_run_fails_immediately_and_names_it(
    instance: dg.DagsterInstance,
) -> None:
    definitions = build_connection_defs(connection("http://127.0.0.1:9", ["devices", "tickets"]))
    definitions.get_repository_def().load_all_definitions()
    keys = {spec.key.to_user_string() for spec in definitions.resolve_all_asset_specs()}
    assert keys == {"acme/devices", "acme/tickets"}

    result = run(definitions, "sync_acme", instance)
    assert set(failures(result)) == {"No API key: set the environment variable ACME_API_KEY"}


def test_checks_can_run_without_the_variable(instance: dg.DagsterInstance) -> None:
    assert check_alone(connection("http://127.0.0.1:9"), instance, "unique_id")["unique_id"].passed


def test_without_the_dlt_secret_the_run_fails_immediately_and_names_variable_and_key(
    instance: dg.DagsterInstance,
) -> None:
    target = connection("http://127.0.0.1:9", api_key={"dlt_secret": "sources.acme.api_key"})
    result = sync(target, instance)
    (sentence,) = failures(result)
    assert "SOURCES__ACME__API_KEY" in sentence
    assert "sources.acme.api_key in .dlt/secrets.toml" in sentence


def test_an_empty_variable_is_no_key(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_API_KEY", " ")
    (sentence,) = failures(sync(connection("http://127.0.0.1:9"), instance))
    assert sentence == "No API key: set the environment variable ACME_API_KEY"


def test_a_connection_without_its_secret_leaves_the_others_runnable(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZETA_API_KEY", KEY)
    with Simulator(tables={"devices": devices(3)}) as rmm:
        zeta = connection(rmm.base_url, name="zeta", api_key={"env": "ZETA_API_KEY"})
        both = dg.Definitions.merge(build_connection_defs(zeta), build_connection_defs(connection(rmm.base_url)))
        # The job that the UI's Materialize button runs.
        job = both.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey(["zeta", "devices"])])
    assert result.success


def test_a_job_has_only_its_connection_s_resource() -> None:
    # Otherwise, the size of a code location would grow with the square of the number of its connections.
    names = ("acme", "zeta")
    both = dg.Definitions.merge(*(build_connection_defs(connection("http://127.0.0.1:9", name=name)) for name in names))
    for name in names:
        for job in (f"sync_{name}", f"audit_{name}"):
            assert both.resolve_job_def(job).resource_defs.keys() - {"io_manager"} == {f"{name}_api"}


def test_the_secret_is_not_in_the_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_API_KEY", "s3cr3t-9f8e7d6c5b")
    resource = api_resource(connection("http://127.0.0.1:9"))
    assert "s3cr3t" not in repr(resource)
    assert "s3cr3t" not in str(resource.model_dump())


def test_user_code_can_pass_an_env_var(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", KEY)
    with Simulator(tables={"devices": devices(3)}) as rmm:
        definitions = build_connection_defs(connection(rmm.base_url), api=RmmApi(api_key=dg.EnvVar("OTHER_KEY")))
        assert run(definitions, "sync_acme", instance).success


@pytest.mark.parametrize("way", ["environment", "secrets.toml"])
def test_dlt_finds_the_secret_in_all_of_its_providers(
    way: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dlt
    from dlt.common.configuration.container import Container
    from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

    if way == "environment":
        monkeypatch.setenv("SOURCES__ACME__API_KEY", KEY)
    else:
        (workplace / ".dlt").mkdir()
        (workplace / ".dlt" / "secrets.toml").write_text(f'[sources.acme]\napi_key = "{KEY}"\n')
    Container()[PluggableRunContext].reload_providers()
    try:
        found = RmmApi(dlt_secret="sources.acme.api_key").secret()
        assert found is not None
        assert found.get_secret_value() == KEY
        assert KEY not in repr(found)
    finally:
        monkeypatch.undo()
        Container()[PluggableRunContext].reload_providers()
        assert dlt.secrets.get("sources.acme.api_key") is None
