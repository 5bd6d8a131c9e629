//! Advice: what would have helped an epoch most. The rule is a row each in docs/epoch-model.md, in this order.

use std::fmt;

/// Readers who wait less of their time than this need nothing.
const WAITED_SHARE_MIN: f64 = 0.05;

/// An origin that refuses more of the requests than this is the limit.
const THROTTLED_SHARE_MIN: f64 = 0.02;

/// Fetches that wait more of their time than this for their turn wait for `--origin-requests`.
const TURN_SHARE_MIN: f64 = 0.25;

/// A link on which more than this of the measured depth is in flight is full.
const LINK_SHARE_MIN: f64 = 0.75;

/// What would have helped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Help {
    Nothing,
    Cache,
    Bandwidth,
    Order,
    Requests,
}

impl fmt::Display for Help {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Cache => "more cache",
            Self::Bandwidth => "more bandwidth",
            Self::Order => "an order",
            Self::Requests => "a raised --origin-requests",
        })
    }
}

/// What is known of an epoch that has ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    /// Time that readers waited for the origin, of their time.
    pub waited_share: f64,
    /// Requests that the origin refused because they came too fast, of those sent.
    pub throttled_share: f64,
    /// Time that fetches waited for their turn, of their time.
    pub turn_share: f64,
    /// Requests in flight, on the average.
    pub in_flight: f64,
    /// Requests in flight that fill the link, and the most that are allowed ahead of readers.
    pub depth: u32,
    pub depth_max: u32,
    /// The store had no room for something.
    pub is_full: bool,
    /// Bytes fetched that had been fetched before, or were kept out by what was, of the bytes read.
    pub refetched_share: f64,
    /// Readers followed an order that was told or recalled.
    pub is_ordered: bool,
}

/// What would have helped most, and why.
pub(super) fn advise(facts: &Facts) -> (Help, String) {
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let in_flight = facts.in_flight.round();
    let at_most = facts.depth >= facts.depth_max && facts.in_flight * 2.0 >= f64::from(facts.depth_max);
    let fills_link = facts.in_flight >= LINK_SHARE_MIN * f64::from(facts.depth);
    if facts.waited_share < WAITED_SHARE_MIN {
        (Help::Nothing, format!("readers waited {} of their time", percent(facts.waited_share)))
    } else if facts.throttled_share > THROTTLED_SHARE_MIN {
        let refused = percent(facts.throttled_share);
        (Help::Bandwidth, format!("the origin refused {refused} of the requests because they came too fast"))
    } else if facts.turn_share > TURN_SHARE_MIN {
        let waited = percent(facts.turn_share);
        (Help::Requests, format!("fetches waited {waited} of their time for others to end"))
    } else if at_most {
        (Help::Requests, format!("{in_flight} requests were in flight, and more would have delivered more"))
    } else if facts.is_full && facts.refetched_share > 0.0 {
        let again = percent(facts.refetched_share);
        (Help::Cache, format!("the store is full, and {again} of what was read was fetched again"))
    } else if fills_link {
        (Help::Bandwidth, format!("{in_flight} requests were in flight, as many as fill the link"))
    } else if !facts.is_ordered {
        let why = "the link was not full, and nobody knew what would be read next (docs/tutorials/orders.md)";
        (Help::Order, why.to_owned())
    } else {
        let why = "the order was known and the link was not full: see what was slow";
        (Help::Nothing, why.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readers waited half of their time, and nothing says why.
    const WAITED: Facts = Facts {
        waited_share: 0.5,
        throttled_share: 0.0,
        turn_share: 0.0,
        in_flight: 8.0,
        depth: 20,
        depth_max: 48,
        is_full: false,
        refetched_share: 0.0,
        is_ordered: false,
    };

    #[test]
    fn each_row_of_the_rule_is_given_where_it_is_the_first_that_holds() {
        let full = Facts { is_full: true, refetched_share: 0.4, ..WAITED };
        for (facts, help) in [
            (Facts { waited_share: 0.049, throttled_share: 1.0, ..full }, Help::Nothing),
            (Facts { throttled_share: 0.03, turn_share: 0.9, ..full }, Help::Bandwidth),
            (Facts { turn_share: 0.3, ..full }, Help::Requests),
            (Facts { depth: 48, in_flight: 40.0, ..full }, Help::Requests),
            (Facts { depth: 48, in_flight: 10.0, ..full }, Help::Cache),
            (Facts { in_flight: 20.0, ..full }, Help::Cache),
            (Facts { in_flight: 20.0, refetched_share: 0.0, ..full }, Help::Bandwidth),
            (WAITED, Help::Order),
            (Facts { is_ordered: true, ..WAITED }, Help::Nothing),
        ] {
            assert_eq!(advise(&facts).0, help, "{facts:?}");
        }
    }

    #[test]
    fn the_rule_in_the_document_has_a_row_for_every_advice() {
        let document = include_str!("../../../docs/epoch-model.md");
        for help in [Help::Nothing, Help::Cache, Help::Bandwidth, Help::Order, Help::Requests] {
            assert!(document.contains(&format!("| {help} |")), "{help}");
        }
    }
}
