//! The in-flight store in Redis.
//!
//! A record is a text `{namespace}:r:{order id}` that only grows; `record` says what stands in it. Each call is one script
//! over the records of the whole batch (`*.lua`), which compares [`Progress`] numbers and never clocks. A script touches
//! keys that have nothing in common, which Redis Cluster refuses: one primary, with replicas and Sentinel if need be, is
//! what this is made for. An earlier layout (hashes `{namespace}:o:{order id}`) was never released and is not read.
//!
//! A record that is behind a message, or belongs to another order of the same derived id that nobody has begun, is
//! written anew: the script says that it needs the order's content, and a second call brings it. So the content is sent
//! only where it is needed, and taking it in and going on is one step.
//!
//! Records live for `in_flight_ttl` from their last step, to within a thirtieth of it: renewing the time to live at
//! every step would be a write of its own, so it is renewed only when orders older than that move.
//!
//! # Failure handling
//! Connections come back by themselves. While there is none a call fails at once; when Redis stays silent the first
//! calls take `timeout`, and those after them fail at once (`reach`). A server's refusal (out of memory,
//! read-only) is [`Unavailable`] too. A key that is no record of ours counts as absent and harms only itself.

mod calls;
mod connection;
mod feed;
mod record;
mod scan;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use fred::types::{Key, Value};

use crate::domain::{Cancellation, OrderId, OrderRecord, Progress, RecordedOutcome, Stage, Timestamp};
use crate::ports::{Begun, Cancelling, Claim, Clock, InFlight, Recorded, Scan, SystemClock, Unavailable};

use calls::{Attempt, Brings, Call, Reply, Run, behind, number, read_cancelling, read_claim};
pub use connection::parse_url;
use connection::{Connection, Script};
pub use feed::RedisFeed;
use record::{Record, last_word_of, progress_of};

/// What it is called in errors and logs.
const PART: &str = "Redis";

/// How far progress goes in one passage.
const PASSAGE_SPAN: u64 = Stage::ALL.len() as u64 * Progress::STAGE_SPAN;

/// Records are renewed when they are older than this part of their time to live.
const RENEWED_AFTER_PART: u32 = 30;

/// Orders of one script. A script stops everything else in Redis while it runs: about a millisecond for this many.
const ORDERS_PER_CALL: usize = 256;

#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// `redis://[user][:password@]host[:port][/database]`; for Sentinel
    /// `redis-sentinel://host:port?sentinelServiceName=name&node=host:port`.
    pub url: String,
    /// What all keys begin with.
    pub namespace: String,
    /// How long a record stays after its last step, about.
    pub in_flight_ttl: Duration,
    /// How long a record stays after its end.
    pub ended_ttl: Duration,
    /// How long a call may take.
    pub timeout: Duration,
    /// Connections to keep. One writes up to 200 commands before it flushes; several keep a large batch from holding
    /// up small ones.
    pub connections: usize,
}

impl RedisOptions {
    /// Those that most installations want.
    pub fn new(url: impl Into<String>, namespace: impl Into<String>) -> RedisOptions {
        RedisOptions {
            url: url.into(),
            namespace: namespace.into(),
            in_flight_ttl: Duration::from_secs(30 * 24 * 60 * 60),
            // At 18,000 orders/s an hour would be 65 million records.
            ended_ttl: Duration::from_secs(60),
            timeout: Duration::from_millis(500),
            connections: 4,
        }
    }
}

macro_rules! script {
    ($name:literal) => {
        concat!(include_str!("reading.lua"), include_str!($name))
    };
}

static PUT: Script = Script::that_takes_memory(script!("put.lua"));
static CLAIM: Script = Script::that_takes_memory(script!("claim.lua"));
static BEGIN: Script = Script::that_takes_memory(script!("begin.lua"));
static RECORD: Script = Script::that_takes_memory(script!("record.lua"));
static CANCEL: Script = Script::that_takes_memory(script!("cancel.lua"));
static WHOLE: Script = Script::that_takes_memory(include_str!("whole.lua"));
static END: Script = Script::that_takes_no_memory(script!("end.lua"));
static SCAN: Script = Script::that_takes_no_memory(script!("scan.lua"));

