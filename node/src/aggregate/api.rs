//! REST under `/api/v1`: JSON with a schema number, paged by cursor, errors with a code and a message.

use super::view::{View, ask};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use protocol::aggregate::{Compliance, DeploymentQuery, DeviceQuery, FindingQuery, NotACursor, Page};
use protocol::identifier::{DeviceId, PatchId, SiteName};
use protocol::limits;
use protocol::scan::Finding;
use protocol::time::WallTime;
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use std::sync::Arc;

/// Version of the JSON documents. New fields may appear in it; fields that are there keep name and meaning.
const SCHEMA: u32 = 1;

/// Rows on a page unless the request says otherwise.
const USUAL_ROWS: usize = 100;

type SharedView = Shared<Arc<dyn View>>;

/// An error as clients see it.
#[derive(Debug)]
pub(super) enum Error {
    NotFound,
    NoSuchDevice,
    Method,
    UnknownName,
    Parameter(String),
    NotReady(String),
    Internal,
}

#[derive(Serialize)]
struct ErrorDocument {
    schema: u32,
    error: ErrorBody,
}

#[derive(Serialize)]
struct ErrorBody {
    code: &'static str,
    message: String,
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, code, message) = match self {
            Error::NotFound => (
                StatusCode::NOT_FOUND,
                "not-found",
                "there is nothing at this path; /api/v1/openapi.json lists what there is".to_owned(),
            ),
            Error::NoSuchDevice => (
                StatusCode::NOT_FOUND,
                "no-such-device",
                "no device with this identity has joined; /api/v1/devices lists them".to_owned(),
            ),
            Error::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "this server only answers GET and HEAD: it can show the fleet and not change it".to_owned(),
            ),
            Error::UnknownName => (
                StatusCode::MISDIRECTED_REQUEST,
                "unknown-name",
                "this server is not known by the name in the request; ask by its IP address or as localhost, or list the \
                 name in its configuration: names = [\"hq.example\"] in the table [aggregator]"
                    .to_owned(),
            ),
            Error::Parameter(message) => (StatusCode::BAD_REQUEST, "bad-parameter", message),
            Error::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "the answer could not be made; the node's log says why, other pages may still work"
                    .to_owned(),
            ),
            Error::NotReady(message) => (StatusCode::SERVICE_UNAVAILABLE, "not-ready", message),
        };
        let error = ErrorBody { code, message };
        (status, Json(ErrorDocument { schema: SCHEMA, error })).into_response()
    }
}

impl From<QueryRejection> for Error {
    fn from(rejection: QueryRejection) -> Error {
        Error::Parameter(rejection.body_text())
    }
}

impl From<NotACursor> for Error {
    fn from(error: NotACursor) -> Error {
        Error::Parameter(error.to_string())
    }
}

#[derive(Serialize)]
struct Listing<Row> {
    schema: u32,
    generated: WallTime,
    rows: Vec<Row>,
    next: Option<String>,
}

type Answer<Row> = Result<Json<Listing<Row>>, Error>;

/// Asks for one page and wraps it up.
async fn listing<Row: Send + 'static>(
    view: Arc<dyn View>,
    question: impl FnOnce(&dyn View) -> Page<Row> + Send + 'static,
) -> Answer<Row> {
    let (page, generated) = ask(view, |view| (question(view), view.now())).await?;
    Ok(Json(Listing { schema: SCHEMA, generated, rows: page.rows, next: page.next }))
}

fn rows(asked: Option<usize>) -> Result<usize, Error> {
    match asked.unwrap_or(USUAL_ROWS) {
        limit @ 1..=limits::PAGE_ROWS => Ok(limit),
        other => Err(Error::Parameter(format!(
            "limit is {other}; it must be from 1 to {}, use `after` for more rows",
            limits::PAGE_ROWS
        ))),
    }
}

fn place<T: FromStr<Err = NotACursor>>(after: Option<String>) -> Result<Option<T>, Error> {
    Ok(after.map(|text| text.parse()).transpose()?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceParameters {
    after: Option<String>,
    limit: Option<usize>,
    site: Option<SiteName>,
    compliance: Option<Compliance>,
}

async fn devices(
    Shared(view): SharedView,
    parameters: Result<Query<DeviceParameters>, QueryRejection>,
) -> Answer<protocol::aggregate::DeviceRow> {
    let Query(DeviceParameters { after, limit, site, compliance }) = parameters?;
    let query = DeviceQuery { after: place(after)?, limit: rows(limit)?, site, compliance };
    listing(view, move |view| view.devices(&query)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatchParameters {
    after: Option<PatchId>,
    limit: Option<usize>,
}

async fn patches(
    Shared(view): SharedView,
    parameters: Result<Query<PatchParameters>, QueryRejection>,
) -> Answer<protocol::aggregate::PatchRow> {
    let Query(PatchParameters { after, limit }) = parameters?;
    let limit = rows(limit)?;
    listing(view, move |view| view.patches(after.as_ref(), limit)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FindingParameters {
    after: Option<String>,
    limit: Option<usize>,
    device: Option<DeviceId>,
    patch: Option<PatchId>,
    finding: Option<Finding>,
}

async fn findings(
    Shared(view): SharedView,
    parameters: Result<Query<FindingParameters>, QueryRejection>,
) -> Answer<protocol::aggregate::FindingRow> {
    let Query(FindingParameters { after, limit, device, patch, finding }) = parameters?;
    let query = FindingQuery { after: place(after)?, limit: rows(limit)?, device, patch, finding };
    listing(view, move |view| view.findings(&query)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeploymentParameters {
    after: Option<String>,
    limit: Option<usize>,
    device: Option<DeviceId>,
    #[serde(default)]
    failed: bool,
}

async fn deployments(
    Shared(view): SharedView,
    parameters: Result<Query<DeploymentParameters>, QueryRejection>,
) -> Answer<protocol::aggregate::DeploymentRow> {
    let Query(DeploymentParameters { after, limit, device, failed }) = parameters?;
    let query = DeploymentQuery { after: place(after)?, limit: rows(limit)?, device, failed };
    listing(view, move |view| view.deployments(&query)).await
}

async fn openapi() -> impl IntoResponse {
    let json = [(axum::http::header::CONTENT_TYPE, "application/json")];
    (json, include_str!("openapi.json"))
}

async fn live() -> &'static str {
    "live\n"
}

async fn ready(Shared(view): SharedView) -> Result<&'static str, Error> {
    ask(view, |view| view.ready()).await?.map_err(Error::NotReady)?;
    Ok("ready\n")
}

pub(super) fn routes() -> Router<Arc<dyn View>> {
    Router::new()
        .route("/api/v1/devices", get(devices))
        .route("/api/v1/patches", get(patches))
        .route("/api/v1/findings", get(findings))
        .route("/api/v1/deployments", get(deployments))
        .route("/api/v1/openapi.json", get(openapi))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
}
