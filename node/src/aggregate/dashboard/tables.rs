//! The tables of the dashboard, each with what to say when it is empty.

use super::text::{Moment, count, encode, factor, percent};
use super::{CONTENTS, Parameters, SHORT, bar, payload, share};
use crate::units::bytes;
use maud::{Markup, html};
use protocol::aggregate::{
    Compliance, ContentRow, DeploymentRow, DeviceRow, IncidentRow, Page, PatchRow, Standing,
};
use protocol::identifier::SiteName;
use protocol::limits;
use protocol::manifest::Severity;
use protocol::reason::Reason;
use protocol::report::ContentKind;
use protocol::time::WallTime;

/// A section with a heading, and a table or the sentence that there is nothing to show.
pub(super) fn section(
    id: &str,
    title: &str,
    about: &str,
    columns: &[&str],
    rows: &[Markup],
    empty: &Markup,
) -> Markup {
    html! {
        section.card id=(id) aria-labelledby={ (id) "-title" } {
            h2 id={ (id) "-title" } { (title) }
            p.about { (about) }
            @if rows.is_empty() {
                p.empty { (empty) }
            } @else {
                div.scroll tabindex="0" role="region" aria-labelledby={ (id) "-title" } {
                    table {
                        thead { tr { @for column in columns { th scope="col" { (column) } } } }
                        tbody { @for row in rows { tr { (row) } } }
                    }
                }
            }
        }
    }
}

/// What a table is about, and that it does not show everything, where it does not; `all` lists the rest, if anything does.
fn about_some(about: &str, more: bool, all: Option<&str>) -> String {
    match (more, all) {
        (false, _) => about.to_owned(),
        (true, Some(all)) => format!("{about} More exist; {all} lists all."),
        (true, None) => format!("{about} More exist."),
    }
}

/// As many rows as a table shows, and whether there are more.
fn shown<T>(rows: &[T], most: usize) -> (&[T], bool) {
    (&rows[..rows.len().min(most)], rows.len() > most)
}

fn device_cell(host: &impl std::fmt::Display, device: &protocol::identifier::DeviceId) -> Markup {
    html! {
        th scope="row" {
            a.host href={ "/device/" (device) } { (host) } " " code.id title=(device) { (device.short()) }
        }
    }
}

pub(super) fn badge(class: &str, text: &str) -> Markup {
    html! { span class={ "badge " (class) } { (text) } }
}

