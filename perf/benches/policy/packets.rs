//! Packets through a worker whose pod has no policy, few rules and many: first ones, which are
//! judged, and later ones, which are not.

use anyhow::Result;
use weir_perf::samples::{Group, Options, Table};
use weir_perf::turns::{Established, Newcomers};

use crate::instructions;
use crate::node::{self, Flow, Kind, Rules};

/// What the cases of this file begin with, for the process that valgrind runs.
pub const CASE: &str = "packets ";
/// What valgrind counts: turns of a worker, in which the packets also come out of the device, are
/// copied into frames and given back.
const COUNTED: &str = "*turns*run_turns*";
const BURST: usize = 64;
/// Established ones.
const FLOWS: u32 = 1024;
/// First packets per sample.
const NEW_FLOWS: u32 = 51_200;
/// First packets whose instructions are counted.
const COUNTED_FLOWS: u32 = 10_240;
/// Times that the packets of established flows come by while instructions are counted.
const PASSES: usize = 4;

pub fn measure(options: &Options) {
    for (name, kind) in Kind::ALL {
        first(options, name, kind);
        established(options, name, kind);
    }
    count_all(options);
}

fn first(options: &Options, name: &str, kind: Kind) {
    let heading = format!("packets, first of a flow, {name}: judged and learned, TCP, burst 64");
    if !options.wants(&heading) {
        return;
    }
    let mut group = Group::new(&heading, "ns per flow");
    for (name, rules) in Rules::ALL {
        let mut newcomers = newcomers(rules, NEW_FLOWS);
        let packets: Vec<_> = node::flows(NEW_FLOWS, kind, rules).iter().map(Flow::first).collect();
        group.case(name, move || {
            let sample = newcomers.learn(packets.clone());
            newcomers.expire(packets.len());
            sample
        });
    }
    print(group.measure(options));
}

fn established(options: &Options, name: &str, kind: Kind) {
    let heading = format!("packets, established, {name}, 1 k flows, TCP, burst 64");
    if !options.wants(&heading) {
        return;
    }
    let mut group = Group::new(&heading, "ns per packet");
    for (name, rules) in Rules::ALL {
        let mut world = world(kind, rules);
        group.case(name, move || world.sample());
    }
    print(group.measure(options));
}

fn print(mut table: Table) {
    let [none, few, many, in_use] = Rules::ALL.map(|(name, _)| name);
    let pairs = [(few, none), (many, few), (in_use, few)];
    for (over, under) in pairs {
        table.derive(&format!("{over} / {under}"), (over, under), |over, under| over / under);
    }
    table.print();
}

/// With room to spare: in a full table unanswered connections give way.
fn newcomers(rules: Rules, flows: u32) -> Newcomers {
    Newcomers::new(&mut node::tables(rules), flows * 4)
}

fn world(kind: Kind, rules: Rules) -> Established {
    let opening = (0..FLOWS).flat_map(|number| Flow::new(number, kind, rules).handshake());
    let packets = node::flows(FLOWS, kind, rules).iter().map(Flow::later).collect();
    Established::new(&mut node::tables(rules), opening.collect(), packets, BURST)
}

/// What is counted: a kind of packet, then places in [`Kind::ALL`] and [`Rules::ALL`].
pub fn run(case: &str) {
    let words: Vec<_> = case.split(' ').collect();
    let [packet, kind, rules] = words[..] else { panic!("no such case: {case}") };
    let place = |word: &str| word.parse::<usize>().expect("a place");
    let (kind, rules) = (Kind::ALL[place(kind)].1, Rules::ALL[place(rules)].1);
    match packet {
        "first" => {
            let flows = node::flows(COUNTED_FLOWS, kind, rules);
            let mut newcomers = newcomers(rules, COUNTED_FLOWS);
            newcomers.bring(flows.iter().map(Flow::first).collect());
            newcomers.open(flows.len());
        }
        _ => world(kind, rules).run(PASSES * FLOWS as usize / BURST),
    }
}

fn count_all(options: &Options) {
    let heading = "packets, instructions of a turn per packet";
    if !options.wants(heading) || !instructions::is_possible(heading) {
        return;
    }
    println!("{heading} (valgrind)");
    let counted = [("first", COUNTED_FLOWS), ("established", PASSES as u32 * FLOWS)];
    for (packet, packets) in counted {
        for (kind, (name, _)) in Kind::ALL.iter().enumerate() {
            let per_packet = |rules| {
                let case = format!("{CASE}{packet} {kind} {rules}");
                anyhow::Ok(instructions::count(&case, COUNTED)? / f64::from(packets))
            };
            let counts: Result<Vec<f64>> = (0..Rules::ALL.len()).map(per_packet).collect();
            match counts {
                Ok(counts) => print_counts(packet, name, &counts),
                Err(error) => println!("  {packet}, {name}: {error:#}"),
            }
        }
    }
    println!();
}

fn print_counts(packet: &str, kind: &str, counts: &[f64]) {
    let few = counts[1];
    println!("  {packet}, {kind}");
    for ((name, _), count) in Rules::ALL.iter().zip(counts) {
        println!("    {name:24}  {count:8.1}  ratio to 10 rules {:.3}", count / few);
    }
}
