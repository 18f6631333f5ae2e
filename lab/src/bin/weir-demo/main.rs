//! The demo: a whole weir in network namespaces, shown with real traffic and checked step by step.

mod balance;
mod load;
mod removal;
mod setup;
mod show;
mod tools;

use std::{path::PathBuf, process::ExitCode, thread};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use weir_lab::{
    Testbed, TestbedOptions, clean_up_on_signal, clock::Stopwatch, privileged, stay_if_interrupted,
};

use crate::show::{Summary, print_heading};

/// What the demo's labs are called.
const LAB: &str = "demo";

/// A client, a node that runs weir, and backend pods that are real servers, all in network
/// namespaces of this machine: shows what weir does, checks it, and removes everything.
#[derive(Parser)]
#[command(name = "weir-demo")]
struct Arguments {
    /// Leave everything up and say how to look around; --clean removes it.
    #[arg(long)]
    keep: bool,
    /// Remove what --keep left up, and end.
    #[arg(long)]
    clean: bool,
    /// weir's packet workers [default: 2, or 1 on a machine with one core].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: Option<u16>,
    /// HTTP requests from outside, each on a new connection.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..))]
    requests: u64,
    /// Seconds of the packet generator's load.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Packets per second of that load.
    #[arg(long, default_value_t = 20_000)]
    rate: u32,
    /// Also draw the load's latencies into this file (SVG).
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Only set up, and run the load: what CI prints.
    #[arg(long)]
    only_load: bool,
}

/// The running demo.
struct Demo {
    arguments: Arguments,
    testbed: Testbed,
    summary: Summary,
    step: u32,
}

type Step = fn(&mut Demo) -> Result<()>;

const SET_UP: [(&str, Step); 2] = [
    ("A client, a node, and pods", setup::build),
    ("Two Services, as Kubernetes YAML", setup::apply_services),
];
const TRAFFIC: [(&str, Step); 5] = [
    ("HTTP from outside, each request on a new connection", balance::outside),
    ("The ClusterIP, from a pod and from the host", balance::inside),
    ("UDP: questions and their echoes", balance::udp),
    ("All of it over IPv6", balance::ipv6),
    ("A backend goes away while downloads run", removal::remove_backend),
];
const LOAD: (&str, Step) = ("Load from weir-pktgen", load::run);
const LOOK: (&str, Step) = ("What weir says of itself", setup::look);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.clean {
        return clean();
    }
    if let Err(reason) = privileged() {
        eprintln!("The demo cannot run here: {reason}");
        return ExitCode::FAILURE;
    }
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\n{}", show::failure(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn clean() -> ExitCode {
    match weir_lab::remove_kept(LAB)[..] {
        [] => println!("There is no demo that was kept."),
        ref labs => println!("Removed {}.", labs.join(", ")),
    }
    ExitCode::SUCCESS
}

fn run(arguments: Arguments) -> Result<()> {
    clean_up_on_signal()?;
    let watch = Stopwatch::start();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let workers = arguments.workers.unwrap_or(if cores > 1 { 2 } else { 1 });
    let uplink_queues = Some(workers.into());
    let options = TestbedOptions { workers, uplink_queues, ..Default::default() };
    let testbed = Testbed::new(LAB, options).context("the lab cannot be set up")?;
    if arguments.keep {
        testbed.lab().keep();
    }
    let mut demo = Demo { arguments, testbed, summary: Summary::default(), step: 0 };
    let outcome = demo.run();
    if let Err(error) = &outcome {
        stay_if_interrupted();
        show::print_logs(&demo.testbed, error);
    } else {
        demo.summary.add("time", format!("{:.0} s", watch.elapsed().as_secs_f64()));
        demo.summary.print();
    }
    if demo.arguments.keep {
        show::print_tour(&demo.testbed);
    }
    outcome
}

impl Demo {
    fn run(&mut self) -> Result<()> {
        let traffic = if self.arguments.only_load { &[][..] } else { &TRAFFIC };
        let steps = SET_UP.iter().chain(traffic).chain([&LOAD, &LOOK]);
        for (title, step) in steps {
            self.step += 1;
            print_heading(self.step, title);
            step(self).with_context(|| format!("step {} failed ({title})", self.step))?;
            ensure_running(&self.testbed)
                .with_context(|| format!("after step {} ({title})", self.step))?;
        }
        Ok(())
    }
}

/// A process that fails and is started again would otherwise go unseen.
fn ensure_running(testbed: &Testbed) -> Result<()> {
    for process in testbed.processes() {
        ensure!(process.is_running(), "weir has ended: {}", process.stderr_path().display());
        let restarts =
            process.stderr().lines().filter(|it| it.contains("starting it again")).count();
        ensure!(restarts == 0, "a process of weir ended and was started again");
    }
    Ok(())
}
