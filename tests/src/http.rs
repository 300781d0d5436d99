//! The aggregator's API as another program would read it.

use anyhow::{Context as _, Result, bail, ensure};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// The body that a server answers with 200 to a path.
///
/// # Errors
/// It does not answer, or with something else.
pub fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream =
        TcpStream::connect_timeout(&address, PATIENCE).context("the aggregator does not answer")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the aggregator speaks no HTTP")?;
    let first = head.lines().next().unwrap_or_default();
    ensure!(first.contains(" 200 "), "the aggregator answers \"{first}\" to {path}");
    Ok(body.to_owned())
}

/// All rows of a listing; `query` begins with `?`, or is empty.
///
/// # Errors
/// The API does not answer as its document says.
pub fn rows(address: SocketAddr, listing: &str, query: &str) -> Result<Vec<serde_json::Value>> {
    let mut all = Vec::new();
    let mut after = String::new();
    loop {
        let sign = if query.is_empty() { '?' } else { '&' };
        let path = format!("/api/v1/{listing}{query}{sign}limit=500{after}");
        let mut page: serde_json::Value = serde_json::from_str(&get(address, &path)?)?;
        let serde_json::Value::Array(rows) = page["rows"].take() else { bail!("{path} gives no rows") };
        all.extend(rows);
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(all),
        }
    }
}
