//! The way to one mirror: what may be outstanding on it, and one piece over it in blocks.

use crate::configuration;
use crate::net::Cap;
use crate::origin::mirror::Mirror;
use crate::origin::{Origin as _, OriginError, Wanted};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use protocol::fetch::window::{Sample, Window};
use protocol::identifier::VendorName;
use protocol::limits;
use protocol::time::Moment;
use std::ops::Range;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Larger blocks would be more than a server sends before the first acknowledgement (RFC 6928): what is outstanding would stand at the
/// server and come in bursts, and its queue not show in the next answer's delay.
const MOST_BLOCK: u32 = 12 << 10;

/// How long a mirror is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// A request without any byte for so long fails, and its piece with it.
    pub(super) silence: Duration,
    /// Longest that so many bytes may take, without the time in which our own cap lets us ask for nothing.
    pub(super) longest: fn(u64) -> Duration,
}

/// A mirror, and how it goes.
pub(super) struct Way {
    mirror: Mirror,
    url: String,
    patience: Patience,
    began: Instant,
    /// Held while a piece is read: pieces of one mirror come one after the other.
    window: Mutex<Window>,
}

/// A block that is to be read.
struct Block {
    from: u64,
    length: u32,
    asked: Moment,
    ahead: u64,
}

impl Way {
    /// Makes the client; nothing is sent yet.
    ///
    /// # Errors
    /// [`OriginError::Setup`].
    pub(super) fn open(
        mirror: &configuration::Mirror,
        name: String,
        patience: Patience,
    ) -> Result<Way, OriginError> {
        let url = mirror.url.clone();
        let mirror = Mirror::open(mirror, name, patience.silence)?;
        let window = Mutex::new(Window::new(Moment::START));
        Ok(Way { mirror, url, patience, began: Instant::now(), window })
    }

    /// Whether it leads to this mirror, under this name.
    pub(super) fn leads_to(&self, name: &str, mirror: &configuration::Mirror) -> bool {
        self.mirror.name() == name && *self.vendor() == mirror.vendor && self.url == mirror.url
    }

    pub(super) fn vendor(&self) -> &VendorName {
        self.mirror.vendor()
    }

    pub(super) fn name(&self) -> &str {
        self.mirror.name()
    }

    /// Bytes that may be outstanding.
    #[cfg(test)]
    pub(super) async fn window_bytes(&self) -> u64 {
        self.window.lock().await.pace().window_bytes
    }

    /// Reads bytes of a content, exactly as many as asked for. When a block fails, the others are given up.
    ///
    /// # Errors
    /// [`OriginError`].
    pub(super) async fn read(
        &self,
        cap: &Cap,
        wanted: &Wanted,
        range: Range<u64>,
    ) -> Result<Vec<u8>, OriginError> {
        let length = range.end.saturating_sub(range.start);
        let mut window = self.window.lock().await;
        // What was outstanding of a piece that was given up will not come.
        window.on_refused(u32::MAX);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        let longest = (self.patience.longest)(length);
        let mut deadline = Instant::now() + longest;
        let (mut from, mut rest) = (range.start, &mut bytes[..]);
        let mut coming = FuturesUnordered::new();
        while !rest.is_empty() || !coming.is_empty() {
            while coming.len() < limits::MIRROR_REQUESTS
                && let Some(block) = self.next(&mut window, cap, from, rest.len())
            {
                let into = rest.split_off_mut(..block.length as usize).unwrap_or_default();
                from += u64::from(block.length);
                coming.push(self.block(wanted, block, into));
            }
            let wait = match (rest.is_empty(), coming.is_empty()) {
                (true, _) => None,
                // The cap may have let us go on since it was asked.
                (false, true) => Some(cap.wait().unwrap_or_default()),
                (false, false) => cap.wait(),
            };
            let since = Instant::now();
            tokio::select! {
                Some(block) = coming.next() => {
                    let (head, sample) = block?;
                    window.on_block(head, sample);
                }
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
                () = tokio::time::sleep_until(deadline), if wait.is_none() => {
                    let cause = format!("a piece did not come within {} s", longest.as_secs());
                    return Err(self.mirror.unreachable(cause));
                }
            }
            if wait.is_some() {
                deadline += since.elapsed();
            }
        }
        drop(coming);
        Ok(bytes)
    }

    /// The next block to ask for, if cap and window let it pass now.
    fn next(&self, window: &mut Window, cap: &Cap, from: u64, left: usize) -> Option<Block> {
        let most = cap.most()?.min(MOST_BLOCK);
        let asked = self.now();
        let length = window.next_block(asked, u32::try_from(left).unwrap_or(u32::MAX))?.min(most);
        cap.take(length);
        let ahead = window.on_asked(length);
        Some(Block { from, length, asked, ahead })
    }

    /// Reads one block. It counts as outstanding until all of it is here, since blocks come side by side; its delay ends with the
    /// head of the answer.
    async fn block(
        &self,
        wanted: &Wanted,
        block: Block,
        into: &mut [u8],
    ) -> Result<(Moment, Sample), OriginError> {
        let Block { from, length, asked, ahead } = block;
        let range = from..from + u64::from(length);
        let answer = self.mirror.ask_once(wanted, Some(&range)).await?;
        let head = self.now();
        self.mirror.fill(wanted, answer, into).await?;
        // By the same clock, so that the delay is the round trip.
        Ok((head, Sample { asked, sent_micros: asked.as_micros(), length, ahead }))
    }

    fn now(&self) -> Moment {
        Moment::from_micros(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}
