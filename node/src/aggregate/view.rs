//! What the web server asks of the fleet's state, and the answer from a state that the driver writes to.

use jiff::Timestamp;
use protocol::aggregate::{
    ContentRow, DeploymentQuery, DeploymentRow, DeviceQuery, DeviceRow, FindingQuery, FindingRow,
    IncidentRow, Page, PatchRow, Standing, State, Summary,
};
use protocol::identifier::{DeviceId, PatchId, SiteName};
use protocol::time::WallTime;
use std::sync::{Arc, PoisonError, RwLock};

/// Read access to the fleet. Every answer but the list of sites is bounded by a page, and made while the caller waits.
pub trait View: Send + Sync + 'static {
    /// The wall clock that pages are read against.
    fn now(&self) -> WallTime;
    /// Whether answers can be relied upon; the text says what is missing.
    ///
    /// # Errors
    /// Why not, for people.
    fn ready(&self) -> Result<(), String>;
    /// The fleet at a glance.
    fn summary(&self) -> Summary;
    /// All sites with their standing, in order of their names: whoever watches one must not lose it when there are many.
    fn sites(&self) -> Vec<(SiteName, Standing)>;
    /// Devices in order of their host names.
    fn devices(&self, query: &DeviceQuery) -> Page<DeviceRow>;
    /// One device; `None` when it never joined.
    fn device(&self, device: DeviceId) -> Option<DeviceRow>;
    /// Patches in order of their names.
    fn patches(&self, after: Option<&PatchId>, limit: usize) -> Page<PatchRow>;
    /// Findings in order of devices and patches.
    fn findings(&self, query: &FindingQuery) -> Page<FindingRow>;
    /// Deployments, the latest first.
    fn deployments(&self, query: &DeploymentQuery) -> Page<DeploymentRow>;
    /// Patches that devices miss, approved ones first, then by the number of devices.
    fn most_missing(&self, limit: usize) -> Vec<PatchRow>;
    /// Devices of whom nothing was heard for too long.
    fn stale_devices(&self, limit: usize) -> Vec<DeviceRow>;
    /// Incidents, the latest first.
    fn incidents(&self, limit: usize) -> Vec<IncidentRow>;
    /// How contents reached the sites, those first of which most bytes came.
    fn contents(&self, limit: usize) -> Vec<ContentRow>;
}

/// Asks `view` away from the reactor: whoever writes to the state may hold it while the disk is busy.
pub(super) async fn ask<T: Send + 'static>(
    view: Arc<dyn View>,
    question: impl FnOnce(&dyn View) -> T + Send + 'static,
) -> Result<T, super::api::Error> {
    let answer = tokio::task::spawn_blocking(move || question(&*view)).await;
    answer.map_err(|_| super::api::Error::Internal)
}

/// A view over a state that the driver holds too: the driver writes, the web server reads.
///
/// The lock is held for one synchronous call at a time and never over an `await`; the web server waits for it on threads
/// that may block.
#[derive(Clone, Debug)]
pub struct SharedState {
    state: Arc<RwLock<State>>,
    clock: fn() -> WallTime,
}

impl SharedState {
    /// Shares `state`, with the system's clock.
    pub fn new(state: State) -> SharedState {
        SharedState::with_clock(state, system_clock)
    }

    /// Shares `state`, with a clock of the caller's.
    pub fn with_clock(state: State, clock: fn() -> WallTime) -> SharedState {
        SharedState { state: Arc::new(RwLock::new(state)), clock }
    }

    /// Changes the state and returns what `change` returns.
    pub fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        // A panic elsewhere while writing left a state whose sums may be off; it must not silence all pages.
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at the state.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn system_clock() -> WallTime {
    WallTime::from_unix_seconds(u64::try_from(Timestamp::now().as_second()).unwrap_or(0))
}

impl View for SharedState {
    fn now(&self) -> WallTime {
        (self.clock)()
    }

    fn ready(&self) -> Result<(), String> {
        if self.state.is_poisoned() {
            return Err("an error interrupted a change of the state; restart the aggregator".to_owned());
        }
        Ok(())
    }

    fn summary(&self) -> Summary {
        let now = self.now();
        self.read(|state| state.summary(now))
    }

    fn sites(&self) -> Vec<(SiteName, Standing)> {
        self.read(|state| state.sites().iter().map(|(site, standing)| (site.clone(), *standing)).collect())
    }

    fn devices(&self, query: &DeviceQuery) -> Page<DeviceRow> {
        let now = self.now();
        self.read(|state| state.devices_page(query, now))
    }

    fn device(&self, device: DeviceId) -> Option<DeviceRow> {
        let now = self.now();
        self.read(|state| state.device_row(device, now))
    }

    fn patches(&self, after: Option<&PatchId>, limit: usize) -> Page<PatchRow> {
        self.read(|state| state.patches_page(after, limit))
    }

    fn findings(&self, query: &FindingQuery) -> Page<FindingRow> {
        self.read(|state| state.findings_page(query))
    }

    fn deployments(&self, query: &DeploymentQuery) -> Page<DeploymentRow> {
        self.read(|state| state.deployments_page(query))
    }

    fn most_missing(&self, limit: usize) -> Vec<PatchRow> {
        self.read(|state| state.most_missing(limit))
    }

    fn stale_devices(&self, limit: usize) -> Vec<DeviceRow> {
        let now = self.now();
        self.read(|state| state.stale_devices(limit, now))
    }

    fn incidents(&self, limit: usize) -> Vec<IncidentRow> {
        self.read(|state| state.latest_incidents(limit))
    }

    fn contents(&self, limit: usize) -> Vec<ContentRow> {
        self.read(|state| state.contents(limit))
    }
}
