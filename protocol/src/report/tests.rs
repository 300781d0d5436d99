//! Fixtures and properties of reports and the outbox.

use super::*;
use crate::deploy::State;
use crate::digest::Blake3Root;
use crate::identifier::{HostName, ManifestDigest, PatchId, SiteName};
use crate::membership::Class;
use crate::reason::Reason;
use crate::scan::Finding;
use crate::system::{Family, System};
use proptest::prelude::*;
use std::collections::BTreeMap;

pub(crate) const NOW: WallTime = WallTime::from_unix_seconds(1_800_000_000);

pub(crate) fn system() -> System {
    System {
        family: Family::Linux,
        distribution: "debian".to_owned(),
        release: "12".to_owned(),
        architecture: "amd64".to_owned(),
    }
}

pub(crate) fn patch(number: u8) -> PatchId {
    PatchId::new(format!("debian/p{number}=1")).expect("a patch")
}

fn time() -> impl Strategy<Value = WallTime> {
    (0u64..1_000).prop_map(|seconds| NOW.plus_seconds(seconds))
}

fn finding() -> impl Strategy<Value = Finding> {
    prop::sample::select(vec![
        Finding::NotAssessed,
        Finding::NotApplicable,
        Finding::Missing,
        Finding::Installed,
    ])
}

fn scan() -> impl Strategy<Value = Body> {
    let entry = (0u8..6, finding(), time());
    (any::<bool>(), time(), prop::collection::vec(entry, 0..6)).prop_map(|(full, time, entries)| {
        let findings = entries.into_iter().map(|(number, finding, since)| FoundPatch {
            patch: patch(number),
            found: Found { finding, manifest: ManifestDigest::from_bytes([number; 32]), since },
        });
        let extent = if full { Extent::Full } else { Extent::Changes };
        Body::Scan(Scan { extent, time, findings: findings.collect() })
    })
}

fn deployment() -> impl Strategy<Value = Body> {
    let state = prop::sample::select(vec![State::Planned, State::Installed, State::Failed, State::GivenUp]);
    (time(), 0u8..4, state, 0u32..3).prop_map(|(time, number, state, attempts)| {
        Body::Deployments(vec![Deployment {
            time,
            patch: patch(number),
            state,
            reason: (state == State::Failed).then_some(Reason::InstallerFailed),
            attempts,
            exit_code: Some(1),
            detail: Text::new("dpkg: error"),
        }])
    })
}

fn transfers() -> impl Strategy<Value = Body> {
    let content = (0u8..4, any::<u64>(), any::<u64>(), any::<bool>());
    (prop::collection::vec(content, 0..3), any::<u64>()).prop_map(|(contents, wan_in)| {
        let contents = contents.into_iter().map(|(number, wan, lan, evidence)| Transfer {
            root: Blake3Root::from_bytes([number; 32]),
            size: 1_000,
            kind: if evidence { ContentKind::Evidence } else { ContentKind::Artifact },
            fetched: vec![(Source::Wan, Reason::Lease, wan), (Source::Lan, Reason::Lease, lan)],
            served: wan,
        });
        Body::Transfers(Transfers {
            contents: contents.collect(),
            network: NetworkTotals { wan_in, ..NetworkTotals::default() },
            served: vec![(DeviceId::from_bytes([9; 32]), wan_in)],
        })
    })
}

fn incident() -> impl Strategy<Value = Body> {
    (time(), 0u8..100).prop_map(|(time, number)| {
        Body::Incidents(vec![Incident {
            time,
            kind: IncidentKind::CorruptPiece,
            reason: Some(Reason::PieceCorrupt),
            patch: Some(patch(number)),
            peer: None,
            detail: Text::default(),
        }])
    })
}

fn inventory() -> impl Strategy<Value = Body> {
    "[a-z]{1,8}".prop_map(|host| {
        Body::Inventory(Inventory {
            host: HostName::new(host).expect("a host name"),
            system: system(),
            version: Text::new("0.1.0"),
            site: SiteName::new("utrecht").expect("a site"),
            class: Class::Server,
        })
    })
}

/// Any body that a device writes.
pub(crate) fn body() -> impl Strategy<Value = Body> {
    prop_oneof![scan(), deployment(), transfers(), incident(), inventory()]
}

/// A store that takes records as a node's store does.
#[derive(Default, Clone)]
pub(crate) struct Disk(pub(crate) BTreeMap<Vec<u8>, Vec<u8>>);

