//! Leases in Postgres: a row for each, and the database's clock.
//!
//! # Failure handling
//! After a fail-over the clock is another machine's. A lease then lasts as much longer or shorter as the two differ.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::connections::Connections;
use super::rows::fit;
use crate::ports::{Leases, Unavailable};

const ACQUIRE: &str = include_str!("leases/acquire.sql");
const RELEASE: &str = include_str!("leases/release.sql");

/// The longest time to live: past it a moment would leave the calendar, and the statement would fail.
const TTL_LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Sees to it that of several processes one does a thing.
pub struct PostgresLeases {
    connections: Arc<Connections>,
}

impl PostgresLeases {
    pub(super) fn on(connections: Arc<Connections>) -> PostgresLeases {
        PostgresLeases { connections }
    }
}

#[async_trait]
impl Leases for PostgresLeases {
    async fn acquire(&self, name: &str, holder: &str, ttl: Duration) -> Result<bool, Unavailable> {
        let ttl_secs = ttl.min(TTL_LONGEST).as_secs_f64();
        let (name, holder) = (fit(Cow::Borrowed(name)), fit(Cow::Borrowed(holder)));
        Ok(!self.connections.query(ACQUIRE, &[&name, &holder, &ttl_secs]).await?.is_empty())
    }

    async fn release(&self, name: &str, holder: &str) -> Result<(), Unavailable> {
        let (name, holder) = (fit(Cow::Borrowed(name)), fit(Cow::Borrowed(holder)));
        self.connections.query(RELEASE, &[&name, &holder]).await?;
        Ok(())
    }
}
