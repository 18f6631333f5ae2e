//! What runtimes ask, one file each.

mod add;
mod check;
mod del;
mod gc;
mod loopback;
mod status;

use std::time::Duration;

pub use add::add;
pub use check::check;
pub use del::del;
pub use gc::gc;
pub use loopback::loopback;
pub use status::status;

use crate::config::Config;
use crate::environment::Call;
use crate::error::CniError;
use crate::namespace::Namespace;
use crate::netlink::Netlink;
use crate::pod::{Found, inspect};
use crate::result::Interface;

/// How long ADD waits for the agent: longer than it takes to be replaced, shorter than runtimes
/// wait for us.
const ADD_PATIENCE: Duration = Duration::from_secs(20);
/// How long DEL waits: pods must go also while there is no agent.
const DEL_PATIENCE: Duration = Duration::from_secs(10);
/// How long CHECK and GC wait.
const CHECK_PATIENCE: Duration = Duration::from_secs(10);
/// How long STATUS waits: runtimes ask every few seconds.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);

/// A call, and what it has to say beside its result.
#[derive(Debug)]
pub struct Task {
    /// What is asked.
    pub call: Call,
    /// How.
    pub config: Config,
    /// For the log.
    pub notes: Vec<String>,
}

/// How an attachment differs from what it should be; `None` where the pod has no interface of the
/// name at all.
async fn compare(namespace: &Namespace, wanted: &Interface) -> Result<Option<Found>, CniError> {
    let host = Netlink::open()?.find(&wanted.host_name).await?;
    let Some(mut found) = namespace.run(|| inspect(wanted))? else { return Ok(None) };
    let name = &wanted.host_name;
    let mut expect = |is_so: bool, what: &str| {
        if !is_so {
            found.differences.push(format!("{name} on the host {what}"));
        }
    };
    match host {
        None => expect(false, "is gone"),
        Some(host) => {
            let is_pair = (host.peer, host.index) == (found.link.index, found.link.peer);
            expect(is_pair, "is not the other end");
            expect(host.is_up, "is down");
            expect(host.mac == wanted.host_mac, "has another MAC address");
        }
    }
    Ok(Some(found))
}