impl Disk {
    pub(crate) fn write(&mut self, records: Vec<Record>) {
        for Record { key, value } in records {
            match value {
                Some(value) => drop(self.0.insert(key, value)),
                None => drop(self.0.remove(&key)),
            }
        }
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        self.0.clone().into_iter()
    }
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[1; 32])
}

fn mark(log: &Log, sequence: u64, hash: Sha256, epoch: u64, seconds: u64) -> Watermark {
    Watermark {
        aggregator: DeviceId::from_bytes([7; 32]),
        device: key().device(),
        incarnation: log.incarnation(),
        sequence,
        hash,
        epoch,
        time: NOW.plus_seconds(seconds),
    }
}

fn planned(number: u8) -> Body {
    Body::Deployments(vec![Deployment {
        time: NOW,
        patch: patch(number),
        state: State::Planned,
        reason: None,
        attempts: 0,
        exit_code: None,
        detail: Text::default(),
    }])
}

fn filled(count: u8) -> (Log, Disk) {
    let mut log = Log::new(key().device(), 5);
    let mut disk = Disk::default();
    for number in 0..count {
        disk.write(log.append(planned(number), NOW, &key()).expect("it fits"));
    }
    (log, disk)
}

#[test]
fn a_signed_report_opens_only_as_it_was_signed() {
    let (log, _) = filled(1);
    let signed = log.pending(0, 1).remove(0);
    assert_eq!(signed.open().map(|report| report.sequence), Ok(1));
    for at in [0, 40, signed.bytes.len() - 1] {
        let mut changed = signed.clone();
        changed.bytes[at] ^= 1;
        assert!(changed.open().is_err(), "byte {at}");
    }
    let others = Log::new(SigningKey::from_seed(&[2; 32]).device(), 5).append(planned(1), NOW, &key());
    assert_eq!(others, Err(AppendError::OtherKey));
}

#[test]
fn a_watermark_empties_the_outbox_up_to_its_sequence() {
    let (mut log, mut disk) = filled(5);
    let third = log.pending(2, 1)[0].hash();
    let (meaning, records) = log.acknowledge(&mark(&log, 3, third, 1, 0));
    disk.write(records);
    assert_eq!(meaning, Acknowledgement::Durable(3));
    let left: Vec<u64> =
        log.pending(0, 64).iter().map(|signed| signed.claims().expect("ours").sequence).collect();
    assert_eq!(left, [4, 5]);
    let (restored, damage, mend) = Log::restore(disk.records(), 6, NOW, &key());
    assert_eq!((restored, damage, mend.len()), (log, None, 0));
}

// proves X6
#[test]
fn a_new_epoch_makes_the_device_send_its_whole_state() {
    let (mut log, _) = filled(3);
    let hashes: Vec<Sha256> = log.pending(0, 64).iter().map(SignedReport::hash).collect();
    assert_eq!(log.acknowledge(&mark(&log, 3, hashes[2], 1, 0)).0, Acknowledgement::Durable(3));
    let older = mark(&log, 1, hashes[0], 2, 1);
    let (meaning, _) = log.acknowledge(&older);
    assert_eq!(meaning, Acknowledgement::Checkpoint(CheckpointCause::NewEpoch));
    log.checkpoint(CheckpointCause::NewEpoch, NOW, &key());
    let first = log.pending(0, 1)[0].claims().expect("ours");
    assert_eq!(first.sequence, 4);
    assert!(matches!(first.body, Body::Checkpoint(Checkpoint { dropped: 0, .. })));
    let (late, _) = log.acknowledge(&mark(&log, 2, hashes[1], 1, 0));
    assert_eq!(late, Acknowledgement::Nothing, "a watermark of before says nothing");
}

#[test]
fn a_store_that_was_set_back_is_noticed_by_the_device_itself() {
    let (mut log, _) = filled(2);
    let (ahead, _) = log.acknowledge(&mark(&log, 9, FIRST, 1, 0));
    assert_eq!(ahead, Acknowledgement::Restart);
    let (other, _) = log.acknowledge(&mark(&log, 2, Sha256::of(b"other"), 1, 0));
    assert_eq!(other, Acknowledgement::Restart);
    log.restart(77, "set back", NOW, &key());
    let first = log.pending(0, 1)[0].claims().expect("ours");
    assert_eq!((first.incarnation, first.sequence, first.previous), (77, 1, FIRST));
    assert_eq!(log.facts().deployments().len(), 2, "the latest state goes along");
    assert_eq!(log.facts().incidents().len(), 1, "and says what happened");
}