/// The records of the orders in flight.
pub struct RedisInFlight {
    connection: Connection,
    namespace: String,
    in_flight_ttl: Duration,
    ended_ttl: Duration,
    has_checked_policy: AtomicBool,
    /// A record could not be written since the marker was last moved.
    lacks_records: AtomicBool,
}

impl RedisInFlight {
    /// Connects in the background, for ever; it comes back at once. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What is wrong with the options; final.
    pub fn start(options: RedisOptions) -> Result<RedisInFlight, String> {
        Ok(RedisInFlight {
            connection: Connection::start(&options, PART)?,
            namespace: options.namespace,
            in_flight_ttl: options.in_flight_ttl,
            ended_ttl: options.ended_ttl,
            has_checked_policy: AtomicBool::new(false),
            lacks_records: AtomicBool::new(false),
        })
    }

    async fn put_all(&self, orders: &[OrderRecord]) -> Result<(), Unavailable> {
        let fixed = [number(PASSAGE_SPAN), millis(self.in_flight_ttl)];
        let mut call = Call::new(&self.namespace, orders.len(), fixed);
        for order in orders {
            call.push(order, record::encode(order));
        }
        self.connection.run(&PUT, call.keys, call.arguments).await?;
        Ok(())
    }

    async fn claim_all(&self, orders: &[OrderRecord]) -> Result<Vec<Claim>, Unavailable> {
        let mut call = Call::new(&self.namespace, orders.len(), [millis(self.in_flight_ttl)]);
        for order in orders {
            call.push(order, record::encode(order));
        }
        let replies = self.replies(&CLAIM, call).await?;
        let claims: Option<Vec<Claim>> = replies.iter().map(read_claim).collect();
        claims.ok_or_else(|| Unavailable::new(PART, "a reply that is no claim"))
    }

    /// Begins the attempts, and says of each what was known.
    async fn try_begin(
        &self,
        stage: Stage,
        worker: &str,
        at: Timestamp,
        orders: &[(&OrderRecord, Brings)],
    ) -> Result<Vec<Reply>, Unavailable> {
        let entry = Value::Bytes(record::encode_entry(at, worker).into());
        let fixed = [number(PASSAGE_SPAN), millis(self.in_flight_ttl), entry];
        let mut call = Call::new(&self.namespace, orders.len(), fixed);
        for (order, brings) in orders {
            let run = Run {
                known: progress_of(order),
                word: Some(last_word_of(order)),
                entered: Some(Attempt::next(order, stage).entered),
                renews: Some(self.is_to_renew(order, at)),
                brings: *brings,
            };
            call.push_to_run(order, run, None);
        }
        Ok(self.replies(&BEGIN, call).await?.into_iter().map(Reply::read).collect())
    }

    /// Whether the record of an order that moves at the moment `at` is to begin its time to live anew.
    fn is_to_renew(&self, order: &OrderRecord, at: Timestamp) -> bool {
        at.since(order.placed_at) > self.in_flight_ttl / RENEWED_AFTER_PART
    }

    /// Records the outcomes, and says of each what was known.
    async fn try_record(
        &self,
        stage: Stage,
        outcomes: &[(&OrderRecord, &RecordedOutcome, Brings)],
    ) -> Result<Vec<Reply>, Unavailable> {
        let fixed = [number(PASSAGE_SPAN), millis(self.in_flight_ttl)];
        let mut call = Call::new(&self.namespace, outcomes.len(), fixed);
        for (order, outcome, brings) in outcomes {
            let Attempt { entered, finished } = Attempt::next(order, stage);
            let run = Run {
                known: progress_of(order),
                word: Some(last_word_of(order)),
                entered: Some(entered),
                renews: Some(self.is_to_renew(order, outcome.finished_at)),
                brings: *brings,
            };
            call.push_to_run(order, run, Some(record::encode_outcome(outcome, finished)));
        }
        Ok(self.replies(&RECORD, call).await?.into_iter().map(Reply::read).collect())
    }

