pub mod cli;
pub mod client;
pub mod domain;
pub mod logging;
pub mod ports;
pub mod roles;
pub mod settings;
pub mod wire;