#[test]
fn what_the_aggregator_expects_is_sent_or_the_log_starts_anew() {
    let (mut log, _) = filled(3);
    assert_eq!(log.on_expected(1), Acknowledgement::Nothing);
    assert_eq!(log.on_expected(4), Acknowledgement::Nothing);
    assert_eq!(log.on_expected(5), Acknowledgement::Restart);
    let third = log.pending(2, 1)[0].hash();
    log.acknowledge(&mark(&log, 3, third, 1, 0));
    assert_eq!(log.on_expected(1), Acknowledgement::Checkpoint(CheckpointCause::Forgotten));
    log.checkpoint(CheckpointCause::Forgotten, NOW, &key());
    assert_eq!(log.on_expected(1), Acknowledgement::Nothing, "a checkpoint is taken after any gap");
}

#[test]
fn damage_is_noticed_and_named_and_the_readable_state_survives() {
    let (_, disk) = filled(4);
    let report = |sequence: u64| codec::encode(&LogKey::Report(sequence));
    let mut torn = disk.clone();
    torn.0.entry(report(4)).and_modify(|bytes| bytes.truncate(20));
    let mut lost = disk.clone();
    lost.0.remove(&report(4));
    let mut hole = disk.clone();
    hole.0.remove(&report(2));
    let mut first = disk.clone();
    first.0.remove(&report(1));
    let mut headless = disk.clone();
    headless.0.remove(&codec::encode(&LogKey::Head));
    let cases = [
        (torn, Damage::Unreadable),
        (lost, Damage::Broken(4)),
        (hole, Damage::Broken(3)),
        (first, Damage::Broken(2)),
        (headless, Damage::Headless),
    ];
    for (mut store, expected) in cases {
        let (log, damage, mend) = Log::restore(store.records(), 42, NOW, &key());
        assert_eq!(damage, Some(expected));
        assert_eq!(log.incarnation(), 42);
        assert_eq!(log.facts().deployments().len(), 4);
        store.write(mend);
        let (again, damage, _) = Log::restore(store.records(), 43, NOW, &key());
        assert_eq!((again, damage), (log, None), "the mended store is whole");
    }
    let other = SigningKey::from_seed(&[2; 32]);
    let (log, damage, _) = Log::restore(disk.records(), 42, NOW, &other);
    assert_eq!(damage, Some(Damage::OtherDevice(key().device())));
    assert!(log.facts().deployments().is_empty(), "another device's state is not ours");
}

#[test]
fn a_full_outbox_compacts_and_says_so() {
    let mut log = Log::new(key().device(), 5);
    let mut disk = Disk::default();
    for _ in 0..=limits::OUTBOX_REPORTS / 100 {
        disk.write(log.append(planned(1), NOW, &key()).expect("it fits"));
    }
    let waiting = log.waiting() as u64;
    disk.write(log.checkpoint(CheckpointCause::OutboxFull, NOW, &key()));
    let bodies: Vec<Body> =
        log.pending(0, 64).iter().map(|signed| signed.claims().expect("ours").body).collect();
    let said = Checkpoint { dropped: waiting, cause: CheckpointCause::OutboxFull };
    assert_eq!(bodies[0], Body::Checkpoint(said));
    assert_eq!(bodies.len(), 2, "the latest state is one deployment");
    assert_eq!(Log::restore(disk.records(), 6, NOW, &key()).0, log);
}

