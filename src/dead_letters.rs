//! What people do with dead letters: look at them, put them back into their queue, drop them.
//!
//! # Failure handling
//! - A replay goes the way of every order, next place first: the bytes are put back and confirmed, then the letter is
//!   removed. A crash between the two leaves both, the message in its queue and the letter. That is harmless: bytes that
//!   still nobody can read are buried again, as another letter, and orders that come twice are fenced as after any
//!   redelivery: a step that has its outcome is not done again, and what has ended stays as it ended. For the same
//!   reason a letter may be replayed again after any error.
//! - A sweep (replay or drop of many) goes from the newest letter to the oldest and never back, so that what is buried
//!   again meanwhile is not met again, and the sweep comes to an end. It is cut into bounded calls, each of which says
//!   how many letters it has done and where the next is to go on.
//! - A replay that was begun is finished even if its caller goes away.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::domain::{OrderId, Timestamp};
use crate::ports::{
    DeadLetter, DeadLetterId, DeadLetterPage, DeadLetters, Ports, PublishError, Queues, Source, Unavailable,
};
use crate::wire;

/// Letters read from the store at once. They come with their bytes, and each may be as large as a message can be.
const AT_ONCE: u32 = 32;

/// Bounds of one call of [`DeadLetterOffice::sweep`]: a request must be answered while its client still waits.
const SWEEP_LETTERS_MAX: u32 = 1_024;
const SWEEP_TIME_MAX: Duration = Duration::from_secs(10);

/// Where a letter stands in the list: the next page begins behind it.
pub type Position = (Timestamp, DeadLetterId);

/// A letter without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub id: DeadLetterId,
    pub source: Source,
    pub reason: String,
    pub at: Timestamp,
    pub size_bytes: usize,
}

impl From<DeadLetter> for Summary {
    fn from(letter: DeadLetter) -> Self {
        let DeadLetter { id, source, reason, at, bytes } = letter;
        Summary { id, source, reason, at, size_bytes: bytes.len() }
    }
}

/// A page of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub letters: Vec<Summary>,
    /// Where the next page begins; `None` if there is none.
    pub next: Option<Position>,
}

/// A letter, and what is in it.
#[derive(Clone, Debug)]
pub struct Opened {
    pub letter: DeadLetter,
    /// The orders it carries; `None` if this release cannot read it either.
    pub orders: Option<Vec<OrderId>>,
}

/// What is to become of letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Replay,
    Drop,
}

/// How far a call of [`DeadLetterOffice::sweep`] came.
#[derive(Debug)]
pub struct Swept {
    /// Letters replayed or dropped by this call.
    pub done: u64,
    /// Where the next call goes on; `None` when all is done, and after a failure.
    pub next: Option<Position>,
    /// What it stopped at.
    pub failure: Option<NotDone>,
}

