//! What compiling asks about nodes.

use std::collections::BTreeMap;

use weir_api::convert::address_bytes;

use crate::model::{Family, Node, NodeFilter};
use crate::settings::NodeSettings;

/// This node and the others.
#[derive(Debug, Clone, Copy)]
pub struct Nodes<'a> {
    /// This node.
    pub settings: &'a NodeSettings,
    /// All Node objects by name; this node's may be missing.
    pub all: &'a BTreeMap<String, Node>,
}

impl<'a> Nodes<'a> {
    fn find(self, name: Option<&str>) -> Option<&'a Node> {
        self.all.get(name?)
    }

    pub(super) fn is_own(self, name: Option<&str>) -> bool {
        name == Some(self.settings.name.as_str())
    }

    pub(super) fn own_zone(self) -> Option<&'a str> {
        self.zone_of(Some(&self.settings.name))
    }

    pub(super) fn zone_of(self, name: Option<&str>) -> Option<&'a str> {
        self.find(name)?.zone()
    }

    /// Empty where not known.
    pub(super) fn address_of(self, name: Option<&str>, family: Family) -> Vec<u8> {
        let address = self.find(name).and_then(|it| it.internal_address(family));
        address.map(address_bytes).unwrap_or_default()
    }

    /// Whether this node is one of those.
    pub(super) fn is_own_in(self, filter: &NodeFilter) -> bool {
        let own = self.all.get(&self.settings.name);
        match filter {
            NodeFilter::All => true,
            NodeFilter::Name(name) => *name == self.settings.name,
            NodeFilter::Labels(selector) => match own {
                Some(node) => selector.matches(&node.labels),
                None => selector.matches(&BTreeMap::new()),
            },
        }
    }
}
