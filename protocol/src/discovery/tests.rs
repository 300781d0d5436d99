//! One link, one device: what it says when, and what it keeps to itself.

use super::*;
use proptest::prelude::*;

fn device(number: u32) -> DeviceId {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    DeviceId::from_bytes(bytes)
}

fn sighting(number: u32) -> Sighting {
    let addresses = vec![SocketAddr::from(([10, 0, 0, 1], 7_700))];
    Sighting { device: device(number), addresses, lifetime: LIFETIME }
}

fn at(milliseconds: u64) -> Moment {
    Moment::from_micros(milliseconds * 1_000)
}

/// Wakes the machine until `until` and returns what it did when.
fn run(discovery: &mut Discovery, until: Moment) -> Vec<(Moment, Output)> {
    let mut done = Vec::new();
    loop {
        let now = discovery.next_wake();
        if now > until {
            return done;
        }
        discovery.handle(now, Input::Wake);
        done.extend(std::iter::from_fn(|| discovery.poll()).map(|output| (now, output)));
    }
}

fn is_question(output: &Output) -> bool {
    matches!(output, Output::Ask { .. })
}

#[test]
fn a_lone_device_announces_itself_twice_and_asks_less_and_less_often() {
    let mut discovery = Discovery::new(device(0), 1, at(0));
    let done = run(&mut discovery, at(24 * 3_600_000));
    let told: Vec<Moment> =
        done.iter().filter(|(_, output)| *output == Output::Tell).map(|(at, _)| *at).collect();
    assert_eq!(told.len(), 2);
    assert!(told[1].since(told[0]) >= SAME_RECORD);
    let asked: Vec<Moment> =
        done.iter().filter(|(_, output)| is_question(output)).map(|(at, _)| *at).collect();
    assert!(asked[0] >= at(20) && asked[0] <= at(120), "{:?}", asked[0]);
    assert!((25..45).contains(&asked.len()), "{} questions in a day", asked.len());
    let pauses: Vec<Duration> = asked.windows(2).map(|pair| pair[1].since(pair[0])).collect();
    assert!(pauses[0] >= Duration::from_secs(1));
    assert!(pauses.last().is_some_and(|pause| *pause >= PAUSE_MOST));
}

#[test]
fn a_question_is_answered_after_a_while_and_not_when_we_are_known() {
    let mut discovery = Discovery::new(device(0), 1, at(0));
    run(&mut discovery, at(5_000));
    discovery.handle(at(5_000), Input::Asked { known: BTreeSet::from([device(0)]), more_follow: false });
    assert!(run(&mut discovery, at(5_500)).iter().all(|(_, output)| *output != Output::Tell));
    discovery.handle(at(6_000), Input::Asked { known: BTreeSet::new(), more_follow: false });
    let done = run(&mut discovery, at(6_500));
    assert!(matches!(done[..], [(when, Output::Tell)] if when >= at(6_020) && when <= at(6_120)), "{done:?}");
    // The next one, at once, waits until the same record may go out again.
    discovery.handle(at(6_500), Input::Asked { known: BTreeSet::new(), more_follow: false });
    let done = run(&mut discovery, at(8_000));
    let told = done.iter().find(|(_, output)| *output == Output::Tell).expect("an answer");
    assert!(told.0 >= at(7_020), "{told:?}");
    // What the asker knows may come in a second message.
    discovery.handle(at(9_000), Input::Asked { known: BTreeSet::new(), more_follow: true });
    discovery.handle(at(9_050), Input::Knows(BTreeSet::from([device(0)])));
    assert!(run(&mut discovery, at(9_600)).iter().all(|(_, output)| *output != Output::Tell));
}

#[test]
fn the_more_devices_there_are_the_fewer_answer() {
    let mut answers = 0;
    for seed in 0..300 {
        let mut discovery = Discovery::new(device(0), seed, at(0));
        for other in 1..=300 {
            discovery.handle(at(10), Input::Heard(sighting(other)));
        }
        run(&mut discovery, at(5_000));
        discovery.handle(at(6_000), Input::Asked { known: BTreeSet::new(), more_follow: false });
        answers +=
            run(&mut discovery, at(6_500)).iter().filter(|(_, output)| *output == Output::Tell).count();
    }
    assert!((8..28).contains(&answers), "{answers} of 300 answer");
}

