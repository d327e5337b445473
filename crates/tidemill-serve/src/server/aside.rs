//! Requests that may have to wait for a disk, answered where no other request waits for them.
//!
//! In: what answers a request. Out: its reply, from a thread that may wait. So many are answered at once; the others wait
//! as requests do, within their limits and deadlines, and leave threads to models that are loaded.

use std::sync::Arc;

use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{our_mistake, reply::Refusal};

/// Threads that may be waiting for a disk, of those that the server has for such work.
const AT_ONCE: usize = 4;

pub(super) struct Aside(Arc<Semaphore>);

impl Default for Aside {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Aside {
    /// Answers on another thread.
    pub async fn answer<T: Send + 'static>(
        &self,
        answer: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let turn = self.0.clone().acquire_owned().await.map_err(|_| our_mistake())?;
        let answering = spawn_blocking(move || {
            // Goes on, and holds its turn, where the caller has gone.
            let _turn = turn;
            answer()
        });
        answering.await.map_err(|_| our_mistake())?
    }
}
