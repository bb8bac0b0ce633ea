//! What stands behind the ports: one folder for each product.
//!
//! Adapters know [`crate::ports`], [`crate::wire`] and the domain. Nothing but `main` knows them.

pub mod postgres;
mod reach;
pub mod redis;
