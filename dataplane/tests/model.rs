//! Random services, endpoints and packet histories against a naive model: a list of connections,
//! and the rules of services written down as plainly as possible. Whatever number of workers must
//! agree with it.
//!
//! ```text
//!  state     the node: pods and services, and the choice for a new flow
//!  naive     the connections: what becomes of each packet
//!  memory    what several workers may know differently, and why
//!  steps     one step of a history, at random
//!  pair      each step done to the world and to the model
//! ```

mod common;
#[path = "model/memory.rs"]
mod memory;
#[path = "model/naive.rs"]
mod naive;
#[path = "model/pair.rs"]
mod pair;
#[path = "model/state.rs"]
mod state;
#[path = "model/steps.rs"]
mod steps;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use weir_tables::SnatPorts;

use common::world::Layout;
use pair::Pair;
use steps::{Step, step};

/// Steps of a history.
const STEPS_MAX: usize = 100;

/// Histories of `WEIR_SEED`, 1 by default: the same seed gives the same ones. `WEIR_FULL=1` runs
/// more.
fn config() -> ProptestConfig {
    let number = |text: String| text.parse().ok();
    let seed = std::env::var("WEIR_SEED").ok().and_then(number).unwrap_or(1);
    println!("WEIR_SEED={seed}");
    let cases = if std::env::var_os("WEIR_FULL").is_some() { 5000 } else { 1000 };
    let rng_seed = RngSeed::Fixed(seed);
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}

/// Where pods are and packets arrive, which must not matter; family and ports for translation.
#[derive(Clone, Debug)]
struct Setting {
    salt: u32,
    seed: u64,
    /// All packets from outside arrive at one worker, or each at any.
    queue: Option<u8>,
    family: u8,
    are_ports_few: bool,
}

fn setting() -> impl Strategy<Value = Setting> {
    let family = prop_oneof![Just(4_u8), Just(6)];
    (0..8_u32, any::<u64>(), prop::option::weighted(0.2, 0..4_u8), family, any::<bool>()).prop_map(
        |(salt, seed, queue, family, are_ports_few)| Setting {
            salt,
            seed,
            queue,
            family,
            are_ports_few,
        },
    )
}

fn agrees(workers: u8, setting: &Setting, steps: &[Step]) -> Result<(), TestCaseError> {
    let plain = Layout::of(workers);
    let queues = match setting.queue {
        Some(queue) => vec![queue % workers],
        None => plain.queues.clone(),
    };
    let layout = Layout { queues, salt: setting.salt, seed: setting.seed, ..plain };
    let few = SnatPorts { min: 50_000, max: 50_007 };
    let ports = if setting.are_ports_few { few } else { SnatPorts::default() };
    let mut pair = Pair::new(layout, setting.family, ports);
    for (at, step) in steps.iter().enumerate() {
        pair.step(step).map_err(|error| TestCaseError::fail(format!("step {at}: {error}")))?;
    }
    Ok(())
}

fn history() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..STEPS_MAX)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn one_worker_does_what_the_model_says(setting in setting(), steps in history()) {
        agrees(1, &setting, &steps)?;
    }

    #[test]
    fn two_workers_do_what_the_model_says(setting in setting(), steps in history()) {
        agrees(2, &setting, &steps)?;
    }

    #[test]
    fn four_workers_do_what_the_model_says(setting in setting(), steps in history()) {
        agrees(4, &setting, &steps)?;
    }
}
