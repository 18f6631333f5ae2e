//! The world of the truth table, built once: a namespace for each pod, node and for everything
//! outside, with a prober in each.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use weir_lab::{
    Host, Node, World, WorldNode, WorldOptions,
    clock::{pause, wait_until},
    probe::{Answer, Listener, Outcome, Prober, Protocol, Question},
    testbed::Addresses,
};

use crate::cases::{Case, Ends};

/// For whatever must happen, on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long packets are given that nobody answers.
const ARRIVAL: Duration = Duration::from_millis(60);

/// Of the host outside.
const GATEWAY: Addresses = Addresses::new([172, 18, 0, 1], [0xfd00, 0x18, 0, 0, 0, 0, 0, 1]);

/// Where the pods are, so that the nodes speak for them to the world outside.
const POD_RANGES: [&str; 2] = ["--cluster-range=10.244.0.0/16", "--cluster-range=fd00:244::/32"];

/// Ports that sockets choose by themselves: none that a case names.
const OWN_PORTS: &str = "20000 29999";

const OUTSIDE: &str = "outside";

/// Addresses that the host outside has whatever the cases name.
const WORLD: [&str; 4] = ["203.0.113.10", "198.51.100.7", "2001:db8::1", "2001:db8::2"];

/// The world, running.
pub struct Bed {
    pub world: World,
    /// The objects of the world, by the name of their file.
    pub objects: BTreeMap<String, Value>,
    /// By the name of the host: `x/a`, `node-1`, `outside`.
    probers: BTreeMap<String, Prober>,
    /// Which host has an address.
    hosts: BTreeMap<IpAddr, String>,
    /// Addresses of pods by their name, those on the host's network included.
    pods: BTreeMap<String, Vec<IpAddr>>,
    applied: Cell<u16>,
    asked: Cell<u32>,
}

impl Bed {
    /// Everything that any of the cases speaks of, and weir running without a policy.
    pub fn new(name: &str, world: &str, cases: &[Case]) -> Result<Self> {
        let objects = read_yaml(world)?;
        let nodes: Vec<WorldNode> = of_kind(&objects, "Node").map(read_node).collect();
        let agent_flags = POD_RANGES.map(str::to_owned).to_vec();
        let options =
            WorldOptions { gateway: GATEWAY, nodes: nodes.clone(), workers: 1, agent_flags };
        let mut bed = Self {
            world: World::new(name, options)?,
            objects: objects.iter().map(|it| (file_name(it), it.clone())).collect(),
            probers: BTreeMap::new(),
            hosts: BTreeMap::new(),
            pods: BTreeMap::new(),
            applied: Cell::new(0),
            asked: Cell::new(0),
        };
        for (file, object) in &bed.objects {
            bed.first_node().apply(file, &object.to_string())?;
        }
        for node in &nodes {
            bed.hosts.extend(node.addresses.both().map(|it| (it, node.name.clone())));
        }
        bed.world.start()?;
        let mut all = objects;
        for case in cases {
            all.extend(read_yaml(&case.manifests)?);
        }
        of_kind(&all, "Pod").try_for_each(|pod| bed.add_pod(pod, &nodes))?;
        bed.add_outside(cases)?;
        bed.start_probers()?;
        bed.apply("")?;
        Ok(bed)
    }

    fn add_pod(&mut self, pod: &Value, nodes: &[WorldNode]) -> Result<()> {
        let name = format!("{}/{}", text(pod, "namespace"), text(pod, "name"));
        let addresses = list_addresses(&pod["status"]["podIPs"], "ip");
        if self.pods.insert(name.clone(), addresses.clone()).is_some() {
            return Ok(());
        }
        if pod["spec"]["hostNetwork"] == true {
            return Ok(());
        }
        let at = nodes.iter().position(|it| pod["spec"]["nodeName"] == it.name.as_str());
        let at = at.with_context(|| format!("no node for pod {name}"))?;
        let both = pair(&addresses);
        self.world.add_pod(at, &name, both)?;
        self.hosts.extend(both.both().map(|it| (it, name.clone())));
        Ok(())
    }

