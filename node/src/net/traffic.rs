//! Bytes of TCP connections by remote device and direction: counted above TCP and below TLS, so that they equal what a link carries.

use super::address;
use super::way::{Control, Watch};
use futures::{AsyncRead, AsyncWrite};
use libp2p::Multiaddr;
use protocol::identifier::DeviceId;
use protocol::limits;
use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

/// Bytes of TCP payload in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes that arrived.
    pub received: u64,
    /// Bytes that were handed to the operating system.
    pub sent: u64,
}

#[derive(Debug, Default)]
struct Counters {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Counters {
    fn add(&self, traffic: Traffic) {
        self.received.fetch_add(traffic.received, Ordering::Relaxed);
        self.sent.fetch_add(traffic.sent, Ordering::Relaxed);
    }

    fn total(&self) -> Traffic {
        Traffic { received: self.received.load(Ordering::Relaxed), sent: self.sent.load(Ordering::Relaxed) }
    }
}

/// All counters of one node; they live on when a connection ends.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    devices: Mutex<HashMap<DeviceId, Arc<Counters>>>,
    strangers: Mutex<HashMap<Option<IpAddr>, Traffic>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    /// Totals of every device that ever was a member on a connection, in the order of their identifiers.
    pub(super) fn devices(&self) -> Vec<(DeviceId, Traffic)> {
        let mut all: Vec<_> =
            lock(&self.devices).iter().map(|(device, counters)| (*device, counters.total())).collect();
        all.sort_unstable_by_key(|(device, _)| *device);
        all
    }

    /// Totals of connections that ended before membership was proven; `None` stands for names and for what exceeds the table.
    pub(super) fn strangers(&self) -> Vec<(Option<IpAddr>, Traffic)> {
        let mut all: Vec<_> = lock(&self.strangers).iter().map(|(ip, traffic)| (*ip, *traffic)).collect();
        all.sort_unstable_by_key(|(ip, _)| *ip);
        all
    }

    fn counters(&self, device: DeviceId) -> Arc<Counters> {
        let mut devices = lock(&self.devices);
        if devices.len() >= limits::TRAFFIC_DEVICES && !devices.contains_key(&device) {
            tracing::warn!(limit = limits::TRAFFIC_DEVICES, "traffic table is full; a device is not counted");
            return Arc::default();
        }
        devices.entry(device).or_default().clone()
    }

    fn add_stranger(&self, ip: Option<IpAddr>, traffic: Traffic) {
        let mut strangers = lock(&self.strangers);
        let known = strangers.contains_key(&ip) || strangers.len() < limits::TRAFFIC_STRANGERS;
        let total = strangers.entry(if known { ip } else { None }).or_default();
        total.received += traffic.received;
        total.sent += traffic.sent;
    }
}

/// The meter of one connection: a stranger's until a device is named.
#[derive(Debug)]
pub(super) struct Meter {
    ledger: Arc<Ledger>,
    ip: Option<IpAddr>,
    unowned: Counters,
    owner: OnceLock<Arc<Counters>>,
}

impl Meter {
    /// From now on, and for what was counted so far, the bytes are this device's. Call it while no one else moves bytes.
    pub(super) fn assign(&self, device: DeviceId) {
        let counters = self.ledger.counters(device);
        if self.owner.set(counters.clone()).is_ok() {
            counters.add(self.unowned.total());
        }
    }

    fn add(&self, traffic: Traffic) {
        self.owner.get().map_or(&self.unowned, AsRef::as_ref).add(traffic);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.owner.get().is_none() {
            self.ledger.add_stranger(self.ip, self.unowned.total());
        }
    }
}

/// A byte stream whose bytes are counted.
pub(super) struct Counted<S> {
    inner: S,
    meter: Arc<Meter>,
    watched: Option<(Watch, Switch<S>)>,
}

/// Changes what decides how much of a stream is on its way.
type Switch<S> = fn(&S, Control) -> io::Result<()>;

impl<S> Counted<S> {
    pub(super) fn new(inner: S, remote: &Multiaddr, ledger: Arc<Ledger>) -> Counted<S> {
        let meter =
            Meter { ledger, ip: address::ip(remote), unowned: Counters::default(), owner: OnceLock::new() };
        Counted { inner, meter: Arc::new(meter), watched: None }
    }

    /// Does this with the stream when the watch over its way says so.
    pub(super) fn switching(mut self, watch: Option<Watch>, switch: Switch<S>) -> Counted<S> {
        self.watched = watch.map(|watch| (watch, switch));
        self
    }

    pub(super) fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }

    fn received(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &result {
            self.meter.add(Traffic { received: *count as u64, sent: 0 });
        }
        result
    }

    fn sent(&mut self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &result {
            self.meter.add(Traffic { received: 0, sent: *count as u64 });
            if let Some((watch, switch)) = &mut self.watched
                && let Some(control) = watch.sent(*count)
            {
                switch(&self.inner, control).unwrap_or_else(|error| {
                    tracing::debug!(%error, ?control, "congestion control stays as it is");
                });
            }
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_read(cx, buffer);
        self.received(result)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_read_vectored(cx, buffers);
        self.received(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.sent(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.sent(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}
