//! The in-flight store in Redis.
//!
//! A record is a hash `{namespace}:o:{order id}` that only grows, so that writes commute and late duplicates change
//! nothing; `record` says what its fields are. Each call is one script over the records of the whole batch
//! (`*.lua`), which compares [`Progress`] numbers and never clocks. A script touches keys that have nothing in
//! common, which Redis Cluster refuses: one primary, with replicas and Sentinel if need be, is what this is made for.
//!
//! Records live for `in_flight_ttl` from their last step, to within a thirtieth of it: renewing the time to live at
//! every step would be a write of its own, so it is renewed only when orders older than that begin an attempt.
//!
//! # Failure handling
//! Connections come back by themselves. While there is none a call fails at once; when Redis stays silent the first
//! calls take `timeout`, and those after them fail at once (`reach`). A server's refusal (out of memory,
//! read-only) is [`Unavailable`] too. A key that is no record of ours counts as absent and harms only itself.

mod connection;
mod record;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use fred::types::{Key, Value};

use crate::domain::{OrderId, OrderRecord, Progress, RecordedOutcome, Stage, Timestamp};
use crate::ports::{Begun, Clock, InFlight, Recorded, SystemClock, Unavailable};
use crate::wire;

pub use connection::parse_url;
use connection::{Connection, Script};
use record::{Attempt, progress_of};

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

