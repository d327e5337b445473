//! A snapshot: everything serving needs of a model at one moment, and nothing else.
//!
//! In: what kind of model it is, slot names, parameters by key, dense parameters. Out: bytes that tell when they were
//! damaged, and where. No optimizer state; entries whose parameters are all zero are left out. A part of it can be used
//! without the rest being read: entries stand where their key says ([`crate::lines`]), and each page has its checksum.
//!
//! ```text
//! magic 8 | format u32 | sequence u64 | model | sampling | slots: count, names | width, entries, dense, lines u64 | check u64
//! zeros to a multiple of 64 | lines | rows: width f32 each, where width > 1 | dense parameters, f32 each
//!                           | check u64 of each page of lines, rows and dense | root u64: of all checks, the header's first
//! ```
//!
//! A page is 16 KiB of one of the three; the last one of each what is left. Where rows were rounded ([`crate::precision`]) it is
//! format 5: behind `lines` stand the counts of rows of 16 and of 8 bits, and the rows of 32 bits come first, then those.
//! Formats 1 to 3 had keys and parameters apart and are read.

mod earlier;
mod layout;

use std::io::{self, Write};

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
    hash::Hasher64,
    hash64,
};

use crate::{
    compact::{self, Form},
    entries::{Entries, ascend},
    lines,
    model::ModelSpec,
    sampling::Sampling,
};
pub(crate) use layout::{Layout, PAGE_BYTES};

const MAGIC: &[u8; 8] = b"TMSNAP\n\0";
/// The newest that is read, as are all before it: rows stand in their smallest forms.
const FORMAT: u32 = 5;
/// What is written where smaller forms save little: all parameters in 32 bits.
const PLAIN: u32 = 4;
/// Rows of one form in format 5.
const ROWS_MAX: usize = 1 << FORM_SHIFT;
/// Where the form stands in the word of an entry, behind the number of its row.
pub(crate) const FORM_SHIFT: u32 = 30;
const ALIGN: usize = 64;
/// Numbers that become bytes together.
const NUMBERS_AT_ONCE: usize = 8192;

/// What serving needs of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The moment up to which changes are surely in it.
    pub sequence: u64,
    /// Which learner and which loss the parameters are of.
    pub model: ModelSpec,
    /// How negatives were sampled.
    pub sampling: Sampling,
    /// Names of the feature slots, by slot number.
    pub slots: Vec<String>,
    /// Entries with a parameter other than zero, by ascending key.
    pub entries: Entries,
    /// Parameters that belong to no key.
    pub dense: Vec<f32>,
}

/// What stands before the parameters.
pub(crate) struct Head {
    pub format: u32,
    pub sequence: u64,
    pub model: ModelSpec,
    pub sampling: Sampling,
    pub slots: Vec<String>,
    pub width: u64,
    pub entries: u64,
    pub dense: u64,
    /// Since format 4.
    pub lines: u64,
    /// Since format 5: rows of 16 and of 8 bits.
    pub smaller: [u64; 2],
    pub check: u64,
    /// Where the parameters begin.
    pub end: usize,
}

