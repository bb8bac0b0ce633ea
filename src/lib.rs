//! An order-processing backbone: takes customers' orders over HTTP, answers at once with an order id, and carries
//! every order through four stages to a recorded end.
//!
//! # An order's life, and where it happens
//! 1. [`api`] receives it, [`domain::order`] validates it, [`intake`] puts it into the first queue and answers.
//! 2. [`worker`] carries it from stage to stage: begin, handle ([`handlers`]), record, carry out, ack.
//! 3. The archive keeps it when it has ended; [`lookup`] finds it wherever it is.
//!
//! People change their minds: [`cancel`] ends an order before its time, [`try_again`] takes a failed one on.
//! [`live`] passes on what happens to orders to those who listen, [`webhooks`] are those who must be told.
//!
//! What no worker can read is kept aside; [`dead_letters`] is what people do with it.
//! [`portions`] cuts messages as small as a stage wants them.
//! [`pauses`] knows which stages people hold up.
//! [`upkeep`] keeps the whole in order beside that: it publishes what had to wait, and what a queue has lost.
//!
//! What all this needs of the outside is in [`ports`], what stands behind the ports in [`adapters`]. [`roles`] puts
//! the parts together by the [`settings`]; [`cli`] and [`client`] are for people at a terminal. doc/architecture.md
//! has the picture.

pub mod adapters;
pub mod api;
pub mod batch;
pub mod cancel;
pub mod cli;
pub mod client;
pub mod dead_letters;
pub mod domain;
pub mod gate;
pub mod handlers;
pub mod intake;
pub mod live;
pub mod logging;
pub mod lookup;
pub mod metrics;
pub mod pauses;
pub mod portions;
pub mod ports;
pub mod process;
pub mod readiness;
pub mod roles;
pub mod settings;
pub mod try_again;
pub mod upkeep;
pub mod view;
pub mod webhooks;
pub mod wire;
pub mod worker;
