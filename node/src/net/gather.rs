//! Gathers what the multiplexer writes until it has nothing more to write: full packets and full TLS records.
//!
//! yamux flushes after every frame of at most 16 KiB. Each of them would leave in a packet that is not full, and its header
//! of 12 bytes in a record of its own: 0.5 % more on a thin link.

use futures::io::BufWriter;
use futures::{AsyncRead, AsyncWrite};
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Most bytes that are gathered: what rustls takes at once, four records.
const GATHERED_BYTES: usize = 64 << 10;

/// A stream that flushes only when nothing was written since it was last asked to.
#[derive(Debug)]
pub(super) struct Gather<S> {
    inner: BufWriter<S>,
    written: bool,
}

impl<S: AsyncWrite> Gather<S> {
    pub(super) fn new(inner: S) -> Gather<S> {
        Gather { inner: BufWriter::with_capacity(GATHERED_BYTES, inner), written: false }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_read_vectored(cx, buffers)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written = true;
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.written = true;
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
    }

    /// Lets whoever wrote go on writing first: the flush comes when it asks again, at once, and has written nothing more.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.written) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::task::noop_waker;

    /// What each write to the kernel was.
    #[derive(Default)]
    struct Writes(Vec<usize>);

    impl AsyncWrite for Writes {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.push(bytes.len());
            Poll::Ready(Ok(bytes.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn frames_that_follow_each_other_leave_together() {
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let mut stream = Gather::new(Writes::default());
        for frame in [12, 1_000, 12, 500] {
            assert!(Pin::new(&mut stream).poll_write(&mut cx, &vec![0; frame]).is_ready());
            assert!(Pin::new(&mut stream).poll_flush(&mut cx).is_pending(), "more may come");
        }
        assert!(stream.inner.get_ref().0.is_empty());
        assert!(Pin::new(&mut stream).poll_flush(&mut cx).is_ready());
        assert_eq!(stream.inner.get_ref().0, [1_524]);
        assert!(Pin::new(&mut stream).poll_flush(&mut cx).is_ready());
    }
}
