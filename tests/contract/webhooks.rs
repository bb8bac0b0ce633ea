//! What [`Webhooks`] promises: an event is kept once for everybody who wants it, and comes in the order of its order.

use std::sync::Arc;
use std::time::Duration;

use ordering::domain::{Event, EventKind, EventKinds, OrderRecord};
use ordering::ports::{Due, Sent, Tally, Webhook, WebhookId, Webhooks};
use uuid::Uuid;

use crate::support::{completed, failed, now, order, orders};

/// Webhooks of its own.
pub struct Subject {
    pub webhooks: Arc<dyn Webhooks>,
    /// What must live as long as they do: their folder, for example.
    #[allow(dead_code, reason = "it is held, not read")]
    pub holds: Box<dyn std::any::Any + Send + Sync>,
}

macro_rules! suite {
    ($subject:path) => {
        crate::contract::tests_of!(
            webhooks,
            $subject,
            webhooks_are_listed_as_they_were_added,
            a_webhook_that_is_removed_is_gone_with_what_it_was_to_be_told,
            everybody_is_told_what_he_wants_and_nothing_else,
            an_event_that_is_kept_again_changes_nothing,
            events_of_one_order_come_one_after_the_other,
            what_was_sent_in_vain_waits_and_so_do_those_behind_it,
            what_is_given_up_is_counted_and_makes_way,
            what_is_settled_is_swept_after_its_time,
            events_come_back_as_they_were,
            no_more_than_asked_for_is_given,
            two_keepers_of_the_same_events_keep_each_once,
        );
    };
}
pub(crate) use suite;

fn webhook(events: impl IntoIterator<Item = EventKind>) -> Webhook {
    Webhook {
        id: WebhookId::from_uuid(Uuid::now_v7()),
        url: "https://shop.example/hook?a=1".into(),
        events: events.into_iter().collect(),
        description: Some("注文 \"'\" \\".into()),
        secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into(),
        created_at: now(),
    }
}

async fn add(subject: &Subject, events: impl IntoIterator<Item = EventKind>) -> WebhookId {
    let webhook = webhook(events);
    subject.webhooks.add(&webhook).await.unwrap();
    webhook.id
}

async fn keep(subject: &Subject, events: &[Event]) {
    subject.webhooks.keep(events).await.unwrap();
}

async fn due(subject: &Subject, id: WebhookId) -> Vec<Due> {
    subject.webhooks.due(id, 1_000).await.unwrap()
}

async fn settle(subject: &Subject, id: WebhookId, event: &Event, sent: Sent) {
    subject.webhooks.settle(id, &[(event.order, event.sequence, sent)]).await.unwrap();
}

async fn tally(subject: &Subject, id: WebhookId) -> Tally {
    let tally = subject.webhooks.tally().await.unwrap();
    tally.into_iter().find(|(other, _)| *other == id).map(|(_, tally)| tally).unwrap_or_default()
}

/// Everything that is due, delivered one after the other.
async fn deliver_all(subject: &Subject, id: WebhookId) -> Vec<Event> {
    let mut delivered = Vec::new();
    loop {
        let due = due(subject, id).await;
        if due.is_empty() {
            return delivered;
        }
        for Due { event, .. } in due {
            settle(subject, id, &event, Sent::Delivered).await;
            delivered.push(event);
        }
    }
}

fn all_of(order: &OrderRecord) -> Vec<Event> {
    Event::all_of(order)
}

pub async fn webhooks_are_listed_as_they_were_added(subject: &Subject) {
    assert_eq!(subject.webhooks.list().await.unwrap(), []);
    assert_eq!(subject.webhooks.wanted().await.unwrap(), EventKinds::NONE);
    let first = webhook([EventKind::OrderFailed, EventKind::OrderCompleted]);
    let second = Webhook { description: None, ..webhook(EventKind::ALL) };
    for webhook in [&first, &second, &first] {
        subject.webhooks.add(webhook).await.unwrap();
    }
    assert_eq!(subject.webhooks.wanted().await.unwrap(), EventKinds::all());
    assert_eq!(subject.webhooks.list().await.unwrap(), [first, second]);
}

