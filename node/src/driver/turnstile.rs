//! The turnstile before what this node serves: who sends next, and how much, when there are caps. Without one it is open,
//! and nobody waits.

use crate::net::Pass;
use protocol::fetch::turns::{Ceilings, Ticket, Turns};
use protocol::identifier::{DeviceId, SiteName};
use protocol::time::Moment;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Clones share it.
#[derive(Clone)]
pub(super) struct Turnstile(Arc<Shared>);

struct Shared {
    /// Whether there is a cap at all.
    capped: AtomicBool,
    state: Mutex<State>,
    /// The task that wakes those who wait has to look again.
    changed: Notify,
    began: Instant,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Default)]
struct State {
    turns: Turns,
    sites: BTreeMap<DeviceId, SiteName>,
    waiting: BTreeMap<Ticket, oneshot::Sender<u64>>,
    /// Until when the task that wakes those who wait sleeps, while there is one.
    asleep: Option<Moment>,
    awake: bool,
}

impl State {
    fn let_go(&mut self, now: Moment) {
        while let Some((ticket, bytes)) = self.turns.poll(now) {
            if let Some(waiting) = self.waiting.remove(&ticket) {
                // Nobody waits when the stream has ended meanwhile.
                let _ = waiting.send(bytes);
            }
        }
    }
}

impl Turnstile {
    pub(super) fn new(tasks: TaskTracker, stop: CancellationToken) -> Turnstile {
        Turnstile(Arc::new(Shared {
            capped: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Notify::new(),
            began: Instant::now(),
            tasks,
            stop,
        }))
    }

    /// From now on these caps hold.
    pub(super) fn set(&self, ceilings: Ceilings) {
        let capped = ceilings != Ceilings::default();
        let mut state = self.0.state();
        state.turns.set_ceilings(ceilings);
        self.0.capped.store(capped, Ordering::Release);
        state.let_go(self.0.now());
        drop(state);
        self.0.changed.notify_one();
    }

    /// A member is connected.
    pub(super) fn arrived(&self, peer: DeviceId, site: SiteName) {
        self.0.state().sites.insert(peer, site);
    }

    /// A member is gone.
    pub(super) fn left(&self, peer: DeviceId) {
        self.0.state().sites.remove(&peer);
    }

    /// How many of so many bytes may go to `peer`, at once or when its turn comes.
    pub(super) fn pass(&self, peer: DeviceId, bytes: usize) -> Pass {
        if !self.0.capped.load(Ordering::Acquire) {
            return Pass::Now(bytes);
        }
        let now = self.0.now();
        let mut guard = self.0.state();
        let state = &mut *guard;
        let Some(site) = state.sites.get(&peer).filter(|site| state.turns.are_needed(site)) else {
            return Pass::Now(bytes);
        };
        let ticket = state.turns.ask(now, site, peer, bytes as u64);
        let (go, mut turn) = oneshot::channel();
        state.waiting.insert(ticket, go);
        state.let_go(now);
        let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        if let Ok(bytes) = turn.try_recv() {
            return Pass::Now(size(bytes));
        }
        if !std::mem::replace(&mut state.awake, true) {
            let (shared, tasks) = (Arc::clone(&self.0), self.0.tasks.clone());
            tasks.spawn(async move { shared.wake().await });
        } else if state.asleep.is_none_or(|until| state.turns.next_wake().is_some_and(|wake| wake < until)) {
            self.0.changed.notify_one();
        }
        // The turnstile lives as long as those who wait; when it stops, their streams do, too.
        Pass::Wait(Box::pin(async move { turn.await.map_or(bytes, size) }))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Moment {
        Moment::from_micros(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Wakes those who wait when their turn comes, until nobody waits.
    async fn wake(&self) {
        loop {
            let now = self.now();
            let wake = {
                let mut state = self.state();
                state.let_go(now);
                if state.waiting.is_empty() {
                    state.awake = false;
                    return;
                }
                state.asleep = state.turns.next_wake();
                state.asleep
            };
            let turn = async {
                match wake {
                    Some(at) => tokio::time::sleep(at.since(now)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = turn => {}
                () = self.changed.notified() => {}
                () = self.stop.cancelled() => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::rate::Rate;
    use std::time::Duration;

    fn turnstile() -> Turnstile {
        Turnstile::new(TaskTracker::new(), CancellationToken::new())
    }

    fn member(number: u8, site: &str) -> (DeviceId, SiteName) {
        (DeviceId::from_bytes([number; 32]), SiteName::new(site).expect("a plain name"))
    }

    async fn send(turnstile: &Turnstile, peer: DeviceId, mut bytes: usize) -> usize {
        let mut waits = 0;
        while bytes > 0 {
            bytes -= match turnstile.pass(peer, bytes.min(65_536)) {
                Pass::Now(passed) => passed,
                Pass::Wait(turn) => {
                    waits += 1;
                    turn.await
                }
            };
        }
        waits
    }

    // proves X3: without a cap nobody waits, and no timer runs
    #[tokio::test]
    async fn it_is_open_without_a_cap() {
        let turnstile = turnstile();
        let (peer, site) = member(1, "utrecht");
        turnstile.arrived(peer, site.clone());
        assert!(matches!(turnstile.pass(peer, 65_536), Pass::Now(65_536)));
        // A cap of another site is none of its business either.
        let delft = member(2, "delft").1;
        turnstile.set(Ceilings { total: None, sites: [(delft, Rate::LEAST)].into() });
        assert!(matches!(turnstile.pass(peer, 65_536), Pass::Now(65_536)));
        assert!(turnstile.0.tasks.is_empty());
    }

    // proves X3
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_sites_share_a_cap_equally_whatever_the_number_of_their_devices() {
        let turnstile = turnstile();
        turnstile.set(Ceilings { total: Some(Rate::megabits(16)), sites: BTreeMap::new() });
        let began = Instant::now();
        let devices = [(1, "delft"), (2, "utrecht"), (3, "utrecht"), (4, "utrecht")];
        let sent = devices.into_iter().map(|(number, site)| {
            let (peer, site) = member(number, site);
            turnstile.arrived(peer, site);
            let turnstile = turnstile.clone();
            // A third of the bytes for each of three.
            let bytes = if number == 1 { 2_400_000 } else { 800_000 };
            tokio::spawn(async move { (send(&turnstile, peer, bytes).await, began.elapsed()) })
        });
        let sent: Vec<_> = sent.collect();
        let ended: Vec<(usize, Duration)> =
            futures::future::join_all(sent).await.into_iter().map(|one| one.expect("no panic")).collect();
        let slowest = ended.iter().map(|(_, time)| *time).max().unwrap_or_default();
        // 4.8 MB at 2 MB a second; turns by device would be over at two thirds of the time for three of them.
        assert!(slowest >= Duration::from_millis(2_280), "{ended:?}");
        assert!(ended.iter().all(|(waits, time)| *waits > 0 && *time * 5 > slowest * 4), "{ended:?}");
    }

    #[tokio::test]
    async fn a_cap_that_is_lifted_lets_everybody_go() {
        let turnstile = turnstile();
        let (peer, site) = member(1, "utrecht");
        turnstile.arrived(peer, site);
        turnstile.set(Ceilings { total: Some(Rate::NOTHING), sites: BTreeMap::new() });
        let Pass::Wait(turn) = turnstile.pass(peer, 1_000) else { panic!("nothing passes") };
        turnstile.set(Ceilings::default());
        assert_eq!(turn.await, 1_000);
        turnstile.0.tasks.close();
        turnstile.0.tasks.wait().await;
        assert!(!turnstile.0.state().awake);
    }
}