impl Snapshot {
    /// The snapshot as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out).expect("memory takes all that is written");
        out
    }

    /// Writes the snapshot piece by piece; its root, which is another one for any other content.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<u64> {
        if self.entries.len() > u32::MAX as usize {
            return Err(io::Error::other("a snapshot holds at most 4,294,967,295 entries"));
        }
        let forms = self.forms();
        let mut header = Encoder::new();
        MAGIC.iter().for_each(|byte| _ = header.put_u8(*byte));
        header.put_u32(if forms.is_some() { FORMAT } else { PLAIN }).put_u64(self.sequence);
        self.model.encode(&mut header);
        self.sampling.encode(&mut header);
        header.put_varint(self.slots.len() as u64);
        self.slots.iter().for_each(|slot| _ = header.put_str(slot));
        header.put_u64(self.entries.width as u64).put_u64(self.entries.len() as u64).put_u64(self.dense.len() as u64);
        header.put_u64(lines::count(&self.entries.keys));
        if let Some(forms) = &forms {
            let count = |form| forms.iter().filter(|f| **f == form).count() as u64;
            header.put_u64(count(Form::F16)).put_u64(count(Form::Int8));
        }
        let check = hash64(header.as_slice(), 0);
        header.put_u64(check);
        (0..padding(header.as_slice().len())).for_each(|_| _ = header.put_u8(0));
        out.write_all(header.as_slice())?;

        let mut pages = Pages { out, hasher: Hasher64::new(0), room: PAGE_BYTES, checks: vec![check] };
        let params = &self.entries.params;
        match &forms {
            Some(forms) => {
                let words = words(forms);
                lines::write(&self.entries.keys, |i| words[i], &mut pages)?;
                pages.end();
                write_rows(&self.entries, forms, &mut pages)?;
                pages.end();
            }
            None => {
                let word = |i: usize| if self.entries.width == 1 { params[i].to_bits() } else { i as u32 };
                lines::write(&self.entries.keys, word, &mut pages)?;
                pages.end();
                if self.entries.width > 1 {
                    write_numbers(params, &mut pages)?;
                    pages.end();
                }
            }
        }
        write_numbers(&self.dense, &mut pages)?;
        pages.end();
        let Pages { out, checks, .. } = pages;
        let mut footer = Encoder::new();
        checks[1..].iter().for_each(|check| _ = footer.put_u64(*check));
        let root = root(check, footer.as_slice());
        out.write_all(footer.put_u64(root).as_slice())?;
        Ok(root)
    }

    /// The form of each row, where smaller ones are worth it. A parameter that stands beside its key has no row.
    fn forms(&self) -> Option<Vec<Form>> {
        if self.entries.width < 2 {
            return None;
        }
        let mut forms = compact::forms(&self.entries)?;
        // Rows of zeros are not to be here, and if they are, they are like others.
        forms.iter_mut().filter(|form| **form == Form::Zero).for_each(|form| *form = Form::Int8);
        (forms.len() <= ROWS_MAX).then_some(forms)
    }

    /// Reads back what [`Snapshot::encode`] wrote; `what` names it in errors ("ctr, version 42").
    pub fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        let mut head = Head::read(bytes, what)?;
        let (entries, dense) = match head.format {
            PLAIN.. => Layout::of(&head, bytes, what)?.read(bytes)?,
            _ => earlier::read(&mut head, bytes, what)?,
        };
        match ascend(&entries.keys) {
            true => Ok(Self { entries, dense, ..head.into_shell() }),
            false => Err(Error::corrupt(format!("{what}: keys do not ascend from 1"))),
        }
    }
}

impl Head {
    pub fn read(bytes: &[u8], what: &str) -> Result<Self> {
        let mut d = Decoder::new(bytes, what);
        if d.take(MAGIC.len())? != MAGIC {
            return Err(Error::corrupt(format!("{what}: not a snapshot (byte 0)")));
        }
        let format = d.u32()?;
        if !(1..=FORMAT).contains(&format) {
            return Err(Error::conflict(format!("{what}: format {format}, this binary reads 1 to {FORMAT}")));
        }
        let sequence = d.u64()?;
        let model = if format == 1 { ModelSpec::default() } else { ModelSpec::decode(&mut d, what)? };
        let sampling = if format < 3 { Sampling::None } else { Sampling::decode(&mut d, what)? };
        let slots = (0..d.count(1)?).map(|_| Ok(d.str()?.to_string())).collect::<Result<_>>()?;
        // Format 1: logistic regression, one weight for each key and nothing dense.
        let (width, entries, dense) = if format == 1 { (1, d.u64()?, 0) } else { (d.u64()?, d.u64()?, d.u64()?) };
        let lines = if format < PLAIN { 0 } else { d.u64()? };
        let smaller = if format < FORMAT { [0; 2] } else { [d.u64()?, d.u64()?] };
        let check = hash64(&bytes[..bytes.len() - d.left()], 0);
        if d.u64()? != check {
            return Err(damaged(what, "header", 0, bytes.len() - d.left() - 8));
        }
        let padded = d.take(padding(bytes.len() - d.left()))?;
        if padded.iter().any(|byte| *byte != 0) {
            return Err(Error::corrupt(format!("{what}: padding is damaged")));
        }
        if width == 0 && entries > 0 {
            return Err(Error::corrupt(format!("{what}: {entries} entries without parameters")));
        }
        let end = bytes.len() - d.left();
        Ok(Self { format, sequence, model, sampling, slots, width, entries, dense, lines, smaller, check, end })
    }

    /// A snapshot without parameters.
    fn into_shell(self) -> Snapshot {
        let Self { sequence, model, sampling, slots, .. } = self;
        Snapshot { sequence, model, sampling, slots, ..Snapshot::default() }
    }
}

/// Passes bytes on, and takes the checksum of each page.
struct Pages<'a> {
    out: &'a mut dyn Write,
    hasher: Hasher64,
    /// Bytes until the page is full.
    room: usize,
    checks: Vec<u64>,
}

