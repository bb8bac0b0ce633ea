//! What each setting allows and all of them together do not.

use super::problems::Problem;
use super::values::Values;
use super::{Role, keys};
use crate::domain::Stage;

/// Adds every contradiction to `problems`. Settings whose own value was wrong take part in none.
pub fn check(role: Role, values: &Values, problems: &mut Vec<Problem>) {
    backend_suits_role(role, values, problems);
    listeners_differ(values, problems);
    for stage in Stage::ALL {
        handler_has_its_settings(stage, values, problems);
        grows(stage, ["backoff_base", "backoff_cap"], values, problems);
        grows(stage, ["breaker_pause_base", "breaker_pause_cap"], values, problems);
    }
    heartbeat_is_whole(values, problems);
    let (in_flight, ended) = ("redis.in_flight_ttl", "redis.ended_ttl");
    if values.are_right(&[in_flight, ended]) && values.duration(ended) > values.duration(in_flight) {
        let text = format!("is longer than {in_flight}, {}", values.shown(in_flight));
        problems.push(values.problem(ended, text));
    }
}

fn backend_suits_role(role: Role, values: &Values, problems: &mut Vec<Problem>) {
    if !values.are_right(&["backend"]) || values.text("backend") == "servers" {
        return;
    }
    let why = match role {
        Role::All => return,
        Role::Api | Role::Worker => {
            "needs the back end `servers`: the embedded store is one file that one process holds, and api and workers \
             are several"
        }
        Role::Migrate => "needs the back end `servers`: the embedded store brings its file up to date by itself",
    };
    let how = format!(
        "set `backend = \"servers\"`, {}=servers or --backend servers, and the URLs of the servers, or run \
         `ordering all`",
        keys::variable("backend")
    );
    problems.push(values.problem("backend", format!("`ordering {role}` {why}; {how}")));
}

fn listeners_differ(values: &Values, problems: &mut Vec<Problem>) {
    if !values.are_right(&["listen", "health_listen"]) {
        return;
    }
    let listen = values.address("listen");
    if listen.port != 0 && values.optional_address("health_listen") == Some(listen) {
        let text = "is the address of `listen`: two listeners need two ports";
        problems.push(values.problem("health_listen", text));
    }
}

/// The settings that only one handler takes.
const OF_HANDLERS: [(&str, &[&str]); 2] = [
    ("simulated", &["delay", "failure_rate"]),
    (
        "http",
        &[
            "url",
            "timeout",
            "headers",
            "signing_secret",
            "calls_per_second",
            "breaker_failures",
            "breaker_pause_base",
            "breaker_pause_cap",
        ],
    ),
];

fn handler_has_its_settings(stage: Stage, values: &Values, problems: &mut Vec<Problem>) {
    let handler = format!("stages.{stage}.handler");
    if !values.are_right(&[&handler]) {
        return;
    }
    let chosen = values.text(&handler);
    for (other, settings) in OF_HANDLERS.into_iter().filter(|(name, _)| *name != chosen) {
        for setting in settings {
            let name = format!("stages.{stage}.{setting}");
            if values.are_right(&[&name]) && !values.is_default_value(&name) {
                let why = match chosen {
                    "none" => ", which takes no time and never fails",
                    _ => ", which knows no such setting",
                };
                let text = format!("is set, and {handler} is `{chosen}`{why}: set it to `{other}`");
                problems.push(values.problem(&name, text));
            }
        }
    }
    let url = format!("stages.{stage}.url");
    if chosen == "http" && values.are_right(&[&url]) && values.optional_url(&url).is_none() {
        problems.push(values.problem(&url, format!("is not set, and {handler} is `http`: name the service to call")));
    }
}

fn grows(stage: Stage, [base, cap]: [&str; 2], values: &Values, problems: &mut Vec<Problem>) {
    let base = format!("stages.{stage}.{base}");
    let cap = format!("stages.{stage}.{cap}");
    if values.are_right(&[&base, &cap]) && values.duration(&base) > values.duration(&cap) {
        // Named is the one that was set last: the other may be a default.
        let (name, other, relation) = match values.is_default_value(&base) {
            true => (&cap, &base, "shorter"),
            false => (&base, &cap, "longer"),
        };
        let text = format!("`{}` is {relation} than {other}, {}", values.shown(name), values.shown(other));
        problems.push(values.problem(name, text));
    }
}

fn heartbeat_is_whole(values: &Values, problems: &mut Vec<Problem>) {
    let name = "rabbitmq.heartbeat";
    if values.are_right(&[name]) && values.duration(name).subsec_nanos() != 0 {
        let text = format!("`{}` is no whole number of seconds", values.shown(name));
        problems.push(values.problem(name, text));
    }
}