/// A sentence in which commands stand between back quotes.
fn sentence(text: &str) -> Markup {
    html! {
        @for (at, part) in text.split('`').enumerate() {
            @if at % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

pub(super) fn reason_cell(reason: Option<Reason>, needs: Option<&str>) -> Markup {
    html! {
        @match (reason, needs) {
            (Some(reason), Some(needs)) => { (sentence(needs)) " " code.code { (reason.code()) } }
            _ => { "–" }
        }
    }
}

pub(super) fn failures(page: &Page<DeploymentRow>, now: WallTime) -> Markup {
    let rows: Vec<Markup> = page
        .rows
        .iter()
        .map(|row| {
            html! {
                (device_cell(&row.host, &row.device))
                td { (row.site) }
                td.patch { code { (row.patch) } }
                td { (badge("bad", &row.state.replace('-', " "))) }
                td.prose {
                    (reason_cell(row.reason, row.needs))
                    @if !row.detail.is_empty() { p.detail { (row.detail) } }
                }
                td.number { (row.attempts) }
                td.number { (row.exit_code.map_or("–".to_owned(), |code| code.to_string())) }
                td { (Moment::new(row.time, now)) }
            }
        })
        .collect();
    let columns = ["Device", "Site", "Patch", "State", "What it needs", "Attempts", "Exit code", "When"];
    let about = "Deployments that stopped and need somebody, the latest first.";
    let about = about_some(about, page.next.is_some(), Some("/api/v1/deployments?failed=true"));
    section("failures", "Failures", &about, &columns, &rows, &html! { "No deployment has failed." })
}

const fn severity(severity: Severity) -> (&'static str, &'static str) {
    match severity {
        Severity::Critical => ("bad", "critical"),
        Severity::Important => ("warn", "important"),
        Severity::Moderate => ("plain", "moderate"),
        Severity::Low => ("plain", "low"),
        Severity::Unknown => ("plain", "not rated"),
    }
}

fn approval(row: &PatchRow) -> Markup {
    match (row.listed, row.held, row.approved) {
        (false, _, _) => badge("plain", "not in the catalogue"),
        (true, true, _) => badge("warn", "held"),
        (true, false, true) => badge("ok", "approved"),
        (true, false, false) => badge("plain", "not approved"),
    }
}

pub(super) fn missing(patches: &[PatchRow], devices: u64) -> Markup {
    let (patches, more) = shown(patches, SHORT);
    let rows: Vec<Markup> = patches
        .iter()
        .map(|row| {
            let (class, word) = severity(row.severity);
            let rest = devices.saturating_sub(row.tally.missing);
            html! {
                th.patch scope="row" { code { (row.patch) } @if !row.title.is_empty() { p.detail { (row.title) } } }
                td { (badge(class, word)) }
                td { (approval(row)) }
                td.share {
                    span { (row.tally.missing) " of " (devices) }
                    (bar("Devices that miss it", &[("bad", row.tally.missing), ("rest", rest)]))
                }
                td.number { (row.tally.installed) }
                td.number { (row.tally.not_applicable) }
                td.number { (row.not_assessed) }
            }
        })
        .collect();
    let columns =
        ["Patch", "Severity", "Policy", "Missing on", "Installed", "Not applicable", "Not assessed"];
    let about = "Patches that devices lack: approved ones first, then by the number of devices.";
    let about = about_some(about, more, Some("/api/v1/patches"));
    let empty = html! {
        @if devices == 0 { "There is no device that could miss a patch." } @else { "No device misses a patch." }
    };
    section("missing", "Missing patches", &about, &columns, &rows, &empty)
}

pub(super) fn sites(sites: &[(SiteName, Standing)]) -> Markup {
    let (sites, more) = shown(sites, limits::PAGE_ROWS);
    let rows: Vec<Markup> = sites
        .iter()
        .map(|(site, standing)| {
            let (peers, seed) = payload(standing);
            let rest = standing.devices.saturating_sub(standing.compliant);
            html! {
                th scope="row" { a href={ "/?site=" (encode(site.as_str())) "#devices" } { (site) } }
                td.share {
                    span { (standing.compliant_per_mille().map_or("–".to_owned(), percent)) }
                    (bar("Share of devices that are up to date", &[("ok", standing.compliant), ("rest", rest)]))
                }
                td.number { (standing.devices) }
                td.number { (standing.missing) }
                td.number { (standing.failed) }
                td.number { (bytes(peers)) }
                td.number { (bytes(seed)) }
                td.number { (share(peers, seed)) }
                td.number { (bytes(standing.bytes.wan_in)) }
            }
        })
        .collect();
    let columns = [
        "Site",
        "Up to date",
        "Devices",
        "Missing",
        "Failed",
        "From peers",
        "Over the WAN",
        "Peers' share",
        "WAN in, all",
    ];
    let about = "Branch offices. The last column counts every byte on the WAN, overhead included.";
    let about = about_some(about, more, Some("/metrics"));
    section("sites", "Sites", &about, &columns, &rows, &html! { "No site has a device yet." })
}

pub(super) fn standing_cell(row: &DeviceRow) -> Markup {
    html! {
        @match row.compliance {
            Compliance::Compliant => { (badge("ok", "up to date")) }
            Compliance::Behind => { (badge("bad", &format!("{} missing", row.missing))) }
            Compliance::NotAssessed if row.reported.is_none() => { (badge("warn", "enrolled, never reported")) }
            Compliance::NotAssessed => { (badge("plain", "never scanned")) }
        }
        @if row.failed > 0 { " " (badge("bad", &format!("{} failed", row.failed))) }
        @if row.stale { " " (badge("warn", "silent")) }
        @if row.clock_ahead_seconds > 0 {
            " " (badge("warn", &format!("clock {} ahead", count(row.clock_ahead_seconds / 60, "minute"))))
        }
        @if row.reports_dropped > 0 {
            " " (badge("plain", &format!("{} summarised", count(row.reports_dropped, "report"))))
        }
    }
}

pub(super) fn optional(time: Option<WallTime>, now: WallTime) -> Markup {
    html! { @match time { Some(time) => (Moment::new(time, now)), None => "never" } }
}

pub(super) fn devices(page: &Page<DeviceRow>, parameters: &Parameters, now: WallTime) -> Markup {
    let rows: Vec<Markup> = page
        .rows
        .iter()
        .map(|row| {
            html! {
                (device_cell(&row.host, &row.device))
                td { (row.site) }
                td { (row.class) }
                td { (row.system) }
                td { (standing_cell(row)) }
                td { (optional(row.scanned, now)) }
                td { (Moment::new(row.seen, now)) }
                td { (row.version.as_deref().unwrap_or("–")) }
            }
        })
        .collect();
    let columns =
        ["Device", "Site", "Class", "System", "Standing", "Last scan", "Last heard from", "Version"];
    let filtered = parameters.site.is_some() || parameters.compliance.is_some();
    let empty = html! {
        @if filtered || parameters.after.is_some() || page.next.is_some() {
            "No device here fits."
        } @else {
            "No device has joined yet. Run " code { "patchmesh token create" } " where the fleet's keys lie, and "
            code { "patchmesh join" } " with the key that it prints on each device."
        }
    };
    let about = "In order of host names.";
    html! {
        (section("devices", "Devices", about, &columns, &rows, &empty))
        (steps(page.next.as_deref(), parameters))
    }
}

/// Links below the table of devices: filters, and the way on.
fn steps(next: Option<&str>, parameters: &Parameters) -> Markup {
    let mut query: Vec<String> = Vec::new();
    query.extend(parameters.site.as_ref().map(|site| format!("site={}", encode(site.as_str()))));
    query.extend(parameters.compliance.map(|compliance| format!("compliance={}", compliance.code())));
    let filters = [("All", ""), ("Missing patches", "behind"), ("Never scanned", "not-assessed")];
    html! {
        nav.steps aria-label="Devices" {
            @for (word, code) in filters {
                @let href = if code.is_empty() { "/#devices".to_owned() } else { format!("/?compliance={code}#devices") };
                a href=(href) { (word) }
            }
            @if let Some(site) = &parameters.site { span { "Only " (site) } }
            @if parameters.after.is_some() {
                a.move href={ "/?" (query.join("&")) "#devices" } { "First page" }
            }
            @if let Some(next) = next {
                @let on = [query.clone(), vec![format!("after={}", encode(next))]].concat().join("&");
                a.move href={ "/?" (on) "#devices" } { "Next page" }
            }
        }
    }
}

pub(super) fn deployments(page: &Page<DeploymentRow>, now: WallTime) -> Markup {
    let class = |row: &DeploymentRow| match (row.failed, row.state) {
        (true, _) => "bad",
        (false, "installed") => "ok",
        (false, _) => "plain",
    };
    let rows: Vec<Markup> = page
        .rows
        .iter()
        .map(|row| {
            html! {
                td { (Moment::new(row.time, now)) }
                (device_cell(&row.host, &row.device))
                td { (row.site) }
                td.patch { code { (row.patch) } }
                td { (badge(class(row), &row.state.replace('-', " "))) }
                td.prose { (reason_cell(row.reason, row.needs)) }
            }
        })
        .collect();
    let about = "The latest first. The rescan after an installation decides, not the installer.";
    let columns = ["When", "Device", "Site", "Patch", "State", "Reason"];
    let empty = html! { "Nothing was deployed yet. The default policy only scans." };
    section("deployments", "Latest deployments", about, &columns, &rows, &empty)
}

pub(super) fn transfers(fleet: &Standing, contents: &[ContentRow]) -> Markup {
    let (contents, more) = shown(contents, CONTENTS);
    let rows: Vec<Markup> = contents
        .iter()
        .map(|row| {
            let amplification = row.amplification_per_mille.map_or("–".to_owned(), factor);
            html! {
                th scope="row" { (row.name) }
                td {
                    @match row.kind { ContentKind::Artifact => "patch", ContentKind::Evidence => "evidence" }
                }
                td { (row.site) }
                td.number { (bytes(row.size)) }
                td.number { (row.devices) }
                td.number { (bytes(row.wan)) }
                td.number { (bytes(row.lan)) }
                td.number { (amplification) }
            }
        })
        .collect();
    let columns =
        ["File", "Kind", "Site", "Size", "Devices", "Over the WAN", "From peers", "WAN amplification"];
    let moved = &fleet.bytes;
    let about = format!(
        "How files reached the sites, those first of which most bytes came. WAN amplification is the bytes over the WAN divided by the size; the ideal is \
         1.00. Signed metadata is counted apart: {} from the seed, {} from peers.",
        bytes(moved.metadata_wan),
        bytes(moved.metadata_lan)
    );
    let about = about_some(&about, more, None);
    section("transfers", "Transfers", &about, &columns, &rows, &html! { "Nothing was fetched yet." })
}

pub(super) fn incidents(incidents: &[IncidentRow], now: WallTime) -> Markup {
    let (incidents, more) = shown(incidents, SHORT);
    let rows: Vec<Markup> = incidents
        .iter()
        .map(|row| {
            let incident = &row.incident;
            html! {
                td { (Moment::new(incident.time, now)) }
                (device_cell(&row.host, &row.device))
                td { (row.site) }
                td.prose {
                    (sentence(incident.kind.sentence())) " " code.code { (incident.kind.code()) }
                    @if !incident.detail.as_str().is_empty() { p.detail { (incident.detail) } }
                }
                td.prose { (reason_cell(incident.reason, incident.reason.map(Reason::explain))) }
                td {
                    @if let Some(patch) = &incident.patch { code { (patch) } " " }
                    @if let Some(peer) = &incident.peer { "peer " code.id title=(peer) { (peer.short()) } }
                }
            }
        })
        .collect();
    let columns = ["When", "Noticed by", "Site", "What happened", "Reason", "About"];
    let about = about_some("Refusals and attacks that devices noticed, the latest first.", more, None);
    let empty = html! { "No incident was reported." };
    section("incidents", "Refusals and incidents", &about, &columns, &rows, &empty)
}

pub(super) fn stale(devices: &[DeviceRow], all: usize, now: WallTime) -> Markup {
    let rows: Vec<Markup> = devices
        .iter()
        .map(|row| {
            html! {
                (device_cell(&row.host, &row.device))
                td { (row.site) }
                td { (row.system) }
                td { (Moment::new(row.seen, now)) }
                td { (optional(row.reported, now)) }
                td { (standing_cell(row)) }
            }
        })
        .collect();
    let about = "Not heard from for 12 hours; those of whom nothing was heard for longest come first.";
    let about = about_some(about, all > devices.len(), None);
    let columns = ["Device", "Site", "System", "Last heard from", "Last report", "Last known standing"];
    let empty = html! { "Every device was heard from within 12 hours." };
    section("stale", "Silent devices", &about, &columns, &rows, &empty)
}