static PUT: Script = Script::that_takes_memory(include_str!("put.lua"));
static BEGIN: Script = Script::that_takes_memory(include_str!("begin.lua"));
static RECORD: Script = Script::that_takes_memory(include_str!("record.lua"));
static WHOLE: Script = Script::that_takes_memory(include_str!("whole.lua"));
static END: Script = Script::that_frees_memory(include_str!("end.lua"));

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
            connection: Connection::start(&options)?,
            namespace: options.namespace,
            in_flight_ttl: options.in_flight_ttl,
            ended_ttl: options.ended_ttl,
            has_checked_policy: AtomicBool::new(false),
            lacks_records: AtomicBool::new(false),
        })
    }

    fn key(&self, id: OrderId) -> Key {
        Key::from(format!("{}:o:{id}", self.namespace))
    }

    async fn put_all<'a>(&self, orders: impl Iterator<Item = &'a OrderRecord> + Clone) -> Result<(), Unavailable> {
        let keys: Vec<Key> = orders.clone().map(|order| self.key(order.id)).collect();
        let mut arguments = vec![number(PASSAGE_SPAN), millis(self.in_flight_ttl)];
        for order in orders {
            arguments.push(number(progress_of(order).as_u64()));
            arguments.push(Value::Bytes(wire::encode_record(order).into()));
        }
        self.connection.run(&PUT, keys, arguments).await?;
        Ok(())
    }

    /// Begins the attempts, and says of each what was known.
    async fn try_begin(
        &self,
        stage: Stage,
        worker: &str,
        at: Timestamp,
        orders: &[&OrderRecord],
    ) -> Result<Vec<Reply>, Unavailable> {
        let keys: Vec<Key> = orders.iter().map(|order| self.key(order.id)).collect();
        let mut arguments =
            vec![number(PASSAGE_SPAN), millis(self.in_flight_ttl), Value::from(record::encode_entry(at, worker))];
        for order in orders {
            let attempt = Attempt::next(order, stage);
            let is_old = at.since(order.placed_at) > self.in_flight_ttl / RENEWED_AFTER_PART;
            arguments.extend([
                number(progress_of(order).as_u64()),
                number(attempt.entered().as_u64()),
                Value::from(attempt.name()),
                number(u64::from(is_old)),
            ]);
        }
        self.replies(&BEGIN, keys, arguments).await
    }

    /// Records the outcomes, and says of each what was known.
    async fn try_record(
        &self,
        stage: Stage,
        outcomes: &[(&OrderRecord, &RecordedOutcome)],
    ) -> Result<Vec<Reply>, Unavailable> {
        let keys: Vec<Key> = outcomes.iter().map(|(o, _)| self.key(o.id)).collect();
        let mut arguments = vec![number(PASSAGE_SPAN)];
        for (order, outcome) in outcomes {
            let attempt = Attempt::next(order, stage);
            arguments.extend([
                number(progress_of(order).as_u64()),
                number(attempt.finished().as_u64()),
                Value::from(attempt.name()),
                Value::from(wire::encode_outcome(outcome)),
            ]);
        }
        self.replies(&RECORD, keys, arguments).await
    }

    async fn replies(&self, script: &Script, keys: Vec<Key>, arguments: Vec<Value>) -> Result<Vec<Reply>, Unavailable> {
        let expected = keys.len();
        let replies = match self.connection.run(script, keys, arguments).await? {
            Value::Array(replies) => replies,
            other => vec![other],
        };
        if replies.len() != expected {
            let reason = format!("{} replies for {expected} orders", replies.len());
            return Err(Unavailable::new(PART, reason));
        }
        Ok(replies.into_iter().map(Reply::read).collect())
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

/// What a script says of one order.
enum Reply {
    /// Its number: of deliveries for `begin`, 1 for `record`.
    Done(u32),
    Absent,
    Passed,
    /// The record knows less than the message.
    Behind,
    Outcome(RecordedOutcome),
}

impl Reply {
    fn read(reply: Value) -> Reply {
        match reply {
            Value::Integer(-1) => Reply::Passed,
            Value::Integer(-2) => Reply::Behind,
            Value::Integer(count @ 1..) => Reply::Done(u32::try_from(count).unwrap_or(u32::MAX)),
            Value::Integer(_) => Reply::Absent,
            other => match other.as_str().map(|json| wire::decode_outcome(&json)) {
                Some(Ok(outcome)) => Reply::Outcome(outcome),
                // It cannot be carried out again, so it fences nothing.
                Some(Err(_)) | None => {
                    tracing::warn!("a recorded outcome in Redis cannot be read");
                    Reply::Absent
                }
            },
        }
    }

    fn into_begun(self) -> Begun {
        match self {
            Reply::Done(deliveries) => Begun::Fresh { deliveries },
            Reply::Outcome(outcome) => Begun::Recorded(outcome),
            Reply::Passed => Begun::Passed,
            // Behind a second time: its record went, and came back older, between two calls.
            Reply::Absent | Reply::Behind => Begun::Absent,
        }
    }

    fn into_recorded(self) -> Recorded {
        match self {
            Reply::Done(_) => Recorded::First,
            Reply::Outcome(outcome) => Recorded::Earlier(outcome),
            Reply::Passed => Recorded::Passed,
            Reply::Absent | Reply::Behind => Recorded::Absent,
        }
    }
}

/// Which of the replies say that the record knows less than the message.
fn behind(replies: &[Reply]) -> Vec<usize> {
    (0..replies.len()).filter(|n| matches!(replies[*n], Reply::Behind)).collect()
}

fn number(number: u64) -> Value {
    Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

fn millis(duration: Duration) -> Value {
    number(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[async_trait]
impl InFlight for RedisInFlight {
    async fn put(&self, orders: &[OrderRecord]) -> Result<(), Unavailable> {
        for orders in orders.chunks(ORDERS_PER_CALL) {
            if let Err(unavailable) = self.put_all(orders.iter()).await {
                self.lacks_records.store(true, Ordering::Release);
                return Err(unavailable);
            }
        }
        Ok(())
    }

    async fn claim(&self, orders: &[OrderRecord]) -> Result<Vec<crate::ports::Claim>, Unavailable> {
        let _ = orders;
        Err(Unavailable::new("in-flight store", "not yet"))
    }

    async fn scan(&self, _cursor: u64) -> Result<crate::ports::Scan, Unavailable> {
        Err(Unavailable::new("in-flight store", "not yet"))
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
            let orders: Vec<&OrderRecord> = orders.iter().collect();
            let mut replies = self.try_begin(stage, worker, at, &orders).await?;
            let behind = behind(&replies);
            if !behind.is_empty() {
                let orders: Vec<&OrderRecord> = behind.iter().map(|n| orders[*n]).collect();
                self.put_all(orders.iter().copied()).await?;
                let again = self.try_begin(stage, worker, at, &orders).await?;
                for (n, reply) in behind.into_iter().zip(again) {
                    replies[n] = reply;
                }
            }
            begun.extend(replies.into_iter().map(Reply::into_begun));
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
            let outcomes: Vec<(&OrderRecord, &RecordedOutcome)> =
                outcomes.iter().map(|(order, outcome)| (*order, outcome)).collect();
            let mut replies = self.try_record(stage, &outcomes).await?;
            let behind = behind(&replies);
            if !behind.is_empty() {
                let outcomes: Vec<_> = behind.iter().map(|n| outcomes[*n]).collect();
                self.put_all(outcomes.iter().map(|(order, _)| *order)).await?;
                let again = self.try_record(stage, &outcomes).await?;
                for (n, reply) in behind.into_iter().zip(again) {
                    replies[n] = reply;
                }
            }
            recorded.extend(replies.into_iter().map(Reply::into_recorded));
        }
        Ok(recorded)
    }

    async fn end(&self, orders: &[OrderRecord]) -> Result<(), Unavailable> {
        for orders in orders.chunks(ORDERS_PER_CALL) {
            let keys = orders.iter().map(|order| self.key(order.id)).collect();
            let mut arguments = vec![number(PASSAGE_SPAN), millis(self.ended_ttl)];
            for order in orders {
                arguments.push(number(progress_of(order).as_u64()));
                arguments.push(Value::from(wire::encode_steps(&order.history)));
            }
            self.connection.run(&END, keys, arguments).await?;
        }
        Ok(())
    }

    async fn find(&self, id: OrderId) -> Result<Option<OrderRecord>, Unavailable> {
        let Some(fields) = self.connection.hash(self.key(id)).await? else {
            return Ok(None);
        };
        // Not "there is none": a newer release may have written it.
        record::read(&fields).map_err(|reason| {
            tracing::warn!(order = %id, reason, "a record in Redis cannot be read");
            Unavailable::new(PART, format!("the record of {id} cannot be read"))
        })
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
