//! One task for each peer that pieces are fetched from, with a bounded queue of work.

use protocol::identifier::DeviceId;
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The queues of all peers.
pub(super) struct Queues<J> {
    tasks: TaskTracker,
    stop: CancellationToken,
    bound: usize,
    peers: Mutex<HashMap<DeviceId, mpsc::Sender<J>>>,
}

impl<J> Queues<J> {
    pub(super) fn new(tasks: TaskTracker, stop: CancellationToken, bound: usize) -> Queues<J> {
        Queues { tasks, stop, bound, peers: Mutex::default() }
    }

    /// Hands a job to the peer's task; `run` makes the task where there is none. Gives the job back when that ended too.
    pub(super) async fn submit<F>(
        &self,
        peer: DeviceId,
        mut job: J,
        run: impl Fn(mpsc::Receiver<J>) -> F,
    ) -> Result<(), J>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // A task that ends just now leaves the job unread; the second one is new.
        for _ in 0..2 {
            match self.queue(peer, &run).send(job).await {
                Ok(()) => return Ok(()),
                Err(mpsc::error::SendError(back)) => job = back,
            }
        }
        Err(job)
    }

    fn queue<F>(&self, peer: DeviceId, run: impl Fn(mpsc::Receiver<J>) -> F) -> mpsc::Sender<J>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = peers.get(&peer).filter(|queue| !queue.is_closed()) {
            return queue.clone();
        }
        peers.retain(|_, queue| !queue.is_closed());
        let (queue, jobs) = mpsc::channel(self.bound);
        let (task, stop) = (run(jobs), self.stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
        peers.insert(peer, queue.clone());
        queue
    }
}
