"""Tests every fault of the simulator with a plain `requests` client."""

from __future__ import annotations

import time
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import requests

from rmm_assets.simulator import Faults, Move, Simulator

ROWS = [{"id": n, "name": f"Gerät {n}", "status": "online"} for n in range(1, 206)]


def serving(faults: Faults | Iterable[Faults]) -> Simulator:
    return Simulator(tables={"devices": ROWS, "alerts": ROWS[:7]}, faults=faults)


def get(simulator: Simulator, path: str = "/v1/devices", **params: object) -> requests.Response:
    query = {"api_key": "demo-key", **{name: str(value) for name, value in params.items()}}
    return requests.get(simulator.base_url + path, params=query, timeout=60, allow_redirects=False)


def read(simulator: Simulator, limit: int = 100) -> list[list[dict[str, Any]]]:
    """Reads pages by offset, advancing by the rows received, up to the first empty page."""
    pages: list[list[dict[str, Any]]] = []
    while page := get(simulator, offset=sum(map(len, pages)), limit=limit).json()["data"]:
        pages.append(page)
    return pages


def rows_of(pages: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [row for page in pages for row in page]


def test_there_are_no_faults_by_default() -> None:
    with serving(Faults()) as simulator:
        assert rows_of(read(simulator)) == ROWS


def test_every_nth_request_fails_with_the_status() -> None:
    with serving(Faults(status=503, every=3)) as simulator:
        assert [get(simulator).status_code for _ in range(7)] == [200, 200, 503, 200, 200, 503, 200]
        assert [entry.status for entry in simulator.requests] == [200, 200, 503, 200, 200, 503, 200]


def test_times_and_skip_limit_the_affected_requests() -> None:
    with serving(Faults(status=500, times=2)) as simulator:
        assert [get(simulator).status_code for _ in range(4)] == [500, 500, 200, 200]
    with serving(Faults(status=500, skip=2, every=2, times=1)) as simulator:
        assert [get(simulator).status_code for _ in range(7)] == [200, 200, 200, 500, 200, 200, 200]


def test_a_fault_of_one_resource_neither_affects_nor_counts_others() -> None:
    with serving(Faults(status=500, resource="devices", every=2)) as simulator:
        assert [get(simulator, "/v1/alerts").status_code for _ in range(3)] == [200] * 3
        assert [get(simulator).status_code for _ in range(2)] == [200, 500]


def test_several_faults_count_separately_and_the_first_wins() -> None:
    with serving([Faults(status=503, every=2), Faults(status=429, every=3), Faults(clamp=10)]) as simulator:
        assert [get(simulator).status_code for _ in range(6)] == [200, 503, 429, 503, 200, 503]
        assert len(get(simulator).json()["data"]) == 10


def test_the_token_endpoint_fails_only_when_named() -> None:
    form = {"grant_type": "client_credentials", "client_id": "demo-client", "client_secret": "demo-key"}
    for faults, status in ((Faults(status=500), 200), (Faults(status=500, resource="token"), 500)):
        with serving(faults) as simulator:
            assert requests.post(f"{simulator.base_url}/oauth/token", data=form, timeout=60).status_code == status


def test_faults_can_be_changed_while_it_runs() -> None:
    with serving(Faults(status=500)) as simulator:
        assert get(simulator).status_code == 500
        simulator.set_faults(())
        assert get(simulator).status_code == 200


def test_retry_after_is_sent_in_seconds_or_as_a_date() -> None:
    with serving(Faults(status=429, retry_after=2)) as simulator:
        response = get(simulator)
        assert (response.status_code, response.headers["Retry-After"]) == (429, "2")
        assert response.json() == {"error": "Too Many Requests"}
    with serving(Faults(status=503, retry_after=30, retry_after_as_date=True)) as simulator:
        until = parsedate_to_datetime(get(simulator).headers["Retry-After"]).timestamp()
        assert 28 <= until - time.time() <= 31


def test_throttling_can_be_a_403_with_text_or_a_429_with_the_wait_in_its_body() -> None:
    with serving(Faults(status=403, text="rate limit exceeded")) as simulator:
        response = get(simulator)
        assert (response.status_code, response.json()) == (403, {"error": "rate limit exceeded"})
    with serving(Faults(status=429, wait_in_body=1.5)) as simulator:
        assert get(simulator).json()["retry_after"] == 1.5
        assert "Retry-After" not in get(simulator).headers


def test_an_error_body_can_be_sent_with_200() -> None:
    with serving(Faults(status=200, text="database is busy")) as simulator:
        response = get(simulator)
        assert (response.status_code, response.json()) == (200, {"error": "database is busy"})


def test_html_is_sent_with_200_or_with_the_status() -> None:
    for faults, status in ((Faults(html=True), 200), (Faults(html=True, status=502), 502)):
        with serving(faults) as simulator:
            response = get(simulator)
            assert response.status_code == status
            assert response.headers["Content-Type"].startswith("text/html")
            with pytest.raises(requests.JSONDecodeError):
                response.json()


def test_a_key_is_echoed_in_error_bodies_only_when_asked() -> None:
    with serving(Faults(echo_key=True)) as simulator:
        assert "wr0ng" in get(simulator, api_key="wr0ng").json()["error"]
        assert "demo-key" not in get(simulator).text
    with serving(Faults(status=500, echo_key=True)) as simulator:
        assert "demo-key" in get(simulator).json()["error"]
    with serving(Faults(status=500)) as simulator:
        assert "demo-key" not in get(simulator).text


def test_a_redirect_points_to_the_other_origin_without_the_key_unless_echoed() -> None:
    origin = "http://127.0.0.2:9"
    with serving(Faults(redirect=origin)) as simulator:
        response = get(simulator, offset=5)
        assert (response.status_code, response.headers["Location"]) == (308, f"{origin}/v1/devices?offset=5")
    with serving(Faults(redirect=origin, status=302, echo_key=True)) as simulator:
        response = get(simulator, offset=5)
        assert response.status_code == 302
        assert response.headers["Location"] == f"{origin}/v1/devices?api_key=demo-key&offset=5"


def test_a_delay_delays() -> None:
    with serving(Faults(delay=0.2, every=2)) as simulator:
        get(simulator)
        began = time.monotonic()
        get(simulator)
        assert time.monotonic() - began >= 0.2


def test_a_slow_request_is_logged_before_its_response() -> None:
    with serving(Faults(delay=20)) as simulator:
        with pytest.raises(requests.ReadTimeout):
            requests.get(f"{simulator.base_url}/v1/devices?api_key=demo-key", timeout=0.1)
        assert [entry.status for entry in simulator.requests] == [None]


def test_a_dropped_connection_gives_no_response() -> None:
    with serving(Faults(drop=True, times=1)) as simulator:
        with pytest.raises(requests.ConnectionError):
            get(simulator)
        assert get(simulator).status_code == 200
        assert [entry.status for entry in simulator.requests] == [None, 200]


def test_a_cut_body_is_shorter_than_announced() -> None:
    with serving(Faults(cut=True)) as simulator, pytest.raises(requests.exceptions.ChunkedEncodingError):
        get(simulator)


def test_truncated_json_has_a_matching_length_and_cannot_be_parsed() -> None:
    with serving(Faults(truncated=True)) as simulator:
        response = get(simulator)
        assert response.status_code == 200
        assert int(response.headers["Content-Length"]) == len(response.content)
        assert response.content.startswith(b'{"data":[{')
        with pytest.raises(requests.JSONDecodeError):
            response.json()


def test_capped_pages_have_fewer_rows_than_requested_but_all_rows_in_total() -> None:
    with serving(Faults(clamp=50)) as simulator:
        pages = read(simulator, limit=100)
        assert [len(page) for page in pages] == [50, 50, 50, 50, 5]
        assert rows_of(pages) == ROWS
        assert get(simulator).json()["total"] == 205


def test_total_can_be_missing_or_wrong_and_data_missing() -> None:
    with serving(Faults(no_total=True)) as simulator:
        assert "total" not in get(simulator).json()
    with serving(Faults(total_off=3)) as simulator:
        assert get(simulator).json()["total"] == 208
    with serving(Faults(no_data=True)) as simulator:
        response = get(simulator, offset=0)
        assert (response.status_code, response.json()) == (200, {"total": 205})


def test_an_empty_answer_looks_like_an_empty_table() -> None:
    with serving(Faults(empty=True)) as simulator:
        assert get(simulator).json() == {"data": [], "total": 0, "next_cursor": None}
        assert len(simulator.rows("devices")) == 205


def test_same_page_repeats_the_first_page() -> None:
    with serving(Faults(same_page=True)) as simulator:
        assert [get(simulator, offset=at).json()["data"] for at in (0, 100, 5000)] == [ROWS[:100]] * 3


def test_a_next_cursor_or_link_can_be_missing_on_a_full_page() -> None:
    with serving(Faults(no_next=True)) as simulator:
        body = get(simulator, limit=100).json()
        assert (len(body["data"]), body["next_cursor"]) == (100, None)
        assert get(simulator, "/v1/linked/devices").json()["next"] is None
        assert "Link" not in get(simulator, "/v1/link-header/devices").headers


def test_a_cursor_or_link_can_point_to_the_same_page() -> None:
    with serving(Faults(stuck_next=True, skip=1)) as simulator:
        second = get(simulator, limit=100).json()["next_cursor"]
        assert get(simulator, limit=100, cursor=second).json()["next_cursor"] == second
        link = f"{simulator.base_url}/v1/linked/devices?offset=100&limit=100"
        assert get(simulator, "/v1/linked/devices", offset=100, limit=100).json()["next"] == link


def test_a_next_link_can_point_to_another_origin() -> None:
    origin = "http://127.0.0.2:9"
    with serving(Faults(next_origin=origin)) as simulator:
        assert get(simulator, "/v1/linked/devices").json()["next"].startswith(f"{origin}/v1/linked/devices?")
        assert get(simulator, "/v1/link-header/devices").links["next"]["url"].startswith(origin)


def test_duplicates_are_on_different_pages_and_no_row_is_missing() -> None:
    with serving(Faults(duplicate_every=50)) as simulator:
        pages = read(simulator, limit=50)
        ids = [row["id"] for page in pages for row in page]
        assert len(ids) == 209 == get(simulator).json()["total"]
        assert set(ids) == {row["id"] for row in ROWS}
        assert all(len({row["id"] for row in page}) == len(page) for page in pages)


def test_rows_deleted_at_the_front_make_an_offset_reader_miss_rows() -> None:
    with serving(Faults(move=Move(delete=2))) as simulator:
        got = [row["id"] for row in rows_of(read(simulator))]
        assert got == [*range(1, 101), *range(103, 203), 205]
        assert [row["id"] for row in simulator.rows("devices")] == list(range(7, 206))


def test_rows_inserted_at_the_front_make_an_offset_reader_see_rows_twice() -> None:
    with serving(Faults(move=Move(insert=1), times=2)) as simulator:
        got = [row["id"] for row in rows_of(read(simulator))]
        assert got == [*range(1, 101), *range(100, 206)]
        held = [row["id"] for row in simulator.rows("devices")]
        assert len(held) == len(set(held)) == 206


def test_random_moves_are_the_same_for_the_same_seed() -> None:
    def ids(seed: int) -> tuple[list[int], list[int]]:
        with serving(Faults(move=Move(delete=4, insert=3, where="random", seed=seed))) as simulator:
            read_ids = [row["id"] for page in read(simulator, limit=20) for row in page]
            return read_ids, [row["id"] for row in simulator.rows("devices")]

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)


