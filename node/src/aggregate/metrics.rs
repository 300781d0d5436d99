//! `/metrics` in the text format of Prometheus, version 0.0.4 (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use super::view::{View, ask};
use axum::Router;
use axum::extract::State as Shared;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use protocol::aggregate::{PatchRow, Standing};
use protocol::identifier::SiteName;
use std::fmt::Write as _;
use std::sync::Arc;

/// Patches with a series of their own: the most missing ones, so that a large catalogue does not flood the monitor.
const PATCHES: usize = 100;

pub(super) fn routes() -> Router<Arc<dyn View>> {
    Router::new().route("/metrics", get(metrics))
}

async fn metrics(Shared(view): Shared<Arc<dyn View>>) -> Result<impl IntoResponse, super::api::Error> {
    let text = ask(view, render).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}

/// Text under construction. Writing to memory does not fail, so the result of `write!` carries nothing.
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {}\n# TYPE {name} gauge", escape_help(help));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let _ = write!(self.0, "{name}");
        for (at, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"{}\"", if at == 0 { '{' } else { ',' }, escape(text));
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// Label values escape backslash, quote and line feed.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Help texts escape backslash and line feed.
fn escape_help(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

fn render(view: &dyn View) -> String {
    let mut text = Exposition(String::new());
    let sites = view.sites();
    let summary = view.summary();
    by_site(&mut text, &sites, &summary.fleet);
    bytes(&mut text, &sites, &summary.fleet);
    by_patch(&mut text, &view.most_missing(PATCHES));
    text.family("patchmesh_stale_devices", "Devices without a sign of life for three check-ins.");
    text.sample("patchmesh_stale_devices", &[], summary.stale as u64);
    text.family("patchmesh_listed_patches", "Patches in the signed catalogues.");
    text.sample("patchmesh_listed_patches", &[], summary.patches as u64);
    text.family("patchmesh_approved_patches", "Patches that policy approves and nobody holds.");
    text.sample("patchmesh_approved_patches", &[], summary.approved as u64);
    text.0
}

type Field = fn(&Standing) -> u64;

fn by_site(text: &mut Exposition, sites: &[(SiteName, Standing)], fleet: &Standing) {
    let families: [(&str, &str, Field); 5] = [
        ("devices", "Devices", |standing| standing.devices),
        ("assessed_devices", "Devices that scanned at least once", |standing| standing.assessed),
        ("compliant_devices", "Devices that scanned and miss no approved patch", |standing| {
            standing.compliant
        }),
        ("missing_findings", "Approved patches that are missing, over all devices", |standing| {
            standing.missing
        }),
        ("failed_deployments", "Deployments that failed", |standing| standing.failed),
    ];
    for (name, help, field) in families {
        let (of_site, of_fleet) = (format!("patchmesh_{name}"), format!("patchmesh_fleet_{name}"));
        text.family(&of_site, &format!("{help}, by site."));
        for (site, standing) in sites {
            text.sample(&of_site, &[("site", site.as_str())], field(standing));
        }
        text.family(&of_fleet, &format!("{help}, in the whole fleet."));
        text.sample(&of_fleet, &[], field(fleet));
    }
}

fn bytes(text: &mut Exposition, sites: &[(SiteName, Standing)], fleet: &Standing) {
    let fetched: [(&str, &str, Field); 6] = [
        ("artifact", "seed", |standing| standing.bytes.artifact_wan),
        ("artifact", "peers", |standing| standing.bytes.artifact_lan),
        ("evidence", "seed", |standing| standing.bytes.evidence_wan),
        ("evidence", "peers", |standing| standing.bytes.evidence_lan),
        ("metadata", "seed", |standing| standing.bytes.metadata_wan),
        ("metadata", "peers", |standing| standing.bytes.metadata_lan),
    ];
    let crossed: [(&str, Field); 2] =
        [("in", |standing| standing.bytes.wan_in), ("out", |standing| standing.bytes.wan_out)];
    let all = |(site, standing): &(SiteName, Standing)| (Some(site.clone()), *standing);
    for (prefix, whose, standings) in [
        ("patchmesh", "by site", sites.iter().map(all).collect()),
        ("patchmesh_fleet", "in the whole fleet", vec![(None, *fleet)]),
    ] {
        let name = format!("{prefix}_fetched_bytes");
        text.family(
            &name,
            &format!("Bytes that devices fetched, by what they are and where they came from, {whose}."),
        );
        for (site, standing) in &standings {
            let site = site.as_ref().map(|site| ("site", site.as_str()));
            for (kind, from, field) in fetched {
                let labels: Vec<_> = site.into_iter().chain([("kind", kind), ("from", from)]).collect();
                text.sample(&name, &labels, field(standing));
            }
        }
        let name = format!("{prefix}_wan_bytes");
        text.family(&name, &format!("Bytes on connections that cross the WAN, overhead included, {whose}."));
        for (site, standing) in &standings {
            let site = site.as_ref().map(|site| ("site", site.as_str()));
            for (direction, field) in crossed {
                let labels: Vec<_> = site.into_iter().chain([("direction", direction)]).collect();
                text.sample(&name, &labels, field(standing));
            }
        }
    }
}

fn by_patch(text: &mut Exposition, patches: &[PatchRow]) {
    let name = "patchmesh_patch_devices";
    text.family(name, "Devices by finding, for the patches that are missing most.");
    for row in patches {
        let tally = row.tally;
        let findings = [
            ("missing", tally.missing),
            ("installed", tally.installed),
            ("not-applicable", tally.not_applicable),
            ("not-assessed", row.not_assessed),
        ];
        for (finding, devices) in findings {
            let approved = if row.approved { "yes" } else { "no" };
            let labels = [("patch", row.patch.as_str()), ("finding", finding), ("approved", approved)];
            text.sample(name, &labels, devices);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = Exposition(String::new());
        text.family("a", "b\\c\nd");
        text.sample("a", &[("x", "quote\" back\\ line\n"), ("y", "")], 1);
        text.sample("a", &[], 2);
        let expected =
            "# HELP a b\\\\c\\nd\n# TYPE a gauge\na{x=\"quote\\\" back\\\\ line\\n\",y=\"\"} 1\na 2\n";
        assert_eq!(text.0, expected);
    }
}
