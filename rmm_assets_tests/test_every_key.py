"""Lists, for every key of a connection file, the test that checks its effect.

The keys come from the models, so a new key fails here until a test checks its effect.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rmm_assets.config import Connection

ROOT = Path(__file__).parents[1]

# Accepted keys without a tested effect: add a test, refuse the key or remove it. Never add to this set.
NOT_SEEN_YET: set[str] = set()

# The keys whose effect a test checks, by module and test.
SEEN: dict[str, dict[str, tuple[str, ...]]] = {
    "rmm_assets_tests/integration/test_executors.py": {
        "test_each_resource_can_be_loaded_in_its_own_process": ("executor",),
    },
    "rmm_assets_tests/loading/test_evidence_keys.py": {
        "test_total_header_is_evidence": ("resources[].endpoint.total_header",),
        "test_count_is_evidence": (
            "resources[].endpoint.count",
            "resources[].endpoint.count.path",
            "resources[].endpoint.count.params",
            "resources[].endpoint.count.total_path",
        ),
        "test_a_count_can_be_posted_with_the_endpoints_own_body": ("resources[].endpoint.count.json",),
        "test_a_count_can_be_in_a_header_of_a_head_response": (
            "resources[].endpoint.count.method",
            "resources[].endpoint.count.total_header",
        ),
        "test_wrong_signals_are_not_believed": ("resources[].endpoint.wrong_signals",),
        "test_empty_as_defines_no_rows": ("resources[].endpoint.empty_as",),
        "test_single_object_makes_an_object_a_row": ("resources[].endpoint.single_object",),
    },
    "rmm_assets_tests/loading/test_full_reads.py": {
        "test_full_every_reads_everything_when_it_is_due": ("resources[].endpoint.incremental.full_every",),
    },
    "rmm_assets_tests/loading/test_start_format.py": {
        "test_a_range_starts_where_the_last_one_ended_however_it_is_written": (
            "resources[].endpoint.incremental.start_format",
            "resources[].endpoint.incremental.start_timezone",
        ),
    },
    "rmm_assets_tests/loading/test_moving_cursor.py": {
        "test_a_cursor_that_stays_is_followed_to_an_empty_page": (
            "resources[].endpoint.paginator.cursor.cursor_stays",
        ),
    },
    "rmm_assets_tests/loading/test_xml.py": {
        "test_xml_is_loaded_with_declared_types_and_audited": ("resources[].endpoint.response",),
    },
    "rmm_assets_tests/loading/test_maps.py": {
        "test_each_row_of_a_map_has_its_key": ("resources[].endpoint.map_key",),
    },
    "rmm_assets_tests/loading/test_values.py": {
        "test_null_values_are_null_in_the_table_and_in_its_audit": ("resources[].null_values",),
        "test_each_snapshot_has_the_time_of_its_read": ("resources[].read_at_column",),
        "test_stated_timestamps_land_as_utc_and_other_values_are_rejected": (
            "resources[].columns.*.unit",
            "resources[].columns.*.format",
        ),
    },
    "rmm_assets_tests/config/test_profiles.py": {
        "test_a_name_a_profile_and_its_settings_are_a_connection_file": ("profile",),
        "test_settings_are_filled_in_without_a_profile_too": ("settings",),
    },
    "rmm_assets_tests/http/test_auth.py": {
        "test_the_server_receives_the_whole_secret": (
            "resources[].endpoint.auth.api_key.name",
            "resources[].endpoint.auth.api_key.location",
        ),
    },
    "rmm_assets_tests/http/test_tokens.py": {
        "test_a_refusal_in_mid_run_fetches_one_token_for_all_workers": (
            "resources[].endpoint.auth.token.type",
            "resources[].endpoint.auth.token.access_token_url",
            "resources[].endpoint.auth.token.access_token_request",
            "resources[].endpoint.auth.token.access_token_request.method",
            "resources[].endpoint.auth.token.access_token_request.headers",
            "resources[].endpoint.auth.token.access_token_request.params",
            "resources[].endpoint.auth.token.access_token_request.json",
            "resources[].endpoint.auth.token.access_token_request.data",
            "resources[].endpoint.auth.token.access_token_request.http_basic",
            "resources[].endpoint.auth.token.access_token_request.http_basic.username",
            "resources[].endpoint.auth.token.access_token_request.http_basic.password",
            "resources[].endpoint.auth.token.access_token_path",
            "resources[].endpoint.auth.token.refresh",
            "resources[].endpoint.auth.token.refresh.method",
            "resources[].endpoint.auth.token.refresh.headers",
            "resources[].endpoint.auth.token.refresh.params",
            "resources[].endpoint.auth.token.refresh.json",
            "resources[].endpoint.auth.token.refresh.data",
            "resources[].endpoint.auth.token.refresh.http_basic",
            "resources[].endpoint.auth.token.refresh.refresh_token_path",
            "resources[].endpoint.auth.token.refresh.url",
            "resources[].endpoint.auth.token.send",
            "resources[].endpoint.auth.token.send.name",
            "resources[].endpoint.auth.token.send.location",
            "resources[].endpoint.auth.token.send.value",
        ),
        "test_a_token_is_renewed_before_it_expires": (
            "resources[].endpoint.auth.token.expires_in_path",
            "resources[].endpoint.auth.token.default_token_expiration",
        ),
    },
    "rmm_assets_tests/loading/test_tenants.py": {
        "test_rows_of_all_tenants_are_in_one_table_each_with_its_own_key": (
            "tenants",
            "tenants.list",
            "tenants[].name",
            "tenants[].settings",
        ),
        "test_rows_with_a_field_of_that_name_are_refused": ("tenants.column",),
        "test_rows_of_tenants_that_are_gone_stay_or_are_marked": ("tenants.gone",),
    },
    "rmm_assets_tests/orchestration/test_tenants.py": {
        "test_the_sensor_follows_the_tenants": ("tenants.file",),
        "test_tenants_can_be_the_rows_of_another_connection": ("tenants.from", "tenants.name", "tenants.settings"),
        "test_the_schedule_makes_a_run_for_each_batch": ("tenants.batch",),
    },
    "rmm_assets_tests/reading/test_bounds.py": {
        "test_endless_responses_are_red_with_the_limit_to_set": (
            "limits.max_total_bytes",
            "limits.max_pages",
            "limits.max_columns",
            "limits.max_nesting",
        ),
    },
    "rmm_assets_tests/http/test_named_secrets.py": {
        "test_only_the_server_receives_a_named_secret": ("secrets",),
        "test_a_prefix_precedes_the_key_in_its_header": ("resources[].endpoint.auth.api_key.prefix",),
    },
    "rmm_assets_tests/http/test_rate_limit.py": {
        "test_three_processes_share_one_limit_of_requests_a_minute": ("limits.requests_per_minute",),
    },
    "rmm_assets_tests/reading/test_paging.py": {
        "test_a_style_returns_every_row_once_and_in_order": (
            "resources[].endpoint.paginator.page_number.base_page",
            "resources[].endpoint.paginator.cursor.cursor_body_path",
        ),
        "test_single_page_sends_one_request": ("resources[].endpoint.paginator.single_page.type",),
    },
    "rmm_assets_tests/loading/test_source.py": {
        "test_a_second_run_requests_changes_even_without_its_working_folder": (
            "resources[].endpoint.incremental",
            "resources[].endpoint.incremental.cursor_path",
            "resources[].endpoint.incremental.initial_value",
            "resources[].endpoint.incremental.start_param",
        ),
        "test_a_key_with_the_parent_distinguishes_equal_children_of_two_parents": ("resources[].primary_key",),
        "test_a_change_of_a_frozen_schema_is_red_and_the_table_unchanged": (
            "resources[].schema_contract",
            "resources[].schema_contract.columns",
            "resources[].schema_contract.data_type",
        ),
        "test_children_of_every_parent_have_the_parent_s_fields": ("resources[].include_from_parent",),
        "test_an_endpoint_s_own_max_concurrency_is_not_exceeded": ("resources[].max_concurrency",),
        "test_only_a_few_children_wait_for_their_turn": ("limits.max_concurrency",),
    },
    "rmm_assets_tests/http/test_transport.py": {
        "test_only_a_response_that_matches_a_signal_is_rate_limited": (
            "limits.throttle[].path",
            "limits.throttle[].header",
        ),
        "test_waits_double": ("retry.backoff_factor",),
        "test_a_read_timeout_is_retried": ("limits.read_timeout",),
        "test_a_private_ca_is_trusted_if_configured": (
            "tls",
            "tls.ca_file",
        ),
    },
    "rmm_assets_tests/orchestration/test_contract.py": {
        "test_setting_a_dataset_changes_the_table_but_not_the_asset": (
            "destination.credentials",
            "dataset",
        ),
    },
    "rmm_assets_tests/orchestration/test_look.py": {
        "test_columns_are_described_on_the_asset_before_anything_is_loaded_and_not_again_on_each_run": (
            "resources[].columns.*.description",
        ),
        "test_the_preview_shows_ten_rows_and_masks_what_is_sensitive": ("resources[].columns.*.sensitive",),
        "test_a_child_is_downstream_of_its_parent_in_the_graph": ("resources[].selected",),
        "test_an_assets_description_says_where_its_rows_come_from": ("resources[].description",),
        "test_an_asset_links_to_the_vendors_documentation_and_a_resources_own_wins": (
            "resources[].docs",
            "docs",
        ),
        "test_owners_and_tags_are_those_of_the_file_and_of_its_defaults": (
            "resources[].tags",
            "resources[].owners",
        ),
        "test_a_row_count_outside_its_bounds_fails": (
            "resources[].checks.row_count",
            "resources[].checks.row_count.min",
            "resources[].checks.row_count.max",
        ),
        "test_a_row_count_outside_the_band_of_its_history_fails": ("resources[].checks.row_count.band",),
        "test_a_reference_to_nothing_is_found_once_both_tables_are_loaded": ("resources[].checks.references",),
        "test_a_users_own_query_finds_faulty_rows": ("resources[].checks.sql",),
        "test_fresh_within_sets_when_an_asset_is_stale": ("resources[].fresh_within",),
    },
    "rmm_assets_tests/orchestration/test_resources.py": {
        "test_dlt_finds_the_secret_in_all_of_its_providers": (
            "api_key",
            "api_key.dlt_secret",
        ),
        "test_a_connection_without_its_secret_leaves_the_others_runnable": ("api_key.env",),
    },
    "rmm_assets_tests/orchestration/test_schedules.py": {
        "test_the_runs_of_all_jobs_have_the_tags_in_the_file": ("run_tags",),
        "test_ticks_follow_the_cron_expression_in_its_time_zone": ("schedule",),
        "test_a_resource_with_a_schedule_is_loaded_by_it_and_not_by_the_connections": ("resources[].schedule",),
        "test_the_schedule_of_a_resource_ticks_as_the_file_says": (
            "resources[].schedule.cron",
            "resources[].schedule.timezone",
            "resources[].schedule.status",
        ),
    },
    "rmm_assets_tests/orchestration/test_audits.py": {
        "test_an_audit_runs_automatically_only_if_scheduled": ("audit",),
    },
    "rmm_assets_tests/config/test_connection.py": {
        "test_defaults_are_merged_as_dlt_merges_them": (
            "resources",
            "resource_defaults",
        ),
        "test_plain_http_is_accepted_on_loopback_and_with_allow_http": ("allow_http",),
    },
    "rmm_assets_tests/test_keys_of_the_file.py": {
        "test_a_table_format_reaches_dlt_if_the_destination_supports_it": ("resources[].table_format",),
        "test_dedup_sort_picks_one_of_the_rows_that_share_a_key": ("resources[].columns.*.dedup_sort",),
        "test_a_request_is_built_as_configured": (
            "resources[].endpoint",
            "resources[].endpoint.path",
            "resources[].endpoint.method",
            "resources[].endpoint.params",
            "resources[].endpoint.json",
            "resources[].endpoint.data",
            "resources[].endpoint.headers",
            "resources[].endpoint.paginator",
            "resources[].endpoint.paginator.offset.type",
            "resources[].endpoint.paginator.offset.limit",
            "resources[].endpoint.paginator.offset.offset",
            "resources[].endpoint.paginator.offset.offset_param",
            "resources[].endpoint.paginator.offset.limit_param",
            "resources[].endpoint.paginator.offset.offset_body_path",
            "resources[].endpoint.paginator.offset.limit_body_path",
            "resources[].endpoint.paginator.offset.range_param",
            "resources[].endpoint.paginator.page_number.type",
            "resources[].endpoint.paginator.page_number.page",
            "resources[].endpoint.paginator.page_number.page_param",
            "resources[].endpoint.paginator.page_number.page_body_path",
            "resources[].endpoint.auth",
            "resources[].endpoint.auth.bearer.type",
            "resources[].endpoint.auth.api_key.type",
            "resources[].endpoint.auth.http_basic.type",
            "resources[].endpoint.auth.http_basic.username",
            "client",
            "client.headers",
            "client.paginator",
        ),
        "test_the_total_is_at_the_configured_path": (
            "resources[].endpoint.paginator.offset.total_path",
            "resources[].endpoint.paginator.page_number.total_path",
            "resources[].total_path",
        ),
        "test_stop_after_empty_page_is_configurable": (
            "resources[].endpoint.paginator.offset.stop_after_empty_page",
            "resources[].endpoint.paginator.page_number.stop_after_empty_page",
            "resources[].endpoint.paginator.cursor.stop_after_empty_page",
        ),
        "test_the_configured_end_mark_ends_the_read": (
            "resources[].endpoint.paginator.offset.has_more_path",
            "resources[].endpoint.paginator.offset.last_path",
            "resources[].endpoint.paginator.page_number.last_path",
            "resources[].endpoint.paginator.cursor.last_path",
            "resources[].endpoint.paginator.page_number.has_more_path",
            "resources[].endpoint.paginator.cursor.has_more_path",
        ),
        "test_the_next_page_is_at_the_configured_path": (
            "resources[].endpoint.paginator.cursor.type",
            "resources[].endpoint.paginator.cursor.cursor_path",
            "resources[].endpoint.paginator.cursor.cursor_param",
            "resources[].endpoint.paginator.header_cursor.type",
            "resources[].endpoint.paginator.header_cursor.cursor_key",
            "resources[].endpoint.paginator.header_cursor.cursor_param",
            "resources[].endpoint.paginator.header_link.type",
            "resources[].endpoint.paginator.header_link.links_next_key",
            "resources[].endpoint.paginator.json_link.type",
            "resources[].endpoint.paginator.json_link.next_url_path",
        ),
        "test_parameters_that_a_link_lacks_are_kept": ("resources[].endpoint.paginator.json_link.keep_params",),
        "test_rows_are_at_the_configured_selector": ("resources[].endpoint.data_selector",),
        "test_an_ignored_response_has_no_rows": (
            "resources[].endpoint.response_actions",
            "resources[].endpoint.response_actions[].status_code",
            "resources[].endpoint.response_actions[].content",
            "resources[].endpoint.response_actions[].action",
        ),
        "test_the_end_of_a_range_is_sent_and_enforced": (
            "resources[].endpoint.incremental.end_value",
            "resources[].endpoint.incremental.end_param",
            "resources[].endpoint.incremental.range_end",
        ),
        "test_last_value_func_min_makes_the_smallest_value_the_newest": (
            "resources[].endpoint.incremental.last_value_func",
        ),
        "test_the_configured_key_distinguishes_rows_at_the_boundary": ("resources[].endpoint.incremental.primary_key",),
        "test_a_range_starts_earlier_by_the_lag": ("resources[].endpoint.incremental.lag",),
        "test_a_row_without_a_cursor_is_treated_as_configured": (
            "resources[].endpoint.incremental.on_cursor_value_missing",
        ),
        "test_range_start_decides_whether_the_start_is_included": ("resources[].endpoint.incremental.range_start",),
        "test_the_configured_token_lifetime_applies_if_the_server_states_none": (
            "resources[].endpoint.auth.oauth2_client_credentials.type",
            "resources[].endpoint.auth.oauth2_client_credentials.access_token_url",
            "resources[].endpoint.auth.oauth2_client_credentials.client_id",
            "resources[].endpoint.auth.oauth2_client_credentials.access_token_request_data",
            "resources[].endpoint.auth.oauth2_client_credentials.default_token_expiration",
        ),
        "test_rows_of_one_merge_key_are_replaced_as_a_whole": ("resources[].merge_key",),
        "test_a_merge_only_deletes_within_the_configured_scope": (
            "resources[].write_disposition.strategy",
            "resources[].write_disposition.destination_scope",
        ),
        "test_history_s_columns_have_the_configured_names": ("resources[].write_disposition.validity_column_names",),
        "test_a_valid_version_has_the_configured_end": ("resources[].write_disposition.active_record_timestamp",),
        "test_versions_change_at_the_configured_time": ("resources[].write_disposition.boundary_timestamp",),
        "test_only_the_configured_column_makes_a_new_version": (
            "resources[].write_disposition.row_version_column_name",
        ),
        "test_columns_have_the_configured_types": (
            "resources[].columns",
            "resources[].columns.*.data_type",
            "resources[].columns.*.nullable",
            "resources[].columns.*.precision",
            "resources[].columns.*.scale",
            "resources[].columns.*.timezone",
        ),
        "test_a_column_can_be_marked_as_the_primary_key": (
            "resources[].columns.*.name",
            "resources[].columns.*.primary_key",
        ),
        "test_a_load_is_limited_to_the_memory_of_the_file": ("destination.memory_limit",),
        "test_destination_options_reach_dlt": (
            "resources[].columns.*.unique",
            "destination",
            "destination.type",
            "destination.options",
        ),
        "test_a_frozen_set_of_tables_allows_no_new_table": ("resources[].schema_contract.tables",),
        "test_a_table_has_the_configured_name": ("resources[].table_name",),
        "test_hints_references_and_the_file_format_reach_dlt_s_schema_of_the_table": (
            "resources[].columns.*.partition",
            "resources[].columns.*.cluster",
            "resources[].columns.*.sort",
            "resources[].file_format",
            "resources[].references",
            "resources[].references[].columns",
            "resources[].references[].referenced_table",
            "resources[].references[].referenced_columns",
            "resources[].references[].label",
            "resources[].references[].cardinality",
        ),
        "test_values_that_are_not_accepted_are_reported": (
            "resources[].checks",
            "resources[].checks.unique",
            "resources[].checks.not_null",
            "resources[].checks.accepted_values",
        ),
        "test_rejected_rows_have_the_configured_severity": ("resources[].on_rejected",),
        "test_a_read_is_verified_as_configured": ("resources[].verify",),
        "test_rows_use_the_configured_normalizer": ("resources[].normalizer",),
        "test_failures_are_retried_as_configured": (
            "resources[].deadline",
            "retry",
            "retry.status_codes",
            "retry.max_retries",
            "retry.max_wait",
            "limits",
            "limits.deadline",
            "limits.max_response_bytes",
            "limits.throttle",
            "limits.throttle[].status",
            "limits.throttle[].text",
            "limits.wait_path",
        ),
        "test_the_asset_key_consists_of_connection_and_resource": (
            "resources[].name",
            "name",
        ),
        "test_a_resource_with_only_a_path_uses_the_client_s_base_url": (
            "client.base_url",
            "client.auth",
        ),
        "test_the_embedded_rmm_has_the_configured_size": (
            "simulator",
            "simulator.seed",
            "simulator.organizations",
            "simulator.devices",
            "simulator.alerts",
            "simulator.patches",
        ),
        "test_connecting_times_out_as_configured": ("limits.connect_timeout",),
    },
    "rmm_assets_tests/loading/test_absences.py": {
        "test_after_a_partial_read_nothing_is_marked": ("resources[].endpoint.paginator.offset.maximum_offset",),
        "test_after_a_partial_read_of_a_parent_or_of_a_child_nothing_is_marked": (
            "resources[].endpoint.paginator.page_number.maximum_page",
        ),
        "test_replace_contains_the_rows_of_the_api": ("resources[].write_disposition",),
        "test_marks_are_the_same_for_every_merge_strategy": ("resources[].write_disposition.disposition",),
        "test_marks_are_right_with_skip_unchanged_rows": ("resources[].write_disposition.skip_unchanged_rows",),
        "test_absent_remove_deletes_rows_and_absent_keep_leaves_them": ("resources[].absent",),
        "test_max_absent_share_is_relative_to_the_rows_before": ("resources[].max_absent_share",),
        "test_history_keeps_every_version_and_ends_missing_rows": ("resources[].history",),
        "test_child_rows_stay_with_a_marked_row_and_are_deleted_with_a_removed_one": ("resources[].child_tables",),
        "test_on_incomplete_warn_loads_the_received_rows_although_rows_kept_moving": ("resources[].on_incomplete",),
    },
    "rmm_assets_tests/loading/test_child_tables.py": {
        "test_child_tables_with_contracts_or_hints_use_dlt_s_normalizer": ("resources[].nested_hints",),
        "test_max_table_nesting_leaves_deeper_lists_as_json": ("resources[].max_table_nesting",),
    },
    "rmm_assets_tests/tables/test_store.py": {
        "test_a_first_load_applies_the_source_filter_of_a_merge": ("resources[].write_disposition.source_filter",),
        "test_rows_marked_as_deleted_are_always_left_out": ("resources[].columns.*.hard_delete",),
    },
}
SEEN_BY = {key: f"{module}::{test}" for module, tests in SEEN.items() for test, keys in tests.items() for key in keys}

Schema = Mapping[str, Any]


def keys_of_a_connection_file() -> list[str]:
    """Returns every key by its path: a kind of a union as `paginator.offset.limit`, keys in a list or a mapping after `[]` or
    `.*`. Keys of a model that is used in several places are listed at the first one: `resource_defaults` and
    `client.paginator` have no keys that `resources[]` does not have.
    """
    schema = Connection.model_json_schema()
    models: dict[str, Schema] = schema["$defs"]
    visited = {"ResourceDefaults"}
    first = {"resources": schema["properties"]["resources"]}

    def below(value: Schema, path: str) -> Iterator[str]:
        if (reference := value.get("$ref")) is not None:
            name = reference.rpartition("/")[2]
            if name not in visited:
                visited.add(name)
                kind = models[name]["properties"].get("type", {}).get("const")
                yield from keys(models[name]["properties"], f"{path}.{kind}" if kind else path)
        for union in ("anyOf", "oneOf", "allOf"):
            for inner in value.get(union, ()):
                yield from below(inner, path)
        if isinstance(value.get("items"), Mapping):
            yield from below(value["items"], f"{path}[]")
        if isinstance(value.get("additionalProperties"), Mapping):
            yield from below(value["additionalProperties"], f"{path}.*")

    def keys(properties: Schema, path: str) -> Iterator[str]:
        for key, value in properties.items():
            here = f"{path}.{key}" if path else key
            yield here
            yield from below(value, here)

    return list(dict.fromkeys(keys({**first, **schema["properties"]}, "")))


def words_of(key: str) -> set[str]:
    """Returns what a test of the key must contain: its name, and the kind of paginator or auth that has it."""
    *above, name = key.replace("[]", "").split(".")
    kind = above[-1:] if above[-2:-1] in (["paginator"], ["auth"]) else []
    return {*kind, *([] if kind and name == "type" else [name])}


@cache
def definitions(module: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Returns, by name, the source of each definition of a module, including decorators, and the names that it uses."""
    source = (ROOT / module).read_text()
    lines = source.splitlines()
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for node in ast.parse(source).body:
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        text = "\n".join(lines[start - 1 : node.end_lineno])
        used = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
        used |= {inner.arg for inner in ast.walk(node) if isinstance(inner, ast.arg)}
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
        for target in targets:
            name = getattr(target, "name", getattr(target, "id", None))
            if isinstance(name, str):
                found[name] = (text, frozenset(used))
    return found


