//! Properties of the aggregate state: exactly once, in any order, and sums that equal a recount.

use super::*;
use crate::fleet::Services;
use crate::identifier::FleetId;
use crate::limits;
use crate::membership::Class;
use crate::report::tests::{Disk, NOW, body, patch, system};
use crate::report::{Acknowledgement, Body, CheckpointCause, IncidentKind, Log, SignedReport};
use crate::signature::SigningKey;
use proptest::prelude::*;

fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32])
}

fn member(number: u8) -> Member {
    Member {
        fleet: FleetId::from_bytes([1; 32]),
        device: key(number).device(),
        site: SiteName::new(if number.is_multiple_of(2) { "utrecht" } else { "bern" }).expect("a site"),
        class: Class::Server,
        system: system(),
        host: HostName::new(format!("host{number}")).expect("a host name"),
        issued: NOW,
        expires: NOW.plus_days(365),
    }
}

fn listing(approved: bool) -> Listing {
    Listing {
        manifest: ManifestDigest::from_bytes([1; 32]),
        title: "a patch".to_owned(),
        kind: Kind::Security,
        severity: Severity::Important,
        size: 1_000,
        approved,
        held: false,
        files: Vec::new(),
    }
}

fn listings(approved: &[bool]) -> BTreeMap<PatchId, Listing> {
    let each = approved.iter().zip(0u8..);
    each.map(|(approved, number)| (patch(number), listing(*approved))).collect()
}

/// The rules that must hold after every step.
fn check(state: &State) {
    assert_eq!(state.counts(), &state.recount());
    let rebuilt = state.devices.values().cloned().fold(
        State { listings: state.listings.clone(), ..State::new(state.epoch) },
        |mut rebuilt, device| {
            rebuilt.put_in(device);
            rebuilt
        },
    );
    assert_eq!(state.index, rebuilt.index);
    assert_eq!(state.devices, rebuilt.devices);
}

fn reports(log: &Log) -> Vec<SignedReport> {
    let mut all = Vec::new();
    let mut after = log.acknowledged();
    loop {
        let batch = log.pending(after, 64);
        let Some(last) = batch.last() else { return all };
        after = last.claims().expect("ours").sequence;
        all.extend(batch);
    }
}

/// A device talks to the aggregator until nothing waits: every answer is acted upon as a node does.
fn settle(state: &mut State, log: &mut Log, number: u8) {
    let (device, aggregator) = (key(number).device(), key(99).device());
    for round in 0..20 {
        let batch = log.pending(log.acknowledged(), 64);
        let mut answer = Acknowledgement::Nothing;
        for signed in &batch {
            answer = match state.receive(signed, &member(number), NOW) {
                Ok(_) => Acknowledgement::Nothing,
                Err(Refusal::Gap { expected }) => log.on_expected(expected),
                Err(_) => Acknowledgement::Restart,
            };
            if answer != Acknowledgement::Nothing {
                break;
            }
        }
        if let (Acknowledgement::Nothing, Some(mark)) =
            (answer, state.watermark(device, aggregator, NOW.plus_seconds(round)))
        {
            answer = log.acknowledge(&mark).0;
        }
        match answer {
            Acknowledgement::Checkpoint(cause) => drop(log.checkpoint(cause, NOW, &key(number))),
            Acknowledgement::Restart => {
                drop(log.restart(1_000 + round, "set back", NOW, &key(number)));
            }
            Acknowledgement::Nothing | Acknowledgement::Durable(_) if log.waiting() == 0 => return,
            Acknowledgement::Nothing | Acknowledgement::Durable(_) => {}
        }
    }
    panic!("device {number} does not settle: {log:?}");
}

fn log_of(number: u8, bodies: &[Body]) -> Log {
    let mut log = Log::new(key(number).device(), u64::from(number));
    for body in bodies {
        log.append(body.clone(), NOW, &key(number)).expect("it fits");
    }
    log
}