    /// Gives the host outside every address that the cases name and nobody else has.
    fn add_outside(&mut self, cases: &[Case]) -> Result<()> {
        let lines = cases.iter().flat_map(|case| &case.lines).flat_map(|line| &line.probes);
        let ends = lines.flat_map(|it| [it.from.as_str(), &it.to]).chain(WORLD);
        let ends = ends.filter_map(|it| it.parse().ok());
        let unknown: BTreeSet<IpAddr> = ends.filter(|it| !self.hosts.contains_key(it)).collect();
        for address in unknown {
            let length = if address.is_ipv4() { 32 } else { 128 };
            self.world.outside().addr("br0", &format!("{address}/{length}"))?;
            self.hosts.insert(address, OUTSIDE.into());
        }
        Ok(())
    }

    fn start_probers(&mut self) -> Result<()> {
        let names: BTreeSet<String> = self.hosts.values().cloned().collect();
        for name in names {
            let host = self.host(&name)?;
            host.sysctl("net.ipv4.ping_group_range", "0 2147483647")?;
            host.sysctl("net.ipv4.ip_local_port_range", OWN_PORTS)?;
            let prober = Prober::start(host, self.world.lab().folder())?;
            self.probers.insert(name, prober);
        }
        Ok(())
    }

    /// The namespace of `x/a`, `node-1` or `outside`.
    pub fn host(&self, name: &str) -> Result<&Host> {
        if name == OUTSIDE {
            return Ok(self.world.outside());
        }
        let node = self.world.nodes().iter().find(|it| it.name() == name);
        match node {
            Some(node) => Ok(node.host()),
            None => Ok(self.node_of(name)?.pod(name)?.host()),
        }
    }

    /// The node that a pod runs on.
    pub fn node_of(&self, pod: &str) -> Result<&Node> {
        let found = self.world.nodes().iter().find(|it| it.pod(pod).is_ok());
        found.with_context(|| format!("no node has pod {pod}"))
    }

    /// Every node reads the same folder.
    fn first_node(&self) -> &Node {
        &self.world.nodes()[0]
    }

    /// Where the agents and `weir policy check` read.
    pub fn manifests(&self) -> PathBuf {
        self.first_node().manifests()
    }

