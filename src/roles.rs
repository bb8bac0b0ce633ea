//! What a process does. Not built yet.

use crate::domain::Stage;
use crate::settings::Settings;

#[derive(Debug, thiserror::Error)]
#[error("not built yet")]
pub struct RoleError;

pub async fn all(_settings: Settings) -> Result<(), RoleError> {
    Err(RoleError)
}

pub async fn api(_settings: Settings) -> Result<(), RoleError> {
    Err(RoleError)
}

pub async fn worker(_settings: Settings, _stages: Vec<Stage>) -> Result<(), RoleError> {
    Err(RoleError)
}

pub async fn migrate(_settings: Settings) -> Result<(), RoleError> {
    Err(RoleError)
}
