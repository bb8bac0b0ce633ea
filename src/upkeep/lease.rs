//! One process' part in the leases.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::ports::Leases;

/// How long a lease lasts without being renewed: a process that died is replaced after that.
const TTL: Duration = Duration::from_secs(10);
/// How long an answer is good for: well within [`TTL`].
const ASK_EVERY: Duration = Duration::from_secs(3);

/// Says whether this process is the one to do a thing.
#[derive(Clone)]
pub(super) struct Lease {
    leases: Option<Arc<dyn Leases>>,
    holder: Arc<str>,
    answers: Arc<Mutex<BTreeMap<String, (Instant, bool)>>>,
}

impl Lease {
    /// `None` for a back end of one process.
    pub(super) fn new(leases: Option<Arc<dyn Leases>>, holder: Arc<str>) -> Lease {
        Lease { leases, holder, answers: Arc::default() }
    }

    /// Whether this process is the one to do `what`. While nobody knows, nobody is.
    pub(super) async fn is_ours(&self, what: &str) -> bool {
        let Some(leases) = &self.leases else { return true };
        let now = Instant::now();
        if let Some((asked_at, answer)) = self.answers().get(what)
            && now.duration_since(*asked_at) < ASK_EVERY
        {
            return *answer;
        }
        match leases.acquire(what, &self.holder, TTL).await {
            Ok(answer) => {
                self.answers().insert(what.to_owned(), (now, answer));
                answer
            }
            Err(_) => false,
        }
    }

    pub(super) async fn give_up(&self, what: &str) {
        let was_ours = self.answers().remove(what).is_some_and(|(_, answer)| answer);
        if let Some(leases) = self.leases.as_ref().filter(|_| was_ours) {
            // Where this fails the lease ends by itself.
            let _ = leases.release(what, &self.holder).await;
        }
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (Instant, bool)>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
