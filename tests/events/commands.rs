//! `ordering events` and `ordering webhook`.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::system::{ended, http, ordering, place};
use crate::{Running, SLOW, SMOOTH, an_order, start};

fn command(running: &Running, args: &[&str]) -> Command {
    let mut command = ordering();
    command.args(args).args(["--server", &running.system.url]).stdin(Stdio::null());
    command
}

async fn placed(running: &Running) -> String {
    place(&http(), &running.system.url, &an_order()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_followed_to_its_end() {
    let running = start(&SLOW);
    let id = placed(&running).await;
    let done = command(&running, &["events", &id]).output().unwrap();
    assert!(done.status.success());
    let text = String::from_utf8(done.stdout).unwrap();
    let kinds: Vec<&str> = text.lines().map(|line| line.split(' ').nth(2).unwrap()).collect();
    assert_eq!(kinds, SMOOTH);
    assert!(text.lines().nth(3).unwrap().ends_with(&format!("{id} step.started pre_processing")));
    let done = command(&running, &["events", &id, "--json"]).output().unwrap();
    for (line, kind) in String::from_utf8(done.stdout).unwrap().lines().zip(SMOOTH) {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["type"], kind);
    }
    for (id, code, says) in
        [("0193f0a1-7c3e-7b11-8f00-0123456789ab", 1, "there is no order"), ("17", 2, "this is no order id")]
    {
        let failed = command(&running, &["events", id]).output().unwrap();
        assert_eq!(failed.status.code(), Some(code));
        let said = String::from_utf8(failed.stderr).unwrap();
        assert!(said.contains(says), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_orders_are_shown_as_things_happen() {
    let running = start(&[]);
    let args = ["events", "--type", "order.completed", "--json"];
    let mut following = command(&running, &args).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(following.stdout.take().unwrap()).lines();
    // Orders until one is shown: it takes a moment to connect.
    let (shown, was_shown) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || shown.send(lines.map_while(Result::ok).next()));
    let placing = async {
        loop {
            let id = placed(&running).await;
            ended(&http(), &running.system.url, &id).await;
        }
    };
    let line = tokio::select! {
        line = was_shown => line.unwrap().unwrap(),
        () = placing => unreachable!(),
    };
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["type"], "order.completed");
    following.kill().unwrap();
    following.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_added_listed_tested_and_removed() {
    let running = start(&[]);
    let receiver = crate::service::Service::start(|_| crate::service::Reply::status(200)).await;
    let run = |args: &[&str]| {
        let done = command(&running, &[&["webhook"], args].concat()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
    };
    assert_eq!(run(&["list"]), (0, String::new(), "there are no webhooks\n".into()));
    let (code, said, _) = run(&["add", &receiver.url, "--event", "order.failed", "--description", "on call"]);
    let [id, secret] = said.lines().collect::<Vec<_>>()[..] else { panic!("{said}") };
    assert!(code == 0 && secret.starts_with("secret whsec_"), "{said}");
    let (_, table, _) = run(&["list"]);
    assert!(table.contains(id) && table.contains("order.failed") && table.contains("on call"), "{table}");
    let (_, line, _) = run(&["list", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["id"], id);
    assert_eq!(run(&["test", id]), (0, "taken (200)\n".into(), String::new()));
    assert_eq!(receiver.calls().len(), 1);
    drop(receiver);
    let (code, _, said) = run(&["test", id]);
    assert!(code == 1 && said.contains("it was not taken: cannot connect"), "{said}");
    assert_eq!(run(&["remove", id]).0, 0);
    let (code, _, said) = run(&["remove", id]);
    assert!(code == 1 && said.contains("there is no webhook"), "{said}");
    let (code, _, said) = run(&["add", "ftp://a", "--event", "order.failed"]);
    assert!(code == 1 && said.contains("/url: must be of the form"), "{said}");
    assert_eq!(run(&["add", "http://a", "--event", "order.lost"]).0, 2);
}
