//! Connections to the web server, bounded in number, time and bytes read, so that slow clients cannot use it up.

use crate::listening::{Place, Places, Refusals};
use protocol::limits;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

/// Accepts connections for which there are places.
pub(super) struct BoundedListener {
    listener: TcpListener,
    places: Places,
    lifetime: Duration,
    patience: Duration,
    refusals: Refusals,
}

impl BoundedListener {
    pub(super) fn new(listener: TcpListener) -> BoundedListener {
        BoundedListener::with_bounds(
            listener,
            limits::HTTP_CONNECTIONS,
            Duration::from_secs(limits::HTTP_CONNECTION_SECONDS),
            Duration::from_secs(limits::HTTP_REQUEST_SECONDS),
        )
    }

    pub(super) fn with_bounds(
        listener: TcpListener,
        places: usize,
        lifetime: Duration,
        patience: Duration,
    ) -> BoundedListener {
        let refusals = Refusals::of("web server");
        BoundedListener { listener, places: Places::new(places), lifetime, patience, refusals }
    }
}

impl axum::serve::Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    let Some(place) = self.places.take(from.ip()) else {
                        tracing::debug!("too many connections to the web server");
                        continue;
                    };
                    let deadline = Box::pin(sleep(self.lifetime));
                    let stream = BoundedStream {
                        stream,
                        deadline,
                        patience: self.patience,
                        request: Box::pin(sleep(self.patience)),
                        writing: false,
                        room: limits::HTTP_REQUEST_BYTES,
                        gone: Box::pin(place.gone()),
                        place,
                        answering: false,
                    };
                    return (stream, from);
                }
                Err(error) => self.refusals.wait(&error).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when its time or its bytes are used up, or another one needs its place more.
pub(super) struct BoundedStream {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    /// How long a request may take to come in whole, counted from the connection or the last byte of an answer.
    patience: Duration,
    request: Pin<Box<Sleep>>,
    /// Whether the client has not taken all of an answer yet.
    writing: bool,
    /// Bytes that may still be read.
    room: usize,
    /// Completes when somebody else has the place.
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
    place: Place,
    /// An answer has begun, which is not cut off for one of the same network.
    answering: bool,
}

impl BoundedStream {
    fn check_end(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.gone.as_mut().poll(context).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_end(context)?;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_pending() && !self.writing && self.request.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        ready!(polled)?;
        let read = buffer.filled().len() - before;
        self.room = self.room.checked_sub(read).ok_or(io::ErrorKind::QuotaExceeded)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_end(context)?;
        if !self.answering {
            self.answering = true;
            self.place.settle();
        }
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.writing = polled.is_pending();
        if !self.writing {
            let until = Instant::now() + self.patience;
            self.request.as_mut().reset(until);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
