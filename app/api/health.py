"""Probes and metrics: /healthz (the process turns), /readyz (it can take work), /metrics."""

from fastapi import APIRouter, Request, Response

from app.api import present
from app.api.problems import RETRY_AFTER_S, problem
from app.api.schemas import Problem
from app.api.services import Services, services_of
from app.domain.clock import US_PER_S
from app.domain.errors import StoreError, StoreFull
from app.domain.money import usd_from_nano
from app.store.port import Row, Tx

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="Is the process alive?")
async def healthz(request: Request) -> Response:
    """Answers as long as the event loop turns; asks nothing of anybody."""
    services = services_of(request)
    return present.json(
        {"status": "ok", "version": services.version, "simulated": services.simulated}
    )


@router.get(
    "/readyz",
    responses={
        503: {
            "model": Problem,
            "description": "Stopping, the store cannot be written, its disk is nearly full, or no model can be asked.",
        }
    },
    summary="Can it take work?",
)
async def readyz(request: Request) -> Response:
    """Ready when the store can be written, its disk has room, calls can be made, and the service is not stopping."""
    services = services_of(request)
    if services.stopping:
        return problem(503, "stopping", "The service is stopping.", "It takes no new work.")
    if services.upstream_failed():
        detail = (
            "The client for the models cannot be opened: see upstream_client_failed in the log."
        )
        return problem(503, "upstream-client-failed", "No model can be asked.", detail)
    try:
        services.space.check()
        await services.store.write(lambda tx: tx.run("probe_write"))
    except StoreError as error:
        kind = "store-full" if isinstance(error, StoreFull) else "store-unavailable"
        return problem(
            503,
            kind,
            "The store cannot be written.",
            type(error).__name__,
            retry_after_s=RETRY_AFTER_S,
        )
    return present.json({"status": "ready", "simulated": services.simulated})


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Counters from the journal's events, gauges read now."""
    services = services_of(request)

    def op(tx: Tx) -> tuple[list[Row], int, list[Row]]:
        held = tx.one("reserved_now")
        queue, batches = list(tx.all("queue_state")), list(tx.all("batch_state"))
        return queue, held["reserved_nano"] if held else 0, batches

    rows, reserved_nano, batches = await services.store.read(op)
    _set_gauges(services, rows, reserved_nano)
    services.metrics.batch_depth.clear()
    for row in batches:
        services.metrics.batch_depth.labels(row["state"]).set(row["item_count"])
    return Response(
        services.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


def _set_gauges(services: Services, rows: list[Row], reserved_nano: int) -> None:
    gauges = services.metrics
    gauges.queue_depth.clear()
    for row in rows:
        gauges.queue_depth.labels(str(row["priority"])).set(row["depth"])
    now_us = services.clock.now_us()
    waiting = [row["oldest_at_us"] for row in rows if row["oldest_at_us"] is not None]
    oldest_us = min(waiting, default=now_us)
    gauges.queue_age.set(max(now_us - oldest_us, 0) / US_PER_S)
    gauges.reserved_usd.set(usd_from_nano(reserved_nano))
