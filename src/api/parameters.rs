//! The parameters of a query, `?name=value&…`. What a path does not know is refused by name: a misspelt filter must not
//! become no filter.

use actix_web::{HttpRequest, web};
use uuid::Uuid;

use super::problem::Problem;
use crate::dead_letters::Position;
use crate::domain::{EventKind, EventKinds, Stage, Timestamp};
use crate::ports::{DeadLetterId, Source};

const LIMIT_MAX: u32 = 1_000;

/// Each given once, and known to the path.
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Those of `request`, which may have the parameters `known`.
    pub fn of(request: &HttpRequest, known: &[&'static str]) -> Result<Self, Problem> {
        Self::read(request.query_string(), known)
    }

    fn read(query: &str, known: &[&'static str]) -> Result<Self, Problem> {
        let given = web::Query::<Vec<(String, String)>>::from_query(query);
        let given = given.map_err(|_| Problem::wrong_parameter("", "the query cannot be read"))?.into_inner();
        for (n, (name, _)) in given.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let known = match known {
                    [] => "there is none".to_owned(),
                    known => format!("there are {}", known.join(", ")),
                };
                return Err(Problem::wrong_parameter(name, &format!("there is no such parameter; {known}")));
            }
            if given[..n].iter().any(|(before, _)| before == name) {
                return Err(Problem::wrong_parameter(name, "it is given twice"));
            }
        }
        Ok(Parameters(given))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// `queue`: the name of a queue, in either spelling.
    pub fn queue(&self) -> Result<Option<Source>, Problem> {
        let read = |name: &str| {
            name.parse().map_err(|_| {
                let names: Vec<String> = Source::all().map(|source| source.to_string()).collect();
                Problem::wrong_parameter("queue", &format!("there is no such queue; there are {}", names.join(", ")))
            })
        };
        self.get("queue").map(read).transpose()
    }

    /// `queue`, or `all=true` for every queue: one of them must be said, so that nobody means everything by accident.
    pub fn queue_or_all(&self) -> Result<Option<Source>, Problem> {
        let queue = self.queue()?;
        match (queue, self.get("all")) {
            (Some(_), None) => Ok(queue),
            (None, Some("true")) => Ok(None),
            (None, None) => Err(Problem::wrong_parameter("queue", "say which queue, or all=true for every queue")),
            (None, Some(_)) => Err(Problem::wrong_parameter("all", "it can only be true")),
            (Some(_), Some(_)) => Err(Problem::wrong_parameter("all", "it contradicts `queue`")),
        }
    }

    /// `limit`: 1 to 1,000.
    pub fn limit(&self) -> Result<Option<u32>, Problem> {
        let read = |text: &str| match text.parse() {
            Ok(limit @ 1..=LIMIT_MAX) => Ok(limit),
            Ok(_) | Err(_) => Err(Problem::wrong_parameter("limit", "it must be a whole number from 1 to 1000")),
        };
        self.get("limit").map(read).transpose()
    }

    /// `type`: kinds of events, separated by commas.
    pub fn event_kinds(&self) -> Result<Option<EventKinds>, Problem> {
        let read = |name: &str| {
            EventKind::parse(name).ok_or_else(|| {
                let names = EventKind::ALL.map(EventKind::as_str).join(", ");
                Problem::wrong_parameter("type", &format!("there is no such type of event; there are {names}"))
            })
        };
        self.get("type").map(|names| names.split(',').map(read).collect()).transpose()
    }

    /// `stage`: names of stages, in either spelling, separated by commas.
    pub fn stages(&self) -> Result<Option<Vec<Stage>>, Problem> {
        let read = |name: &str| {
            name.parse().map_err(|error: crate::domain::stage::UnknownStage| {
                Problem::wrong_parameter("stage", &error.to_string())
            })
        };
        self.get("stage").map(|names| names.split(',').map(read).collect()).transpose()
    }

    /// `cursor`: what [`cursor_of`] made.
    pub fn cursor(&self) -> Result<Option<Position>, Problem> {
        let read = |text: &str| {
            position_of(text).ok_or_else(|| {
                Problem::wrong_parameter("cursor", "it must be the `cursor` of an answer, as it stands there")
            })
        };
        self.get("cursor").map(read).transpose()
    }
}

/// A position as clients carry it from one request to the next: the millisecond and the id, in hexadecimal digits.
pub fn cursor_of((at, id): Position) -> String {
    format!("{:016x}{:032x}", at.as_millis(), id.as_uuid().as_u128())
}

fn position_of(cursor: &str) -> Option<Position> {
    if cursor.len() != 48 || !cursor.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let (at, id) = cursor.split_at(16);
    let at = u64::from_str_radix(at, 16).ok()?.cast_signed();
    let id = Uuid::from_u128(u128::from_str_radix(id, 16).ok()?);
    Some((Timestamp::from_millis(at), DeadLetterId::from_uuid(id)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Stage;

    const KNOWN: [&str; 4] = ["queue", "all", "limit", "cursor"];

    fn read(query: &str) -> Parameters {
        Parameters::read(query, &KNOWN).unwrap()
    }

    #[test]
    fn a_cursor_leads_back_to_its_position() {
        for ms in [0, -5, 1_764_000_000_007, i64::MAX] {
            let position = (Timestamp::from_millis(ms), DeadLetterId::from_uuid(Uuid::from_u128(u128::MAX - 7)));
            let cursor = read(&format!("cursor={}", cursor_of(position))).cursor().unwrap();
            assert_eq!(cursor, Some(position));
        }
        for wrong in ["", "7", &"+".repeat(48), &"g".repeat(48), &"ä".repeat(24)] {
            assert!(read(&format!("cursor={wrong}")).cursor().is_err(), "{wrong}");
        }
    }

    #[test]
    fn parameters_are_read_and_the_rest_is_refused() {
        assert_eq!(read("").queue().unwrap(), None);
        for name in ["pre-processing", "pre_processing", "pre%2dprocessing"] {
            assert_eq!(read(&format!("queue={name}")).queue().unwrap(), Some(Source::Stage(Stage::PreProcessing)));
        }
        assert_eq!(read("queue=ending").queue_or_all().unwrap(), Some(Source::Ending));
        assert_eq!(read("all=true").queue_or_all().unwrap(), None);
        for query in ["", "all=false", "all=", "queue=", "queue=packing", "queue=ending&all=true"] {
            assert!(read(query).queue_or_all().is_err(), "{query}");
        }
        assert_eq!(read("limit=1000").limit().unwrap(), Some(1_000));
        for limit in ["0", "1001", "-1", "ten", ""] {
            assert!(read(&format!("limit={limit}")).limit().is_err(), "{limit}");
        }
        let known = ["type", "stage"];
        let read = Parameters::read("type=order.failed,step.done&stage=pre_processing,scheduling", &known).unwrap();
        let kinds = [EventKind::StepDone, EventKind::OrderFailed].into_iter().collect();
        assert_eq!(read.event_kinds().unwrap(), Some(kinds));
        assert_eq!(read.stages().unwrap(), Some(vec![Stage::PreProcessing, Stage::Scheduling]));
        for query in ["type=", "type=failed", "stage=", "stage=ending"] {
            let refused = Parameters::read(query, &known).unwrap();
            assert!(refused.event_kinds().and_then(|_| refused.stages()).is_err(), "{query}");
        }
        for query in ["queu=ending", "queue=ending&queue=ending", "Queue=ending", "=", "queue"] {
            let refused = Parameters::read(query, &KNOWN).and_then(|parameters| parameters.queue());
            assert!(refused.is_err(), "{query}");
        }
    }
}
