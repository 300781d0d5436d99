//! Length-prefixed frames on a byte stream: bounded, and given up when nothing moves.

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use std::io;
use std::time::Duration;
use tokio::time::timeout;

/// Bytes moved between two looks at the clock, and the largest allocation that an announced length alone can cause.
const STEP_BYTES: usize = 64 << 10;

/// Why a frame did not arrive or leave.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    /// The other end announced more than it may send.
    #[error("{announced} bytes announced, the limit is {limit}")]
    TooLarge { announced: usize, limit: usize },
    /// Nothing moved for this long.
    #[error("no progress for {} seconds", .0.as_secs_f32())]
    TimedOut(Duration),
    /// The stream ended or broke.
    #[error("the stream ended early")]
    Broken(#[source] io::Error),
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> FrameError {
        FrameError::Broken(error)
    }
}

/// Fills `buffer`, giving up when nothing arrives for `idle`.
pub(super) async fn read_exact<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut [u8],
    idle: Duration,
) -> Result<(), FrameError> {
    let mut filled = 0;
    while filled < buffer.len() {
        let part = timeout(idle, stream.read(&mut buffer[filled..]));
        match part.await.map_err(|_| FrameError::TimedOut(idle))?? {
            0 => return Err(FrameError::Broken(io::ErrorKind::UnexpectedEof.into())),
            count => filled += count,
        }
    }
    Ok(())
}

/// Reads a length (u32, little endian) and that many bytes.
pub(super) async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    limit: usize,
    idle: Duration,
) -> Result<Vec<u8>, FrameError> {
    let mut length = [0; 4];
    read_exact(stream, &mut length, idle).await?;
    let announced = u32::from_le_bytes(length) as usize;
    if announced > limit {
        return Err(FrameError::TooLarge { announced, limit });
    }
    let mut bytes = Vec::with_capacity(announced.min(STEP_BYTES));
    while bytes.len() < announced {
        let from = bytes.len();
        bytes.resize((from + STEP_BYTES).min(announced), 0);
        read_exact(stream, &mut bytes[from..], idle).await?;
    }
    Ok(bytes)
}

/// Writes bytes, giving up when nothing leaves for `idle`. Does not flush.
pub(super) async fn write_all<S: AsyncWrite + Unpin>(
    stream: &mut S,
    bytes: &[u8],
    idle: Duration,
) -> Result<(), FrameError> {
    for part in bytes.chunks(STEP_BYTES) {
        timeout(idle, stream.write_all(part)).await.map_err(|_| FrameError::TimedOut(idle))??;
    }
    Ok(())
}

/// Writes a length and the bytes, and flushes.
pub(super) async fn write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    bytes: &[u8],
    limit: usize,
    idle: Duration,
) -> Result<(), FrameError> {
    write_after(stream, &[], bytes, limit, idle).await
}

/// The same with `head` before the length. What is small leaves as one write: whoever is below may make a packet of each.
pub(super) async fn write_after<S: AsyncWrite + Unpin>(
    stream: &mut S,
    head: &[u8],
    bytes: &[u8],
    limit: usize,
    idle: Duration,
) -> Result<(), FrameError> {
    let length = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= limit);
    let length = length.ok_or(FrameError::TooLarge { announced: bytes.len(), limit })?;
    let (first, rest) = bytes.split_at(bytes.len().min(STEP_BYTES));
    write_all(stream, &[head, &length.to_le_bytes(), first].concat(), idle).await?;
    write_all(stream, rest, idle).await?;
    flush(stream, idle).await
}

/// Flushes, giving up after `idle`.
pub(super) async fn flush<S: AsyncWrite + Unpin>(stream: &mut S, idle: Duration) -> Result<(), FrameError> {
    Ok(timeout(idle, stream.flush()).await.map_err(|_| FrameError::TimedOut(idle))??)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::io::Cursor;
    use proptest::prelude::*;

    const IDLE: Duration = Duration::from_secs(1);

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime").block_on(future)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn there_and_back(bytes in proptest::collection::vec(any::<u8>(), 0..200_000)) {
            run(async {
                let mut wire = Cursor::new(Vec::new());
                write(&mut wire, &bytes, bytes.len(), IDLE).await.expect("fits");
                wire.set_position(0);
                assert_eq!(read(&mut wire, bytes.len(), IDLE).await.expect("frame"), bytes);
            });
        }

        #[test]
        fn any_bytes_give_a_frame_or_an_error(bytes: Vec<u8>) {
            run(async {
                if let Ok(frame) = read(&mut Cursor::new(&bytes), 64, IDLE).await {
                    assert!(frame.len() <= 64 && frame.len() + 4 <= bytes.len());
                }
            });
        }
    }

    #[test]
    fn limits_hold_in_both_directions() {
        run(async {
            let announced = Cursor::new(u32::MAX.to_le_bytes());
            assert!(matches!(read(&mut { announced }, 9, IDLE).await, Err(FrameError::TooLarge { .. })));
            let mut wire = Cursor::new(Vec::new());
            assert!(matches!(write(&mut wire, &[0; 10], 9, IDLE).await, Err(FrameError::TooLarge { .. })));
            assert!(wire.into_inner().is_empty());
        });
    }
}
