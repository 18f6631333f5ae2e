//! ADD: a pod's interface, live when this returns.

use std::os::fd::AsRawFd;

use serde_json::Value;
use weir_api::v1::{AllocateReply, AllocateRequest, AttachRequest, ReleaseRequest};

use super::{ADD_PATIENCE, DEL_PATIENCE, Task, compare};
use crate::agent::ask;
use crate::error::{CniError, INTERFACE_EXISTS, INVALID_ENVIRONMENT};
use crate::namespace::Namespace;
use crate::netlink::Netlink;
use crate::pod::{configure, write_sysctl};
use crate::result::Interface;

/// Makes the interface and has the dataplane carry it. The same call twice gives the same result.
///
/// # Errors
/// Any step; then what this call made is gone again.
pub async fn add(task: &mut Task) -> Result<Value, CniError> {
    let path = task.call.netns.clone().unwrap_or_default();
    let namespace = Namespace::open(&path)?.ok_or_else(|| {
        let message = format!("CNI_NETNS={}: no such network namespace", path.display());
        CniError::new(INVALID_ENVIRONMENT, message, "the container has ended: make a new one")
    })?;
    let reply = allocate(task).await?;
    let mut wanted = match Interface::read(&task.call.attachment.ifname, &reply) {
        Ok(wanted) => wanted,
        Err(error) => return Err(roll_back(task, None, error).await),
    };
    let must_make = match prepare(task, &namespace, &wanted).await {
        Ok(must_make) => must_make,
        Err(error) => return Err(roll_back(task, None, error).await),
    };
    // Who attaches again what works must not lose it because the dataplane is away.
    if !must_make {
        attach(task).await?;
    } else if let Err(error) = make(task, &namespace, &wanted).await {
        return Err(roll_back(task, Some(&wanted), error).await);
    }
    // A recovered lease does not know it.
    if wanted.mtu == 0
        && let Some(link) = Netlink::open()?.find(&wanted.host_name).await?
    {
        wanted.mtu = link.mtu;
    }
    let prev = task.config.prev_result.as_ref();
    Ok(wanted.to_result(&path.display().to_string(), prev, task.config.version))
}

async fn allocate(task: &Task) -> Result<AllocateReply, CniError> {
    let request = AllocateRequest {
        attachment: Some(task.call.attachment.clone()),
        pod_namespace: task.call.pod.namespace.clone(),
        pod_name: task.call.pod.name.clone(),
        pod_uid: task.call.pod.uid.clone(),
    };
    let socket = &task.config.socket;
    ask(socket, "address", ADD_PATIENCE, |mut client| {
        let request = request.clone();
        async move { client.allocate(request).await }
    })
    .await
}

async fn attach(task: &Task) -> Result<(), CniError> {
    let request = AttachRequest {
        attachment: Some(task.call.attachment.clone()),
        port_mappings: task.config.port_mappings.clone(),
        bandwidth: task.config.bandwidth,
    };
    let attached = ask(&task.config.socket, "attach", ADD_PATIENCE, |mut client| {
        let request = request.clone();
        async move { client.attach(request).await }
    });
    attached.await.map(drop)
}

/// Whether the interface has to be made. What an earlier call left half done is removed.
async fn prepare(
    task: &mut Task,
    namespace: &Namespace,
    wanted: &Interface,
) -> Result<bool, CniError> {
    match compare(namespace, wanted).await? {
        Some(found) if found.differences.is_empty() => return Ok(false),
        Some(found) if found.link.mac != wanted.mac => {
            let message = format!("the pod has an interface {} already", wanted.name);
            let details = "another plugin made it: give weir a name of its own, or remove it";
            return Err(CniError::new(INTERFACE_EXISTS, message, details));
        }
        Some(found) => {
            task.notes.push(format!("made again, for {}", found.differences.join("; ")));
            let name = wanted.name.clone();
            namespace.run(|| async move { Netlink::open()?.delete(&name).await })?;
        }
        None => {}
    }
    if Netlink::open()?.delete(&wanted.host_name).await? {
        task.notes.push(format!("removed {}, which an earlier call left", wanted.host_name));
    }
    Ok(true)
}

async fn make(task: &Task, namespace: &Namespace, wanted: &Interface) -> Result<(), CniError> {
    let netlink = Netlink::open()?;
    let near = (wanted.host_name.as_str(), wanted.host_mac);
    let far = (wanted.name.as_str(), wanted.mac);
    netlink.create_veth(near, far, wanted.mtu, namespace.file().as_raw_fd()).await?;
    namespace.run(|| configure(wanted))?;
    configure_host(wanted)?;
    if let Some(link) = netlink.find(&wanted.host_name).await? {
        netlink.set_up(&link).await?;
    }
    attach(task).await
}

/// The host side has no address of its own, a pod is no router of the node, and reverse-path
/// filtering is loose, as the dataplane has it too: packets of pods come in by other ways.
fn configure_host(wanted: &Interface) -> Result<(), CniError> {
    let name = &wanted.host_name;
    let has_v6 = wanted.addresses.iter().any(|it| it.ip.is_ipv6());
    write_sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "2", true)?;
    for (key, value) in [("addr_gen_mode", "1"), ("accept_ra", "0"), ("router_solicitations", "0")]
    {
        write_sysctl(&format!("net/ipv6/conf/{name}/{key}"), value, has_v6)?;
    }
    Ok(())
}

/// Gives back what this call took. The error is the reason, whatever else fails.
async fn roll_back(task: &mut Task, made: Option<&Interface>, error: CniError) -> CniError {
    if let Some(wanted) = made {
        let deleted = match Netlink::open() {
            Ok(netlink) => netlink.delete(&wanted.host_name).await,
            Err(error) => Err(error),
        };
        if let Err(other) = deleted {
            task.notes.push(format!("{} is left behind: {other}", wanted.host_name));
        }
    }
    let request = ReleaseRequest { attachment: Some(task.call.attachment.clone()) };
    let released = ask(&task.config.socket, "release", DEL_PATIENCE, |mut client| {
        let request = request.clone();
        async move { client.release(request).await }
    });
    if let Err(other) = released.await {
        task.notes.push(format!("the address is freed by the agent's garbage collector: {other}"));
    }
    error
}
