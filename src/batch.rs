//! Batches that form by themselves: whatever arrives while one batch is under way makes the next (group commit).
//!
//! An idle system makes batches of one, at once, with no added delay; a loaded one makes large ones. Nothing here
//! waits for a batch to fill.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How large a batch may be. One item larger than that travels alone.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    pub orders_max: usize,
    pub bytes_max: usize,
}

/// What counts towards [`BatchLimits`].
pub trait Load {
    fn orders(&self) -> usize {
        1
    }
    /// About what it takes in a message, in bytes.
    fn size_bytes(&self) -> usize;
}

/// Takes batches from a bounded channel.
pub struct Batches<T> {
    items: mpsc::Receiver<T>,
    /// The item that did not fit into the batch before.
    left_over: Option<T>,
    limits: BatchLimits,
}

impl<T: Load> Batches<T> {
    pub fn new(items: mpsc::Receiver<T>, limits: BatchLimits) -> Self {
        Batches { items, left_over: None, limits }
    }

    /// The next item, and everything that waits behind it up to the limits; `None` once all senders are gone and
    /// nothing is left. Safe to drop while it waits: nothing is lost.
    pub async fn next(&mut self) -> Option<Vec<T>> {
        let first = match self.left_over.take() {
            Some(item) => item,
            None => self.items.recv().await?,
        };
        let (mut orders, mut bytes) = (first.orders(), first.size_bytes());
        let mut batch = Vec::with_capacity(self.items.len().min(self.limits.orders_max) + 1);
        batch.push(first);
        while orders < self.limits.orders_max {
            let Ok(item) = self.items.try_recv() else {
                break;
            };
            (orders, bytes) = (orders + item.orders(), bytes + item.size_bytes());
            if orders > self.limits.orders_max || bytes > self.limits.bytes_max {
                self.left_over = Some(item);
                break;
            }
            batch.push(item);
        }
        Some(batch)
    }

    /// As [`Batches::next`]; `None` also when it is to `stop` first.
    pub async fn next_until(&mut self, stop: &CancellationToken) -> Option<Vec<T>> {
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            batch = self.next() => batch,
        }
    }

    /// How many items wait at the moment.
    pub fn waiting(&self) -> usize {
        usize::from(self.left_over.is_some()) + self.items.len()
    }

    /// Takes no more, and gives what was sent and not taken.
    pub async fn close(mut self) -> Vec<T> {
        self.items.close();
        let mut items: Vec<T> = self.left_over.take().into_iter().collect();
        while let Some(item) = self.items.recv().await {
            items.push(item);
        }
        items
    }

    /// Everything that waits at the moment, however much.
    pub fn drain(&mut self) -> Vec<T> {
        let mut items: Vec<T> = self.left_over.take().into_iter().collect();
        while let Ok(item) = self.items.try_recv() {
            items.push(item);
        }
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Load for usize {
        fn size_bytes(&self) -> usize {
            *self
        }
    }

    const LIMITS: BatchLimits = BatchLimits { orders_max: 3, bytes_max: 10 };

    async fn batches(items: &[usize]) -> Vec<Vec<usize>> {
        let (sender, receiver) = mpsc::channel(100);
        for item in items {
            sender.send(*item).await.unwrap();
        }
        drop(sender);
        let (mut batches, mut all) = (Batches::new(receiver, LIMITS), Vec::new());
        while let Some(batch) = batches.next().await {
            all.push(batch);
        }
        all
    }

    #[tokio::test]
    async fn what_waits_goes_together_up_to_the_limits() {
        assert_eq!(batches(&[1, 1, 1, 1]).await, [vec![1, 1, 1], vec![1]]);
        assert_eq!(batches(&[4, 4, 4]).await, [vec![4, 4], vec![4]]);
    }

    #[tokio::test]
    async fn a_large_item_travels_alone() {
        assert_eq!(batches(&[1, 50, 1, 1]).await, [vec![1], vec![50], vec![1, 1]]);
    }
}
