//! What passed the WAN: bytes per direction and connection, written to a file that a reader never sees half-written.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Connections whose own counts are kept; the totals hold all. Bounds memory and the file.
const CONNECTIONS_KEPT: usize = 1_024;

/// What passed so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Where the branch reaches headquarters' members.
    pub members: Option<SocketAddr>,
    /// Where the branch reaches headquarters' enrolment.
    pub enrolment: Option<SocketAddr>,
    /// Bytes of TCP payload from the branch to headquarters.
    pub up_bytes: u64,
    /// Bytes of TCP payload from headquarters to the branch.
    pub down_bytes: u64,
    /// Connections since the start.
    pub connections_total: u64,
    /// The latest connections, oldest first.
    pub connections: Vec<Connection>,
}

/// What passed on one connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// `members` or `enrolment`.
    pub kind: String,
    /// Address of the branch's end.
    pub from: SocketAddr,
    /// Bytes from the branch to headquarters.
    pub up_bytes: u64,
    /// Bytes from headquarters to the branch.
    pub down_bytes: u64,
    /// Whether it still is open.
    pub open: bool,
}

/// The running counts of one connection.
#[derive(Debug)]
pub struct Account {
    kind: &'static str,
    from: SocketAddr,
    pub(super) up: AtomicU64,
    pub(super) down: AtomicU64,
}

/// The running counts of the whole WAN.
#[derive(Debug, Default)]
pub struct Ledger {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    members: Option<SocketAddr>,
    enrolment: Option<SocketAddr>,
    total: u64,
    forgotten_up: u64,
    forgotten_down: u64,
    accounts: VecDeque<Arc<Account>>,
}

impl Ledger {
    /// Notes the addresses that the branch uses.
    pub fn listening(&self, members: SocketAddr, enrolment: SocketAddr) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.members, state.enrolment) = (Some(members), Some(enrolment));
    }

    /// Opens an account for a new connection.
    pub fn open(&self, kind: &'static str, from: SocketAddr) -> Arc<Account> {
        let account = Arc::new(Account { kind, from, up: AtomicU64::new(0), down: AtomicU64::new(0) });
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.total += 1;
        state.accounts.push_back(Arc::clone(&account));
        if state.accounts.len() > CONNECTIONS_KEPT {
            // The oldest that nobody writes to any more; the bound on open connections is lower, so there is one.
            if let Some(at) = state.accounts.iter().position(|account| Arc::strong_count(account) == 1)
                && let Some(closed) = state.accounts.remove(at)
            {
                state.forgotten_up += closed.up.load(Ordering::Relaxed);
                state.forgotten_down += closed.down.load(Ordering::Relaxed);
            }
        }
        account
    }

    /// What passed so far.
    pub fn counters(&self) -> Counters {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let connections: Vec<Connection> = state
            .accounts
            .iter()
            .map(|account| Connection {
                kind: account.kind.to_owned(),
                from: account.from,
                up_bytes: account.up.load(Ordering::Relaxed),
                down_bytes: account.down.load(Ordering::Relaxed),
                open: Arc::strong_count(account) > 1,
            })
            .collect();
        let sum = |of: fn(&Connection) -> u64| connections.iter().map(of).sum::<u64>();
        Counters {
            members: state.members,
            enrolment: state.enrolment,
            up_bytes: state.forgotten_up + sum(|connection| connection.up_bytes),
            down_bytes: state.forgotten_down + sum(|connection| connection.down_bytes),
            connections_total: state.total,
            connections,
        }
    }
}

impl Counters {
    /// Reads what the emulator wrote.
    ///
    /// # Errors
    /// No file yet, or one that another program wrote.
    pub fn read(path: &Path) -> io::Result<Counters> {
        serde_json::from_slice(&std::fs::read(path)?).map_err(io::Error::other)
    }
}

/// Replaces the file in one step.
pub fn write(counters: &Counters, path: &Path) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(&serde_json::to_vec_pretty(counters)?)?;
    file.persist(path)?;
    Ok(())
}

/// Writes the counters now and whenever they have changed.
pub async fn write_changes(ledger: Arc<Ledger>, path: PathBuf, every: Duration) {
    let mut written = None;
    let mut tick = tokio::time::interval(every);
    loop {
        tick.tick().await;
        let counters = ledger.counters();
        if written.as_ref() == Some(&counters) {
            continue;
        }
        let (copy, path) = (counters.clone(), path.clone());
        match tokio::task::spawn_blocking(move || write(&copy, &path)).await {
            Ok(Ok(())) => written = Some(counters),
            Ok(Err(error)) => tracing::error!(%error, "cannot write the counters"),
            Err(error) => tracing::error!(%error, "cannot write the counters"),
        }
    }
}
