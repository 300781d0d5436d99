//! Bodies of answers, never more of them than was asked for.

use futures::{Stream, TryStreamExt as _};

/// Why a body is of no use.
#[derive(Debug)]
pub(super) enum Unfit<E> {
    /// It has another length, as this sentence says.
    Length(&'static str),
    /// It did not come.
    Lost(E),
}

/// Reads a body that has to have exactly this length. A longer one is not read to its end.
pub(super) async fn exactly<B: AsRef<[u8]>, E>(
    body: impl Stream<Item = Result<B, E>>,
    length: u64,
) -> Result<Vec<u8>, Unfit<E>> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(length);
    let mut body = std::pin::pin!(body);
    while let Some(part) = body.try_next().await.map_err(Unfit::Lost)? {
        if bytes.len() + part.as_ref().len() > length {
            return Err(Unfit::Length("more bytes than asked for"));
        }
        bytes.extend_from_slice(part.as_ref());
    }
    match bytes.len() == length {
        true => Ok(bytes),
        false => Err(Unfit::Length("fewer bytes than asked for")),
    }
}
