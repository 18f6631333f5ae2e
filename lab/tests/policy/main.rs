//! Network policy over real sockets, in short: `scripts/policy` runs every case.

mod bed;
#[allow(clippy::unwrap_used, reason = "a table that cannot be read fails the test")]
#[path = "../../../control/tests/policy_truth/cases.rs"]
mod cases;
mod small;
mod table;

use weir_lab::skipped;

use bed::Bed;
use cases::read_folder;

/// The files of this short run.
const FILES: [&str; 2] = ["always: ", "knp-several: "];

#[test]
fn packets_are_judged_as_policy_check_says() -> anyhow::Result<()> {
    if skipped() {
        return Ok(());
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../dataplane/tests/policy");
    let (world, mut cases) = read_folder(folder.as_ref());
    cases.retain(|case| FILES.iter().any(|file| case.name.starts_with(file)));
    assert!(cases.len() > 5, "{} cases", cases.len());
    let mut bed = Bed::new("policy", &world, &cases)?;
    table::check_cases(&bed, &cases)?;
    small::check_own_node(&bed)?;
    small::check_reject(&mut bed)
}
