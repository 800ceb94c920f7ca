from __future__ import annotations

import pytest

from pipelines.fetch.connection import Connection, Patience, iso_date, shown
from services.shared.errors import InvalidValue, NotFound, Unauthorised, Unavailable, UnreadableFile


def test_an_answer_carries_the_publishers_date(stand_in, connection):
    stand_in.files["/status"] = b'{"status": "OK"}'
    answer = connection.ask(f"{stand_in.url}/status")
    assert answer.value == {"status": "OK"}
    assert answer.date == "2026-11-21T06:21:04+00:00"


def test_trouble_that_passes_is_asked_again_with_growing_waits(stand_in, connection, waits):
    stand_in.files["/status"] = b"[]"
    stand_in.faults["/status"] += ["status:503", "status:503", "status:500"]
    assert connection.ask(f"{stand_in.url}/status").value == []
    assert connection.retries == len(waits) == 3
    for wait, longest in zip(waits, (0.001, 0.002, 0.004), strict=True):
        assert longest / 2 <= wait <= longest


def test_retry_after_is_honoured_as_seconds_and_as_a_date(stand_in, connection, waits):
    stand_in.files["/status"] = b"[]"
    stand_in.faults["/status"] += ["status:429;Retry-After=7", "status:429;Retry-After=Sat, 21 Nov 2026 06:21:24 GMT"]
    connection.ask(f"{stand_in.url}/status")
    assert waits == [7.0, 20.0]


def test_a_longer_retry_after_than_our_patience_ends_it(stand_in, connection, waits):
    stand_in.faults["/status"] += ["status:429;Retry-After=3600"]
    with pytest.raises(Unavailable, match="asked to wait 3600 s"):
        connection.ask(f"{stand_in.url}/status")
    assert waits == []


def test_the_number_of_attempts_is_bounded(stand_in, connection):
    stand_in.faults["/status"] += ["status:503"] * 10
    with pytest.raises(Unavailable, match="503 Service Unavailable"):
        connection.ask(f"{stand_in.url}/status")
    assert len(stand_in.requests) == 4


def test_no_one_listens(stand_in, waits):
    with Connection(Patience(attempts=2, first_wait_s=0.0), wait=waits.append) as opened:
        port = stand_in.port
        with pytest.raises(Unavailable, match="ConnectError"):
            opened.ask(f"http://127.0.0.1:{1 if port != 1 else 2}/")


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (401, Unauthorised, "approved users"),
        (403, Unauthorised, "open access"),
        (404, NotFound, "no such file"),
        (400, InvalidValue, "refused the request"),
    ],
)
def test_what_does_not_pass_ends_at_once(stand_in, connection, status, error, words):
    stand_in.faults["/status"] += [f"status:{status}"]
    with pytest.raises(error, match=words):
        connection.ask(f"{stand_in.url}/status")
    assert len(stand_in.requests) == 1


def test_a_web_page_in_place_of_json(stand_in, connection):
    stand_in.faults["/status"] += ["html"]
    with pytest.raises(UnreadableFile, match="text/html"):
        connection.ask(f"{stand_in.url}/status")


def test_redirects_are_followed_but_not_forever(stand_in, connection):
    stand_in.files["/new"] = b"[1]"
    stand_in.faults["/old"] += ["redirect:/new"]
    assert connection.ask(f"{stand_in.url}/old").value == [1]
    stand_in.faults["/old"] += ["redirect:/old"] * 100
    with pytest.raises(Unavailable, match="TooManyRedirects"):
        connection.ask(f"{stand_in.url}/old")


def test_https_is_never_left(stand_in, connection):
    import httpx

    request = httpx.Request("GET", "https://host.org/a")
    refuse = connection._http.event_hooks["request"][0]
    refuse(request)
    refuse(httpx.Request("GET", "https://mirror.org/a", extensions=request.extensions))
    with pytest.raises(Unavailable, match="unencrypted"):
        refuse(httpx.Request("GET", "http://host.org/a", extensions=request.extensions))


def test_messages_and_dates_hold_no_secrets():
    assert shown("https://me:pw@host.org:8443/data?token=1#x") == "https://host.org:8443/data"
    assert iso_date(None) == iso_date("yesterday") == ""
