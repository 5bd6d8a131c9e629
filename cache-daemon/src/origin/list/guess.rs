//! Split points of a directory without directories: guessed from how its names go on.
//!
//! A million files in one directory are a thousand pages, one after the other: 100 s at 100 ms. Their
//! names mostly count (`val_00000123.JPEG`) or are hashes, so keys further on differ from the last one
//! seen in a character at some place, and what follows is spread evenly. [`after`] gives the places
//! to look at, in order, so a binary search with one-key requests finds how far the names go;
//! [`points`] cuts the way there evenly. A wrong guess costs requests, never keys (`split.rs`).

/// Characters of a name that are varied: as many as a long number or the head of a hash has.
const VARIED_MAX: usize = 16;

/// Points made, at most: enough for a share of them to mean something, 200 KiB at most.
const POINTS_MAX: usize = 4096;

const ALPHABET: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A guessed key: the last key up to `place`, then `character`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    place: usize,
    character: u8,
}

impl Step {
    /// The guessed key itself, on the way from `last`.
    pub fn key(self, last: &str) -> String {
        format!("{}{}", &last[..self.place], char::from(self.character))
    }
}

/// Guesses of keys after `last`, ascending. Varied are characters from `from` on, up to where the
/// names of the last page, `first` to `last`, begin to differ: those further on change on every page.
pub fn after(first: &str, last: &str, from: usize) -> Vec<Step> {
    let differs = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
    let from = from.max((differs + 1).saturating_sub(VARIED_MAX));
    let larger = |(place, &at): (usize, &u8)| {
        let letters = ALPHABET.iter().filter(move |&&letter| letter > at);
        letters.map(move |&character| Step { place, character })
    };
    let varied = last.as_bytes().iter().enumerate().take(differs + 1).skip(from);
    // The later the place, the smaller the step.
    varied.rev().filter(|(_, byte)| byte.is_ascii_alphanumeric()).flat_map(larger).collect()
}

/// Keys spread evenly from about `last` to about `top`: a few characters at the place where they differ.
pub fn points(last: &str, top: Step) -> Vec<String> {
    let head = &last[..top.place];
    let first = last.as_bytes()[top.place];
    let alphabet = alphabet_of(last, top);
    let leading = alphabet.iter().filter(|&&letter| letter >= first && letter <= top.character);
    let mut points: Vec<String> = leading.map(|&letter| format!("{head}{}", char::from(letter))).collect();
    while !points.is_empty() && points.len() * alphabet.len() <= POINTS_MAX {
        let longer =
            |point: &String| alphabet.iter().map(|&next| format!("{point}{}", char::from(next))).collect();
        points = points.iter().flat_map::<Vec<_>, _>(longer).collect();
    }
    points
}

/// Decimal, hexadecimal of either case, or all.
fn alphabet_of(last: &str, top: Step) -> &'static [u8] {
    let seen = || last.as_bytes()[top.place..].iter().take_while(|byte| byte.is_ascii_alphanumeric());
    let all = |test: fn(&u8) -> bool| test(&top.character) && seen().all(test);
    if all(u8::is_ascii_digit) {
        &ALPHABET[..10]
    } else if all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte)) {
        b"0123456789abcdef"
    } else if all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(byte)) {
        b"0123456789ABCDEF"
    } else {
        ALPHABET
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn top(first: &str, last: &str, end: &str) -> Step {
        let before_end = |step: &&Step| step.key(last).as_str() < end;
        *after(first, last, 0).iter().rev().find(before_end).unwrap()
    }

    #[test]
    fn counted_names_are_cut_at_their_leading_digits() {
        let last = "train/ILSVRC2012_val_0004999.jpg";
        let top = top("train/ILSVRC2012_val_0004000.jpg", last, "train/ILSVRC2012_val_0999999.jpg");
        assert_eq!(top.key(last), "train/ILSVRC2012_val_09");
        let points = points(last, top);
        assert!(points.len() == 1000 && points[999].ends_with("_val_0999"), "{points:?}");
    }

    #[test]
    fn hashes_are_cut_in_sixteenths() {
        let last = "set/0012ab9f";
        let points = points(last, top("set/000812ff", last, "set/fff"));
        assert_eq!((points.len(), &*points[0], &*points[4095]), (4096, "set/000", "set/fff"));
    }

    proptest! {
        #[test]
        fn guesses_ascend_and_lie_after_the_last_key(
            first in "(a/)?[0-9a-cé._-]{0,30}", last in "(a/)?[0-9a-cé._-]{0,30}", from in 0_usize..3,
        ) {
            let steps = after(&first, &last, from);
            let keys: Vec<_> = steps.iter().map(|step| step.key(&last)).collect();
            prop_assert!(keys.is_sorted_by(|a, b| a < b), "{:?}", keys);
            prop_assert!(keys.iter().all(|key| key.as_str() > last.as_str()));
            for step in steps {
                prop_assert!(points(&last, step).is_sorted());
            }
        }
    }
}
