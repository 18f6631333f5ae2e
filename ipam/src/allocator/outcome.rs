//! What came of a Service's wish for addresses.

use std::fmt;
use std::net::IpAddr;

use weir_control::model::{Family, Name};

/// The addresses of a Service, and what it did not get.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// One per family at most, in the Service's order of families.
    pub addresses: Vec<IpAddr>,
    /// What is wrong.
    pub problems: Vec<Refusal>,
}

/// Something that a Service did not get.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// No pool is for this Service in this family.
    NoPool(Family),
    /// The pools that are for it have no free address of this family.
    PoolExhausted(Family, Vec<String>),
    /// The address that it asks for belongs to another.
    AddressTaken(IpAddr, Vec<Name>),
    /// The address that it asks for is in no pool for it.
    NotInPool(IpAddr),
    /// It had an address that an older Service has too.
    AddressLost(IpAddr, Name),
    /// It keeps an address that no pool has any more.
    OutsidePools(IpAddr),
    /// How it asks cannot be understood.
    InvalidRequest(String),
}

impl Refusal {
    /// The reason of an event, in `PascalCase`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoPool(_) | Self::NotInPool(_) => "NoPool",
            Self::PoolExhausted(..) => "PoolExhausted",
            Self::AddressTaken(..) | Self::AddressLost(..) => "AddressTaken",
            Self::OutsidePools(_) => "OutsidePools",
            Self::InvalidRequest(_) => "InvalidRequest",
        }
    }

    /// Whether the Service wants something still; else it is a remark about an address that it has,
    /// or had.
    pub(super) fn is_lacking(&self) -> bool {
        !matches!(self, Self::OutsidePools(_) | Self::AddressLost(..))
    }

    /// Whether there is no pool or no room in any, which matters less to a Service that is content
    /// with the other family.
    pub(super) fn is_lack_of_room(&self) -> bool {
        matches!(self, Self::NoPool(_) | Self::PoolExhausted(..))
    }
}

/// For people: what is wrong and what to do.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPool(family) => {
                let family = family_name(*family);
                write!(
                    f,
                    "no LoadBalancerPool with {family} addresses selects this Service: add one, or \
                     change the selectors or autoAssign of one"
                )
            }
            Self::PoolExhausted(family, pools) => {
                let (family, pools) = (family_name(*family), pools.join(", "));
                write!(
                    f,
                    "no {family} address is free in LoadBalancerPool {pools}: add a block, or \
                     delete Services that have one"
                )
            }
            Self::AddressTaken(address, names) => {
                let names: Vec<String> = names.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "{address} belongs to Service {}: ask for another, or let both share it with \
                     the annotation weir.dev/sharing-key and different ports",
                    names.join(", ")
                )
            }
            Self::NotInPool(address) => write!(
                f,
                "{address} is in no LoadBalancerPool that selects this Service: ask for another, \
                 or add it to a pool"
            ),
            Self::AddressLost(address, owner) => write!(
                f,
                "{address} stays with Service {owner}, which is older: the two do not share it \
                 (same weir.dev/sharing-key, different ports, externalTrafficPolicy Cluster or one \
                 selector)"
            ),
            Self::OutsidePools(address) => write!(
                f,
                "{address} is in no LoadBalancerPool any more and stays until the Service is \
                 deleted: add it to a pool, or ask for another"
            ),
            Self::InvalidRequest(reason) => f.write_str(reason),
        }
    }
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