    /// Makes these the only objects beside the world's, and waits until every worker of every node
    /// runs them.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.change("case", |marker| format!("{yaml}\n---\n{marker}"))
    }

    /// Changes an object of the world, and waits as [`Bed::apply`] does; with `None` it is again
    /// what it was.
    pub fn apply_object(&self, file: &str, changed: Option<&Value>) -> Result<()> {
        let object = changed.unwrap_or(&self.objects[file]).to_string();
        self.change(file, |marker| format!("{object}\n---\n{marker}"))
    }

    /// Writes a file with a Service whose address was never used before: so every change becomes a
    /// revision, and its acknowledgement is that of this change.
    fn change(&self, file: &str, write: impl FnOnce(&str) -> String) -> Result<()> {
        let number = self.applied.get() + 1;
        self.applied.set(number);
        let [high, low] = number.to_be_bytes();
        let marker = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: marker-{file}, namespace: \
             default}}, spec: {{clusterIP: 10.111.{high}.{low}, clusterIPs: [10.111.{high}.{low}], \
             ports: [{{port: 9}}]}}}}"
        );
        let before = self.revisions()?;
        self.first_node().apply(file, &write(&marker))?;
        for (node, before) in self.world.nodes().iter().zip(before) {
            let what = format!("{} to run a change of {file}", node.name());
            wait_until(&what, PATIENCE, || {
                let status = node.status().ok()?;
                let sent = status.agent.as_ref()?.sent_revision;
                (sent > before && status.is_settled()).then_some(())
            })?;
        }
        Ok(())
    }

    fn revisions(&self) -> Result<Vec<u64>> {
        let revisions = self.world.nodes().iter().map(|node| {
            let agent = node.status()?.agent;
            Ok(agent.with_context(|| format!("no agent on {}", node.name()))?.sent_revision)
        });
        revisions.collect()
    }

    /// Starts every agent again with more flags.
    pub fn restart_agents(&mut self, flags: &[&str]) -> Result<()> {
        let flags = [&POD_RANGES[..], flags].concat();
        for node in self.world.nodes_mut() {
            node.change_agent_flags(&flags);
            node.start_agent()?;
            node.wait_until_settled()?;
        }
        Ok(())
    }

    /// The addresses of `x/a`, or of an address itself.
    pub fn addresses(&self, end: &str) -> Result<Vec<IpAddr>> {
        match end.parse() {
            Ok(address) => Ok(vec![address]),
            Err(_) => self.pods.get(end).cloned().with_context(|| format!("no pod {end}")),
        }
    }

    /// The address of a pod in one family, or the address itself.
    pub fn address(&self, end: &str, is_v4: bool) -> Result<IpAddr> {
        let found = self.addresses(end)?.into_iter().find(|it| it.is_ipv4() == is_v4);
        found.with_context(|| format!("{end} has no address of that family"))
    }

    /// A question of the truth table over both families, as far as its ends have them.
    pub fn questions(&self, ends: &Ends) -> Result<Vec<Question>> {
        let protocol = read_protocol(&ends.protocol)?;
        let (from, to) = (self.addresses(&ends.from)?, self.addresses(&ends.to)?);
        let families = match protocol {
            Protocol::Icmp => &[true][..],
            Protocol::Icmpv6 => &[false],
            _ => &[true, false],
        };
        let mut questions = Vec::new();
        for is_v4 in families {
            let find = |all: &[IpAddr]| all.iter().copied().find(|it| it.is_ipv4() == *is_v4);
            if let (Some(from), Some(to)) = (find(&from), find(&to)) {
                questions.push(self.question(from, to, protocol, ends.port));
            }
        }
        ensure!(!questions.is_empty(), "no family in common: {ends:?}");
        Ok(questions)
    }

    pub fn question(&self, from: IpAddr, to: IpAddr, protocol: Protocol, port: u16) -> Question {
        let id = self.asked.get() + 1;
        self.asked.set(id);
        Question { id, from, to, protocol, port }
    }

    /// Echoes wherever these questions go.
    pub fn serve(&self, questions: &[Question]) -> Result<()> {
        let mut by_host: BTreeMap<&str, BTreeSet<Listener>> = BTreeMap::new();
        for it in questions {
            if matches!(it.protocol, Protocol::Tcp | Protocol::Udp) {
                let at = SocketAddr::new(it.to, it.port);
                let listener = Listener { protocol: it.protocol, at };
                by_host.entry(self.host_at(it.to)?).or_default().insert(listener);
            }
        }
        for (host, listeners) in by_host {
            self.probers[host].listen(listeners.into_iter().collect())?;
        }
        Ok(())
    }

    fn host_at(&self, address: IpAddr) -> Result<&str> {
        let host = self.hosts.get(&address).with_context(|| format!("nobody has {address}"))?;
        Ok(host)
    }

    /// Asks everything at once, and waits for all outcomes; in the order of the questions.
    ///
    /// [`Outcome::Sent`] becomes `Answered` or `Silent`: whether it was seen at its destination.
    pub fn ask(&self, questions: &[Question], timeout: Duration) -> Result<Vec<Answer>> {
        let mut by_host: BTreeMap<&str, Vec<Question>> = BTreeMap::new();
        for it in questions {
            by_host.entry(self.host_at(it.from)?).or_default().push(it.clone());
        }
        let answers = thread::scope(|scope| {
            let asking = by_host.into_iter().map(|(host, questions)| {
                let prober = &self.probers[host];
                scope.spawn(move || prober.ask(questions, timeout))
            });
            let asking: Vec<_> = asking.collect();
            let joined = asking.into_iter().map(|it| it.join().expect("no prober panics"));
            joined.collect::<weir_lab::Result<Vec<_>>>()
        })?;
        let mut answers: BTreeMap<u32, Answer> =
            answers.into_iter().flatten().map(|it| (it.id, it)).collect();
        if answers.values().any(|it| it.outcome == Outcome::Sent) {
            pause(ARRIVAL);
            let seen: BTreeSet<(String, u32)> = self.take_seen()?;
            for question in questions {
                let at = (self.host_at(question.to)?.to_owned(), question.id);
                let answer = answers.get_mut(&question.id).context("an answer to each")?;
                if answer.outcome == Outcome::Sent {
                    let is_seen = seen.contains(&at);
                    answer.outcome = if is_seen { Outcome::Answered } else { Outcome::Silent };
                }
            }
        }
        let taken = questions.iter().map(|it| answers.remove(&it.id).context("an answer to each"));
        taken.collect()
    }

    fn take_seen(&self) -> Result<BTreeSet<(String, u32)>> {
        let mut all = BTreeSet::new();
        for (name, prober) in &self.probers {
            all.extend(prober.take_seen()?.into_iter().map(|id| (name.clone(), id)));
        }
        Ok(all)
    }

    /// What both nodes say about a pod and of the packets they denied between two addresses.
    pub fn explain(&self, question: &Question) -> String {
        let mut said = String::new();
        for end in [question.from, question.to] {
            let Some(host) = self.hosts.get(&end) else { continue };
            let Ok(node) = self.node_of(host) else { continue };
            let shown = node.weir(&["policy", "show", host]);
            let shown = shown.unwrap_or_else(|error| error.to_string());
            let _ = writeln!(said, "    {} shows {host}:\n{}", node.name(), indent(&shown));
            let drops = node.weir(&["drops"]).unwrap_or_else(|error| error.to_string());
            let (from, to) = (question.from.to_string(), question.to.to_string());
            let lines = drops.lines().filter(|it| it.contains(&from) && it.contains(&to));
            let lines = lines.collect::<Vec<_>>().join("\n");
            let _ = writeln!(said, "    {} dropped:\n{}", node.name(), indent(&lines));
        }
        said
    }
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("      {line}")).collect::<Vec<_>>().join("\n")
}

