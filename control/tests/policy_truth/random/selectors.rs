//! Label selectors, and ranges with exceptions.

use serde_json::{Value, json};

use super::dice::Dice;
use super::objects::RANGES;

pub const POD_KEYS: [(&str, [&str; 2]); 3] =
    [("app", ["web", "db"]), ("tier", ["front", "back"]), ("pod", ["p1", "p2"])];
pub const NAMESPACE_KEYS: [(&str, [&str; 2]); 3] = [
    ("team", ["red", "blue"]),
    ("env", ["dev", "prod"]),
    ("kubernetes.io/metadata.name", ["one", "two"]),
];

/// A selector over some keys; often empty.
pub fn draw(dice: &mut Dice, keys: &[(&str, [&str; 2])]) -> Value {
    let mut selector = json!({});
    if !dice.one_in(4) {
        let (key, values) = *dice.choose(keys);
        if dice.one_in(2) {
            selector["matchLabels"] = json!({key: dice.choose(&values)});
        }
        if dice.one_in(2) {
            selector["matchExpressions"] =
                dice.several(1, 2, |dice| draw_expression(dice, keys)).into();
        }
    }
    selector
}

fn draw_expression(dice: &mut Dice, keys: &[(&str, [&str; 2])]) -> Value {
    let (key, values) = *dice.choose(keys);
    match dice.below(4) {
        0 => json!({"key": key, "operator": "In", "values": dice.some(&values, 1)}),
        1 => json!({"key": key, "operator": "NotIn", "values": dice.some(&values, 1)}),
        2 => json!({"key": key, "operator": "Exists"}),
        _ => json!({"key": key, "operator": "DoesNotExist"}),
    }
}

/// `{cidr, except}`.
pub fn draw_block(dice: &mut Dice) -> Value {
    let cidr = *dice.choose(&RANGES);
    let mut block = json!({"cidr": cidr});
    let inside: Vec<&str> = RANGES.into_iter().filter(|it| is_inside(it, cidr)).collect();
    if !inside.is_empty() && dice.one_in(2) {
        let mut except = dice.several(1, 2, |dice| *dice.choose(&inside));
        except.dedup();
        block["except"] = json!(except);
    }
    block
}

/// Whether a range lies in a wider one. Those of the table that share a beginning do.
fn is_inside(range: &str, wider: &str) -> bool {
    let length = |it: &str| it.split_once('/').unwrap().1.parse::<u8>().unwrap();
    let first = range.split_once('/').unwrap().0.parse().unwrap();
    length(range) > length(wider) && crate::naive::contains(wider, first)
}
