//! The aggregator's web server: REST, metrics and the dashboard over a view of the fleet that it does not own.

mod api;
mod dashboard;
mod host;
mod listener;
mod metrics;
mod view;

pub use view::{SharedState, View};

use axum::Router;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use listener::BoundedListener;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Why the web server does not listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program has the port.
    #[error(
        "port {} of {} is taken by another program; stop that one (`ss -ltnp` shows which), or set another aggregator.http",
        .0.port(), .0.ip()
    )]
    Taken(SocketAddr),
    /// The port needs rights that the node does not have.
    #[error(
        "the node may not listen on port {} of {}; set aggregator.http to a port from 1024 upwards, or grant CAP_NET_BIND_SERVICE",
        .0.port(), .0.ip()
    )]
    Forbidden(SocketAddr),
    /// No interface has the address.
    #[error(
        "no interface of this machine has the address {}; give the aggregator an address of this machine (port {})",
        .0.ip(), .0.port()
    )]
    NoSuchAddress(SocketAddr),
    /// Anything else.
    #[error("the web server cannot listen on port {} of {}; choose another address", .0.port(), .0.ip())]
    Other(SocketAddr, #[source] io::Error),
}

/// A web server that is bound and not started yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
}

impl Server {
    /// Binds `address`; port 0 takes any free port. Clients may call the server by `names`, by `localhost` and by its numeric
    /// addresses.
    ///
    /// # Errors
    /// [`BindError`] names the port and the remedy.
    pub async fn bind(
        address: SocketAddr,
        names: &[String],
        view: Arc<dyn View>,
    ) -> Result<Server, BindError> {
        let listener = TcpListener::bind(address).await.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => BindError::Taken(address),
            io::ErrorKind::PermissionDenied => BindError::Forbidden(address),
            io::ErrorKind::AddrNotAvailable => BindError::NoSuchAddress(address),
            _ => BindError::Other(address, error),
        })?;
        let bound = listener.local_addr().map_err(|error| BindError::Other(address, error))?;
        Ok(Server { listener, address: bound, router: router(names, view) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` completes, then answers what is under way and returns.
    ///
    /// # Errors
    /// What the operating system says when accepting fails for good.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let bounded = BoundedListener::new(self.listener);
        axum::serve(bounded, self.router).with_graceful_shutdown(stop).await
    }
}

/// All paths; everything else is answered with an error that says so.
fn router(names: &[String], view: Arc<dyn View>) -> Router {
    let names: Arc<[String]> = names.into();
    let style = format!("sha256-{}", dashboard::style_digest());
    let policy = format!(
        "default-src 'none'; style-src '{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    // Fixed text and base64 are always a valid header; an empty policy would be the strictest fault to notice.
    let policy = HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    Router::new()
        .merge(api::routes())
        .merge(metrics::routes())
        .merge(dashboard::routes())
        .fallback(|| async { api::Error::NotFound })
        .method_not_allowed_fallback(|| async { api::Error::Method })
        .with_state(view)
        .layer(axum::middleware::from_fn(move |request, next| host::check(names.clone(), request, next)))
        .layer(axum::middleware::map_response(move |response: Response| {
            std::future::ready(secure(response, policy.clone()))
        }))
}

/// Headers of every answer: nothing is kept, framed, sniffed or loaded from elsewhere.
fn secure(mut response: Response, policy: HeaderValue) -> Response {
    let fixed: [(HeaderName, &'static str); 5] = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    let headers = response.headers_mut();
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

#[cfg(test)]
mod tests;
