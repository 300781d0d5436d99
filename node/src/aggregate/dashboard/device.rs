//! The page of one device: what it is, what it found, and the history of its deployments.

use super::View;
use super::tables::{badge, optional, reason_cell, section, standing_cell};
use super::text::Moment;
use maud::{Markup, html};
use protocol::aggregate::{DeploymentQuery, DeploymentRow, DeviceRow, FindingQuery, FindingRow};
use protocol::limits;
use protocol::scan::Finding;
use protocol::time::WallTime;

/// Parts of the page.
pub(super) const PARTS: [(&str, &str); 3] =
    [("/", "Fleet"), ("#findings", "Findings"), ("#history", "History")];

pub(super) fn sections(view: &dyn View, device: &DeviceRow) -> Markup {
    let now = view.now();
    let id = Some(device.device);
    let limit = limits::PAGE_ROWS;
    let findings = view.findings(&FindingQuery { limit, device: id, ..Default::default() });
    let history = view.deployments(&DeploymentQuery { limit, device: id, ..Default::default() });
    html! {
        (facts(device, now))
        (finding_table(&findings.rows, findings.next.is_some(), now))
        (history_table(&history.rows, now))
    }
}

fn facts(device: &DeviceRow, now: WallTime) -> Markup {
    html! {
        section.card aria-labelledby="device-title" {
            h1 id="device-title" { (device.host) }
            p.about { (standing_cell(device)) }
            dl.facts {
                div { dt { "Site" } dd { a href={ "/?site=" (device.site) "#devices" } { (device.site) } } }
                div { dt { "Class" } dd { (device.class) } }
                div { dt { "System" } dd { (device.system) } }
                div { dt { "Patchmesh" } dd { (device.version.as_deref().unwrap_or("–")) } }
                div { dt { "Last scan" } dd { (optional(device.scanned, now)) } }
                div { dt { "Last report" } dd { (optional(device.reported, now)) } }
                div { dt { "Last heard from" } dd { (Moment::new(device.seen, now)) } }
                div { dt { "Reports taken in" } dd { "up to number " (device.sequence) } }
                div { dt { "Identity" } dd { code.id { (device.device) } } }
            }
        }
    }
}

fn finding_table(findings: &[FindingRow], more: bool, now: WallTime) -> Markup {
    let rows: Vec<Markup> = findings
        .iter()
        .map(|row| {
            let (class, word) = match (row.finding, row.approved) {
                (Finding::Missing, true) => ("bad", "missing"),
                (Finding::Missing, false) => ("warn", "missing, not approved"),
                (Finding::Installed, _) => ("ok", "installed"),
                (Finding::NotApplicable, _) => ("plain", "not applicable"),
                (Finding::NotAssessed, _) => ("plain", "not assessed"),
            };
            html! {
                th.patch scope="row" { code { (row.patch) } }
                td { (badge(class, word)) }
                td { (Moment::new(row.since, now)) }
            }
        })
        .collect();
    let about = match more {
        true => "In order of patches; the list goes on in the data.",
        false => "In order of patches. What is not listed was not assessed.",
    };
    let empty = html! { "The device has not reported a scan yet." };
    section("findings", "Findings", about, &["Patch", "Finding", "Since"], &rows, &empty)
}

fn history_table(history: &[DeploymentRow], now: WallTime) -> Markup {
    let rows: Vec<Markup> = history
        .iter()
        .map(|row| {
            let class = match (row.failed, row.state) {
                (true, _) => "bad",
                (false, "installed") => "ok",
                (false, _) => "plain",
            };
            html! {
                td { (Moment::new(row.time, now)) }
                th.patch scope="row" { code { (row.patch) } }
                td { (badge(class, &row.state.replace('-', " "))) }
                td.prose {
                    (reason_cell(row.reason, row.needs))
                    @if !row.detail.is_empty() { p.detail { (row.detail) } }
                }
                td.number { (row.attempts) }
                td.number { (row.exit_code.map_or("–".to_owned(), |code| code.to_string())) }
            }
        })
        .collect();
    let columns = ["When", "Patch", "State", "Reason", "Attempts", "Exit code"];
    let about = "Deployments with result and cause, the latest first.";
    section("history", "History", about, &columns, &rows, &html! { "Nothing was deployed here yet." })
}
