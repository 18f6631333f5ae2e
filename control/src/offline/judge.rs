//! From a question to its answer.

use std::net::IpAddr;

use weir_tables::policy::{
    Direction, IdentityId, L4, L4Protocol, Peer, PolicyAction, PolicyTable, PolicyVerdict, Rule,
    RuleAction, RuleId,
};

use super::cluster::{Cluster, Owner, PodRules};
use super::probe::{EndRef, OfflineError, Probe};
use super::{Answer, Half, Reason};
use crate::model::{Family, Name, PARSERS};

/// A node whose addresses are not known.
const REMOTE_NODE: IdentityId = IdentityId(6);

/// Whom an end of a connection means.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Whose rules are asked.
    pub(super) pod: Option<u32>,
    /// The node that it is.
    node: Option<u32>,
    /// The address that was asked about.
    given: Option<IpAddr>,
}

/// What one end's rules say, before it is put into words.
#[derive(Debug, Clone, Copy)]
pub(super) enum Decided<'a> {
    /// By a rule.
    ByRule { table: &'a PolicyTable, peer: Peer, verdict: PolicyVerdict },
    /// By something else.
    Without(Reason),
}

/// Both ends, each with what it says.
pub(super) type DecidedHalves<'a> = [Option<(u32, Direction, Decided<'a>)>; 2];

impl Cluster {
    /// What becomes of a connection.
    ///
    /// # Errors
    /// The question has no answer: no such pod, a service's address, ICMP of the wrong family.
    pub fn judge(&self, probe: &Probe) -> Result<Answer, OfflineError> {
        let from = self.resolve(EndRef::from(&probe.from))?;
        let to = self.resolve(EndRef::from(&probe.to))?;
        let halves = self.decide(from, to, probe.l4)?;
        let [egress, ingress] = halves.map(|it| it.map(|half| self.explain(half, probe.l4)));
        Ok(Answer { egress, ingress })
    }

    pub(super) fn resolve(&self, end: EndRef<'_>) -> Result<Place, OfflineError> {
        let address = match end {
            EndRef::Pod(namespace, name) => {
                let found = self.find_pod(namespace, name);
                let pod = found.ok_or_else(|| OfflineError::NoPod(Name::new(namespace, name)))?;
                return Ok(match self.pods[pod as usize].host {
                    None => Place { pod: Some(pod), node: None, given: None },
                    Some(host) => Place { pod: None, node: host.node, given: host.address },
                });
            }
            EndRef::Address(address) => address,
        };
        let place = Place { pod: None, node: None, given: Some(address) };
        match self.owners.get(&address) {
            None => Ok(place),
            Some(Owner::Pod(pod)) => Ok(Place { pod: Some(*pod), ..place }),
            Some(Owner::Node(node)) => Ok(Place { node: Some(*node), ..place }),
            Some(Owner::Service(service)) => {
                let service = service.clone();
                let backends = self.list_backends(&service, address);
                Err(OfflineError::Service { address, service, backends })
            }
        }
    }