    /// Notes the ends, and says which records belong to orders of other content.
    async fn try_end(&self, orders: &[(&OrderRecord, Brings)]) -> Result<Vec<usize>, Unavailable> {
        let fixed = [number(PASSAGE_SPAN), millis(self.ended_ttl)];
        let mut call = Call::new(&self.namespace, orders.len(), fixed);
        for (order, brings) in orders {
            let run = Run { known: progress_of(order), word: None, entered: None, renews: None, brings: *brings };
            call.push_to_run(order, run, Some(record::encode_end(order)));
        }
        let Value::Array(others) = self.connection.run(&END, call.keys, call.arguments).await? else {
            return Ok(Vec::new());
        };
        Ok(others.iter().filter_map(Value::as_usize).filter(|n| *n < orders.len()).collect())
    }

    async fn replies(&self, script: &Script, call: Call<'_>) -> Result<Vec<Value>, Unavailable> {
        let expected = call.keys.len();
        let replies = match self.connection.run(script, call.keys, call.arguments).await? {
            Value::Array(replies) => replies,
            other => vec![other],
        };
        if replies.len() != expected {
            let reason = format!("{} replies for {expected} orders", replies.len());
            return Err(Unavailable::new(PART, reason));
        }
        Ok(replies)
    }

    /// Warns, once, of a Redis that throws records away when its memory is full.
    async fn check_policy(&self) {
        if self.has_checked_policy.load(Ordering::Relaxed) {
            return;
        }
        // Not every account may ask: then there is nothing to say.
        let Ok(memory) = self.connection.memory_info().await else {
            return;
        };
        let policy = memory.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"));
        let is_first = !self.has_checked_policy.swap(true, Ordering::Relaxed);
        if let Some(policy) = policy.filter(|policy| is_first && *policy != "noeviction") {
            tracing::warn!(
                policy,
                "Redis may evict records of orders in flight: set its maxmemory-policy to noeviction"
            );
        }
    }
}

