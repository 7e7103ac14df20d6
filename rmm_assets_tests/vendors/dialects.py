"""Lists the dialects of all profiles."""

from __future__ import annotations

from rmm_assets_tests.vendors import lists, nested, netbox, posts, sessions, tactical, xml_lists, zabbix
from rmm_assets_tests.vendors.dialect import Dialect

DIALECTS: dict[str, type[Dialect]] = {
    each.profile: each
    for each in (
        lists.Level, lists.Atera, lists.Syncro, lists.Tactical, lists.Hudu, lists.VsaX, lists.ConnectWise, lists.Jamf,
        lists.EndpointCentral, posts.Addigy, posts.Comet, tactical.TacticalStable,
        nested.NinjaOne, nested.Action1, nested.Auvik, nested.SuperOps,
        sessions.Datto, sessions.NCentral, sessions.Automate, sessions.Glpi, xml_lists.NSight, netbox.NetBox,
    )
}  # fmt: skip

REAL: dict[str, type[Dialect]] = {zabbix.Zabbix.profile: zabbix.Zabbix}
"""Profiles that are tested on the vendor's own server instead of a dialect."""