def test_rows_can_move_during_the_first_read_only() -> None:
    with serving(Faults(move=Move(delete=1, insert=1, where="random", reads=1))) as simulator:
        read(simulator)
        held = simulator.rows("devices")
        assert held != ROWS
        assert rows_of(read(simulator)) == held
        assert simulator.rows("devices") == held


def test_requesting_the_first_page_again_is_not_another_read() -> None:
    with serving(Faults(move=Move(delete=1, reads=1))) as simulator:
        for offset in (0, 0, 0, 100):
            get(simulator, offset=offset)
        assert len(simulator.rows("devices")) == 204
        get(simulator, offset=0)
        get(simulator, offset=100)
        assert len(simulator.rows("devices")) == 204


def test_new_faults_start_a_new_first_read() -> None:
    moving = Faults(move=Move(delete=1, reads=1))
    with serving(moving) as simulator:
        for offset in (0, 100, 0, 100):
            get(simulator, offset=offset)
        assert len(simulator.rows("devices")) == 204
        simulator.set_faults(moving)
        for offset in (0, 100, 0, 100):
            get(simulator, offset=offset)
        assert len(simulator.rows("devices")) == 203


def test_moving_an_empty_table_leaves_it_empty() -> None:
    with serving(Faults(move=Move(delete=1000, insert=2))) as simulator:
        read(simulator)
        assert simulator.rows("devices") == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"every": 0},
        {"clamp": 0},
        {"times": -1},
        {"delay": -1},
        {"text": "x"},
        {"retry_after": 1},
        {"wait_in_body": 1},
    ],
)
def test_faults_without_effect_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"Faults\..*{next(iter(wrong))}"):
        Faults(**wrong)
