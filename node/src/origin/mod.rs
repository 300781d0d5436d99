//! Where a seed's content lies when it is not on its own disk: storage that speaks S3, or a mirror over HTTP, at which a device
//! without a seed may read too. Nothing that an origin sends is trusted: every piece is checked against its tree before anybody
//! sees it.

mod body;
mod bucket;
mod credentials;
mod error;
mod failing;
mod fetch;
mod keeper;
mod known;
mod local;
mod mirror;
mod pieces;
mod probe;
mod reader;
mod search;
mod wanted;

pub use credentials::{Credentials, CredentialsError};
pub use error::OriginError;
pub use failing::Failing;
pub use keeper::{News, OpenError, Origins};
pub use known::Check;
pub use local::Pin;
pub use probe::{Outcome, Probe, probe};
pub(crate) use reader::Reader;
pub use wanted::Wanted;

use futures::future::BoxFuture;
use protocol::limits;
use protocol::piece::PieceTree;
use std::fmt;
use std::ops::Range;
use std::time::Duration;
use tokio::sync::Semaphore;

/// One place that content can be read from.
trait Origin: fmt::Debug + Send + Sync {
    /// What it is called in messages: never an address with a password in it.
    fn name(&self) -> &str;

    /// Held while a piece is read from it: bounds the sockets and the memory that one origin can tie up.
    fn reads(&self) -> &Semaphore;

    /// Whether it may have this content, under a name that is known.
    fn covers(&self, wanted: &Wanted) -> bool;

    /// The piece list of a content, proven against the root; `None` where the origin keeps no such lists. That it gives one
    /// says that it has the content.
    fn tree<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Option<PieceTree>, OriginError>>;

    /// Bytes of a content, as they lie there: exactly as many as asked for.
    fn read<'a>(
        &'a self,
        wanted: &'a Wanted,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Vec<u8>, OriginError>>;
}

/// Longest that so many bytes may take to or from an origin.
fn longest(bytes: u64) -> Duration {
    Duration::from_secs(limits::ORIGIN_SECONDS + bytes / limits::ORIGIN_BYTES_PER_SECOND)
}
