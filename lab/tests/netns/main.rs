//! Labs on the real kernel: each test makes its own namespaces, as root, or says that it skips.

mod lifecycle;
mod links;
mod programs;
mod testbed;

use std::{process::Command, time::Duration};

use serde::de::DeserializeOwned;
use weir_lab::{Host, Lab, LinkOptions, Process, Result, program};

/// For whatever should happen at once, on a machine that is busy.
const SOON: Duration = Duration::from_secs(20);

const LEFT_V4: &str = "10.0.0.1";
const RIGHT_V4: &str = "10.0.0.2";
const LEFT_V6: &str = "fd00::1";
const RIGHT_V6: &str = "fd00::2";

/// Two hosts without a link.
fn two_hosts(lab: &Lab) -> Result<(Host, Host)> {
    Ok((lab.host("left")?, lab.host("right")?))
}

/// IPv4 and IPv6 addresses on `eth0` of both.
fn address(left: &Host, right: &Host) -> Result<()> {
    left.addr("eth0", &format!("{LEFT_V4}/24"))?;
    left.addr("eth0", &format!("{LEFT_V6}/64"))?;
    right.addr("eth0", &format!("{RIGHT_V4}/24"))?;
    right.addr("eth0", &format!("{RIGHT_V6}/64"))
}

/// Two hosts with a veth between them and addresses.
fn pair(lab: &Lab) -> Result<(Host, Host)> {
    let (left, right) = two_hosts(lab)?;
    lab.link(&left, "eth0", &right, "eth0", &LinkOptions::default())?;
    address(&left, &right)?;
    Ok((left, right))
}

/// A server of this crate on the right host, on both its addresses, once it listens.
fn serve(host: &Host, name: &str, port: u16) -> Result<Process> {
    let mut command = Command::new(program(name)?);
    command.args(["serve", "--name", "backend-1"]);
    for address in [format!("{RIGHT_V4}:{port}"), format!("[{RIGHT_V6}]:{port}")] {
        command.args(["--listen", &address]);
    }
    let server = host.spawn(command)?;
    server.wait_for_output(&format!("listening on [{RIGHT_V6}]"), SOON)?;
    Ok(server)
}

/// Runs a program of this crate to its end and gives its output, or its output as the error.
fn run(host: &Host, name: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program(name)?);
    command.args(arguments);
    host.spawn(command)?.wait_for_success(Duration::from_secs(60))
}

/// Like [`run`], with `--json` among the arguments: what it reported.
fn run_json<R: DeserializeOwned>(host: &Host, name: &str, arguments: &[&str]) -> Result<R> {
    Ok(serde_json::from_str(&run(host, name, arguments)?).expect("the report's own type"))
}
