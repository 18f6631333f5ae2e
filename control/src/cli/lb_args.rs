//! The agent's flags about load balancing and source translation.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use weir_api::v1;
use weir_tables::MaglevParams;

use crate::model::Cidr;
use crate::settings::{LoadBalancerMode, PortRange};

/// Flags that `weir up` hands on to the agent.
#[derive(Debug, Clone, Args)]
pub struct LoadBalancerArgs {
    /// How packets reach backends on other nodes; hybrid is DSR for TCP and SNAT for the rest. A
    /// service's annotation service.cilium.io/forwarding-mode comes first.
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    pub load_balancer_mode: LoadBalancerMode,
    /// How the service's address travels to the backend's node with DSR.
    #[arg(long, value_enum, default_value_t = DsrDispatchArg::Geneve, value_name = "HOW")]
    pub dsr_dispatch: DsrDispatchArg,
    /// A range of the cluster's pods or nodes, beside what Node objects say; repeatable.
    #[arg(long = "cluster-range", value_name = "CIDR")]
    pub cluster_ranges: Vec<Cidr>,
    /// Pods reach destinations outside the cluster with their own address. Otherwise they have
    /// the node's, once a pod range is known: from a Node's podCIDRs or --cluster-range.
    #[arg(long)]
    pub no_masquerade: bool,
    /// A range outside the cluster that pods reach with their own address; repeatable.
    #[arg(long = "masquerade-exclusion", value_name = "CIDR")]
    pub masquerade_exclusions: Vec<Cidr>,
    /// Ports for source translation; 49152-65535 otherwise.
    #[arg(long, value_name = "MIN-MAX")]
    pub snat_ports: Option<PortRange>,
    /// The range of node ports; 30000-32767 otherwise.
    #[arg(long, value_name = "MIN-MAX")]
    pub node_ports: Option<PortRange>,
    /// Answer ARP and neighbour solicitations for the addresses of services of type LoadBalancer,
    /// each on one node, where their class is unset or weir.dev/l2.
    #[arg(long)]
    pub announce_l2: bool,
    /// Services of type LoadBalancer without a loadBalancerClass are weir's; false: those with the
    /// class weir.dev/l2 alone are. As the operator's flag.
    #[arg(
        long,
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub default_load_balancer_class: bool,
    /// Slots of Maglev tables, one of the primes 251 to 131071; the same on all nodes.
    #[arg(long, value_name = "M")]
    pub maglev_table_size: Option<TableSize>,
    /// Seed of Maglev tables, 12 bytes in base64; the same on all nodes.
    #[arg(long, value_name = "BASE64")]
    pub maglev_seed: Option<Seed>,
}

/// DSR dispatch, as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DsrDispatchArg {
    /// An option of a Geneve header.
    Geneve,
    /// IP in IP.
    Ipip,
    /// An IP option.
    Option,
}

impl From<DsrDispatchArg> for v1::DsrDispatch {
    fn from(it: DsrDispatchArg) -> Self {
        match it {
            DsrDispatchArg::Geneve => Self::Geneve,
            DsrDispatchArg::Ipip => Self::Ipip,
            DsrDispatchArg::Option => Self::Option,
        }
    }
}

/// A table size that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSize(pub u32);

impl FromStr for TableSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = text.parse::<u32>().map_err(|error| error.to_string())?;
        // Zero would be the default.
        let size = if size == 0 { 1 } else { size };
        MaglevParams::new(size, &[]).map(|_| Self(size)).map_err(|error| error.to_string())
    }
}

/// A seed of the right length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed(pub Vec<u8>);

impl FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("not 12 bytes in base64: {error}");
        let bytes = STANDARD.decode(text).map_err(|error| wrong(&error))?;
        if bytes.is_empty() {
            return Err(wrong(&"it is empty"));
        }
        MaglevParams::new(0, &bytes).map_err(|error| wrong(&error))?;
        Ok(Self(bytes))
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |it: &str| it.parse::<u16>().ok().filter(|it| *it > 0);
        let range = text.split_once('-').and_then(|(min, max)| Some((parse(min)?, parse(max)?)));
        match range {
            Some((min, max)) if min <= max => Ok(Self { min, max }),
            _ => Err("write it as 30000-32767, the smaller port first".into()),
        }
    }
}

impl LoadBalancerArgs {
    /// The flags as they are typed.
    pub(super) fn add_flags(&self, flags: &mut Vec<String>) {
        let name = |it: Option<clap::builder::PossibleValue>| {
            it.map(|it| it.get_name().to_owned()).unwrap_or_default()
        };
        let mode = name(self.load_balancer_mode.to_possible_value());
        let dispatch = name(self.dsr_dispatch.to_possible_value());
        flags.push(format!("--load-balancer-mode={mode}"));
        flags.push(format!("--dsr-dispatch={dispatch}"));
        flags.extend(self.cluster_ranges.iter().map(|it| format!("--cluster-range={it}")));
        flags.extend(self.no_masquerade.then(|| "--no-masquerade".to_owned()));
        let exclusions = self.masquerade_exclusions.iter();
        flags.extend(exclusions.map(|it| format!("--masquerade-exclusion={it}")));
        flags.extend(self.snat_ports.iter().map(|it| format!("--snat-ports={it}")));
        flags.extend(self.node_ports.iter().map(|it| format!("--node-ports={it}")));
        flags.extend(self.announce_l2.then(|| "--announce-l2".to_owned()));
        let is_default_class = self.default_load_balancer_class;
        flags.push(format!("--default-load-balancer-class={is_default_class}"));
        flags.extend(
            self.maglev_table_size.iter().map(|it| format!("--maglev-table-size={}", it.0)),
        );
        let seed = self.maglev_seed.iter().map(|it| STANDARD.encode(&it.0));
        flags.extend(seed.map(|it| format!("--maglev-seed={it}")));
    }
}
