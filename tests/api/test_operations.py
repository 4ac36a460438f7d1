"""Prune, status, metrics and probes over HTTP."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import apsw
import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.errors import GatewayError, StorageError
from gateway.watcher import RetentionLimits
from tests.api.running import KEY, message, running_api
from tests.support.state import START, create_all, entry, key_of, shown

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator
    from pathlib import Path

    from gateway.durable.batch import Transaction
    from gateway.sessions.entry import SessionEntry


def _ages(*days: int) -> Iterator[SessionEntry]:
    return (entry(f"d{age}", updated_at=START - timedelta(days=age)) for age in days)


async def test_a_prune_drops_what_is_older_than_its_age(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await create_all(api.state.store, _ages(1, 20, 40, 100))
        paused = entry("paused", updated_at=START - timedelta(days=50), suspended_at=START)
        await api.state.store.create(paused)

        report = (await api.post("/v1/prune", {"max_age_days": 30})).json()

        assert report == {
            "scanned": 3,
            "pruned": 2,
            "kept_by_reason": {"suspended": 1},
            "duration_ms": report["duration_ms"],
            "dry_run": False,
            "complete": True,
        }
        kept = {key_of("d1"), key_of("d20"), key_of("paused")}
        assert set(shown(api.state.path)) == kept


@pytest.mark.parametrize("body", [None, {}, {"max_age_days": None}])
async def test_a_prune_goes_by_the_configured_limits(tmp_path: Path, body: object) -> None:
    limits = RetentionLimits(session_store_max_age_days=90.0, session_store_max_entries=2)
    async with running_api(tmp_path, limits=limits) as api:
        await create_all(api.state.store, _ages(1, 20, 40, 100))

        report = (await api.post("/v1/prune", body)).json()

        assert report["pruned"] == 2
        assert set(shown(api.state.path)) == {key_of("d1"), key_of("d20")}


async def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await create_all(api.state.store, _ages(1, 100))

        report = (await api.post("/v1/prune", {"dry_run": True})).json()

        assert (report["pruned"], report["dry_run"]) == (1, True)
        assert len(api.state.store) == 2


async def test_zero_days_prunes_nothing(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await create_all(api.state.store, _ages(1, 1000))
        assert (await api.post("/v1/prune", {"max_age_days": 0})).json()["pruned"] == 0


async def test_an_age_beyond_the_calendar_prunes_nothing(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await create_all(api.state.store, _ages(1, 1000))
        assert (await api.post("/v1/prune", {"max_age_days": 1e300})).json()["pruned"] == 0


async def test_wrong_fields_of_a_prune_are_told(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await create_all(api.state.store, _ages(1000))
        for body, told in (
            (b'{"max_age_days": -1}', "max_age_days: is -1, accepted is a finite number from 0"),
            (b'{"max_age_days": true}', "max_age_days: is true, accepted is a number from 0"),
            (b'{"max_age_days": "30"}', "max_age_days: is '30'"),
            (b'{"max_age_days": NaN}', "is not JSON"),
            (b'{"max_age_days": 1e999}', "is not JSON"),
            (b'{"dry_run": 1}', "dry_run: is 1, accepted is true or false"),
            (b'{"dryrun": true}', "did you mean dry_run?"),
        ):
            response = await api.client.post(
                "/v1/prune", content=body, headers={"Content-Type": "application/json"}
            )
            assert response.status_code == 400
            assert told in response.json()["detail"]
        assert len(api.state.store) == 1


async def test_a_prune_goes_on_without_its_client(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await create_all(api.state.store, (entry(f"c{n}") for n in range(500)))
        await api.clock.advance(91 * 86_400)
        async with await api.connect() as stream:
            await stream.send(api.head("POST", "/v1/prune", "Content-Length: 0"))
        with anyio.fail_after(30):
            while api.state.store.statistics().last_prune is None:
                await api.client.get("/livez")

        assert len(api.state.store) == 0


async def test_the_status_shows_all_parts(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.post("/v1/messages", message())
        await api.clock.advance(90)

        status = (await api.client.get("/v1/status")).json()

    assert status["version"] == "1.2.3"
    assert status["started_at"] == "2026-01-01T00:00:00Z"
    assert status["uptime_s"] == 90
    assert status["ready"] is True
    assert status["processes"] == 0
    assert status["store"]["entries"] == 1
    assert status["turns"]["completed"] == 1
    assert status["database"]["failed"] is False
    assert status["watcher"]["prunes"] == 0


async def test_metrics_can_be_parsed_and_name_nobody(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.post("/v1/messages", message())
        response = await api.client.get("/metrics")

    samples = {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    assert samples["gateway_sessions", ()] == 1
    assert samples["gateway_turns_total", ("completed",)] == 1
    assert samples["gateway_commits_total", ()] > 0
    assert samples["process_resident_memory_bytes", ()] > 0
    assert "alice" not in response.text
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_probes_tell_alive_and_ready(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        assert (await api.client.get("/livez")).json() == {"alive": True}
        assert (await api.client.get("/readyz")).json() == {"ready": True}

        # A server that stops takes no connection any more; who asks within the process is told.
        api.stop.set()
        transport = httpx2.ASGITransport(api.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as inside:
            response = await inside.get("/readyz")

    assert response.status_code == 503
    assert response.json() == {"ready": False, "reasons": ["the gateway is stopping"]}


@pytest.mark.parametrize(
    ("error", "reason", "kind"),
    [
        pytest.param(apsw.FullError(), "the disk is full", None, id="full"),
        pytest.param(apsw.IOError(), "the storage failed", "storage", id="failed"),
    ],
)
async def test_trouble_of_the_storage_shows_while_reads_go_on(
    tmp_path: Path, error: Exception, reason: str, kind: str | None
) -> None:
    def fail(_transaction: Transaction) -> None:
        raise error

    async with trouble_at_the_end(), running_api(tmp_path) as api:
        await api.post("/v1/messages", message())
        with pytest.raises(GatewayError):
            await api.state.database.write(fail)

        ready = await api.client.get("/readyz")
        shown = await api.client.get("/v1/sessions")
        said = await api.client.get(f"/v1/sessions/{KEY}/transcript")
        answer = await api.post("/v1/messages", message())

    assert (ready.status_code, ready.json()["reasons"]) == (503, [reason])
    assert len(shown.json()["sessions"]) == 1
    assert len(said.json()["messages"]) == 2
    if kind is None:  # space is there again, so service is
        assert answer.status_code == 200
    else:
        assert answer.status_code == 503
        assert answer.json()["type"].endswith(kind)
        assert "retry-after" in answer.headers


@asynccontextmanager
async def trouble_at_the_end() -> AsyncGenerator[None]:
    """Expect that a store whose database failed cannot be closed in order."""
    with suppress(StorageError):
        yield
