//! The four stages and what follows what.

use std::fmt;
use std::str::FromStr;

/// One of the four stages every order passes, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    Scheduling,
    PreProcessing,
    Processing,
    PostProcessing,
}

impl Stage {
    /// All stages, first to last.
    pub const ALL: [Stage; 4] = [Stage::Scheduling, Stage::PreProcessing, Stage::Processing, Stage::PostProcessing];
    pub const FIRST: Stage = Stage::Scheduling;

    /// The stage after this one; `None` after the last.
    pub fn next(self) -> Option<Stage> {
        Stage::ALL.get(self.index() + 1).copied()
    }

    /// 0 for the first stage to 3 for the last.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name in JSON: `pre_processing`.
    pub fn as_snake(self) -> &'static str {
        match self {
            Stage::Scheduling => "scheduling",
            Stage::PreProcessing => "pre_processing",
            Stage::Processing => "processing",
            Stage::PostProcessing => "post_processing",
        }
    }

    /// The name in flags, URLs, settings and queue names: `pre-processing`.
    pub fn as_kebab(self) -> &'static str {
        match self {
            Stage::Scheduling => "scheduling",
            Stage::PreProcessing => "pre-processing",
            Stage::Processing => "processing",
            Stage::PostProcessing => "post-processing",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_kebab())
    }
}

/// The text names no stage.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no stage; the stages are scheduling, pre-processing, processing and post-processing")]
pub struct UnknownStage(pub String);

/// Reads both ways of writing a stage, `pre-processing` and `pre_processing`.
impl FromStr for Stage {
    type Err = UnknownStage;

    fn from_str(text: &str) -> Result<Self, UnknownStage> {
        Stage::ALL
            .into_iter()
            .find(|stage| stage.as_kebab() == text || stage.as_snake() == text)
            .ok_or_else(|| UnknownStage(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_follow_each_other_to_the_last() {
        let mut stage = Stage::FIRST;
        let mut seen = vec![stage];
        while let Some(next) = stage.next() {
            seen.push(next);
            stage = next;
        }
        assert_eq!(seen, Stage::ALL);
    }

    #[test]
    fn both_spellings_are_read() {
        for stage in Stage::ALL {
            assert_eq!(stage.as_kebab().parse(), Ok(stage));
            assert_eq!(stage.as_snake().parse(), Ok(stage));
        }
        assert!("Scheduling".parse::<Stage>().is_err());
    }
}