#[test]
fn the_largest_bodies_fit_into_a_report() {
    let found =
        Found { finding: Finding::Missing, manifest: ManifestDigest::from_bytes([9; 32]), since: NOW };
    let long = |number: usize| PatchId::new(format!("debian/{number:0>193}")).expect("a patch");
    let findings = (0..limits::FINDINGS_PER_REPORT).map(|number| FoundPatch { patch: long(number), found });
    let scan = Scan::full(NOW, findings.collect()).remove(0);
    let deployment = |number| Deployment {
        time: NOW,
        patch: long(number),
        state: State::Failed,
        reason: Some(Reason::InstallerFailed),
        attempts: u32::MAX,
        exit_code: Some(i32::MIN),
        detail: Text::new(&"x".repeat(2_000)),
    };
    let fetched = vec![(Source::Wan, Reason::Duplicate, u64::MAX); limits::REASONS_PER_TRANSFER];
    let contents = (0..limits::TRANSFERS_PER_REPORT).map(|_| Transfer {
        root: Blake3Root::from_bytes([1; 32]),
        size: u64::MAX,
        kind: ContentKind::Artifact,
        fetched: fetched.clone(),
        served: u64::MAX,
    });
    let transfers = Transfers {
        contents: contents.collect(),
        network: NetworkTotals::default(),
        served: vec![(key().device(), u64::MAX); limits::TRANSFERS_PER_REPORT],
    };
    let deployments = (0..limits::DEPLOYMENTS_PER_REPORT).map(&deployment).collect();
    for body in [Body::Scan(scan), Body::Deployments(deployments), Body::Transfers(transfers)] {
        let mut log = Log::new(key().device(), 1);
        log.append(body, NOW, &key()).expect("within its bounds");
        assert!(log.pending(0, 1)[0].open().is_ok());
    }
    let one = deployment(1);
    let body = Body::Deployments(vec![one; limits::DEPLOYMENTS_PER_REPORT + 1]);
    let mut log = Log::new(key().device(), 1);
    assert!(matches!(log.append(body, NOW, &key()), Err(AppendError::NotBounded(_))));
    assert_eq!(log.sequence(), 0);
}

#[test]
fn times_that_cannot_be_written_are_refused() {
    let mut log = Log::new(key().device(), 1);
    let endless = WallTime::from_unix_seconds(u64::MAX);
    let incident = |time| Incident {
        time,
        kind: IncidentKind::Clock,
        reason: None,
        patch: None,
        peer: None,
        detail: Text::default(),
    };
    let late = log.append(Body::Incidents(vec![incident(endless)]), NOW, &key());
    assert!(matches!(late, Err(AppendError::NotBounded(_))));
    log.append(Body::Incidents(vec![incident(NOW)]), endless, &key()).expect("the body is within its bounds");
    assert!(log.pending(0, 1)[0].open().is_ok(), "a broken clock makes no unreadable report");
}

#[test]
fn texts_are_cut_and_cleaned_and_refused_when_they_are_not() {
    assert_eq!(Text::new("a\u{1b}[31m\n").as_str(), "a [31m ");
    assert_eq!(Text::new(&"ä".repeat(800)).as_str().len(), limits::TEXT_BYTES);
    assert!(serde_json::from_str::<Text>("\"a\\nb\"").is_err());
}

proptest! {
    #[test]
    fn bodies_survive_the_codec(body in body()) {
        let bytes = codec::encode(&body);
        prop_assert_eq!(codec::decode::<Body, { limits::REPORT_BYTES }>(&bytes), Ok(body));
    }

    #[test]
    fn any_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(signed) = SignedReport::from_bytes(&bytes) {
            prop_assert!(signed.open().is_err());
        }
        let _ = codec::decode::<Body, { limits::REPORT_BYTES }>(&bytes);
    }

    // The latest state, written out and read in again over whatever an aggregator had, gives the same.
    #[test]
    fn the_compact_state_says_everything(bodies in prop::collection::vec(body(), 0..40), early in 0usize..40) {
        let (mut whole, mut behind) = (Facts::default(), Facts::default());
        for (at, body) in bodies.iter().enumerate() {
            whole.apply(body);
            if at < early { behind.apply(body); }
        }
        for body in whole.to_bodies() { behind.apply(&body); }
        // Incidents that the device forgot may still be known; the bound takes them out as new ones come.
        behind.incidents.retain(|incident| whole.incidents.contains(incident));
        prop_assert_eq!(behind, whole);
    }

    #[test]
    fn the_stored_outbox_is_the_outbox(bodies in prop::collection::vec(body(), 1..30), at in 0usize..30) {
        let mut log = Log::new(key().device(), 5);
        let mut disk = Disk::default();
        for (number, body) in bodies.into_iter().enumerate() {
            disk.write(log.append(body, NOW, &key()).expect("it fits"));
            if number == at {
                let last = log.pending(0, 64).last().map(SignedReport::hash).expect("just written");
                let sequence = log.sequence();
                disk.write(log.acknowledge(&mark(&log, sequence, last, 1, 0)).1);
            }
        }
        let (restored, damage, _) = Log::restore(disk.records(), 6, NOW, &key());
        prop_assert_eq!((restored, damage), (log, None));
    }
}
