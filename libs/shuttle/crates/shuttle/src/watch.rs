//! Follows the host's devices, routes and neighbours, so that outer headers stay current and lost
//! ports leave the tables.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;
use weft_io::{Change, Watch};

use crate::failure::Failure;
use crate::log;
use crate::plane::Plane;

/// Changes come in groups; what comes within this time is looked at once.
const COALESCE: Duration = Duration::from_millis(5);
/// Changes told apart at once: 40 bytes each.
const CHANGES_MAX: usize = 4096;
/// After a failed look everything is looked at again.
const RETRY: Duration = Duration::from_millis(200);

pub(crate) struct Watcher {
    plane: Arc<Plane>,
    watch: AsyncFd<Watch>,
}

impl Watcher {
    pub(crate) fn open(plane: Arc<Plane>) -> io::Result<Self> {
        // SAFETY: the watch owns its descriptor, and gives the same one until it is dropped.
        let watch = unsafe { AsyncFd::register(Watch::open()?) }?;
        Ok(Self { plane, watch })
    }

    pub(crate) async fn run(mut self) {
        loop {
            if let Err(error) = self.follow().await {
                log::warn(
                    "the host's devices were not followed",
                    json!({ "error": error.to_string() }),
                );
                sleep(RETRY).await;
                // What was missed in between is unknown.
                if let Err(failure) = self.act(vec![Change::Anything]).await {
                    log::warn(
                        "the way to other hosts is not known",
                        json!({ "error": failure.to_string() }),
                    );
                }
            }
        }
    }

    async fn follow(&mut self) -> Result<(), Failure> {
        self.watch.readable().await?.clear_ready();
        let changes = self.drain()?;
        // At once for the first of a group: packets of this moment go to the wrong place.
        self.act(changes).await?;
        sleep(COALESCE).await;
        Ok(())
    }

    fn drain(&mut self) -> io::Result<Vec<Change>> {
        let mut changes = Vec::new();
        loop {
            match self.watch.get_mut().receive() {
                Ok(more) if changes.len() < CHANGES_MAX => changes.extend(more),
                // More than is worth telling apart.
                Ok(_) => changes = vec![Change::Anything],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(changes),
                Err(error) => return Err(error),
            }
        }
    }

    async fn act(&self, changes: Vec<Change>) -> Result<(), Failure> {
        let plane = Arc::clone(&self.plane);
        let acted = tokio::task::spawn_blocking(move || plane.follow(&changes));
        acted.await.unwrap_or_else(|error| Err(Failure::internal(error.to_string())))
    }
}
