//! Writes the manifest of one Debian package, before it has evidence.

use crate::verify::package_file::PackageFile;
use protocol::identifier::{NotAName, PatchId, VendorName};
use protocol::limits::TEXT_BYTES;
use protocol::manifest::{
    Artifact, Content, Detection, Evidence, Installer, Kind, Manifest, Reboot, SCHEMA, Severity,
};
use protocol::system::{System, Target};
use protocol::text;
use std::path::Path;

/// The manifest of the package file at `path` for machines like `system`, with one artifact and no evidence yet. A title
/// that is too long is cut.
pub(super) fn write(
    vendor: &VendorName,
    system: &System,
    package: PackageFile,
    kind: Kind,
    title: &str,
    path: &Path,
    content: Content,
) -> Result<Manifest, NotAName> {
    let PackageFile { package, version, architecture } = package;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let target = Target {
        family: system.family,
        distribution: system.distribution.clone(),
        release: system.release.clone(),
        architecture: (architecture != "all").then(|| architecture.clone()),
    };
    Ok(Manifest {
        schema: SCHEMA,
        patch: PatchId::new(format!("{vendor}/{package}={version}"))?,
        title: shortened(title),
        kind,
        severity: Severity::Unknown,
        cves: Vec::new(),
        published: None,
        targets: vec![target],
        detection: Detection::DebianPackage { package, architecture, version },
        requires: Vec::new(),
        supersedes: Vec::new(),
        artifacts: vec![Artifact { name, content, evidence: Evidence::None {} }],
        installer: Installer::Dpkg,
        reboot: Reboot::Never,
    })
}

fn shortened(title: &str) -> String {
    let title: String = title.chars().map(|letter| if text::steers(letter) { ' ' } else { letter }).collect();
    let end = (0..=title.len().min(TEXT_BYTES)).rev().find(|end| title.is_char_boundary(*end)).unwrap_or(0);
    title[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_cut_between_letters() {
        assert_eq!(shortened("tool"), "tool");
        assert_eq!(shortened("a\ttool\u{202e}"), "a tool ", "nor does it steer a terminal");
        let long = "é".repeat(TEXT_BYTES);
        assert_eq!(shortened(&format!("a{long}")).len(), TEXT_BYTES - 1);
    }
}
