//! Carries the bytes of a connection over the line, both directions at their own pace, half-closed ends kept apart.

use super::counter::{Account, Ledger};
use super::pace::Pace;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Bytes that cross the line before another connection has its turn: 3 ms of a 10 Mbit/s line.
const CHUNK_BYTES: usize = 4 << 10;

/// The queue before the line, per connection and direction: what the kernel holds for us. A longer one would hide
/// from the sender that the line is thin, and add delay that no real router has.
const QUEUE_BYTES: u32 = 32 << 10;

/// Connections at the same time; further ones wait in the backlog.
const CONNECTIONS: usize = 256;

/// One WAN: its lines and its ledger.
#[derive(Clone, Debug)]
pub struct Relay {
    pub ledger: Arc<Ledger>,
    pub up: Arc<Pace>,
    pub down: Arc<Pace>,
}

/// Listens with short queues.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = short_queues(address)?;
    socket.bind(address)?;
    socket.listen(64)
}

fn short_queues(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_recv_buffer_size(QUEUE_BYTES)?;
    socket.set_send_buffer_size(QUEUE_BYTES)?;
    Ok(socket)
}

impl Relay {
    /// Accepts connections of the branch and carries each to `headquarters`.
    pub async fn run(self, listener: TcpListener, headquarters: SocketAddr, kind: &'static str) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut carried = JoinSet::new();
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let (branch, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    continue;
                }
            };
            while carried.try_join_next().is_some() {}
            let relay = self.clone();
            let account = self.ledger.open(kind, from);
            carried.spawn(async move {
                if let Err(error) = relay.carry(branch, headquarters, &account).await {
                    tracing::debug!(%error, kind, "connection broke");
                }
                drop(place);
            });
        }
    }

    async fn carry(&self, branch: TcpStream, headquarters: SocketAddr, account: &Account) -> io::Result<()> {
        let headquarters = short_queues(headquarters)?.connect(headquarters).await?;
        branch.set_nodelay(true)?;
        headquarters.set_nodelay(true)?;
        let (from_branch, to_branch) = branch.into_split();
        let (from_headquarters, to_headquarters) = headquarters.into_split();
        // A broken direction ends the other one too: both ends then see the connection break, as they would without us.
        tokio::try_join!(
            one_way(from_branch, to_headquarters, &self.up, &account.up),
            one_way(from_headquarters, to_branch, &self.down, &account.down),
        )?;
        Ok(())
    }
}

/// Copies until the end of the stream, which is passed on; the other direction may go on for as long as it likes.
async fn one_way(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    pace: &Pace,
    counted: &AtomicU64,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = from.read(&mut chunk).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        pace.pass(length).await;
        to.write_all(&chunk[..length]).await?;
        counted.fetch_add(length as u64, Ordering::Relaxed);
    }
}
