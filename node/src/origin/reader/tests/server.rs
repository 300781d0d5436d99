//! A small server of one file over HTTP/1.1, with whatever manners a test wants of it.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// What was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub range: Range<u64>,
}

/// What is answered.
pub struct Answer {
    pub status: &'static str,
    pub content_range: Option<String>,
    pub body: Vec<u8>,
    /// When its head goes.
    pub at: Instant,
    /// Pause between the head and the body.
    pub takes: Duration,
    /// Pause after each byte of the body.
    pub drip: Option<Duration>,
    /// Said to be so much longer than it is; then the connection ends.
    pub cut: usize,
}

impl Answer {
    pub fn new(status: &'static str, body: &[u8]) -> Answer {
        Answer {
            status,
            content_range: None,
            body: body.into(),
            at: Instant::now(),
            takes: Duration::ZERO,
            drip: None,
            cut: 0,
        }
    }

    /// The right one.
    pub fn part(file: &[u8], asked: &Asked) -> Answer {
        let Range { start, end } = asked.range;
        let body = &file[start as usize..end as usize];
        let content_range = Some(format!("bytes {start}-{}/{}", end - 1, file.len()));
        Answer { content_range, ..Answer::new("206 Partial Content", body) }
    }
}

/// What the server saw.
#[derive(Default)]
struct Seen {
    asked: Vec<Asked>,
    now: usize,
    most: usize,
}

/// A running server.
pub struct Server {
    url: String,
    seen: Arc<Mutex<Seen>>,
    /// Ends with it.
    _tasks: JoinSet<()>,
}

impl Server {
    /// Answers every request as `answer` says; without one it says nothing.
    pub async fn start(answer: impl Fn(&Asked) -> Option<Answer> + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/pub", listener.local_addr().expect("address"));
        let (seen, answer) = (Arc::<Mutex<Seen>>::default(), Arc::new(answer));
        let mut tasks = JoinSet::new();
        let to = Arc::clone(&seen);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, answer) = (Arc::clone(&to), Arc::clone(&answer));
                connections.spawn(async move { converse(stream, &seen, &*answer).await });
            }
        });
        Server { url, seen, _tasks: tasks }
    }

    /// One that has the file, in order.
    pub async fn of(file: &[u8]) -> Server {
        let file = file.to_vec();
        Server::start(move |asked| Some(Answer::part(&file, asked))).await
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.seen.lock().expect("seen").asked.clone()
    }

    /// Most requests that were open at the same time.
    pub fn most_at_once(&self) -> usize {
        self.seen.lock().expect("seen").most
    }
}

async fn converse(
    mut stream: TcpStream,
    seen: &Mutex<Seen>,
    answer: &(impl Fn(&Asked) -> Option<Answer> + Sync),
) -> Option<()> {
    while let Some(asked) = hear(&mut stream).await {
        let answer = answer(&asked);
        {
            let mut seen = seen.lock().expect("seen");
            seen.asked.push(asked);
            seen.now += 1;
            seen.most = seen.most.max(seen.now);
        }
        let Some(answer) = answer else { return std::future::pending().await };
        sleep_until(answer.at).await;
        // The next request may come as soon as the last byte has left.
        seen.lock().expect("seen").now -= 1;
        tell(&mut stream, &answer).await?;
        if answer.cut > 0 {
            return None;
        }
    }
    None
}

async fn hear(stream: &mut TcpStream) -> Option<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let path = head.split(' ').nth(1)?.to_owned();
    let range =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("range: bytes=")?.to_owned().into());
    let range: String = range?;
    let (first, last) = range.split_once('-')?;
    Some(Asked { path, range: first.parse().ok()?..last.parse::<u64>().ok()? + 1 })
}

async fn tell(stream: &mut TcpStream, answer: &Answer) -> Option<()> {
    let length = answer.body.len() + answer.cut;
    let mut head = format!("HTTP/1.1 {}\r\ncontent-length: {length}\r\n", answer.status);
    if let Some(range) = &answer.content_range {
        head += &format!("content-range: {range}\r\n");
    }
    head += "\r\n";
    stream.write_all(head.as_bytes()).await.ok()?;
    sleep(answer.takes).await;
    match answer.drip {
        None => stream.write_all(&answer.body).await.ok(),
        Some(pause) => {
            for byte in &answer.body {
                stream.write_all(&[*byte]).await.ok()?;
                sleep(pause).await;
            }
            Some(())
        }
    }
}
