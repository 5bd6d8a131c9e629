//! Share: how many segments each volume gets of what the limit allows.
//!
//! Volumes that fill up at the same time can all take appends to the end, so a volume's share follows
//! its room. But segments that exist hold data: as long as the limit allows them they stay where they are.

/// What one volume has and could have, in segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// In use by an earlier run.
    pub now: u32,
    /// As many as its device or file system could hold, those included.
    pub max: u32,
}

/// Divides `total` segments among `rooms`: never more than it or than a volume's room, and less only if there is no room.
pub fn share(total: u64, rooms: &[Room]) -> Vec<u32> {
    let now = |room: &Room| room.now.min(room.max);
    let held: u64 = rooms.iter().map(|room| u64::from(now(room))).sum();
    if held > total {
        // Every volume gives up the same part of what it has.
        let have: Vec<u32> = rooms.iter().map(now).collect();
        return proportional(total, &have);
    }
    let more: Vec<u32> = rooms.iter().map(|room| room.max - now(room)).collect();
    let grown = proportional(total - held, &more);
    rooms.iter().zip(grown).map(|(room, grown)| now(room) + grown).collect()
}

/// Divides `total` in proportion to `weights`, none getting more than its weight.
fn proportional(total: u64, weights: &[u32]) -> Vec<u32> {
    let mut weight_left: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let mut total_left = total.min(weight_left);
    weights
        .iter()
        .map(|weight| {
            // Rounded up, so that the last ones are not left with all of the remainders.
            let part =
                (u128::from(total_left) * u128::from(*weight)).div_ceil(u128::from(weight_left.max(1)));
            let part = u32::try_from(part).expect("at most the weight, because total_left <= weight_left");
            weight_left -= u64::from(*weight);
            total_left = total_left.saturating_sub(u64::from(part));
            part.min(*weight)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn growth_follows_the_room_and_shrinking_what_is_there() {
        let rooms = [Room { now: 0, max: 30 }, Room { now: 0, max: 10 }];
        assert_eq!(share(20, &rooms), [15, 5]);
        let rooms = [Room { now: 15, max: 30 }, Room { now: 5, max: 10 }];
        assert_eq!(share(20, &rooms), [15, 5]);
        assert_eq!(share(8, &rooms), [6, 2]);
        assert_eq!(share(1000, &rooms), [30, 10]);
    }

    proptest! {
        #[test]
        fn all_of_the_limit_is_given_and_no_more(
            total in 0..3000u64, rooms in proptest::collection::vec((0..800u32, 0..800u32), 1..9),
        ) {
            let rooms: Vec<Room> = rooms.into_iter().map(|(now, max)| Room { now, max }).collect();
            let shares = share(total, &rooms);
            let room: u64 = rooms.iter().map(|room| u64::from(room.max)).sum();
            let given: u64 = shares.iter().map(|share| u64::from(*share)).sum();
            prop_assert_eq!(given, total.min(room));
            for (share, room) in shares.iter().zip(&rooms) {
                prop_assert!(*share <= room.max);
            }
        }
    }
}