fn some_bodies(count: u8) -> Vec<Body> {
    use crate::report::{Extent, Found, FoundPatch, Scan};
    use crate::scan::Finding;
    let scan = |number: u8| {
        let found =
            Found { finding: Finding::Missing, manifest: ManifestDigest::from_bytes([1; 32]), since: NOW };
        let findings = vec![FoundPatch { patch: patch(number), found }];
        Body::Scan(Scan { extent: Extent::Changes, time: NOW, findings })
    };
    (0..count).map(scan).collect()
}

// proves N31
#[test]
fn a_joined_device_is_counted_before_its_first_report() {
    let mut state = State::new(1);
    state.join(&member(1), NOW);
    check(&state);
    assert_eq!(state.counts().fleet.devices, 1);
    assert_eq!(state.device(key(1).device()).map(Device::compliance), Some(Compliance::NotAssessed));
    assert_eq!(state.counts().tally(&patch(1)).not_assessed(1), 1);
    let moved = Member { site: SiteName::new("chur").expect("a site"), ..member(1) };
    state.join(&moved, NOW);
    check(&state);
    assert_eq!(state.sites().keys().map(SiteName::as_str).collect::<Vec<_>>(), ["chur"]);
}

// proves N31
#[test]
fn silent_devices_are_counted_all_and_contents_are_ranked_by_their_bytes() {
    use crate::digest::Blake3Root;
    use crate::report::{ContentKind, NetworkTotals, Source, Transfer, Transfers};
    let mut state = State::new(1);
    for number in 0..=limits::PAGE_ROWS + 20 {
        let device = SigningKey::from_seed(Blake3Root::of(&number.to_le_bytes()).as_bytes()).device();
        state.join(&Member { device, ..member(1) }, NOW);
    }
    let later = NOW.plus_seconds(STALE_SECONDS + 1);
    assert_eq!(state.summary(later).stale, limits::PAGE_ROWS + 21);
    let moved = |number: u8, bytes: u64| Transfer {
        root: Blake3Root::from_bytes([number; 32]),
        size: 1_000,
        kind: ContentKind::Artifact,
        fetched: vec![(Source::Wan, crate::reason::Reason::Lease, bytes)],
        served: 0,
    };
    let report = |contents| {
        Body::Transfers(Transfers { contents, network: NetworkTotals::default(), served: Vec::new() })
    };
    let first = report((1..=9).map(|number| moved(number, u64::from(number) * 100)).collect());
    // What came of the second grows past all others; the ninth is taken back to little.
    let second = report(vec![moved(2, 5_000), moved(9, 50)]);
    for signed in reports(&log_of(1, &[first, second])) {
        state.receive(&signed, &member(1), NOW).expect("in order");
    }
    let bytes = |limit| state.contents(limit).iter().map(|row| row.wan).collect::<Vec<_>>();
    assert_eq!(bytes(3), [5_000, 800, 700]);
    assert_eq!(bytes(20).last(), Some(&50));
    check(&state);
}

#[test]
fn a_gap_names_what_is_expected_and_a_repetition_changes_nothing() {
    let mut state = State::new(1);
    let reports = reports(&log_of(1, &some_bodies(4)));
    let mut receive = |at: usize| state.receive(&reports[at], &member(1), NOW);
    assert_eq!(receive(1), Err(Refusal::Gap { expected: 1 }));
    assert_eq!(receive(0), Ok(Outcome::Applied));
    assert_eq!(receive(0), Ok(Outcome::Duplicate));
    assert_eq!(receive(3), Err(Refusal::Gap { expected: 2 }));
    assert_eq!(receive(1), Ok(Outcome::Applied));
    assert_eq!(receive(2), Ok(Outcome::Applied));
    assert_eq!(receive(3), Ok(Outcome::Applied));
    check(&state);
    assert_eq!(state.receive(&reports[0], &member(2), NOW), Err(Refusal::OtherDevice));
}

