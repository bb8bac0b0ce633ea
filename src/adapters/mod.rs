//! What stands behind the ports: one folder for each product.
//!
//! Adapters know [`crate::ports`], [`crate::wire`] and the domain. Nothing but [`crate::roles`] knows them.

pub mod embedded;
pub mod postgres;
pub mod rabbitmq;
mod reach;
pub mod redis;