    pub(super) fn decide(
        &self,
        from: Place,
        to: Place,
        l4: L4,
    ) -> Result<DecidedHalves<'_>, OfflineError> {
        let family = self.choose_family(&from, &to, l4)?;
        let is_itself = from.pod.is_some() && from.pod == to.pod;
        let half = |own: &Place, peer: &Place, direction| {
            let pod = own.pod?;
            let node = self.pods[pod as usize].node;
            let is_own_node = peer.pod.is_none() && node.is_some() && peer.node == node;
            let decided = match direction {
                _ if is_itself => Decided::Without(Reason::Itself),
                Direction::Ingress if is_own_node => Decided::Without(Reason::OwnNode),
                _ => self.ask(pod, direction, is_own_node, self.address_of(peer, family), peer, l4),
            };
            Some((pod, direction, decided))
        };
        Ok([half(&from, &to, Direction::Egress), half(&to, &from, Direction::Ingress)])
    }

    fn ask(
        &self,
        pod: u32,
        direction: Direction,
        is_own_node: bool,
        address: Option<IpAddr>,
        peer: &Place,
        l4: L4,
    ) -> Decided<'_> {
        let pod = &self.pods[pod as usize];
        // A node is somebody else to the pods that run on it than to all others.
        let side = if is_own_node { &self.home } else { &self.remote };
        let table = match &pod.rules {
            PodRules::None => return Decided::Without(Reason::NoPolicy),
            PodRules::Closed => return Decided::Without(Reason::Closed),
            PodRules::Table(tables) => &tables[usize::from(is_own_node)],
        };
        if table.is_closed() {
            return Decided::Without(Reason::Closed);
        }
        let peer = match (address, peer.pod) {
            (Some(address), _) => side.peer(&address.into()),
            (None, Some(pod)) => side.peer_of(self.pods[pod as usize].identity),
            (None, None) if is_own_node => side.peer_of(IdentityId::HOST),
            (None, None) => side.peer_of(REMOTE_NODE),
        };
        let verdict = table.judge(direction, peer, l4);
        match verdict.rule {
            RuleId::NONE if table.has_rules(direction) => Decided::Without(Reason::NoRule),
            RuleId::NONE => Decided::Without(Reason::NoSection),
            RuleId::MISSING => Decided::Without(Reason::Closed),
            _ => Decided::ByRule { table, peer, verdict },
        }
    }

    /// The family of the packets; `None` where no address is known.
    fn choose_family(
        &self,
        from: &Place,
        to: &Place,
        l4: L4,
    ) -> Result<Option<Family>, OfflineError> {
        let given = [from, to].map(|it| it.given.map(|address| (address, Family::of(address))));
        if let [Some((from, family)), Some((to, other))] = given
            && family != other
        {
            return Err(OfflineError::TwoFamilies(from, to));
        }
        let given = given.into_iter().flatten().next();
        let (wanted, hint) = match l4.protocol {
            L4Protocol::Icmp => (Some(Family::V4), "write ICMPv6"),
            L4Protocol::Icmpv6 => (Some(Family::V6), "write ICMP"),
            _ => (None, ""),
        };
        match (given, wanted) {
            (Some((address, family)), Some(wanted)) if family != wanted => {
                Err(OfflineError::Family { address, l4, hint })
            }
            (_, Some(wanted)) => Ok(Some(wanted)),
            (Some((_, family)), None) => Ok(Some(family)),
            (None, None) => Ok(self.common_family(from, to)),
        }
    }

    /// The first that the asked pod has and the asking one, too.
    fn common_family(&self, from: &Place, to: &Place) -> Option<Family> {
        let from = self.addresses_of(from);
        let mut families = self.addresses_of(to).iter().copied().map(Family::of);
        families.find(|family| from.iter().any(|it| Family::of(*it) == *family))
    }

    fn addresses_of(&self, place: &Place) -> &[IpAddr] {
        place.pod.map_or(&[], |pod| &self.pods[pod as usize].addresses)
    }

    fn address_of(&self, place: &Place, family: Option<Family>) -> Option<IpAddr> {
        let own = self.addresses_of(place);
        let of_family = || own.iter().copied().find(|it| Some(Family::of(*it)) == family);
        place.given.or_else(of_family).or_else(|| own.first().copied())
    }

    pub(super) fn explain(&self, half: (u32, Direction, Decided<'_>), l4: L4) -> Half {
        let (pod, direction, decided) = half;
        let is_audited = self.pods[pod as usize].is_audited;
        match decided {
            Decided::Without(reason) => Half::without_rule(reason, is_audited),
            Decided::ByRule { table, peer, verdict } => {
                let matching = table.matching(direction, peer, l4);
                let deciding = self.rule_text(verdict.rule);
                let redirect = matching.iter().find(|it| it.origin == deciding);
                let mut rules = vec![deciding.to_owned()];
                for other in matching.iter().filter(|it| says(it, verdict.action)) {
                    if !rules.contains(&other.origin) {
                        rules.push(other.origin.clone());
                    }
                }
                Half {
                    verdict: verdict.action.into(),
                    rules,
                    reason: Reason::Rule,
                    redirect: redirect.and_then(|it| find_parser(it)),
                    is_audited,
                }
            }
        }
    }

    /// What a rule's number stands for.
    pub(super) fn rule_text(&self, rule: RuleId) -> &str {
        let found = self.remote.rule(rule).or_else(|| self.home.rule(rule));
        found.map_or("a rule that is not known", |it| &it.origin)
    }
}

/// Whether a rule by itself would give the verdict, too.
fn says(rule: &Rule, action: PolicyAction) -> bool {
    match rule.action {
        RuleAction::Allow => action == PolicyAction::Allow,
        RuleAction::Deny => action == PolicyAction::Deny,
        RuleAction::Redirect { .. } => action == PolicyAction::Redirect,
        RuleAction::Pass => false,
    }
}

/// Who judges by a rule's L7 rules, which begin with the name.
fn find_parser(rule: &Rule) -> Option<&'static str> {
    let RuleAction::Redirect { l7 } = &rule.action else { return None };
    let name = l7.strip_prefix(r#"{"parser":""#)?.split('"').next()?;
    PARSERS.into_iter().find(|it| *it == name)
}
