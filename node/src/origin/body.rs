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
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    fill(body, &mut bytes).await?;
    Ok(bytes)
}

/// Fills `into` with a body that has to have exactly its length. A longer one is not read to its end.
pub(super) async fn fill<B: AsRef<[u8]>, E>(
    body: impl Stream<Item = Result<B, E>>,
    into: &mut [u8],
) -> Result<(), Unfit<E>> {
    let mut rest = into;
    let mut body = std::pin::pin!(body);
    while let Some(part) = body.try_next().await.map_err(Unfit::Lost)? {
        let part = part.as_ref();
        let Some((here, left)) = std::mem::take(&mut rest).split_at_mut_checked(part.len()) else {
            return Err(Unfit::Length("more bytes than asked for"));
        };
        here.copy_from_slice(part);
        rest = left;
    }
    match rest.is_empty() {
        true => Ok(()),
        false => Err(Unfit::Length("fewer bytes than asked for")),
    }
}
