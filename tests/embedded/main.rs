//! What only the embedded back end promises: one file that survives anything, and says what is wrong with it. What it
//! shares with the other back end is tested by the contract suite.

mod full_disk;
mod kill;
mod opening;
mod queues;
mod records;
mod support;