def source_of(test: str) -> str:
    """Returns a test's source, with the functions, fixtures and constants of its module that it uses."""
    module, _, name = test.partition("::")
    defined, texts, waiting = definitions(module), {}, [name]
    while waiting:
        name = waiting.pop()
        if name in defined and name not in texts:
            texts[name], used = defined[name]
            waiting += used
    return "\n".join(texts.values())


def test_every_key_is_seen_by_a_test_or_listed_as_not_seen_yet() -> None:
    keys = keys_of_a_connection_file()
    assert len(keys) > 150
    assert [key for key in keys if key not in SEEN_BY and key not in NOT_SEEN_YET] == []
    # Remove keys from these lists that no longer exist or are tested by now.
    assert [key for key in (*SEEN_BY, *NOT_SEEN_YET) if key not in keys] == []
    assert SEEN_BY.keys() & NOT_SEEN_YET == set()
    assert len(SEEN_BY) == sum(len(keys) for tests in SEEN.values() for keys in tests.values()), "a key is listed twice"


@pytest.mark.parametrize("key", SEEN_BY)
def test_the_test_listed_for_a_key_exists_and_sets_it(key: str) -> None:
    module, _, name = SEEN_BY[key].partition("::")
    assert name.startswith("test_"), name
    assert (ROOT / module).is_file(), module
    assert name in definitions(module), f"{module} has no {name}"
    text = source_of(SEEN_BY[key])
    unwritten = {word for word in words_of(key) if not re.search(rf"\b{re.escape(word)}\b", text)}
    assert not unwritten, f"{SEEN_BY[key]} does not set {unwritten}"
