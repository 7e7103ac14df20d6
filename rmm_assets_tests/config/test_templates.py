"""Tests that a template in a connection file can only read an environment variable."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import dagster as dg
import pytest

from rmm_assets.definitions import build_defs
from rmm_assets_tests.config.test_connection import ACME, SECRET, load, refusal

SHELL = "{{ env.__class__.__init__.__globals__['os'].system('touch PWNED') }}"


def in_docs(template: str) -> str:
    return f"{ACME}  docs: {template!r}\n" if '"' in template else f'{ACME}  docs: "{template}"\n'


def test_a_template_is_a_variable_or_its_default_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_HOST", "rmm.example.com")
    monkeypatch.setenv("ACME_SITE", "{{ env('HOME') }}")
    monkeypatch.setenv("ACME_ZIP", "007")
    text = ACME.replace(
        "https://rmm.example.com/api", "\"https://{{env(\\\"ACME_HOST\\\")}}/{{ env('NO_SUCH', 'a b') }}\""
    )
    text = text.replace("- name: devices", "- name: devices\n      description: \"{{ env('ACME_SITE') }}\"", 1)
    text = text.replace("data_selector: data}", "params: {zip: \"{{ env('ACME_ZIP') }}\"}}", 1)
    connection = load(tmp_path, text)
    assert connection.client.base_url == "https://rmm.example.com/a b"
    # The content of a variable is text: neither a template nor a number.
    assert connection.resources[0].description == "{{ env('HOME') }}"
    assert connection.resources[0].endpoint.params == {"zip": "007"}


@pytest.mark.parametrize(
    "template",
    [
        SHELL,
        "{{ ''.__class__.__mro__ }}",
        "{{ env('HOME') | upper }}",
        "{{ env('HOME') ~ env('PATH') }}",
        "{{ env('HO' 'ME') }}",
        "{{ env(env('HOME')) }}",
        "{{ env('HOME', env('PATH')) }}",
        "{{ env['HOME'] }}",
        "{{ dg.AutomationCondition.eager() }}",
        "{% if 1 %}a{% endif %}",
        "{{ env('HOME') }}{{ 1 }}",
        "{{{{ env('HOME') }}}}",
        "{{",
    ],
)
def test_the_rest_of_jinja_is_refused_and_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(tmp_path, in_docs(template))
    assert "defs.yaml:18: attributes.docs: the only templates are `{{ env('NAME') }}` and" in message
    assert not (tmp_path / "PWNED").exists()


def test_dagsters_dotted_form_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    # Dagster renders `env.NAME` to None if the variable is not set.
    assert "write `{{ env('HOME') }}`" in refusal(tmp_path, in_docs("{{ env.HOME }}"))


@pytest.mark.parametrize("reference", ["{env: RMM_KEY_7}", "{dlt_secret: rmm.key_7}", "{env: \"{{ env('WHERE') }}\"}"])
def test_the_variable_of_the_files_own_secret_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    for name in ("RMM_KEY_7", "RMM__KEY_7", "RMM_OTHER_TOKEN", "PGPASSWORD"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("WHERE", "RMM_KEY_7")
    own = "RMM__KEY_7" if "dlt" in reference else "RMM_KEY_7"
    for name in (own, "RMM_OTHER_TOKEN", "PGPASSWORD"):
        text = ACME.replace("{env: ACME_API_KEY}", reference).replace(
            "- name: devices", f"- name: devices\n      description: \"x {{{{ env('{name}', 'd') }}}}\"", 1
        )
        message = refusal(tmp_path, text)
        assert f"`{name}` names a secret" in message and SECRET not in message


def test_a_template_cannot_be_a_key(tmp_path: Path) -> None:
    text = ACME.replace("data_selector: data}", "params: {\"{{ env('HOME') }}\": 1}}", 1)
    assert "a template cannot be a key" in refusal(tmp_path, text)


# What Dagster itself renders, in a folder of ours and in a user's project.

OUTSIDE = {
    "post-processing": (ACME + f'post_processing: {{assets: [{{attributes: {{description: "{SHELL}"}}}}]}}\n', ":18: "),
    "a module of variables": (ACME + "template_vars_module: evil\n", "template_vars_module: "),
    "a second document": (
        ACME + f'---\n{ACME.replace("acme", "b")}\npost_processing: {{assets: ["{SHELL}"]}}\n',
        "post_",
    ),
}


@pytest.mark.parametrize("how", ["ours", "dg"])
@pytest.mark.parametrize("case", OUTSIDE)
def test_nothing_else_in_the_file_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, how: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "defs" / "acme"
    folder.mkdir(parents=True)
    text, words = OUTSIDE[case]
    (folder / "defs.yaml").write_text(text)
    (tmp_path / "evil.py").write_text(
        "open('PWNED', 'w')\nimport dagster as dg\n@dg.template_var\ndef evil(): return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    if how == "ours":
        definitions = build_defs(folders=[tmp_path / "defs"])
        said = str([spec.description for spec in definitions.resolve_all_asset_specs()])
    else:
        with pytest.raises(Exception, match=r"Error while loading component") as raised:
            dg.ComponentTree.from_module(defs_module=module_of(folder.parent), project_root=tmp_path).build_defs()
        error: BaseException = raised.value
        while error.__cause__ is not None:
            error = error.__cause__
        said = str(error)
    assert "defs.yaml" in said and words in said, said
    # A project's own loader imports the module before it loads the connection.
    assert (how == "dg" and "module" in case) or not (tmp_path / "PWNED").exists()


def module_of(folder: Path) -> ModuleType:
    module = ModuleType("project_defs")
    module.__file__, module.__path__ = None, [str(folder)]
    return module


def test_a_folder_of_connections_can_only_contain_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "acme"
    folder.mkdir()
    (folder / "defs.yaml").write_text(
        f'type: dagster.TemplatedSqlComponent\nattributes: {{sql_template: "{SHELL}", connection: "x"}}\n'
    )
    definitions = build_defs(folders=[tmp_path])
    said = str([spec.description for spec in definitions.resolve_all_asset_specs()])
    assert "write rmm_assets.RmmConnection" in said
    assert not (tmp_path / "PWNED").exists()
