//! Bytes that almost mean something: seeds, changed a little, over and over.
//!
//! In: seeds and a number. Out: so many variants, the same for the same number. The short form of the fuzz targets, which
//! needs neither nightly nor a coverage tool; the long form is `cargo fuzz`.

use tidemill_base::Rng;

/// Values at the ends of what lengths and numbers can be.
const EDGES: [&[u8]; 12] = [
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\"",
    b"\r\n",
];

/// How many times as long as in every test: `TIDEMILL_FUZZ=100`.
#[allow(clippy::disallowed_methods, reason = "asked for by whoever runs the test")]
fn times() -> usize {
    let asked = std::env::var("TIDEMILL_FUZZ").ok();
    asked.map_or(1, |text| text.parse().unwrap_or_else(|e| panic!("TIDEMILL_FUZZ: '{text}': {e}")))
}

/// Runs `run` on every seed, and on `rounds` variants of them. It says of each whether it was taken: where all are, or none
/// is, nothing is tried.
pub fn drive(number: u64, seeds: &[Vec<u8>], rounds: usize, mut run: impl FnMut(&[u8]) -> bool) {
    let rounds = rounds * times();
    let mut taken = seeds.iter().filter(|seed| run(seed)).count();
    assert!(taken > 0, "no seed means anything");
    let mut rng = Rng::seeded(number);
    for _ in 0..rounds {
        let mut bytes = seeds[rng.below(seeds.len() as u64) as usize].clone();
        for _ in 0..=rng.below(4) {
            change(&mut bytes, seeds, &mut rng);
        }
        taken += usize::from(run(&bytes));
    }
    assert!(taken < rounds, "whatever comes is taken");
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], rng: &mut Rng) {
    let mut below = |n: usize| rng.below(n.max(1) as u64) as usize;
    let (at, other) = (below(bytes.len()), &seeds[below(seeds.len())]);
    let end = (at + 1 + below(16)).min(bytes.len());
    match below(10) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << below(8),
        1 if !bytes.is_empty() => bytes[at] = below(256) as u8,
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let piece = bytes[at..end].to_vec();
            let times = if below(20) == 0 { 2000 } else { 1 + below(4) };
            bytes.splice(at..at, piece.repeat(times));
        }
        5 => {
            let from = below(other.len());
            let piece = &other[from..(from + 1 + below(64)).min(other.len())];
            bytes.splice(at..end, piece.iter().copied());
        }
        6 => drop(bytes.splice(at..end, EDGES[below(EDGES.len())].iter().copied())),
        7 => bytes.insert(at, below(256) as u8),
        8 => {
            // Brackets, one in the other.
            let open = b"{[(\""[below(4)];
            bytes.splice(at..at, std::iter::repeat_n(open, 1 + below(200)));
        }
        _ => {
            let edge = EDGES[below(EDGES.len())];
            bytes.splice(at..at, edge.iter().copied());
        }
    }
}