#[test]
fn a_clone_is_an_incident_and_overwrites_nothing() {
    let mut state = State::new(1);
    let bodies = some_bodies(3);
    for signed in reports(&log_of(1, &bodies)) {
        state.receive(&signed, &member(1), NOW).expect("in order");
    }
    let before = state.device(key(1).device()).map(|device| device.facts().findings().clone());
    let mut twin = bodies.clone();
    twin[1] = bodies[2].clone();
    let other = reports(&log_of(1, &twin));
    assert_eq!(state.receive(&other[0], &member(1), NOW), Ok(Outcome::Duplicate));
    for _ in 0..3 {
        let refusal = state.receive(&other[1], &member(1), NOW);
        assert_eq!(refusal, Err(Refusal::Conflict { sequence: 2 }));
        assert!(refusal.expect_err("refused").to_string().contains("activation key of its own"));
    }
    check(&state);
    let device = state.device(key(1).device()).expect("known");
    assert_eq!(Some(device.facts().findings().clone()), before);
    let kinds: Vec<IncidentKind> = device.facts().incidents().iter().map(|incident| incident.kind).collect();
    assert_eq!(kinds, [IncidentKind::Clone], "noted once, however often it is sent");
}

#[test]
fn a_device_that_was_set_back_recovers_by_itself_and_says_so() {
    let mut state = State::new(1);
    let bodies = some_bodies(5);
    let mut log = log_of(1, &bodies);
    settle(&mut state, &mut log, 1);
    let mut set_back = log_of(1, &bodies[..2]);
    settle(&mut state, &mut set_back, 1);
    check(&state);
    let device = state.device(key(1).device()).expect("known");
    assert!(device.facts().incidents().iter().any(|incident| incident.kind == IncidentKind::Store));
    let mut old = log_of(1, &some_bodies(6));
    old.pending(0, 64);
    let sixth = reports(&old).remove(5);
    assert_eq!(state.receive(&sixth, &member(1), NOW), Err(Refusal::Conflict { sequence: 6 }));
    old.append(some_bodies(1).remove(0), NOW, &key(1)).expect("it fits");
}

#[test]
fn a_clock_ahead_is_taken_in_and_flagged() {
    let mut state = State::new(1);
    let signed = reports(&log_of(1, &some_bodies(1))).remove(0);
    let earlier = WallTime::from_unix_seconds(NOW.unix_seconds() - 86_400);
    assert_eq!(state.receive(&signed, &member(1), earlier), Ok(Outcome::Applied));
    assert_eq!(state.device(key(1).device()).map(|device| device.ahead_seconds), Some(86_400));
}

// proves X8
#[test]
fn after_a_lost_store_every_device_sends_its_state_again() {
    let mut state = State::new(1);
    let mut log = log_of(1, &some_bodies(5));
    settle(&mut state, &mut log, 1);
    assert_eq!(log.waiting(), 0);
    let mut empty = State::new(2);
    log.append(some_bodies(1).remove(0), NOW, &key(1)).expect("it fits");
    let sixth = log.pending(log.acknowledged(), 1).remove(0);
    assert_eq!(empty.receive(&sixth, &member(1), NOW), Err(Refusal::Gap { expected: 1 }));
    let mark = empty.watermark(key(1).device(), key(99).device(), NOW).expect("it joined");
    assert_eq!(log.acknowledge(&mark), (Acknowledgement::Nothing, Vec::new()));
    assert_eq!(log.on_expected(1), Acknowledgement::Checkpoint(CheckpointCause::Forgotten));
    log.checkpoint(CheckpointCause::Forgotten, NOW, &key(1));
    settle(&mut empty, &mut log, 1);
    state.receive(&sixth, &member(1), NOW).expect("it follows what was there");
    check(&empty);
    let facts = |state: &State| state.device(key(1).device()).map(|device| device.facts().clone());
    assert_eq!(facts(&empty).as_ref(), Some(log.facts()));
    assert_eq!(facts(&empty), facts(&state));
}

#[test]
fn a_watermark_says_what_is_there() {
    let mut state = State::new(9);
    let reports = reports(&log_of(1, &some_bodies(2)));
    assert_eq!(state.watermark(key(1).device(), key(99).device(), NOW), None, "it never joined");
    for signed in &reports {
        state.receive(signed, &member(1), NOW).expect("in order");
    }
    let mark = state.watermark(key(1).device(), key(99).device(), NOW).expect("it has reports");
    assert_eq!((mark.sequence, mark.incarnation, mark.epoch, mark.hash), (2, 1, 9, reports[1].hash()));
    assert!(mark.sign(&key(50)).open(&Services::default()).is_err());
}

