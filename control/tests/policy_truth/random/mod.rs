//! Random worlds with random policies in all languages, over small alphabets, so that rules hit.

mod cilium;
mod cluster;
mod dice;
mod kubernetes;
mod objects;
mod probes;
mod selectors;

pub use dice::Dice;
pub use probes::draw as draw_probe;

use serde_json::Value;

/// All objects of a world: first those that are there, then the policies.
pub struct RandomWorld {
    pub things: Vec<Value>,
    pub policies: Vec<Value>,
}

impl RandomWorld {
    pub fn draw(dice: &mut Dice) -> Self {
        let things = objects::draw(dice);
        let count = 1 + dice.below(9);
        let policies = (0..count).map(|number| match dice.below(10) {
            0..4 => kubernetes::draw(dice, number),
            4..8 => cilium::draw(dice, number),
            _ => cluster::draw(dice, number),
        });
        let policies = policies.collect();
        Self { things, policies }
    }

    /// As YAML documents, which JSON is.
    pub fn text(&self) -> String {
        let all = self.things.iter().chain(&self.policies);
        all.map(ToString::to_string).collect::<Vec<_>>().join("\n---\n")
    }

    pub fn objects(&self) -> Vec<Value> {
        self.things.iter().chain(&self.policies).cloned().collect()
    }
}