fn millis(duration: Duration) -> Value {
    number(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[async_trait]
impl InFlight for RedisInFlight {
    async fn put(&self, orders: &[OrderRecord]) -> Result<(), Unavailable> {
        for orders in orders.chunks(ORDERS_PER_CALL) {
            if let Err(unavailable) = self.put_all(orders).await {
                self.lacks_records.store(true, Ordering::Release);
                return Err(unavailable);
            }
        }
        Ok(())
    }

    async fn claim(&self, orders: &[OrderRecord]) -> Result<Vec<Claim>, Unavailable> {
        let mut claims = Vec::with_capacity(orders.len());
        for orders in orders.chunks(ORDERS_PER_CALL) {
            match self.claim_all(orders).await {
                Ok(some) => claims.extend(some),
                Err(unavailable) => {
                    self.lacks_records.store(true, Ordering::Release);
                    return Err(unavailable);
                }
            }
        }
        Ok(claims)
    }

    async fn begin(
        &self,
        stage: Stage,
        worker: &Arc<str>,
        at: Timestamp,
        orders: &[OrderRecord],
    ) -> Result<Vec<Begun>, Unavailable> {
        let mut begun = Vec::with_capacity(orders.len());
        for orders in orders.chunks(ORDERS_PER_CALL) {
            let first: Vec<_> = orders.iter().map(|order| (order, Brings::at_first(order))).collect();
            let mut replies = self.try_begin(stage, worker, at, &first).await?;
            let behind = behind(&replies);
            if !behind.is_empty() {
                let again: Vec<_> = behind.iter().map(|n| (&orders[*n], Brings::Record)).collect();
                let again = self.try_begin(stage, worker, at, &again).await?;
                for (n, reply) in behind.into_iter().zip(again) {
                    replies[n] = reply;
                }
            }
            begun.extend(replies.into_iter().zip(orders).map(|(reply, order)| reply.into_begun(order, stage)));
        }
        Ok(begun)
    }

    async fn record(
        &self,
        stage: Stage,
        outcomes: &[(&OrderRecord, RecordedOutcome)],
    ) -> Result<Vec<Recorded>, Unavailable> {
        let mut recorded = Vec::with_capacity(outcomes.len());
        for outcomes in outcomes.chunks(ORDERS_PER_CALL) {
            let first: Vec<_> =
                outcomes.iter().map(|(order, outcome)| (*order, outcome, Brings::at_first(order))).collect();
            let mut replies = self.try_record(stage, &first).await?;
            let behind = behind(&replies);
            if !behind.is_empty() {
                let again: Vec<_> = behind.iter().map(|n| (outcomes[*n].0, &outcomes[*n].1, Brings::Record)).collect();
                let again = self.try_record(stage, &again).await?;
                for (n, reply) in behind.into_iter().zip(again) {
                    replies[n] = reply;
                }
            }
            let replies = replies.into_iter().zip(outcomes);
            recorded.extend(replies.map(|(reply, (order, outcome))| reply.into_recorded(order, stage, outcome)));
        }
        Ok(recorded)
    }

    async fn cancel(&self, id: OrderId, passage: u32, cancellation: &Cancellation) -> Result<Cancelling, Unavailable> {
        let mark = Value::Bytes(record::encode_cancellation(cancellation).into());
        let arguments = vec![number(PASSAGE_SPAN), number(u64::from(passage)), mark];
        let reply = self.connection.run(&CANCEL, vec![calls::key(&self.namespace, id)], arguments).await?;
        Ok(read_cancelling(reply))
    }

    async fn end(&self, orders: &[OrderRecord]) -> Result<(), Unavailable> {
        for orders in orders.chunks(ORDERS_PER_CALL) {
            let first: Vec<_> = orders.iter().map(|order| (order, Brings::at_first(order))).collect();
            let others = self.try_end(&first).await?;
            if !others.is_empty() {
                let again: Vec<_> = others.into_iter().map(|n| (&orders[n], Brings::Record)).collect();
                self.try_end(&again).await?;
            }
        }
        Ok(())
    }

    async fn find(&self, id: OrderId) -> Result<Option<OrderRecord>, Unavailable> {
        let Some(text) = self.connection.text(calls::key(&self.namespace, id)).await? else {
            return Ok(None);
        };
        match Record::read(&text) {
            Ok(record) => Ok(record.map(Record::into_order)),
            // Not "there is none": a newer release may have written it.
            Err(reason) => {
                tracing::warn!(order = %id, reason, "a record in Redis cannot be read");
                Err(Unavailable::new(PART, format!("the record of {id} cannot be read")))
            }
        }
    }

    async fn scan(&self, cursor: u64) -> Result<Scan, Unavailable> {
        let reply = self.connection.run(&SCAN, Vec::new(), scan::arguments(&self.namespace, cursor)).await?;
        scan::read(&self.namespace, reply).ok_or_else(|| Unavailable::new(PART, "a reply that is no scan"))
    }

    async fn whole_since(&self, now: Timestamp) -> Result<Timestamp, Unavailable> {
        let lacks_records = self.lacks_records.swap(false, Ordering::AcqRel);
        let key = Key::from(format!("{}:whole", self.namespace));
        let now = u64::try_from(now.as_millis()).unwrap_or(0);
        let arguments = vec![number(now), number(u64::from(lacks_records))];
        let reply = self.connection.run(&WHOLE, vec![key], arguments).await;
        if reply.is_err() && lacks_records {
            self.lacks_records.store(true, Ordering::Release);
        }
        let since = reply?.as_i64().ok_or_else(|| Unavailable::new(PART, "its marker is no moment"))?;
        Ok(Timestamp::from_millis(since))
    }

    async fn check(&self) -> Result<(), Unavailable> {
        // Another process must not wait for this one to look for an order: until the marker is moved it would take
        // records that could not be written for orders that never were.
        if self.lacks_records.load(Ordering::Acquire) {
            self.whole_since(SystemClock.now()).await?;
        }
        self.connection.ping().await?;
        self.check_policy().await;
        Ok(())
    }
}
