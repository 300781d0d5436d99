//! A site without headquarters: who meets whom, when everybody only hears the others.

use super::*;
use crate::core::RequestToken;
use crate::limits;
use crate::wire::Unanswered;
use std::collections::{BTreeSet, VecDeque};

/// Devices of one site; messages between those that are connected arrive at the next step.
struct Site {
    nodes: Vec<Node>,
    numbers: BTreeMap<DeviceId, usize>,
    members: Vec<Member>,
    connected: BTreeSet<(usize, usize)>,
    /// Requests on their way to an answer: who asked, and as what.
    asked: BTreeMap<u64, (usize, EffectId)>,
    unreachable: BTreeSet<usize>,
    tokens: u64,
}

const STEP: Duration = Duration::from_millis(25);

impl Site {
    /// Devices with the numbers 1 to `count`; number 0 is a headquarters that is away.
    fn new(fleet: &Fleet, count: u8) -> Site {
        let nodes: Vec<Node> = (1..=count).map(|number| fleet.node(number)).collect();
        let members: Vec<Member> = (1..=count).map(|number| fleet.member(number)).collect();
        let numbers = members.iter().enumerate().map(|(at, member)| (member.device, at)).collect();
        let mut site = Site {
            nodes,
            numbers,
            members,
            connected: BTreeSet::new(),
            asked: BTreeMap::new(),
            unreachable: BTreeSet::new(),
            tokens: 0,
        };
        for (at, node) in site.nodes.iter_mut().enumerate() {
            node.handle(Input::Listening(vec![format!("/sim/{at}")]));
        }
        site
    }

    /// Device `at` hears of `other` by multicast.
    fn hear(&mut self, at: usize, other: usize) {
        let device = self.members[other].device;
        self.nodes[at].handle(Input::Discovered { device, addresses: vec![format!("/sim/{other}")] });
    }

