//! The live feed in Redis: the suite, and what only Redis can get wrong.

use std::sync::Arc;
use std::time::Duration;

use fred::prelude::{Builder, Client, ClientLike, Config, KeysInterface};
use ordering::adapters::redis::{RedisFeed, RedisOptions};
use ordering::domain::Event;
use ordering::ports::{Feed, Position, Told};

use super::feed::{EVENTS_MAX, Subject};
use crate::proxy::Proxy;
use crate::support::{eventually, namespace, order, orders, server_url};

super::feed::suite!(super::redis_feed::subject);

fn options(url: &str, namespace: &str) -> RedisOptions {
    RedisOptions { timeout: Duration::from_secs(10), ..RedisOptions::new(url, namespace) }
}

async fn feed(options: &RedisOptions) -> Arc<RedisFeed> {
    let feed = Arc::new(RedisFeed::start_with(options, EVENTS_MAX as u64).unwrap());
    eventually(async || feed.end().await.is_ok()).await;
    feed
}

pub async fn subject() -> Option<Subject> {
    let options = options(&server_url("ORDERING_REDIS_URL")?, &namespace());
    Some(Subject { feed: feed(&options).await, other: Some(feed(&options).await) })
}

async fn client(url: &str) -> Client {
    let client = Builder::from_config(Config::from_url(url).unwrap()).build().unwrap();
    client.init().await.unwrap();
    client
}

fn is_gap((_, told): &(Position, Told)) -> bool {
    *told == Told::Gap
}

#[tokio::test]
async fn a_feed_that_was_lost_is_a_gap_for_whoever_listened() {
    let Some(url) = server_url("ORDERING_REDIS_URL") else { return };
    let options = options(&url, &namespace());
    let feed = feed(&options).await;
    feed.tell(vec![Event::accepted(&order())]);
    eventually(async || feed.end().await.unwrap() != Position::START).await;
    let end = feed.end().await.unwrap();
    let keys = [format!("{}:events", options.namespace), format!("{}:events:count", options.namespace)];
    let deleted: u32 = client(&url).await.del(keys.to_vec()).await.unwrap();
    assert_eq!(deleted, 2);
    let event = Event::accepted(&order());
    feed.tell(vec![event.clone()]);
    let mut told = Vec::new();
    eventually(async || {
        told = feed.read(end).await.unwrap().told;
        !told.is_empty()
    })
    .await;
    assert!(is_gap(&told[0]) && told[1].1 == Told::Event(event) && told.len() == 2, "{told:?}");
}

#[tokio::test]
async fn a_stream_that_was_lost_without_its_count_is_kept_as_long_as_ever() {
    let Some(url) = server_url("ORDERING_REDIS_URL") else { return };
    let options = options(&url, &namespace());
    let feed = feed(&options).await;
    let tell = async |count: usize| {
        let before = feed.end().await.unwrap();
        feed.tell(orders(count).iter().map(Event::accepted).collect());
        eventually(async || feed.end().await.unwrap() != before).await;
    };
    tell(EVENTS_MAX).await;
    let deleted: u32 = client(&url).await.del(format!("{}:events", options.namespace)).await.unwrap();
    assert_eq!(deleted, 1);
    for _ in 0..3 {
        tell(1).await;
    }
    assert_eq!(feed.read(Position::START).await.unwrap().told.len(), 3);
}

#[tokio::test]
async fn while_redis_is_away_events_are_dropped_and_then_there_is_a_gap() {
    let Some(url) = server_url("ORDERING_REDIS_URL") else { return };
    let upstream = url.trim_start_matches("redis://").split('/').next().unwrap().to_owned();
    let proxy = Proxy::start(&upstream).await;
    let options = RedisOptions {
        timeout: Duration::from_millis(300),
        ..options(&format!("redis://{}", proxy.addr()), &namespace())
    };
    let feed = feed(&options).await;
    feed.tell(vec![Event::accepted(&order())]);
    eventually(async || feed.end().await.is_ok_and(|end| end != Position::START)).await;
    let end = feed.end().await.unwrap();
    proxy.freeze();
    for _ in 0..3 {
        feed.tell(orders(5).iter().map(Event::accepted).collect());
    }
    eventually(async || feed.dropped() >= 5).await;
    assert!(feed.read(end).await.is_err());
    proxy.resume();
    let mut told = Vec::new();
    eventually(async || {
        feed.tell(vec![Event::accepted(&order())]);
        told = feed.read(end).await.map(|page| page.told).unwrap_or_default();
        told.iter().any(is_gap)
    })
    .await;
    assert!(told.iter().any(|told| !is_gap(told)));
}

#[tokio::test]
async fn what_nobody_can_read_is_a_gap_and_holds_nobody_up() {
    let Some(url) = server_url("ORDERING_REDIS_URL") else { return };
    let options = options(&url, &namespace());
    let (feed, shell) = (feed(&options).await, client(&url).await);
    let add = "return redis.call('XADD', KEYS[1], '*', 'n', '1', 'd', '0', 'e', ARGV[1])";
    use fred::interfaces::LuaInterface;
    let key = format!("{}:events", options.namespace);
    shell.eval::<String, _, _, _>(add, vec![key], vec!["{\"v\":99}"]).await.unwrap();
    let event = Event::accepted(&order());
    feed.tell(vec![event.clone()]);
    let mut told = Vec::new();
    eventually(async || {
        told = feed.read(Position::START).await.unwrap().told;
        told.len() == 2
    })
    .await;
    assert!(is_gap(&told[0]) && told[1].1 == Told::Event(event));
}
