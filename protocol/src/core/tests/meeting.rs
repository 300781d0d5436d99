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