#[test]
fn enough_answers_of_others_are_enough() {
    let mut discovery = Discovery::new(device(0), 1, at(0));
    run(&mut discovery, at(5_000));
    discovery.handle(at(6_000), Input::Asked { known: BTreeSet::new(), more_follow: false });
    for other in 1..=u32::try_from(WANTED_ANSWERS).expect("few") {
        discovery.handle(at(6_001), Input::Heard(sighting(other)));
    }
    assert!(run(&mut discovery, at(6_500)).iter().all(|(_, output)| *output != Output::Tell));
    // Whoever asks for this very device gets its answer.
    run(&mut discovery, at(60_000));
    discovery.handle(at(60_000), Input::AskedForUs);
    assert_eq!(discovery.poll(), Some(Output::Tell));
}

#[test]
fn with_neighbours_enough_nobody_asks_until_they_are_lost() {
    let mut discovery = Discovery::new(device(0), 1, at(0));
    discovery.handle(at(1), Input::Neighbours(ENOUGH_NEIGHBOURS));
    let done = run(&mut discovery, at(600_000));
    assert!(!done.iter().any(|(_, output)| is_question(output)), "{done:?}");
    discovery.handle(at(600_000), Input::Neighbours(2));
    let done = run(&mut discovery, at(606_000));
    assert!(done.iter().any(|(_, output)| is_question(output)));
}

#[test]
fn a_device_of_a_small_site_that_loses_all_neighbours_asks_soon() {
    let mut discovery = Discovery::new(device(0), 1, at(0));
    discovery.handle(at(1), Input::Neighbours(3));
    run(&mut discovery, at(6_000_000));
    discovery.handle(at(6_000_000), Input::Neighbours(0));
    let done = run(&mut discovery, at(6_006_000));
    assert!(done.iter().any(|(_, output)| is_question(output)), "{done:?}");
}

#[test]
fn a_device_is_told_of_once_and_again_when_it_moves_or_comes_back() {
    let mut discovery = Discovery::new(device(0), 1, at(0));
    let mut found = |now: Moment, sighting: Sighting| {
        discovery.handle(now, Input::Heard(sighting));
        std::iter::from_fn(|| discovery.poll())
            .filter(|output| matches!(output, Output::Found { .. }))
            .count()
    };
    assert_eq!(found(at(10), sighting(1)), 1);
    assert_eq!(found(at(11), sighting(1)), 0);
    let moved = Sighting { addresses: vec![([10, 0, 0, 2], 7_700).into()], ..sighting(1) };
    assert_eq!(found(at(12), moved.clone()), 1);
    assert_eq!(found(at(80_000), moved.clone()), 1, "it may have been unreachable");
    assert_eq!(found(at(80_001), Sighting { lifetime: Duration::ZERO, ..moved.clone() }), 0);
    assert_eq!(found(at(80_002), moved), 1);
    assert_eq!(found(at(80_003), sighting(0)), 0, "this is the device itself");
    assert_eq!(discovery.heard(), 1);
}

fn input() -> impl Strategy<Value = Input> {
    let devices = proptest::collection::btree_set((0u32..2_000).prop_map(device), 0..20);
    prop_oneof![
        (devices.clone(), any::<bool>()).prop_map(|(known, more_follow)| Input::Asked { known, more_follow }),
        devices.prop_map(Input::Knows),
        Just(Input::AskedForUs),
        (0u32..2_000, 0u64..5_000).prop_map(|(number, seconds)| Input::Heard(Sighting {
            lifetime: Duration::from_secs(seconds),
            ..sighting(number)
        })),
        (0usize..30).prop_map(Input::Neighbours),
        Just(Input::Wake),
    ]
}

proptest! {
    #[test]
    fn whatever_is_heard_the_device_stays_within_its_bounds(
        inputs in proptest::collection::vec((0u64..500, input()), 0..300),
        seed: u64,
    ) {
        let mut discovery = Discovery::new(device(0), seed, at(0));
        let (mut now, mut spoke) = (at(0), None::<Moment>);
        for (pause, input) in inputs {
            let until = now + Duration::from_millis(pause);
            let mut done = run(&mut discovery, until);
            now = until;
            discovery.handle(now, input);
            done.extend(std::iter::from_fn(|| discovery.poll()).map(|output| (now, output)));
            for (when, output) in done {
                match output {
                    Output::Tell => {
                        let often = spoke.is_some_and(|before| when.since(before) < SAME_RECORD);
                        prop_assert!(!often, "the same record twice in a second");
                        spoke = Some(when);
                    }
                    Output::Ask { known } => prop_assert!(known.len() <= limits::KNOWN_ANSWERS),
                    Output::Found { device: found, .. } => prop_assert_ne!(found, device(0)),
                }
            }
            prop_assert!(discovery.heard() <= limits::DEVICES_HEARD);
            prop_assert!(discovery.next_wake() > now);
        }
    }
}