#[test]
fn incidents_of_a_noisy_device_stay_bounded() {
    use crate::report::{Incident, Text};
    let incident = |number: u64| Incident {
        time: NOW.plus_seconds(number),
        kind: IncidentKind::CorruptPiece,
        reason: None,
        patch: None,
        peer: None,
        detail: Text::default(),
    };
    let bodies: Vec<Body> = (0..100).map(|number| Body::Incidents(vec![incident(number)])).collect();
    let mut state = State::new(1);
    for signed in reports(&log_of(1, &bodies)) {
        state.receive(&signed, &member(1), NOW).expect("in order");
    }
    check(&state);
    assert_eq!(state.index.incidents.len(), limits::INCIDENTS_PER_DEVICE);
}

/// Every row of a listing, read page by page.
fn walk<Row>(mut page: impl FnMut(Option<String>) -> Page<Row>) -> Vec<Row> {
    let (mut rows, mut cursor) = (Vec::new(), None);
    for _ in 0..10_000 {
        let next = page(cursor.take());
        rows.extend(next.rows);
        match next.next {
            Some(place) => cursor = Some(place),
            None => return rows,
        }
    }
    panic!("the listing does not end");
}

fn read<T: std::str::FromStr>(cursor: Option<String>) -> Option<T> {
    cursor.map(|text| text.parse().ok().expect("our own cursor"))
}

#[test]
fn a_filter_that_fits_nobody_ends_early_and_says_where_to_go_on() {
    let mut state = State::new(1);
    for number in 0..400_u16 {
        let [high, low] = number.to_be_bytes();
        let mut device = [high; 32];
        device[31] = low;
        let host = HostName::new(format!("host{number:05}")).expect("a host name");
        state.join(&Member { device: DeviceId::from_bytes(device), host, ..member(1) }, NOW);
    }
    let query = DeviceQuery { limit: 5, compliance: Some(Compliance::Behind), ..DeviceQuery::default() };
    let page = state.devices_page(&query, NOW);
    let place = page.next.expect("more to look at");
    assert!(page.rows.is_empty() && place.starts_with("host00099~"), "{place}");
    let rows = walk(|after| state.devices_page(&DeviceQuery { after: read(after), ..query.clone() }, NOW));
    assert_eq!(rows, []);
}