pub fn read_protocol(name: &str) -> Result<Protocol> {
    Ok(match name {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        "ICMP" => Protocol::Icmp,
        "ICMPv6" => Protocol::Icmpv6,
        _ => bail!("no protocol {name}"),
    })
}

pub fn name_protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
        Protocol::Icmp => "ICMP",
        Protocol::Icmpv6 => "ICMPv6",
    }
}

/// The documents of a file that say something.
pub fn read_yaml(text: &str) -> Result<Vec<Value>> {
    let documents = text.split("\n---\n").map(serde_saphyr::from_str::<Value>);
    let documents = documents.collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(documents.into_iter().filter(Value::is_object).collect())
}

fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |it| it["kind"] == kind)
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// As `pod-x-a`.
fn file_name(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
    format!("{kind}-{}-{}", text(object, "namespace"), text(object, "name"))
}

fn read_node(node: &Value) -> WorldNode {
    let addresses = pair(&list_addresses(&node["status"]["addresses"], "address"));
    WorldNode { name: text(node, "name").to_owned(), addresses }
}

fn list_addresses(list: &Value, field: &str) -> Vec<IpAddr> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|it| it[field].as_str()?.parse().ok()).collect()
}

/// One of each family. A pod of one family is given an address of the other that nobody knows.
fn pair(addresses: &[IpAddr]) -> Addresses {
    let v4 = addresses.iter().find_map(|it| if let IpAddr::V4(it) = it { Some(*it) } else { None });
    let v6 = addresses.iter().find_map(|it| if let IpAddr::V6(it) = it { Some(*it) } else { None });
    let v4 = v4.unwrap_or(Ipv4Addr::new(10, 244, 250, 250));
    let [.., low] = v4.octets();
    let unknown = Ipv6Addr::new(0xfd00, 0x244, 0xfa, 0, 0, 0, 0, low.into());
    Addresses { v4, v6: v6.unwrap_or(unknown) }
}
