//! Data that the tests of the commands share.

use crate::fleet_files::FleetFiles;
use ::node::control::answer;
use ::node::fleet_directory::{FleetDirectory, Initial};
use protocol::identifier::{DeviceId, FleetId, HostName, PatchId, SiteName};
use protocol::manifest::{
    Artifact, Content, Detection, Evidence, Installer, Kind, Manifest, Reboot, SCHEMA, Severity,
};
use protocol::membership::Class;
use protocol::system::{Family, System, Target};
use protocol::time::WallTime;
use protocol::version::DebianVersion;

pub const NOW: WallTime = WallTime::from_unix_seconds(1_800_000_000);

pub fn patch(name: &str) -> PatchId {
    PatchId::new(name).expect("patch")
}

pub fn reason(code: &str, sentence: &str) -> answer::Cause {
    answer::Cause { code: code.to_owned(), sentence: sentence.to_owned() }
}

pub fn status() -> answer::Status {
    answer::Status {
        software: "0.1.0".to_owned(),
        device: DeviceId::from_bytes([0xab; 32]),
        host: HostName::new("desk-7").expect("host"),
        fleet: FleetId::from_bytes([1; 32]),
        site: SiteName::new("utrecht").expect("site"),
        class: Class::Workstation,
        system: System {
            family: Family::Linux,
            distribution: "debian".to_owned(),
            release: "12".to_owned(),
            architecture: "amd64".to_owned(),
        },
        roles: Vec::new(),
        started: NOW,
        listening: vec!["/ip4/10.0.0.2/tcp/7700".to_owned()],
        metadata: answer::Metadata {
            versions: [("root".to_owned(), 1), ("timestamp".to_owned(), 12)].into(),
            expires: Some(NOW.plus_days(1)),
            checked: Some(NOW),
        },
        connections: answer::Connections { members: 5, neighbours: 4, seed: true },
        findings: answer::FindingCounts {
            scanned: Some(NOW),
            missing: 1,
            installed: 2,
            ..answer::FindingCounts::default()
        },
        deployments: vec![answer::Deployment {
            patch: patch("debian/libssl3=3.0.17-1"),
            state: "installed".to_owned(),
            finished: true,
            attempts: 1,
            reason: None,
            since: NOW,
        }],
        traffic: answer::Traffic {
            wan: answer::Bytes { received: 2_500_000, sent: 40_000 },
            ..answer::Traffic::default()
        },
        caps: answer::Caps {
            download: answer::Way {
                cap: Some("20 Mbit/s".to_owned()),
                passing: "critical".to_owned(),
                reason: Some(reason("business-hours", "it is office time")),
            },
            upload: answer::Way { cap: Some("500 Mbit/s".to_owned()), ..answer::Way::default() },
            power: "mains".to_owned(),
            link: "wired".to_owned(),
            ..answer::Caps::default()
        },
        kept: answer::Kept { contents: 3, bytes: 41_000_000, quota: 16 << 30 },
        outbox: answer::Outbox { waiting: 1, last: 4, watermark: 3 },
        refusals: vec![answer::Refusal {
            reason: reason("unsigned", "the vendor did not sign it"),
            subject: "acme/tool=1".to_owned(),
            peer: None,
            count: 1,
            last: NOW,
        }],
        problems: vec![answer::Problem {
            reason: reason("clock", "the clock is a day off"),
            remedy: Some("set the clock".to_owned()),
        }],
    }
}

/// A new fleet below `directory`.
pub fn fleet(directory: &std::path::Path) -> FleetFiles {
    let path = directory.join("fleet");
    FleetDirectory::init(&path, &Initial::default(), NOW).expect("a new fleet");
    FleetFiles::open(&path).expect("open")
}

/// A manifest of a Debian package whose content depends on `revision`.
pub fn manifest(name: &str, revision: u8) -> Manifest {
    Manifest {
        schema: SCHEMA,
        patch: patch(&format!("debian/{name}=1.0-2")),
        title: name.to_owned(),
        kind: Kind::Security,
        severity: Severity::Important,
        cves: Vec::new(),
        published: None,
        targets: vec![Target {
            family: Family::Linux,
            distribution: "debian".to_owned(),
            release: "12".to_owned(),
            architecture: Some("amd64".to_owned()),
        }],
        detection: Detection::DebianPackage {
            package: name.to_owned(),
            architecture: "amd64".to_owned(),
            version: DebianVersion::new("1.0-2").expect("version"),
        },
        requires: Vec::new(),
        supersedes: Vec::new(),
        artifacts: vec![Artifact {
            name: format!("{name}_1.0-2_amd64.deb"),
            content: Content::of(&[revision]),
            evidence: Evidence::None {},
        }],
        installer: Installer::Dpkg,
        reboot: Reboot::Never,
    }
}
