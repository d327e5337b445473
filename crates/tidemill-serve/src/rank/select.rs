//! From scores to a page.
//!
//! In: a score for each item, ids, perhaps a group each. Out: the items of the page, best first. Scores that are infinite
//! or no numbers come last, whatever they are; equal scores go by id, equal ids by place in the request, so that there is
//! one order only. No more is sorted than the page needs.

use std::{cmp::Ordering, collections::BTreeMap};

/// What an item is called. Numbers come before texts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ItemId {
    /// A whole number.
    Number(i128),
    /// A text.
    Text(String),
}

/// At most so many of each group; items without one are never too many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit<'a> {
    pub groups: &'a [Option<u64>],
    pub max: usize,
}

/// A page.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Page {
    /// Items by their place in the request, best first.
    pub items: Vec<u32>,
    /// Items of the whole request whose score is infinite or no number.
    pub not_finite: usize,
    /// Items that stand behind worse ones, or not on the page, because their group had its share.
    pub pushed_back: usize,
}

/// The best `k` items.
pub(super) fn page(scores: &[f64], ids: &[ItemId], limit: Option<Limit<'_>>, k: usize) -> Page {
    let not_finite = scores.iter().filter(|x| !x.is_finite()).count();
    let k = k.min(scores.len());
    let mut best = Best::new(scores, ids);
    let Some(limit) = limit else {
        best.sort_to(k);
        best.items.truncate(k);
        return Page { items: best.items, not_finite, pushed_back: 0 };
    };
    let finite = scores.len() - not_finite;
    let (mut items, mut pushed) = (Vec::with_capacity(k), Vec::new());
    let mut shares: BTreeMap<u64, usize> = BTreeMap::new();
    let mut at = 0;
    while items.len() < k && at < finite {
        if at == best.sorted {
            best.sort_to((2 * at).max(k));
        }
        let item = best.items[at];
        at += 1;
        let share = limit.groups[item as usize].map(|group| shares.entry(group).or_default());
        match share {
            Some(share) if *share >= limit.max => pushed.push(item),
            share => {
                share.into_iter().for_each(|share| *share += 1);
                items.push(item);
            }
        }
    }
    let pushed_back = pushed.len();
    items.extend(pushed.into_iter().take(k - items.len()));
    let missing = k - items.len();
    best.sort_to(if missing > 0 { finite + missing } else { 0 });
    items.extend_from_slice(&best.items[finite..finite + missing]);
    Page { items, not_finite, pushed_back }
}

/// Items of which the first are in order.
struct Best<'a> {
    keys: Vec<u64>,
    ids: &'a [ItemId],
    items: Vec<u32>,
    sorted: usize,
}

impl<'a> Best<'a> {
    fn new(scores: &[f64], ids: &'a [ItemId]) -> Self {
        let keys = scores.iter().map(|x| key(*x)).collect();
        Self { keys, ids, items: (0..scores.len() as u32).collect(), sorted: 0 }
    }

    /// Puts the first `end` items in order.
    fn sort_to(&mut self, end: usize) {
        let end = end.min(self.items.len());
        if end <= self.sorted {
            return;
        }
        let (keys, ids) = (&self.keys, self.ids);
        let order = |a: &u32, b: &u32| -> Ordering {
            let (i, j) = (*a as usize, *b as usize);
            keys[i].cmp(&keys[j]).then_with(|| ids[i].cmp(&ids[j])).then(a.cmp(b))
        };
        let rest = &mut self.items[self.sorted..];
        let wanted = end - self.sorted;
        if wanted < rest.len() {
            rest.select_nth_unstable_by(wanted - 1, order);
        }
        rest[..wanted].sort_unstable_by(order);
        self.sorted = end;
    }
}