fn fleet() -> impl Strategy<Value = Vec<Vec<Body>>> {
    prop::collection::vec(prop::collection::vec(body(), 0..12), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    // Any order and repetition of delivery, then retries, comes to the same as delivery in order. proves X8
    #[test]
    fn delivery_in_any_order_converges(
        fleet in fleet(), order in prop::collection::vec(any::<prop::sample::Index>(), 0..60)
    ) {
        let logs: Vec<(u8, Log)> = (1u8..).zip(&fleet).map(|(number, bodies)| (number, log_of(number, bodies))).collect();
        let all: Vec<(u8, SignedReport)> = logs
            .iter()
            .flat_map(|(number, log)| reports(log).into_iter().map(|signed| (*number, signed)))
            .collect();
        let (mut shuffled, mut straight) = (State::new(1), State::new(1));
        for state in [&mut shuffled, &mut straight] {
            for (number, _) in &logs { state.join(&member(*number), NOW); }
            state.set_listings(listings(&[true, false, true]));
        }
        for at in order.iter().filter(|_| !all.is_empty()) {
            let (number, signed) = at.get(&all);
            let _ = shuffled.receive(signed, &member(*number), NOW);
            prop_assert_eq!(shuffled.counts(), &shuffled.recount());
        }
        for (number, log) in &logs { settle(&mut shuffled, &mut log.clone(), *number); }
        for (number, signed) in &all {
            prop_assert_eq!(straight.receive(signed, &member(*number), NOW), Ok(Outcome::Applied));
        }
        for (number, log) in &logs {
            prop_assert_eq!(shuffled.device(key(*number).device()).map(Device::facts), Some(log.facts()));
        }
        check(&shuffled);
        shuffled.dirty.clear();
        straight.dirty.clear();
        prop_assert_eq!(shuffled, straight);
    }

    #[test]
    fn counts_equal_a_recount_and_the_store_gives_the_state_back(
        fleet in fleet(), first in prop::collection::vec(any::<bool>(), 6), second in prop::collection::vec(any::<bool>(), 6)
    ) {
        let mut state = State::new(1);
        let mut disk = Disk::default();
        state.set_listings(listings(&first));
        for (number, bodies) in (1u8..).zip(&fleet) {
            for (at, signed) in reports(&log_of(number, bodies)).iter().enumerate() {
                if at == 3 {
                    state.set_listings(listings(&second));
                    check(&state);
                }
                state.receive(signed, &member(number), NOW).expect("in order");
                prop_assert_eq!(state.counts(), &state.recount());
            }
            disk.write(state.take_records());
        }
        check(&state);
        let mut restored = State::restore(disk.records(), 7).expect("what was written");
        restored.set_listings(state.listings.clone());
        prop_assert!(restored.take_records().is_empty());
        prop_assert_eq!(restored, state);
    }

    // proves N19, N20: page by page, every listing shows everything once.
    #[test]
    fn pages_show_everything_once(fleet in fleet(), limit in 1usize..4) {
        let mut state = State::new(1);
        state.set_listings(listings(&[true, false, true, true]));
        for (number, bodies) in (1u8..).zip(&fleet) {
            state.join(&member(number), NOW);
            for signed in reports(&log_of(number, bodies)) {
                state.receive(&signed, &member(number), NOW).expect("in order");
            }
        }
        let devices = walk(|after| state.devices_page(&DeviceQuery { after: read(after), limit, ..DeviceQuery::default() }, NOW));
        prop_assert_eq!(devices.len(), state.devices.len());
        let behind = Some(Compliance::Behind);
        let some = walk(|after| {
            state.devices_page(&DeviceQuery { after: read(after), limit, compliance: behind, ..DeviceQuery::default() }, NOW)
        });
        let expected = state.devices.values().filter(|device| device.compliance() == Compliance::Behind).count();
        prop_assert_eq!(some.len(), expected);
        let patches = walk(|after| state.patches_page(read(after).as_ref(), limit));
        let all: BTreeSet<&PatchId> = state.listings.keys().chain(state.counts.patches.keys()).collect();
        prop_assert_eq!(patches.iter().map(|row| &row.patch).collect::<Vec<_>>(), all.into_iter().collect::<Vec<_>>());
        for row in &patches {
            for finding in [None, Some(crate::scan::Finding::Missing), Some(crate::scan::Finding::Installed)] {
                let query = FindingQuery { limit, patch: Some(row.patch.clone()), finding, ..FindingQuery::default() };
                let found = walk(|after| state.findings_page(&FindingQuery { after: read(after), ..query.clone() })).len() as u64;
                let Tally { missing, installed, not_applicable } = row.tally;
                let expected = match finding {
                    None => missing + installed + not_applicable,
                    Some(crate::scan::Finding::Missing) => missing,
                    Some(_) => installed,
                };
                prop_assert_eq!(found, expected);
            }
        }
        let findings = walk(|after| state.findings_page(&FindingQuery { after: read(after), limit, ..FindingQuery::default() }));
        let by_device = state.devices.keys().flat_map(|device| {
            walk(|after| state.findings_page(&FindingQuery { after: read(after), limit, device: Some(*device), ..FindingQuery::default() }))
        });
        prop_assert_eq!(&findings, &by_device.collect::<Vec<_>>());
        prop_assert_eq!(findings.len(), state.devices.values().map(|device| device.facts.findings().len()).sum::<usize>());
        for failed in [true, false] {
            let rows = walk(|after| state.deployments_page(&DeploymentQuery { after: read(after), limit, failed, ..DeploymentQuery::default() }));
            let all = state.devices.values().flat_map(|device| device.facts.deployments().values());
            prop_assert_eq!(rows.len(), all.filter(|entry| is_failure(entry) || !failed).count());
            prop_assert!(rows.windows(2).all(|pair| pair[0].time >= pair[1].time));
        }
        let ranked = state.most_missing(100);
        prop_assert_eq!(ranked.len(), patches.iter().filter(|row| row.tally.missing > 0).count());
    }
}
