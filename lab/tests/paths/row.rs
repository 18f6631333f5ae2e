//! A row of the table: who asks what over both families and protocols, and what should come of it.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result, ensure};
use weir_lab::{
    Cluster, ClusterService, Host,
    clock::Stopwatch,
    cluster::{Kind, OUTSIDE, Port, node_addresses},
    testbed::{ECHO_PORT, HTTP_PORT},
};

use crate::common::try_ask;
use crate::setup::HOST_PORT;

/// Questions of each cell.
const QUESTIONS: usize = 4;

/// For an answer that should not come, and a refusal that should come at once.
const TIMEOUT_MS: u64 = 2000;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Of the first node.
    Pod(&'static str),
    /// Of the second one.
    PodFar(&'static str),
    Node(u8),
    Outside,
}

/// Whose address the answerer should see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Any,
    /// The client's own.
    Own,
    Node(u8),
    /// Any, and all questions of a cell must have had one answerer.
    One,
}

#[derive(Clone, Debug)]
pub enum Expect {
    Answered(Vec<&'static str>, Seen),
    /// At once.
    Refused,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    Service(&'static str, Kind),
    HostPort,
    Outside,
    Node(u8),
}

#[derive(Clone, Debug)]
pub struct Row {
    client: Client,
    target: Target,
    expect: Expect,
}

impl Row {
    pub fn new(client: Client, service: &'static str, kind: Kind, expect: Expect) -> Self {
        Self { client, target: Target::Service(service, kind), expect }
    }

    pub fn answered(
        client: Client,
        service: &'static str,
        kind: Kind,
        by: &[&'static str],
        seen: Seen,
    ) -> Self {
        Self::new(client, service, kind, Expect::Answered(by.to_vec(), seen))
    }

    pub fn to_host_port(client: Client, by: &'static str, seen: Seen) -> Self {
        Self { client, target: Target::HostPort, expect: Expect::Answered(vec![by], seen) }
    }

    pub fn to_outside(client: Client, seen: Seen) -> Self {
        Self { client, target: Target::Outside, expect: Expect::Answered(vec!["outside"], seen) }
    }

    pub fn to_node(client: Client, node: u8, by: &'static str, seen: Seen) -> Self {
        Self { client, target: Target::Node(node), expect: Expect::Answered(vec![by], seen) }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let client = format!("{:?}", self.client);
        let target = match self.target {
            Target::Service(service, kind) => format!("{service} by {kind:?}"),
            other => format!("{other:?}"),
        };
        write!(f, "{client:<16} {target:<30}")
    }
}

/// What came of the questions of one cell.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// By whom, and whom they saw.
    Answered(BTreeSet<String>, BTreeSet<String>),
    Refused,
    Failed(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(by, seen) => write!(f, "by {by:?}, who saw {seen:?}"),
            Self::Refused => write!(f, "refused"),
            Self::Failed(why) => write!(f, "{why}"),
        }
    }
}

/// Runs all rows, prints them, and fails with those that are not as expected.
pub fn check_rows(cluster: &Cluster, services: &[ClusterService], rows: &[Row]) -> Result<()> {
    let watch = Stopwatch::start();
    let mut wrong = Vec::new();
    for row in rows {
        let mut cells = String::new();
        for (family, protocol) in [(0, "TCP"), (0, "UDP"), (1, "TCP"), (1, "UDP")] {
            let mark = match check_cell(cluster, services, row, family, protocol)? {
                None => "ok",
                Some(why) => {
                    wrong.push(format!("{row} IPv{} {protocol}: {why}", [4, 6][family]));
                    "WRONG"
                }
            };
            cells.push_str(&format!(" {mark:<6}"));
        }
        println!("{row}{cells}");
    }
    let (cells, ms) = (rows.len() * 4, watch.elapsed().as_millis());
    println!("{cells} cells, {} wrong, {ms} ms", wrong.len());
    ensure!(wrong.is_empty(), "{} of {cells} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

/// What is wrong with it.
fn check_cell(
    cluster: &Cluster,
    services: &[ClusterService],
    row: &Row,
    family: usize,
    protocol: &str,
) -> Result<Option<String>> {
    let (host, own) = find_client(cluster, row.client, family)?;
    let to = find_target(services, row.target, family, protocol)?;
    let outcome = match protocol {
        "TCP" => curl(host, to)?,
        _ => ask(host, to)?,
    };
    Ok((!is_expected(&row.expect, &outcome, own, family)).then(|| format!("{to}: {outcome}")))
}

fn is_expected(expect: &Expect, outcome: &Outcome, own: IpAddr, family: usize) -> bool {
    match (expect, outcome) {
        (Expect::Refused, Outcome::Refused) => true,
        (Expect::Answered(by, seen), Outcome::Answered(answerers, askers)) => {
            let is_one = |it: IpAddr| askers.iter().all(|asker| *asker == it.to_string());
            let is_seen_right = match seen {
                Seen::Any => true,
                Seen::One => answerers.len() == 1,
                Seen::Own => is_one(own),
                Seen::Node(node) => is_one(node_addresses(*node).both()[family]),
            };
            is_seen_right && answerers.iter().all(|name| by.contains(&name.as_str()))
        }
        _ => false,
    }
}

fn find_client(cluster: &Cluster, client: Client, family: usize) -> Result<(&Host, IpAddr)> {
    let (host, addresses) = match client {
        Client::Pod(name) | Client::PodFar(name) => {
            let node = usize::from(matches!(client, Client::PodFar(_)));
            let pod = cluster.node(node).pod(name)?;
            (pod.host(), pod.addresses())
        }
        Client::Node(node) => (cluster.node(node.into()).host(), node_addresses(node)),
        Client::Outside => (cluster.client(), OUTSIDE),
    };
    Ok((host, addresses.both()[family]))
}

fn find_target(
    services: &[ClusterService],
    target: Target,
    family: usize,
    protocol: &str,
) -> Result<SocketAddr> {
    let is_tcp = protocol == "TCP";
    let port = if is_tcp { HTTP_PORT } else { ECHO_PORT };
    let (addresses, port) = match target {
        Target::Service(name, kind) => {
            let service = services.iter().find(|it| it.name == name).context(name)?;
            let port = if is_tcp { Port::Http } else { Port::Echo };
            return Ok(service.at(kind, family, port));
        }
        Target::HostPort => (node_addresses(0), HOST_PORT),
        Target::Outside => (OUTSIDE, port),
        Target::Node(node) => (node_addresses(node), port),
    };
    Ok(SocketAddr::new(addresses.both()[family], port))
}

/// Requests on connections of their own; all must be answered.
fn curl(host: &Host, to: SocketAddr) -> Result<Outcome> {
    let (url, limit) = (format!("http://{to}/"), format!("{}", TIMEOUT_MS / 1000));
    let mut words = vec!["curl", "-sS", "-g", "--fail-early", "--max-time", &limit];
    words.extend(["-H", "Connection: close"]);
    words.extend([url.as_str(); QUESTIONS]);
    let output = host.output(words)?;
    let said = String::from_utf8_lossy(&output.stderr);
    // curl(1): failed to connect, and not because of the time.
    if output.status.code() == Some(7) {
        return Ok(Outcome::Refused);
    }
    if !output.status.success() {
        return Ok(Outcome::Failed(said.trim().to_owned()));
    }
    let (mut by, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let (name, peer) = line.split_once(" sees ").with_context(|| line.to_owned())?;
        by.insert(name.to_owned());
        seen.insert(peer.parse::<SocketAddr>()?.ip().to_string());
    }
    Ok(Outcome::Answered(by, seen))
}

/// Questions from ports of their own.
fn ask(host: &Host, to: SocketAddr) -> Result<Outcome> {
    let report = try_ask(host, to, QUESTIONS as u64, TIMEOUT_MS)?;
    if report.losses.get("refused") == Some(&report.sent) {
        return Ok(Outcome::Refused);
    }
    if report.lost > 0 || report.extra > 0 {
        let (lost, sent) = (report.lost, report.sent);
        return Ok(Outcome::Failed(format!("{lost} of {sent} lost: {:?}", report.losses)));
    }
    let names = report.backends.into_keys().collect();
    Ok(Outcome::Answered(names, report.askers.into_keys().collect()))
}