    /// Everybody hears everybody, each in another order.
    fn hear_all(&mut self) {
        let count = self.nodes.len();
        for at in 0..count {
            // A step that has no divisor in common with the number visits everybody.
            let step = [7, 11, 13, 17, 19][at % 5];
            let step = if count.is_multiple_of(step) { 1 } else { step };
            for other in (0..count).map(|turn| (at * 31 + turn * step) % count).filter(|other| *other != at) {
                self.hear(at, other);
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_millis() / STEP.as_millis() {
            let mut done: VecDeque<(usize, Output)> = VecDeque::new();
            for (at, node) in self.nodes.iter_mut().enumerate() {
                node.now = node.now + STEP;
                if node.core.next_wake(node.now).is_some_and(|wake| wake <= node.now) {
                    node.handle(Input::Wake);
                }
                done.extend(node.take().into_iter().map(|output| (at, output)));
            }
            while let Some((at, output)) = done.pop_front() {
                self.perform(at, output);
            }
        }
    }

    fn perform(&mut self, at: usize, output: Output) {
        match output {
            Output::Dial { device, .. } => match self.numbers.get(&device).copied() {
                Some(to) if !self.unreachable.contains(&to) && to != at => self.connect(at, to),
                _ => self.nodes[at].handle(Input::DialFailed(device)),
            },
            Output::Disconnect(device, _) => {
                if let Some(to) = self.numbers.get(&device).copied()
                    && self.connected.remove(&(at.min(to), at.max(to)))
                {
                    self.nodes[at].handle(Input::Disconnected(device));
                    let own = self.members[at].device;
                    self.nodes[to].handle(Input::Disconnected(own));
                }
            }
            Output::Request { effect, to: device, request } => {
                let to = self.numbers.get(&device).copied();
                match to.filter(|to| self.connected.contains(&(at.min(*to), at.max(*to)))) {
                    Some(to) => {
                        self.tokens += 1;
                        self.asked.insert(self.tokens, (at, effect));
                        let token = RequestToken(self.tokens);
                        let from = self.members[at].device;
                        self.nodes[to].handle(Input::Request { token, from, request });
                    }
                    None => {
                        let result = Err(Unanswered::Disconnected);
                        self.nodes[at].handle(Input::Answered { effect, result });
                    }
                }
            }
            Output::Respond { token, response } => {
                if let Some((asker, effect)) = self.asked.remove(&token.0) {
                    self.nodes[asker].handle(Input::Answered { effect, result: Ok(response) });
                }
            }
            _ => {}
        }
    }

    fn connect(&mut self, at: usize, to: usize) {
        if self.connected.insert((at.min(to), at.max(to))) {
            let (here, there) = (self.members[at].clone(), self.members[to].clone());
            self.nodes[at].handle(Input::Connected(there));
            self.nodes[to].handle(Input::Connected(here));
        }
    }

    fn neighbours(&self, at: usize) -> BTreeSet<usize> {
        let ends = self.connected.iter().filter(|(one, two)| *one == at || *two == at);
        ends.map(|(one, two)| if *one == at { *two } else { *one }).collect()
    }

    /// Nobody has more neighbours than it may have, and there are no islands.
    fn check(&self) {
        let mut reached = BTreeSet::from([0]);
        let mut queue = VecDeque::from([0]);
        while let Some(at) = queue.pop_front() {
            let neighbours = self.neighbours(at);
            // Those that are about to leave again are not among them.
            let stay = neighbours.len() - self.nodes[at].core.guests().len();
            assert!(stay <= limits::NEIGHBOURS, "{at} has {stay}");
            queue.extend(neighbours.into_iter().filter(|other| reached.insert(*other)));
        }
        let missing: Vec<usize> = (0..self.nodes.len()).filter(|at| !reached.contains(at)).collect();
        assert!(missing.is_empty(), "{missing:?} are islands");
    }
}

#[test]
fn a_site_becomes_one_net_of_8_to_24_neighbours_each() {
    let mut site = Site::new(&Fleet::new(), 100);
    site.hear_all();
    site.pass(Duration::from_secs(10));
    site.check();
    let degrees: Vec<usize> = (0..100).map(|at| site.neighbours(at).len()).collect();
    assert!(degrees.iter().all(|degree| *degree >= 8), "{degrees:?}");
    // It stays as it is.
    let before = site.connected.clone();
    site.pass(Duration::from_secs(60));
    assert_eq!(site.connected, before);
}

#[test]
fn a_small_site_is_complete() {
    for count in [2, 3, 9] {
        let mut site = Site::new(&Fleet::new(), count);
        site.hear_all();
        site.pass(Duration::from_secs(5));
        let each = usize::from(count) - 1;
        assert!((0..usize::from(count)).all(|at| site.neighbours(at).len() == each), "{:?}", site.connected);
    }
}

#[test]
fn whoever_is_full_refers_the_others_onward_and_nobody_stays_outside() {
    let mut site = Site::new(&Fleet::new(), 120);
    for at in 1..120 {
        // All they know is this one device.
        site.hear(at, 0);
    }
    site.pass(Duration::from_secs(120));
    site.check();
    let few = (0..120).filter(|at| site.neighbours(*at).len() < 4).count();
    assert_eq!(few, 0);
}

#[test]
fn six_of_another_kind_find_each_other_among_many() {
    let mut fleet = Fleet::new();
    fleet.windows = 7..201;
    let mut site = Site::new(&fleet, 200);
    site.hear_all();
    site.pass(Duration::from_secs(60));
    site.check();
    for at in 0..6 {
        let kin: Vec<usize> = site.neighbours(at).into_iter().filter(|other| *other < 6).collect();
        assert_eq!(kin.len(), 5, "{at} knows {kin:?}");
    }
}

#[test]
fn those_that_cannot_be_reached_are_passed_over() {
    let mut site = Site::new(&Fleet::new(), 60);
    site.unreachable = (0..30).collect();
    site.hear_all();
    site.pass(Duration::from_secs(60));
    // The firewalled ones reach the others, and so belong to the net.
    site.check();
    assert!((0..60).all(|at| site.neighbours(at).len() >= 8));
}

// proves X1: of hundreds that start in the same second few go to the seed at once (decision 0051)
#[test]
fn a_crowd_leaves_the_seed_to_a_few() {
    let fleet = Fleet::new();
    let dials = |node: &mut Node| {
        let outputs = node.take();
        let service =
            |output: &&Output| matches!(output, Output::Dial { rung: crate::core::Rung::Services, .. });
        outputs.iter().filter(service).count()
    };
    let started = |number: u8, heard: std::ops::Range<u8>| {
        let mut node = fleet.node(number);
        for other in heard {
            let addresses = vec![format!("/sim/{other}")];
            node.handle(Input::Discovered { device: fleet.member(other).device, addresses });
        }
        node.pass(Duration::from_millis(250));
        node
    };
    assert!((1..10).all(|number| dials(&mut started(number, 10..30)) == 1), "an office is no crowd");
    let mut at_once = 0;
    for number in 1..61 {
        let mut node = started(number, 100..240);
        if dials(&mut node) > 0 {
            at_once += 1;
        } else if number % 2 == 0 {
            node.connect(fleet.member(100));
            node.pass(Duration::from_secs(30));
            assert!(dials(&mut node) > 0, "{number} goes later");
        } else {
            node.pass(Duration::from_secs(5));
            assert!(dials(&mut node) > 0, "{number} has nobody and waits no longer");
        }
    }
    assert!((1..20).contains(&at_once), "{at_once}");
}

pub(super) fn dialled(node: &mut Node) -> Vec<DeviceId> {
    let outputs = node.take();
    let dial = |output: &Output| match output {
        Output::Dial { device, rung, .. } if *rung != crate::core::Rung::Services => Some(*device),
        _ => None,
    };
    outputs.iter().filter_map(dial).collect()
}

pub(super) fn foreigner(fleet: &Fleet, number: u8) -> Member {
    let site = SiteName::new("lyon").expect("a plain name");
    Member { site, ..fleet.member(number) }
}

pub(super) fn by_tracker(fleet: &Fleet, number: u8) -> crate::wire::SiteMember {
    let member = fleet.member(number);
    let addresses = vec![format!("/sim/{number}")];
    crate::wire::SiteMember { device: member.device, system: member.system, addresses }
}

/// What the seed answers to an announcement.
pub(super) fn site_view(node: &mut Node, fleet: &Fleet, numbers: std::ops::Range<u8>) {
    node.handle(Input::Listening(vec!["/sim/1".to_owned()]));
    let announce = node.requests().find(|(_, request)| matches!(request, Request::Announce(_)));
    let (effect, _) = announce.expect("an announcement");
    let members = numbers.map(|number| by_tracker(fleet, number)).collect();
    let versions = Versions::default();
    node.answer(
        effect,
        Response::Site(crate::wire::SiteView { members, versions, fetch_metadata: false, metadata: None }),
    );
}

#[test]
fn those_of_the_own_kind_in_other_subnets_come_first() {
    let mut fleet = Fleet::new();
    fleet.windows = 50..100;
    let mut node = fleet.node(1);
    node.connect(fleet.member(0));
    for number in 50..80 {
        node.handle(Input::Discovered {
            device: fleet.member(number).device,
            addresses: vec![format!("/sim/{number}")],
        });
    }
    site_view(&mut node, &fleet, 2..9);
    node.take();
    node.pass(Duration::from_secs(1));
    let first = dialled(&mut node);
    assert_eq!(first.len(), DIALS);
    assert!(
        (2..9).map(|number| fleet.member(number).device).filter(|device| first.contains(device)).count()
            == DIALS
    );
}

/// As many are dialled in one round.
const DIALS: usize = 4;

// A pause holds whoever names the member.
#[test]
fn a_holder_that_the_seed_names_is_not_dialled_before_its_time() {
    let fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    node.connect(fleet.member(0));
    site_view(&mut node, &fleet, 5..6);
    node.connect(fleet.member(5));
    node.handle(Input::Distant(fleet.member(5).device));
    node.handle(Input::Disconnected(fleet.member(5).device));
    let names = |node: &mut Node| {
        let ask = node.requests().filter(|(_, request)| matches!(request, Request::Lease(_))).last();
        let (effect, _) = ask.expect("it asks for leases");
        node.take();
        let line =
            crate::wire::LeasedLine { holders: vec![0, 1], ..crate::wire::LeasedLine::nothing(fleet.root()) };
        let members = vec![by_tracker(&fleet, 5), by_tracker(&fleet, 6)];
        let answer = crate::wire::LeaseAnswer {
            lines: vec![line],
            members,
            retry_milliseconds: 6_000,
            ..crate::wire::LeaseAnswer::default()
        };
        node.answer(effect, Response::Lease(answer));
        let first = dialled(node);
        node.pass(Duration::from_secs(6));
        first
    };
    assert_eq!(names(&mut node), [fleet.member(6).device]);
    node.handle(Input::DialFailed(fleet.member(6).device));
    assert!(names(&mut node).is_empty(), "it was not reached just now");
    // Before the WAN carries what it holds, it is tried once more, whatever its pause; not so whoever is behind a tunnel.
    assert_eq!(names(&mut node), [fleet.member(6).device]);
    // Nor does one wait that was only lost: perhaps it was this device that was away.
    node.connect(fleet.member(6));
    node.handle(Input::Disconnected(fleet.member(6).device));
    assert_eq!(names(&mut node), [fleet.member(6).device]);
}

/// What `from` answers to our greeting: no place, and these members to go to.
fn refers(node: &mut Node, from: &Member, members: Vec<crate::wire::SiteMember>) {
    node.connect(from.clone());
    let meet = node.requests().filter(|(_, request)| matches!(request, Request::Meet(_))).last();
    let (effect, _) = meet.expect("a greeting");
    node.answer(effect, Response::Met(crate::wire::Met { welcome: true, members }));
}

/// Whom the node names to a member that asks, with the first address of each.
fn referred(node: &mut Node, asker: &Member) -> BTreeMap<DeviceId, String> {
    node.connect(asker.clone());
    node.take();
    let meet = crate::wire::Meet { addresses: vec!["/sim/asker".to_owned()], neighbours: 0, kin: 0 };
    node.handle(Input::Request { token: RequestToken(1), from: asker.device, request: Request::Meet(meet) });
    let outputs = node.take();
    let met = outputs.iter().find_map(|output| match output {
        Output::Respond { response: Response::Met(met), .. } => Some(met.members.clone()),
        _ => None,
    });
    met.expect("an answer").into_iter().map(|member| (member.device, member.addresses[0].clone())).collect()
}

#[test]
fn hearsay_stands_behind_what_is_known_and_goes_no_further() {
    let fleet = Fleet::new();
    let mut node = fleet.node(1);
    node.connect(fleet.member(0));
    site_view(&mut node, &fleet, 2..4);
    let liar = |number| crate::wire::SiteMember {
        addresses: vec!["/sim/wrong".to_owned()],
        ..by_tracker(&fleet, number)
    };
    refers(&mut node, &fleet.member(5), vec![liar(2), liar(3), liar(7)]);
    node.pass(Duration::from_secs(1));
    let dialled: BTreeMap<DeviceId, String> = (node.take().into_iter())
        .filter_map(|output| match output {
            Output::Dial { device, addresses, .. } => Some((device, addresses[0].clone())),
            _ => None,
        })
        .collect();
    assert_eq!(dialled.get(&fleet.member(2).device).map(String::as_str), Some("/sim/2"));
    assert!(dialled.contains_key(&fleet.member(7).device), "it may be true");
    node.handle(Input::DialFailed(fleet.member(3).device));
    let referred = referred(&mut node, &fleet.member(6));
    let expected = BTreeMap::from([(fleet.member(2).device, "/sim/2".to_owned())]);
    assert_eq!(referred, expected, "neither the unproven one nor the one that was not reached");
}

#[test]
fn the_seed_comes_before_the_neighbours_when_a_device_starts() {
    let fleet = Fleet::new();
    for heard in [false, true] {
        let mut node = fleet.member_node(1);
        assert_eq!(node.now, Moment::START);
        if heard {
            node.core.fetcher.heard_of_site(Moment::START, 1);
        }
        node.take();
        let device = fleet.member(2).device;
        node.handle(Input::Discovered { device, addresses: vec!["/sim/2".to_owned()] });
        node.pass(Duration::from_millis(150));
        let at_once = dialled(&mut node);
        node.pass(Duration::from_millis(400));
        // It does not wait for a seed that is away.
        let later = dialled(&mut node);
        assert_eq!((at_once.contains(&device), later.contains(&device)), (heard, !heard));
    }
}