/// Why something was not done with a letter, as far as is known. Passing; doing it again is harmless.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotDone {
    /// The store of dead letters is out of reach.
    #[error("the dead letters are out of reach")]
    Store(#[source] Unavailable),
    /// Its queue did not take it: the letter is kept.
    #[error("it was not put back")]
    Queue(#[source] PublishError),
    /// It is back in its queue, and the letter is kept all the same.
    #[error("it was put back, and could not be removed")]
    StillKept(#[source] Unavailable),
}

/// Where dead letters are handed out. Cheap to clone.
#[derive(Clone)]
pub struct DeadLetterOffice {
    queues: Arc<dyn Queues>,
    store: Arc<dyn DeadLetters>,
    runtime: Handle,
}

impl DeadLetterOffice {
    /// Must be called on a Tokio runtime; replays run there, whoever calls for them.
    pub fn new(ports: &Ports) -> Self {
        DeadLetterOffice { queues: ports.queues.clone(), store: ports.dead_letters.clone(), runtime: Handle::current() }
    }

    /// A page of at most `letters_max` letters, newest first.
    ///
    /// # Errors
    /// [`Unavailable`]; passing.
    pub async fn list(&self, page: &DeadLetterPage) -> Result<Listed, Unavailable> {
        let letters_max = page.letters_max as usize;
        let (mut letters, mut before) = (Vec::new(), page.before);
        // One more than asked for shows whether a page follows.
        while letters.len() <= letters_max {
            let wanted = u32::try_from(letters_max + 1 - letters.len()).unwrap_or(AT_ONCE).min(AT_ONCE);
            let some = self.store.list(&DeadLetterPage { before, letters_max: wanted, ..*page }).await?;
            let is_last = some.len() < wanted as usize;
            letters.extend(some.into_iter().map(Summary::from));
            before = letters.last().map(|letter| (letter.at, letter.id)).or(before);
            if is_last {
                break;
            }
        }
        let has_more = letters.len() > letters_max;
        letters.truncate(letters_max);
        let next = letters.last().filter(|_| has_more).map(|letter| (letter.at, letter.id));
        Ok(Listed { letters, next })
    }

    /// One letter; `None` if there is none of this id.
    ///
    /// # Errors
    /// [`Unavailable`]; passing.
    pub async fn find(&self, id: DeadLetterId) -> Result<Option<Opened>, Unavailable> {
        let Some(letter) = self.store.find(id).await? else { return Ok(None) };
        let orders = wire::decode_batch(&letter.bytes).ok();
        let orders = orders.map(|orders| orders.iter().map(|order| order.id).collect());
        Ok(Some(Opened { letter, orders }))
    }

    /// Puts a letter back into its queue; whether there was one of this id.
    ///
    /// # Errors
    /// [`NotDone`]; passing.
    pub async fn replay(&self, id: DeadLetterId) -> Result<bool, NotDone> {
        let office = self.clone();
        self.to_the_end(async move {
            match office.store.find(id).await.map_err(NotDone::Store)? {
                Some(letter) => office.put_back(&letter).await.map(|()| true),
                None => Ok(false),
            }
        })
        .await
    }

    /// Drops a letter for good; whether there was one of this id.
    ///
    /// # Errors
    /// [`Unavailable`]; it is gone, or not.
    pub async fn remove(&self, id: DeadLetterId) -> Result<bool, Unavailable> {
        self.store.remove(id).await
    }

    /// Replays or drops the letters of `source` (of every queue, if it is `None`) that are older than `before`, or as
    /// many as a call may; to be called again with [`Swept::next`] until there is none.
    pub async fn sweep(&self, fate: Fate, source: Option<Source>, before: Option<Position>) -> Swept {
        let office = self.clone();
        self.to_the_end(async move { office.sweep_some(fate, source, before).await }).await
    }

    async fn sweep_some(&self, fate: Fate, source: Option<Source>, mut before: Option<Position>) -> Swept {
        let (mut done, mut met) = (0, 0);
        let end = Instant::now() + SWEEP_TIME_MAX;
        let failure = loop {
            let letters = match self.store.list(&DeadLetterPage { source, before, letters_max: AT_ONCE }).await {
                Ok(letters) => letters,
                Err(unavailable) => break NotDone::Store(unavailable),
            };
            let Some(last) = letters.last() else { return Swept { done, next: None, failure: None } };
            before = Some((last.at, last.id));
            met += AT_ONCE;
            let mut failure = None;
            for outcome in join_all(letters.iter().map(|letter| self.bring(letter, fate))).await {
                match outcome {
                    Ok(was_done) => done += u64::from(was_done),
                    Err(not_done) => failure = failure.or(Some(not_done)),
                }
            }
            if let Some(failure) = failure {
                break failure;
            }
            if met >= SWEEP_LETTERS_MAX || Instant::now() >= end {
                return Swept { done, next: before, failure: None };
            }
        };
        Swept { done, next: None, failure: Some(failure) }
    }

    /// Brings a letter to its fate; `false` if somebody else was first to drop it.
    async fn bring(&self, letter: &DeadLetter, fate: Fate) -> Result<bool, NotDone> {
        match fate {
            Fate::Replay => self.put_back(letter).await.map(|()| true),
            Fate::Drop => self.store.remove(letter.id).await.map_err(NotDone::Store),
        }
    }

    async fn put_back(&self, letter: &DeadLetter) -> Result<(), NotDone> {
        self.queues.replay(letter.source, &letter.bytes).await.map_err(NotDone::Queue)?;
        tracing::info!(letter = %letter.id, source = %letter.source, "a dead letter is back in its queue");
        // Somebody else may have removed it by now: it is gone either way.
        self.store.remove(letter.id).await.map(drop).map_err(NotDone::StillKept)
    }

    /// Runs `work` in a task of its own. A request's handler is dropped when its client goes away, and neither a confirm
    /// may be left without its receiver nor a letter that was put back without its removal.
    async fn to_the_end<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        match self.runtime.spawn(work).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going down, and this task with it or just before it.
                Err(_cancelled) => std::future::pending().await,
            },
        }
    }
}
