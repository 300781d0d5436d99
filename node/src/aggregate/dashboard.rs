//! The dashboard: one page, rendered on the server, without scripts and without anything from elsewhere.

mod device;
mod tables;
mod text;

use super::api;
use super::view::{View, ask};
use crate::units::bytes;
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State as Shared};
use axum::response::Html;
use axum::routing::get;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use protocol::aggregate::{Compliance, DeploymentQuery, DeviceQuery, NotACursor, Standing, Summary};
use protocol::identifier::SiteName;
use serde::Deserialize;
use std::sync::Arc;
use text::{Moment, count, percent};

const STYLE: &str = include_str!("dashboard/style.css");

/// Rows of the tables that are not paged.
const SHORT: usize = 20;

/// Rows of the table of transfers.
const CONTENTS: usize = 40;

/// Rows of the table of devices.
const DEVICES: usize = 50;

/// SHA-256 of the style sheet in base64: the page's content policy admits this style and no other.
pub(super) fn style_digest() -> String {
    let digest = protocol::digest::Sha256::of(STYLE.as_bytes());
    data_encoding::BASE64.encode(digest.as_bytes())
}

pub(super) fn routes() -> Router<Arc<dyn View>> {
    Router::new().route("/", get(page)).route("/device/{id}", get(device_page))
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    after: Option<String>,
    site: Option<SiteName>,
    compliance: Option<Compliance>,
}

async fn page(
    Shared(view): Shared<Arc<dyn View>>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Html<String>, api::Error> {
    let Query(parameters) = parameters?;
    let page = ask(view, move |view| render(view, &parameters)).await??;
    Ok(Html(page.into_string()))
}

async fn device_page(
    Shared(view): Shared<Arc<dyn View>>,
    Path(id): Path<String>,
) -> Result<Html<String>, api::Error> {
    let id = id.parse().map_err(|_| api::Error::NoSuchDevice)?;
    let page = ask(view, move |view| {
        let device = view.device(id)?;
        let now = view.now();
        Some(document(&device::sections(view, &device), &device::PARTS, Moment::new(now, now)))
    });
    Ok(Html(page.await?.ok_or(api::Error::NoSuchDevice)?.into_string()))
}

/// Parts of the page of the fleet.
const PARTS: [(&str, &str); 8] = [
    ("/#failures", "Failures"),
    ("/#missing", "Missing patches"),
    ("/#sites", "Sites"),
    ("/#devices", "Devices"),
    ("/#deployments", "Deployments"),
    ("/#transfers", "Transfers"),
    ("/#incidents", "Incidents"),
    ("/#stale", "Silent devices"),
];

fn render(view: &dyn View, parameters: &Parameters) -> Result<Markup, NotACursor> {
    let after = parameters.after.as_ref().map(|text| text.parse()).transpose()?;
    let Parameters { site, compliance, .. } = parameters.clone();
    let now = view.now();
    let summary = view.summary();
    let devices = view.devices(&DeviceQuery { after, limit: DEVICES, site, compliance });
    let failures = view.deployments(&DeploymentQuery { limit: SHORT, failed: true, ..Default::default() });
    let latest = view.deployments(&DeploymentQuery { limit: SHORT, ..Default::default() });
    let sections = html! {
        h1.unseen { "Patchmesh fleet" }
        (tiles(&summary))
        (tables::failures(&failures, now))
        (tables::missing(&view.most_missing(SHORT + 1), summary.fleet.devices))
        (tables::sites(&view.sites()))
        (tables::devices(&devices, parameters, now))
        (tables::deployments(&latest, now))
        (tables::transfers(&summary.fleet, &view.contents(CONTENTS + 1)))
        (tables::incidents(&view.incidents(SHORT + 1), now))
        (tables::stale(&view.stale_devices(SHORT), summary.stale, now))
    };
    Ok(document(&sections, &PARTS, Moment::new(now, now)))
}

fn document(sections: &Markup, parts: &[(&str, &str)], now: Moment) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Patchmesh fleet" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to content" }
                header.top {
                    a.brand href="/" { span.mark aria-hidden="true" {} span.name { "Patchmesh " span { "fleet" } } }
                    nav aria-label="Sections" {
                        @for (href, title) in parts { a href=(href) { (title) } }
                    }
                    p.stamp { "As of " (now.absolute()) }
                }
                main id="main" { (sections) }
                footer {
                    p {
                        "The same as data: "
                        a href="/api/v1/devices" { "devices" } ", " a href="/api/v1/patches" { "patches" } ", "
                        a href="/api/v1/findings" { "findings" } ", "
                        a href="/api/v1/deployments" { "deployments" } ", "
                        a href="/metrics" { "metrics" } ", " a href="/api/v1/openapi.json" { "description" } "."
                    }
                    p {
                        "This server shows what devices reported and signed. It holds no key that approves or \
                         installs anything."
                    }
                }
            }
        }
    }
}

