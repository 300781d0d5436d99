//! Which names a client may call the web server by. A page in somebody's browser can let its own name lead here (DNS rebinding)
//! and would then read the fleet; under such a name nothing is answered.

use super::api;
use axum::extract::Request;
use axum::http::header;
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use std::net::IpAddr;
use std::sync::Arc;

/// Answers when every name that the request gives the server is a numeric address, `localhost`, or one of `names`.
pub(super) async fn check(names: Arc<[String]>, request: Request, next: Next) -> Response {
    let given = request.headers().get_all(header::HOST).iter();
    let all_known = given
        .map(|value| value.to_str().ok()?.parse().ok())
        .chain(request.uri().authority().map(|authority| Some(authority.clone())))
        .all(|authority: Option<Authority>| {
            authority.is_some_and(|authority| is_known(authority.host(), &names))
        });
    match all_known {
        true => next.run(request).await,
        false => api::Error::UnknownName.into_response(),
    }
}

fn is_known(host: &str, names: &[String]) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = host.strip_suffix('.').unwrap_or(host);
    bare.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_listed_names_are_known() {
        let names = ["hq.example".to_owned()];
        for known in
            ["127.0.0.1", "[::1]", "192.0.2.7", "localhost", "LocalHost.", "HQ.example", "hq.example."]
        {
            assert!(is_known(known, &names), "{known}");
        }
        for other in ["evil.example", "hq.example.evil.example", "127.0.0.1.evil.example", "", "[hq.example]"]
        {
            assert!(!is_known(other, &names), "{other}");
        }
    }
}