pub async fn a_webhook_that_is_removed_is_gone_with_what_it_was_to_be_told(subject: &Subject) {
    let id = add(subject, EventKind::ALL).await;
    keep(subject, &all_of(&completed(&order()))).await;
    assert!(subject.webhooks.remove(id).await.unwrap());
    assert!(!subject.webhooks.remove(id).await.unwrap());
    assert_eq!(subject.webhooks.list().await.unwrap(), []);
    assert_eq!(subject.webhooks.tally().await.unwrap(), []);
    let hour = Duration::from_secs(3_600);
    assert_eq!(subject.webhooks.sweep(hour, hour).await.unwrap(), 10);
    assert_eq!(subject.webhooks.sweep(hour, hour).await.unwrap(), 0);
    assert_eq!(due(subject, id).await, []);
}

pub async fn everybody_is_told_what_he_wants_and_nothing_else(subject: &Subject) {
    let ends = add(subject, [EventKind::OrderCompleted, EventKind::OrderFailed]).await;
    let failures = add(subject, [EventKind::OrderFailed]).await;
    let none = add(subject, [EventKind::OrderCancelled]).await;
    let (good, bad) = (completed(&order()), failed(&order(), "no stock"));
    keep(subject, &[all_of(&good), all_of(&bad)].concat()).await;
    let kinds = async |id| {
        let mut told: Vec<_> =
            due(subject, id).await.into_iter().map(|due| (due.event.order, due.event.kind)).collect();
        told.sort();
        told
    };
    let mut expected = vec![(good.id, EventKind::OrderCompleted), (bad.id, EventKind::OrderFailed)];
    expected.sort();
    assert_eq!(kinds(ends).await, expected);
    assert_eq!(kinds(failures).await, [(bad.id, EventKind::OrderFailed)]);
    assert_eq!(kinds(none).await, []);
    assert_eq!(tally(subject, ends).await, Tally { pending: 2, given_up: 0 });
    // For whoever comes later it is too late.
    let late = add(subject, EventKind::ALL).await;
    assert_eq!(due(subject, late).await, []);
}

pub async fn an_event_that_is_kept_again_changes_nothing(subject: &Subject) {
    let id = add(subject, EventKind::ALL).await;
    let events = all_of(&completed(&order()));
    keep(subject, &[&events[..], &events[..3]].concat()).await;
    keep(subject, &events).await;
    assert_eq!(deliver_all(subject, id).await, events);
    // Not even after it was delivered.
    keep(subject, &events).await;
    assert_eq!(due(subject, id).await, []);
    assert_eq!(tally(subject, id).await, Tally::default());
}

pub async fn events_of_one_order_come_one_after_the_other(subject: &Subject) {
    let id = add(subject, EventKind::ALL).await;
    let orders: Vec<OrderRecord> = orders(3).iter().map(completed).collect();
    // The later ones are kept first.
    for order in &orders {
        let events = all_of(order);
        keep(subject, &events[5..]).await;
        keep(subject, &events[..5]).await;
    }
    for n in 0..10 {
        let due = due(subject, id).await;
        assert_eq!(due.len(), 3);
        for Due { event, attempts, age } in due {
            let order = orders.iter().find(|order| order.id == event.order).unwrap();
            assert_eq!((&event, attempts), (&all_of(order)[n], 0));
            assert!(age < Duration::from_secs(60), "{age:?}");
            settle(subject, id, &event, Sent::Delivered).await;
        }
    }
    assert_eq!(due(subject, id).await, []);
}

