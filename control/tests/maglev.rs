//! `weir maglev` against the reference's own tables.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::process::{Command, Output};

const BACKENDS: [&str; 4] = ["0.0.0.1:1/TCP", "0.0.0.3:3/TCP", "0.0.0.4:4/TCP", "0.0.0.5:5/TCP"];
const WEIGHTS: [u32; 4] = [2, 13, 111, 10];

/// The complete table of 251 slots, `backend(slots)` from slot 0 on.
const GOLDEN: &str = "2(5),3(1),2(3),1(1),2(2),0(1),2(1),3(1),2(1),3(1),2(1),1(1),2(7),1(1),2(14),\
    3(1),2(1),1(2),2(12),3(1),2(3),1(1),2(4),3(1),2(8),3(1),2(2),1(1),2(16),1(2),2(3),3(1),2(11),\
    1(2),2(4),3(1),2(3),1(1),2(4),3(1),2(1),0(1),1(1),2(8),1(1),2(7),1(1),2(4),3(1),2(1),3(1),\
    2(9),1(2),2(5),1(1),2(7),3(1),2(1),3(1),1(1),2(8),1(1),2(4),0(1),2(1),1(1),2(5),3(1),2(3),\
    1(1),2(4),3(1),2(3),1(1),2(12),0(1),3(1),2(3),3(1),2(4),3(1),2(2),1(1),2(7)";

fn weir(arguments: &[String]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weir")).arg("maglev").args(arguments).output().unwrap()
}

fn weighted() -> Vec<String> {
    let backends = BACKENDS.iter().zip(WEIGHTS);
    backends.map(|(backend, weight)| format!("--backend={backend}={weight}")).collect()
}

fn print_table(size: u32, more: &[String]) -> String {
    let arguments = [&[format!("--table-size={size}")], more].concat();
    let output = weir(&arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn count_slots(table: &str, backend: &str) -> u32 {
    let runs = table.lines().map(|line| line.split_once(' ').unwrap());
    runs.filter(|(_, name)| *name == backend).map(|(slots, _)| slots.parse::<u32>().unwrap()).sum()
}

#[test]
fn the_table_is_the_golden_one() {
    let expected: String = GOLDEN
        .split(',')
        .map(|run| {
            let (backend, slots) = run.trim_end_matches(')').split_once('(').unwrap();
            format!("{slots} {}\n", BACKENDS[backend.parse::<usize>().unwrap()])
        })
        .collect();
    assert_eq!(print_table(251, &weighted()), expected);
    // The default seed, said; and another order of the backends.
    let seed = vec!["--seed=JLfvgnHc2kaSUFaI".to_owned()];
    let mut backwards = weighted();
    backwards.reverse();
    assert_eq!(print_table(251, &[seed, backwards].concat()), expected);
    let other_seed = vec!["--seed=AAAAAAAAAAAAAAAA".to_owned()];
    assert_ne!(print_table(251, &[other_seed, weighted()].concat()), expected);

    let table = print_table(1021, &weighted());
    assert_eq!(BACKENDS.map(|it| count_slots(&table, it)), [16, 98, 832, 75]);
}

#[test]
fn defaults_are_the_reference_s() {
    let backends = ["--backend=10.0.0.1:80/TCP", "--backend=[fd00::1]:80/TCP"].map(str::to_owned);
    let output = weir(&backends);
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(count_slots(&table, "10.0.0.1:80/TCP"), 8191);
    assert_eq!(count_slots(&table, "[fd00::1]:80/TCP"), 8190);
}

#[test]
fn what_cannot_be_is_said() {
    let reasons = [
        (vec!["--table-size=1000"], "Maglev table size 1000 is not one of 251, 509"),
        (vec!["--table-size=0"], "is not one of 251, 509"),
        (vec!["--seed=JLfvgnHc2kaS"], "not 12 bytes in base64"),
        (vec!["--seed="], "not 12 bytes in base64"),
        (vec!["--backend=10.0.0.1/TCP"], "write it as 10.0.0.1:80/TCP"),
        (vec!["--backend=10.0.0.1:80/ICMP"], "the protocol must be TCP, UDP or SCTP"),
        (vec!["--backend=10.0.0.1:80/TCP=0"], "the weight must be 1..65535"),
        (vec!["--backend=10.0.0.9:80/TCP"], "10.0.0.9:80 twice"),
        (vec!["--backend=10.0.0.8:80/UDP"], "backends of several protocols"),
    ];
    for (arguments, reason) in reasons {
        let mut arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        arguments.push("--backend=10.0.0.9:80/TCP".into());
        let output = weir(&arguments);
        assert!(!output.status.success(), "{arguments:?}");
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains(reason), "{arguments:?}: {errors}");
    }
}
