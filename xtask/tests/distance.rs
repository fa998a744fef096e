//! Goal: hosts of a measurement that are to be distant from each other are, by the stated delay and loss. Method: the command
//! that measures it, with datagrams between two namespaces; its figures are judged here with room for a machine that does
//! other work, except that nothing may be early.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Two ways of 10 ms.
const ROUND_TRIP_US: u64 = 20_000;

/// Why there can be no such network here.
fn lacking() -> Option<String> {
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".to_owned());
    }
    let name = format!("pageswarm-test-{}", std::process::id());
    for action in ["add", "delete"] {
        let Ok(output) = Command::new("ip").args(["netns", action, &name]).output() else {
            return Some("there is no ip: install iproute2".to_owned());
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Some(format!("this takes root that may make networks: {said}"));
        }
    }
    None
}

#[test]
fn packets_between_distant_hosts_take_their_time_and_some_are_lost() {
    if let Some(why) = lacking() {
        println!("SKIP: {why}");
        return;
    }
    let report = std::env::temp_dir().join(format!("pageswarm-distance-{}.json", std::process::id()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_pageswarm-xtask"));
    command.args(["bench", "distance", "--json"]).arg(&report);
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let text = std::fs::read_to_string(&report).unwrap_or_else(|error| panic!("{error}: {said}"));
    std::fs::remove_file(&report).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    let number = |path: &str| report["outcome"].pointer(path).unwrap().as_u64().unwrap();
    assert!(number("/round_trips/least_us") >= ROUND_TRIP_US, "{said}");
    assert!(number("/round_trips/p50_us") < 2 * ROUND_TRIP_US, "{said}");
    assert!(number("/round_trips/answered") * 100 > number("/round_trips/sent") * 95, "{said}");
    let (lost, taken) = (number("/carried/lost"), number("/carried/taken"));
    assert!((lost * 2000 >= taken) && (lost * 2000 <= taken * 3), "{said}");
}
