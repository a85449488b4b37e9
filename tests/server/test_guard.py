"""Who may ask, from where, and how much they may send."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from sdcore.server.app import create_app
from sdcore.server.models import Model, Models
from server.serving import Running, opened

TXT2IMG, GENERATIONS = "/sdapi/v1/txt2img", "/v1/images/generations"


@pytest.fixture(scope="module")
def guarded(folder) -> Iterator[httpx.Client]:
    plain = folder / "models" / "plain"
    models = Models(Model("plain", plain, lambda: opened(plain, folder)), None, lambda path: None)
    app = create_app(models, keys=["sesame", "me:secret"], most_bytes=1000)
    with Running(app) as server, httpx.Client(base_url=server.url) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_with_a_key(guarded) -> None:
    for headers in (bearer("sesame"), bearer("me:secret"), {"authorization": "bearer sesame"}):
        assert guarded.get("/v1/models", headers=headers).status_code == 200
    for pair in (("anybody", "sesame"), ("me", "secret")):
        assert guarded.get("/sdapi/v1/options", auth=pair).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        bearer("Sesame"),
        bearer("sesame2"),
        {"authorization": "sesame"},
        {"authorization": "Basic sesame"},
        {"authorization": "Basic é".encode()},
    ],
)
def test_without(guarded, headers) -> None:
    answer = guarded.get("/v1/models", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"
    answer = guarded.post(TXT2IMG, json={}, headers=headers)
    assert answer.status_code == 401
    assert "asks for its key" in answer.json()["detail"]
    assert answer.headers["www-authenticate"] == "Basic"


def test_what_needs_no_key(guarded) -> None:
    assert guarded.get("/health").json()["status"] == "ok"
    assert guarded.get("/internal/ping").json() == {}
    page = guarded.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "://" not in page.text  # it needs nothing of anybody else
    assert guarded.options(GENERATIONS).status_code == 204


def test_too_much(guarded) -> None:
    def chunks() -> Iterator[bytes]:  # sent without a length
        yield from [b" " * 300] * 10

    headers = bearer("sesame") | {"content-type": "application/json"}
    for content in (lambda: b" " * 3000, chunks):
        for path in (TXT2IMG, GENERATIONS):
            answer = guarded.post(path, content=content(), headers=headers)
            assert answer.status_code == 413, answer.text
            assert "the request has more than" in answer.text


def test_pages_of_other_sites(client, guarded) -> None:
    """A browser asks before it sends JSON."""
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "x-any"}
    known, other = {"origin": "https://lite.koboldai.net"}, {"origin": "https://example.org"}
    answer = client.options(TXT2IMG, headers=known | asks)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == known["origin"]
    assert answer.headers["access-control-allow-headers"] == "x-any"
    answer = client.get("/sdapi/v1/options", headers=known)
    assert answer.headers["access-control-allow-origin"] == known["origin"]
    for one, path in ((client, TXT2IMG), (guarded, TXT2IMG)):
        answer = one.options(path, headers=other | asks)
        assert "access-control-allow-origin" not in answer.headers


def test_pages_of_other_sites_are_not_answered(client) -> None:
    """What a form of any page can post, and a page whose name means this machine can read."""
    interrupt, own = "/sdapi/v1/interrupt", str(client.base_url).rstrip("/")
    for headers, status in (
        ({}, 200),
        ({"origin": own}, 200),
        ({"origin": "https://lite.koboldai.net"}, 200),
        ({"origin": "https://example.org"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "example.org"}, 403),
        ({"host": "example.org", "origin": "http://example.org"}, 403),
        ({"host": "localhost:80", "origin": "http://localhost:80"}, 200),
        ({"host": "lite.koboldai.net"}, 200),  # a proxy's
    ):
        assert client.post(interrupt, headers=headers).status_code == status, headers