pub async fn what_was_sent_in_vain_waits_and_so_do_those_behind_it(subject: &Subject) {
    let id = add(subject, EventKind::ALL).await;
    let events = all_of(&completed(&order()));
    keep(subject, &events[..2]).await;
    settle(subject, id, &events[0], Sent::Again(Duration::from_secs(3_600))).await;
    keep(subject, &events[2..4]).await;
    assert_eq!(due(subject, id).await, []);
    assert_eq!(tally(subject, id).await.pending, 4);
    // Other orders, and other webhooks, do not wait.
    let other = add(subject, EventKind::ALL).await;
    let another = all_of(&failed(&order(), "no"));
    keep(subject, &another).await;
    assert_eq!(deliver_all(subject, id).await, another);
    assert_eq!(due(subject, other).await.len(), 1);

    settle(subject, id, &events[0], Sent::Again(Duration::ZERO)).await;
    let [first] = &due(subject, id).await[..] else { panic!("one event") };
    assert_eq!((&first.event, first.attempts), (&events[0], 2));
    assert_eq!(deliver_all(subject, id).await, events[..4]);
}

pub async fn what_is_given_up_is_counted_and_makes_way(subject: &Subject) {
    let id = add(subject, EventKind::ALL).await;
    let events = all_of(&failed(&order(), "no"));
    keep(subject, &events).await;
    settle(subject, id, &events[0], Sent::GivenUp).await;
    assert_eq!(tally(subject, id).await, Tally { pending: events.len() as u64 - 1, given_up: 1 });
    assert_eq!(deliver_all(subject, id).await, events[1..]);
    assert_eq!(tally(subject, id).await, Tally { pending: 0, given_up: 1 });
    // What is settled stays as it is.
    settle(subject, id, &events[0], Sent::Again(Duration::ZERO)).await;
    settle(subject, id, &events[0], Sent::Delivered).await;
    assert_eq!(tally(subject, id).await.given_up, 1);
}

pub async fn what_is_settled_is_swept_after_its_time(subject: &Subject) {
    let id = add(subject, EventKind::ALL).await;
    let events = all_of(&completed(&order()));
    keep(subject, &events[..3]).await;
    settle(subject, id, &events[0], Sent::Delivered).await;
    settle(subject, id, &events[1], Sent::GivenUp).await;
    let (none, hour) = (Duration::ZERO, Duration::from_secs(3_600));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(subject.webhooks.sweep(hour, hour).await.unwrap(), 0);
    assert_eq!(subject.webhooks.sweep(none, hour).await.unwrap(), 1);
    assert_eq!(tally(subject, id).await, Tally { pending: 1, given_up: 1 });
    assert_eq!(subject.webhooks.sweep(none, none).await.unwrap(), 1);
    assert_eq!(tally(subject, id).await, Tally { pending: 1, given_up: 0 });
    assert_eq!(due(subject, id).await.len(), 1);
}

pub async fn events_come_back_as_they_were(subject: &Subject) {
    let id = add(subject, EventKind::ALL).await;
    let events = all_of(&failed(&order(), "注文 \"'\" \\ \u{1} %_"));
    keep(subject, &events).await;
    assert_eq!(deliver_all(subject, id).await, events);
}

pub async fn no_more_than_asked_for_is_given(subject: &Subject) {
    let id = add(subject, [EventKind::OrderAccepted]).await;
    let events: Vec<Event> = orders(300).iter().map(Event::accepted).collect();
    keep(subject, &events).await;
    assert_eq!(subject.webhooks.due(id, 7).await.unwrap().len(), 7);
    assert_eq!(due(subject, id).await.len(), 300);
    keep(subject, &[]).await;
    subject.webhooks.settle(id, &[]).await.unwrap();
}

pub async fn two_keepers_of_the_same_events_keep_each_once(subject: &Subject) {
    let id = add(subject, EventKind::ALL).await;
    let events: Vec<Event> = orders(50).iter().flat_map(|order| all_of(&completed(order))).collect();
    let backwards: Vec<Event> = events.iter().rev().cloned().collect();
    for _ in 0..4 {
        let (one, other) = tokio::join!(subject.webhooks.keep(&events), subject.webhooks.keep(&backwards));
        one.unwrap();
        other.unwrap();
    }
    assert_eq!(tally(subject, id).await.pending, 500);
}
