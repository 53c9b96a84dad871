"""The gate over HTTP: what is going on and why, and rollback for those who hold the token."""

import secrets
from importlib.resources import files
from typing import Any

from fastapi import Depends, FastAPI, Header, HTTPException, Response
from fastapi.responses import HTMLResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict
from sqlalchemy import select

from gate import promotion, registry
from lmt2.config import Settings
from lmt2.ledger import Ledger, ReplicaRow, count_by_state, desired_version, is_paused

CONSOLE_POLICY = (
    "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Rollback(BaseModel):
    """Which version to go back to; none: the parent of the present one."""

    model_config = ConfigDict(extra="forbid")

    version: str | None = None


def create_app(settings: Settings, ledger: Ledger) -> FastAPI:
    """The gate's HTTP interface."""
    app = FastAPI(title="LMT² gate", docs_url=None, redoc_url=None, openapi_url=None)
    page = files("gate").joinpath("console/index.html").read_text(encoding="utf-8")

    @app.get("/")
    def console() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": CONSOLE_POLICY})

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    _add_reading(app, ledger)
    _add_rollback(app, ledger, settings.security.token)
    return app


def _add_reading(app: FastAPI, ledger: Ledger) -> None:
    @app.get("/v1/status")
    def status() -> dict[str, Any]:
        with ledger.begin() as session:
            replicas = session.scalars(select(ReplicaRow).order_by(ReplicaRow.name))
            return {
                "version": desired_version(session),
                "is_paused": is_paused(session),
                "documents": count_by_state(session),
                "replicas": [{"name": r.name, "version": r.version_id, "error": r.error} for r in replicas],
            }

    @app.get("/v1/versions")
    def versions() -> list[dict[str, Any]]:
        with ledger.begin() as session:
            return registry.versions(session)

    @app.get("/v1/versions/{name}")
    def explain(name: str) -> dict[str, Any]:
        with ledger.begin() as session:
            try:
                return registry.explain(session, name)
            except registry.UnknownVersion as error:
                raise HTTPException(404, str(error)) from error

    @app.get("/v1/decisions")
    def decisions() -> list[dict[str, Any]]:
        with ledger.begin() as session:
            return registry.decisions(session)


def _add_rollback(app: FastAPI, ledger: Ledger, token: str) -> None:
    def authorise(authorization: str = Header(default="")) -> None:
        if not token:
            raise HTTPException(403, "rollback is off: no token is configured (security.token, LMT2_SECURITY_TOKEN)")
        if not secrets.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            headers = {"WWW-Authenticate": "Bearer"}
            raise HTTPException(401, "send the configured token as `Authorization: Bearer …`", headers)

    @app.post("/v1/rollback", dependencies=[Depends(authorise)])
    def rollback(wanted: Rollback | None = None) -> dict[str, str]:
        with ledger.begin() as session:
            try:
                row = promotion.rollback(session, wanted.version if wanted else None)
            except registry.UnknownVersion as error:
                raise HTTPException(404, str(error)) from error
            except registry.Refused as error:
                raise HTTPException(409, str(error)) from error
            return {"version": row.version_id}
