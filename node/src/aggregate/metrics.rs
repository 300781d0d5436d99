//! `/metrics` in the text format of Prometheus, version 0.0.4 (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use super::View;
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

async fn metrics(Shared(view): Shared<Arc<dyn View>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render(&*view))
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
    by_site(&mut text, &sites);
    bytes(&mut text, &sites);
    by_patch(&mut text, &view.most_missing(PATCHES));
    let summary = view.summary();
    text.family("patchmesh_stale_devices", "Devices without a sign of life for three check-ins.");
    text.sample("patchmesh_stale_devices", &[], summary.stale as u64);
    text.family("patchmesh_listed_patches", "Patches in the signed catalogues.");
    text.sample("patchmesh_listed_patches", &[], summary.patches as u64);
    text.family("patchmesh_approved_patches", "Patches that policy approves and nobody holds.");
    text.sample("patchmesh_approved_patches", &[], summary.approved as u64);
    text.0
}

type Field = fn(&Standing) -> u64;

fn by_site(text: &mut Exposition, sites: &[(SiteName, Standing)]) {
    let families: [(&str, &str, Field); 5] = [
        ("patchmesh_devices", "Devices of the fleet.", |standing| standing.devices),
        ("patchmesh_assessed_devices", "Devices that scanned at least once.", |standing| standing.assessed),
        ("patchmesh_compliant_devices", "Devices that scanned and miss no approved patch.", |standing| {
            standing.compliant
        }),
        ("patchmesh_missing_findings", "Approved patches that are missing, over all devices.", |standing| {
            standing.missing
        }),
        ("patchmesh_failed_deployments", "Deployments that failed.", |standing| standing.failed),
    ];
    for (name, help, field) in families {
        text.family(name, help);
        for (site, standing) in sites {
            text.sample(name, &[("site", site.as_str())], field(standing));
        }
    }
}

fn bytes(text: &mut Exposition, sites: &[(SiteName, Standing)]) {
    let name = "patchmesh_fetched_bytes";
    text.family(name, "Bytes that devices fetched, by what they are and where they came from.");
    let kinds: [(&str, &str, Field); 6] = [
        ("artifact", "seed", |standing| standing.bytes.artifact_wan),
        ("artifact", "peers", |standing| standing.bytes.artifact_lan),
        ("evidence", "seed", |standing| standing.bytes.evidence_wan),
        ("evidence", "peers", |standing| standing.bytes.evidence_lan),
        ("metadata", "seed", |standing| standing.bytes.metadata_wan),
        ("metadata", "peers", |standing| standing.bytes.metadata_lan),
    ];
    for (site, standing) in sites {
        for (kind, from, field) in kinds {
            let labels = [("site", site.as_str()), ("kind", kind), ("from", from)];
            text.sample(name, &labels, field(standing));
        }
    }
    let name = "patchmesh_wan_bytes";
    text.family(name, "Bytes on connections that cross the WAN, overhead included.");
    for (site, standing) in sites {
        let site = site.as_str();
        text.sample(name, &[("site", site), ("direction", "in")], standing.bytes.wan_in);
        text.sample(name, &[("site", site), ("direction", "out")], standing.bytes.wan_out);
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