/// The fleet at a glance.
fn tiles(summary: &Summary) -> Markup {
    let fleet = &summary.fleet;
    let behind = fleet.assessed.saturating_sub(fleet.compliant);
    let unknown = fleet.devices.saturating_sub(fleet.assessed);
    let (peers, seed) = payload(fleet);
    html! {
        section.tiles aria-label="The fleet at a glance" {
            div.tile.wide {
                h2 { "Compliance" }
                p.figure { (fleet.compliant_per_mille().map_or("–".to_owned(), percent)) }
                (bar("Devices by compliance", &[("ok", fleet.compliant), ("bad", behind), ("none", unknown)]))
                ul.legend {
                    li { i.ok {} (fleet.compliant) " of " (count(fleet.devices, "device")) " up to date" }
                    li { i.bad {} (behind) " missing approved patches" }
                    li { i.none {} (unknown) " never scanned" }
                }
            }
            div.tile {
                h2 { "Devices" }
                p.figure { (fleet.devices) }
                p.note { @if summary.stale == 0 { "all heard from lately" } @else { (summary.stale) " silent" } }
            }
            div.tile {
                h2 { "Missing" }
                p.figure { (fleet.missing) }
                p.note { "findings, of " (count(summary.approved as u64, "approved patch")) }
            }
            div.tile {
                h2 { "Failed" }
                p.figure.alarm[fleet.failed > 0] { (fleet.failed) }
                p.note { @if fleet.failed == 0 { "no deployment failed" } @else { "deployments need somebody" } }
            }
            div.tile.wide {
                h2 { "From peers" }
                p.figure { (share(peers, seed)) }
                (bar("Bytes of patches by origin", &[("peer", peers), ("seed", seed)]))
                ul.legend {
                    li { i.peer {} (bytes(peers)) " from peers" }
                    li { i.seed {} (bytes(seed)) " over the WAN" }
                }
            }
        }
    }
}

/// Bytes of artifacts and evidence from peers and over the WAN.
fn payload(standing: &Standing) -> (u64, u64) {
    let bytes = &standing.bytes;
    let peers = bytes.artifact_lan.saturating_add(bytes.evidence_lan);
    (peers, bytes.artifact_wan.saturating_add(bytes.evidence_wan))
}

/// Share of `part` beside `rest`, or a dash when there is neither.
fn share(part: u64, rest: u64) -> String {
    match per_mille(part, part.saturating_add(rest)) {
        Some(share) => percent(share),
        None => "–".to_owned(),
    }
}

fn per_mille(part: u64, whole: u64) -> Option<u64> {
    let thousandths = u128::from(part) * 1_000;
    thousandths.checked_div(u128::from(whole)).and_then(|share| u64::try_from(share).ok())
}

/// A horizontal bar of shares. Shapes instead of styles, since the content policy admits no style attributes.
fn bar(label: &str, parts: &[(&str, u64)]) -> Markup {
    let whole = parts.iter().fold(0, |sum: u64, (_, value)| sum.saturating_add(*value));
    let mut from = 0;
    let shapes: Vec<(&str, u64, u64)> = parts
        .iter()
        .map(|(class, value)| {
            let width = per_mille(*value, whole).unwrap_or(0);
            let start = from;
            from += width;
            (*class, start, width)
        })
        .collect();
    html! {
        svg.bar role="img" aria-label=(label) viewBox="0 0 1000 10" preserveAspectRatio="none" {
            rect.track x="0" y="0" width="1000" height="10" {}
            @for (class, start, width) in shapes {
                @if width > 0 { rect class=(class) x=(start) y="0" width=(width) height="10" {} }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_and_shares_hold_at_the_ends() {
        assert_eq!(share(0, 0), "–");
        assert_eq!(share(1, 0), "100.0 %");
        assert_eq!(share(u64::MAX, u64::MAX), "100.0 %");
        assert!(!bar("x", &[("a", 0)]).into_string().contains("class=\"a\""));
        assert!(bar("x", &[("a", 1), ("b", 3)]).into_string().contains("x=\"250\""));
    }
}
