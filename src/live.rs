//! Passes the live feed on to those who listen in this process: one reads it for all of them, and only while there are
//! any.
//!
//! # Failure handling
//! While the feed is out of reach there is just nothing to pass on. A listener that reads too slowly, or finds that
//! something is missing between two [`News`], reads the feed itself until it is up to date.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, broadcast};
use tokio_util::task::AbortOnDropHandle;

use crate::domain::OrderId;
use crate::ports::{Feed, Position, Told};

/// How many [`News`] a listener may be behind; each is a page of the feed, of up to some megabytes.
const NEWS_BEHIND_MAX: usize = 8;
/// The wait after the feed could not be read.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What happens to all orders.
#[derive(Clone)]
pub struct Live {
    shared: Arc<Shared>,
    _reader: Arc<AbortOnDropHandle<()>>,
}

struct Shared {
    feed: Arc<dyn Feed>,
    news: broadcast::Sender<Arc<News>>,
    orders: Mutex<HashMap<OrderId, Watched>>,
    listeners: AtomicUsize,
    somebody_listens: Notify,
}

/// A part of the feed, as it was read.
#[derive(Debug)]
pub struct News {
    /// It has all that came after this.
    pub after: Position,
    pub told: Vec<(Position, Told)>,
    /// It goes as far as this.
    pub upto: Position,
}

/// An order that somebody wants to be woken for.
struct Watched {
    woken: Arc<Notify>,
    watchers: usize,
}

/// Somebody who listens, until it is dropped.
struct Listening(Arc<Shared>);

/// Listens to all orders.
pub struct Listener {
    pub news: broadcast::Receiver<Arc<News>>,
    _listening: Listening,
}

/// Listens for one order.
pub struct OrderListener {
    order: OrderId,
    woken: Arc<Notify>,
    listening: Listening,
}

impl Live {
    /// Must be called within a tokio runtime; it reads there.
    pub fn start(feed: Arc<dyn Feed>) -> Live {
        let shared = Arc::new(Shared {
            feed,
            news: broadcast::Sender::new(NEWS_BEHIND_MAX),
            orders: Mutex::default(),
            listeners: AtomicUsize::new(0),
            somebody_listens: Notify::new(),
        });
        let reader = Arc::new(AbortOnDropHandle::new(tokio::spawn(read(shared.clone()))));
        Live { shared, _reader: reader }
    }

    pub fn feed(&self) -> &Arc<dyn Feed> {
        &self.shared.feed
    }

    /// Everything that is told from about now on.
    pub fn listen(&self) -> Listener {
        Listener { news: self.shared.news.subscribe(), _listening: Listening::new(&self.shared) }
    }

    /// Whenever something about `order` is told.
    pub fn watch(&self, order: OrderId) -> OrderListener {
        let mut orders = self.shared.orders();
        let watched = orders.entry(order).or_insert_with(|| Watched { woken: Arc::default(), watchers: 0 });
        watched.watchers += 1;
        let woken = watched.woken.clone();
        drop(orders);
        OrderListener { order, woken, listening: Listening::new(&self.shared) }
    }
}

impl Shared {
    fn orders(&self) -> MutexGuard<'_, HashMap<OrderId, Watched>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass_on(&self, news: News) {
        let orders = self.orders();
        if !orders.is_empty() {
            for (_, told) in &news.told {
                match told {
                    Told::Event(event) => orders.get(&event.order).into_iter().for_each(|w| w.woken.notify_waiters()),
                    Told::Gap => orders.values().for_each(|watched| watched.woken.notify_waiters()),
                }
            }
        }
        drop(orders);
        // An error means that nobody listens to all of it.
        let _ = self.news.send(Arc::new(news));
    }
}

async fn read(shared: Arc<Shared>) {
    loop {
        let somebody = shared.somebody_listens.notified();
        if shared.listeners.load(Ordering::Acquire) == 0 {
            somebody.await;
        }
        let Ok(mut at) = shared.feed.end().await else {
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
            continue;
        };
        while shared.listeners.load(Ordering::Acquire) > 0 {
            match shared.feed.read(at).await {
                Ok(page) => match page.next {
                    Some(upto) => {
                        shared.pass_on(News { after: at, told: page.told, upto });
                        at = upto;
                    }
                    None => shared.feed.wait(at).await,
                },
                Err(_) => tokio::time::sleep(TRY_AGAIN_AFTER).await,
            }
        }
    }
}

impl Listening {
    fn new(shared: &Arc<Shared>) -> Listening {
        shared.listeners.fetch_add(1, Ordering::AcqRel);
        // One permit is enough: there is one reader, and it looks before it waits.
        shared.somebody_listens.notify_one();
        Listening(shared.clone())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.listeners.fetch_sub(1, Ordering::AcqRel);
    }
}

impl OrderListener {
    /// Waits until something is told of the order. What is told while nobody waits here is missed: look first, and again
    /// after a while.
    pub async fn woken(&self) {
        self.woken.notified().await;
    }
}

impl Drop for OrderListener {
    fn drop(&mut self) {
        let mut orders = self.listening.0.orders();
        if let Some(watched) = orders.get_mut(&self.order) {
            watched.watchers -= 1;
            if watched.watchers == 0 {
                orders.remove(&self.order);
            }
        }
    }
}