/// A number that is smaller the better the score is, and largest for what is no score.
fn key(score: f64) -> u64 {
    if !score.is_finite() {
        return u64::MAX;
    }
    // 0 and -0 are equal; beyond that, the bits of floats are ordered as they are, those of negative ones backwards.
    let bits = (score + 0.0).to_bits();
    if bits >> 63 == 1 { bits } else { !(bits | 1 << 63) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_base::Rng;

    fn numbers(ids: &[i128]) -> Vec<ItemId> {
        ids.iter().map(|id| ItemId::Number(*id)).collect()
    }

    #[test]
    fn the_best_come_first_and_what_is_no_number_last() {
        let scores = [1.0, f64::NAN, 3.0, f64::INFINITY, -0.0, 0.0, -2.0, f64::NEG_INFINITY];
        let ids = numbers(&[10, 1, 30, 2, 6, 5, 70, 3]);
        let all = page(&scores, &ids, None, 99);
        assert_eq!(all.items, [2, 0, 5, 4, 6, 1, 3, 7]);
        assert_eq!((all.not_finite, all.pushed_back), (3, 0));
        assert_eq!(page(&scores, &ids, None, 2).items, [2, 0]);
        let texts = [ItemId::Text("b".into()), ItemId::Text("a".into()), ItemId::Number(9), ItemId::Text("a".into())];
        assert_eq!(page(&[1.0; 4], &texts, None, 4).items, [2, 1, 3, 0]);
    }

    #[test]
    fn no_group_has_more_than_its_share_while_others_are_there() {
        let scores = [9.0, 8.0, 7.0, 6.0, 5.0, f64::NAN];
        let ids = numbers(&[0, 1, 2, 3, 4, 5]);
        let groups = [Some(1), Some(1), Some(1), Some(2), None, Some(2)];
        let of = |max, k| page(&scores, &ids, Some(Limit { groups: &groups, max }), k);
        assert_eq!(of(1, 3), Page { items: vec![0, 3, 4], not_finite: 1, pushed_back: 2 });
        assert_eq!(of(1, 9), Page { items: vec![0, 3, 4, 1, 2, 5], not_finite: 1, pushed_back: 2 });
        assert_eq!(of(2, 3).items, [0, 1, 3]);
        assert_eq!(of(1, 4).items, [0, 3, 4, 1]);
        assert_eq!(of(3, 2), Page { items: vec![0, 1], not_finite: 1, pushed_back: 0 });
    }

    /// However much is sorted, the page is the beginning of the one order.
    #[test]
    fn a_page_is_the_beginning_of_all() {
        let mut rng = Rng::seeded(3);
        for n in [1usize, 2, 10, 100, 1000] {
            let draw = |rng: &mut Rng| if rng.below(10) == 0 { f64::NAN } else { rng.below(20) as f64 - 10.0 };
            let scores: Vec<f64> = (0..n).map(|_| draw(&mut rng)).collect();
            let ids: Vec<ItemId> = (0..n).map(|_| ItemId::Number(rng.below(50).into())).collect();
            let groups: Vec<Option<u64>> = (0..n).map(|_| Some(rng.below(8)).filter(|g| *g > 0)).collect();
            let mut all: Vec<u32> = (0..n as u32).collect();
            all.sort_by(|a, b| {
                let (x, y) = (scores[*a as usize], scores[*b as usize]);
                let better = y.partial_cmp(&x).unwrap_or_else(|| x.is_nan().cmp(&y.is_nan()));
                better.then_with(|| ids[*a as usize].cmp(&ids[*b as usize]))
            });
            for k in [1, 2, 7, n / 2 + 1, n, n + 5] {
                assert_eq!(page(&scores, &ids, None, k).items, all[..k.min(n)]);
                let (mut kept, mut late, mut bad) = (Vec::new(), Vec::new(), Vec::new());
                for item in &all {
                    let group = groups[*item as usize];
                    let share = kept.iter().filter(|i: &&u32| groups[**i as usize] == group).count();
                    match () {
                        () if scores[*item as usize].is_nan() => bad.push(*item),
                        () if group.is_some() && share >= 3 => late.push(*item),
                        () => kept.push(*item),
                    }
                }
                let expected: Vec<u32> = kept.into_iter().chain(late).chain(bad).take(k).collect();
                assert_eq!(page(&scores, &ids, Some(Limit { groups: &groups, max: 3 }), k).items, expected);
            }
        }
    }
}
