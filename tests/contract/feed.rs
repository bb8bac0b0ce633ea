//! What [`Feed`] promises: everybody hears what is told, in its order, and is told where something is missing.

use std::sync::Arc;

use ordering::domain::Event;
use ordering::ports::{Feed, Position, Told};

use crate::support::{eventually, order, orders};

/// What a subject keeps, about.
pub const EVENTS_MAX: usize = 100;

/// A feed of its own that keeps [`EVENTS_MAX`] events.
pub struct Subject {
    pub feed: Arc<dyn Feed>,
    /// Another process at the same feed, where there can be one.
    pub other: Option<Arc<dyn Feed>>,
}

macro_rules! suite {
    ($subject:path) => {
        crate::contract::tests_of!(
            feed,
            $subject,
            what_is_told_is_heard_in_its_order,
            who_was_away_goes_on_where_he_was,
            a_listener_who_waits_is_woken,
            past_the_bound_the_oldest_go_and_whoever_missed_them_is_told,
            a_position_of_another_time_is_a_gap,
            nothing_told_is_nothing_heard,
        );
    };
}
pub(crate) use suite;

fn events(n: usize) -> Vec<Event> {
    orders(n).iter().map(Event::accepted).collect()
}

/// Reads until `count` events were heard; each with its position, and how many gaps there were.
async fn hear(feed: &dyn Feed, mut at: Position, count: usize) -> (Vec<(Position, Event)>, usize) {
    let (mut heard, mut gaps) = (Vec::new(), 0);
    eventually(async || {
        let page = feed.read(at).await.unwrap();
        at = page.next.unwrap_or(at);
        for (position, told) in page.told {
            match told {
                Told::Event(event) => heard.push((position, event)),
                Told::Gap => gaps += 1,
            }
        }
        heard.len() >= count
    })
    .await;
    (heard, gaps)
}

fn only_events(heard: Vec<(Position, Event)>) -> Vec<Event> {
    heard.into_iter().map(|(_, event)| event).collect()
}

pub async fn what_is_told_is_heard_in_its_order(subject: &Subject) {
    let events = events(40);
    let start = subject.feed.end().await.unwrap();
    for some in events.chunks(7) {
        subject.feed.tell(some.to_vec());
    }
    for feed in [Some(&subject.feed), subject.other.as_ref()].into_iter().flatten() {
        let (heard, gaps) = hear(&**feed, start, events.len()).await;
        assert!(heard.is_sorted_by(|(a, _), (b, _)| a < b));
        assert_eq!((only_events(heard), gaps), (events.clone(), 0));
    }
    assert_eq!(subject.feed.dropped(), 0);
}

pub async fn who_was_away_goes_on_where_he_was(subject: &Subject) {
    let events = events(20);
    subject.feed.tell(events.clone());
    let (heard, _) = hear(&*subject.feed, Position::START, events.len()).await;
    for (n, (position, _)) in heard.iter().enumerate().take(19) {
        let (rest, gaps) = hear(&*subject.feed, *position, events.len() - n - 1).await;
        assert_eq!((only_events(rest), gaps), (events[n + 1..].to_vec(), 0));
    }
    let last = heard.last().unwrap().0;
    assert_eq!(subject.feed.read(last).await.unwrap().told, []);
    let end = subject.feed.end().await.unwrap();
    assert_eq!(subject.feed.read(end).await.unwrap().told, []);
}

pub async fn a_listener_who_waits_is_woken(subject: &Subject) {
    let start = subject.feed.end().await.unwrap();
    let (feed, event) = (subject.feed.clone(), events(1));
    let hearing = tokio::spawn(async move {
        loop {
            let page = feed.read(start).await.unwrap();
            if !page.told.is_empty() {
                return page.told.len();
            }
            feed.wait(start).await;
        }
    });
    subject.feed.tell(event);
    assert_eq!(hearing.await.unwrap(), 1);
}

pub async fn past_the_bound_the_oldest_go_and_whoever_missed_them_is_told(subject: &Subject) {
    let events = events(400);
    let mut first = None;
    for some in events.chunks(20) {
        let before = subject.feed.end().await.unwrap();
        subject.feed.tell(some.to_vec());
        // Each is an entry of its own: a feed that groups them must not make one of all.
        eventually(async || subject.feed.end().await.unwrap() != before).await;
        if first.is_none() {
            first = Some(hear(&*subject.feed, Position::START, 1).await.0[0].0);
        }
    }
    let (kept, gaps) = hear(&*subject.feed, first.unwrap(), EVENTS_MAX).await;
    assert_eq!(gaps, 1);
    assert!(kept.len() <= EVENTS_MAX, "{} are kept", kept.len());
    assert_eq!(only_events(kept.clone()), events[400 - kept.len()..]);
    // From a place that is kept nothing is missing.
    let (rest, gaps) = hear(&*subject.feed, kept[10].0, kept.len() - 11).await;
    assert_eq!((rest.len(), gaps), (kept.len() - 11, 0));
}

pub async fn a_position_of_another_time_is_a_gap(subject: &Subject) {
    let event = Event::accepted(&order());
    subject.feed.tell(vec![event.clone()]);
    hear(&*subject.feed, Position::START, 1).await;
    for major in [7, u64::from(u32::MAX) << 20] {
        let elsewhere = Position { major, minor: 3, index: 0 };
        let (heard, gaps) = hear(&*subject.feed, elsewhere, 1).await;
        assert_eq!((only_events(heard), gaps), (vec![event.clone()], 1));
    }
}

pub async fn nothing_told_is_nothing_heard(subject: &Subject) {
    let start = subject.feed.end().await.unwrap();
    subject.feed.tell(Vec::new());
    assert_eq!(subject.feed.end().await.unwrap(), start);
    let page = subject.feed.read(start).await.unwrap();
    assert_eq!((page.told, page.next), (Vec::new(), None));
}