impl Pages<'_> {
    /// The section is complete; its last page is what there is.
    fn end(&mut self) {
        if self.room < PAGE_BYTES {
            self.checks.push(std::mem::replace(&mut self.hasher, Hasher64::new(0)).finish());
            self.room = PAGE_BYTES;
        }
    }
}

impl Write for Pages<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let some = &bytes[..bytes.len().min(self.room)];
        self.out.write_all(some)?;
        self.hasher.update(some);
        self.room -= some.len();
        if self.room == 0 {
            self.end();
        }
        Ok(some.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Bytes of zero that bring `at` to a multiple of [`ALIGN`]: a mapped file then has its lines on those of the cache.
fn padding(at: usize) -> usize {
    at.next_multiple_of(ALIGN) - at
}

/// Stands for the whole content: another header or another page gives another root.
fn root(head_check: u64, checks: &[u8]) -> u64 {
    let mut hasher = Hasher64::new(0);
    hasher.update(&head_check.to_le_bytes());
    hasher.update(checks);
    hasher.finish()
}

fn damaged(what: &str, section: &str, from: usize, to: usize) -> Error {
    Error::corrupt(format!("{what}: section {section} (bytes {from} to {to}) is damaged: its checksum does not match"))
}

/// The words of entries whose rows have forms: form and number of the row among those of its form.
fn words(forms: &[Form]) -> Vec<u32> {
    let mut next = [0u32; Form::ALL.len()];
    let word = |form: &Form| {
        let number = next[*form as usize];
        next[*form as usize] += 1;
        (*form as u32) << FORM_SHIFT | number
    };
    forms.iter().map(word).collect()
}

/// Rows of 32 bits, then those of 16, then those of 8.
fn write_rows(entries: &Entries, forms: &[Form], out: &mut dyn Write) -> io::Result<()> {
    let mut bytes = Vec::new();
    for form in [Form::F32, Form::F16, Form::Int8] {
        for ((_, row), _) in entries.iter().zip(forms).filter(|(_, f)| **f == form) {
            form.write(row, &mut bytes);
            if bytes.len() >= 4 * NUMBERS_AT_ONCE {
                out.write_all(&bytes)?;
                bytes.clear();
            }
        }
    }
    out.write_all(&bytes)
}

fn write_numbers(numbers: &[f32], out: &mut dyn Write) -> io::Result<()> {
    let mut bytes = Vec::new();
    for some in numbers.chunks(NUMBERS_AT_ONCE) {
        bytes.clear();
        bytes.extend(some.iter().flat_map(|x| x.to_le_bytes()));
        out.write_all(&bytes)?;
    }
    Ok(())
}

fn read_numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precision::Precision;

    fn snapshot(width: usize, count: u64) -> Snapshot {
        let slots = vec!["user_id".into(), "user_id*item".into(), "bias".into()];
        let mut entries = Entries::new(width);
        let mut keys: Vec<u64> = (1..count).map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect();
        keys.sort_unstable();
        for (i, key) in keys.into_iter().enumerate() {
            entries.push(key, &vec![i as f32 * 0.3 + 1.1; width]);
        }
        Snapshot { sequence: 7, slots, entries, dense: vec![0.5; 7], ..Snapshot::default() }
    }

    fn message(bytes: &[u8]) -> String {
        Snapshot::decode(bytes, "ctr, version 42").unwrap_err().message().to_string()
    }

    #[test]
    fn a_snapshot_comes_back() {
        let sampled = |sampling| Snapshot { sampling, ..snapshot(2, 100) };
        let (weight, logit) = (Sampling::Weight { share: 0.1 }, Sampling::Logit { share: 0.25 });
        let many = [snapshot(1, 10), snapshot(1, 10_000), snapshot(5, 3_000)];
        for s in [snapshot(2, 100), Snapshot::default(), sampled(weight), sampled(logit)].into_iter().chain(many) {
            assert_eq!(Snapshot::decode(&s.encode(), "test").unwrap(), s);
        }
    }

    /// No model has such entries, and rows of no numbers still have a scale where they are of 8 bits.
    #[test]
    fn entries_without_parameters_are_refused() {
        let entries = Entries { width: 0, keys: vec![1, 9], params: Vec::new() };
        let none = Snapshot { entries, ..snapshot(1, 0) };
        assert_eq!(message(&none.encode()), "ctr, version 42: 2 entries without parameters");
        let empty = Snapshot { entries: Entries::new(0), ..none };
        assert_eq!(Snapshot::decode(&empty.encode(), "test").unwrap(), empty);
    }

    /// Rows of all forms, in turn.
    fn mixed(width: usize, count: u64) -> Snapshot {
        let mut mixed = snapshot(width, count);
        for (i, row) in mixed.entries.params.chunks_exact_mut(width).enumerate() {
            row.iter_mut().enumerate().for_each(|(j, x)| *x = 0.1 * (i + 1) as f32 / (j + 3) as f32);
            [Precision::F32, Precision::F16, Precision::Int8][i % 3].round(row);
        }
        mixed
    }

    /// Rounded rows come back to the bit, in fewer bytes; nothing is lost by finding their form again.
    #[test]
    fn rows_in_smaller_forms_come_back() {
        for s in [mixed(2, 100), mixed(17, 5_000)] {
            let bytes = s.encode();
            assert_eq!(Head::read(&bytes, "test").unwrap().format, 5);
            assert_eq!(Snapshot::decode(&bytes, "test").unwrap(), s);
            assert_eq!(Snapshot::decode(&bytes, "test").unwrap().encode(), bytes);
        }
        // 4 + 2 bytes a parameter and 1, with an exponent each, of three rows of 17.
        let rows = |s: &Snapshot| {
            let bytes = s.encode();
            Layout::of(&Head::read(&bytes, "test").unwrap(), &bytes, "test").unwrap().rows.len()
        };
        let s = mixed(17, 3_001);
        assert_eq!(rows(&s), 1_000 * (17 * 4 + 17 * 2 + 18));
        assert_eq!(rows(&Snapshot { entries: Entries::default(), ..s }), 0);
        let plain = snapshot(1, 100).encode();
        assert_eq!(Head::read(&plain, "test").unwrap().format, 4, "one parameter stands beside its key");
    }

    #[test]
    fn the_root_stands_for_the_content() {
        let root = |s: &Snapshot| s.write(&mut Vec::new()).unwrap();
        let (a, mut b) = (snapshot(2, 100), snapshot(2, 100));
        assert_eq!(root(&a), root(&b));
        b.entries.params[77] += 1.0;
        assert_ne!(root(&a), root(&b));
        assert_ne!(root(&a), root(&Snapshot { sequence: 8, ..a.clone() }));
    }

    /// Each byte flipped, and the file cut at each byte: always refused, and the section named once past the header.
    #[test]
    fn any_flipped_or_missing_byte_is_refused_and_its_section_named() {
        [snapshot(2, 100), mixed(2, 100)].iter().for_each(refuses_damage);
    }

    fn refuses_damage(snapshot: &Snapshot) {
        let bytes = snapshot.encode();
        let head = Head::read(&bytes, "test").unwrap();
        let layout = Layout::of(&head, &bytes, "test").unwrap();
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 0x10;
            let message = message(&bad);
            let expected = match i {
                0..8 => "not a snapshot",
                8..12 => "this binary reads 1 to",
                _ if i < layout.lines.start => "", // a damaged length may end the header anywhere
                _ if i < layout.lines.end => "section lines",
                _ if i < layout.rows.end => "section rows",
                _ if i < layout.dense.end => "section dense parameters",
                _ => "section checksums",
            };
            assert!(message.starts_with("ctr, version 42: ") && message.contains(expected), "byte {i}: {message}");
        }
        for i in 0..bytes.len() {
            let message = message(&bytes[..i]);
            assert!(message.contains("ends at byte"), "cut at {i}: {message}");
        }
        let message = message(&[&bytes[..], &[0]].concat());
        assert!(message.contains("goes on behind its end"), "{message}");
    }

    /// Serving must not guess what a sampling that it does not know did to the scores.
    #[test]
    fn a_sampling_mode_that_is_not_known_is_refused() {
        let bytes = Snapshot { sampling: Sampling::Logit { share: 0.1 }, ..Snapshot::default() }.encode();
        // Behind magic, format and sequence stand the loss and the learner of a byte each.
        let at = 8 + 4 + 8 + 2;
        assert_eq!(bytes[at], 2);
        let mut bad = bytes.clone();
        bad[at] = 3;
        assert!(message(&bad).contains("sampled in mode 3"), "{}", message(&bad));
    }

    #[test]
    fn a_newer_format_is_refused_by_number() {
        let mut bytes = snapshot(2, 100).encode();
        bytes[8] = 9;
        assert_eq!(message(&bytes), "ctr, version 42: format 9, this binary reads 1 to 5");
    }
}
