//! Batches as bytes, for spill files and checkpoints: one Arrow IPC message each, without the schema.
//!
//! In: a batch of known columns. Out: its bytes, and how many of them are the message's head, without which they cannot be
//! read. Only columns without dictionaries come here: sources and the program unpack them. Reading copies nothing but what
//! is not aligned.

use arrow::{
    array::RecordBatch,
    buffer::{Buffer, MutableBuffer},
    datatypes::SchemaRef,
    ipc::{
        Block, MetadataVersion,
        reader::FileDecoder,
        writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions, write_message},
    },
};
use tidemill_base::{Error, Result, hash64};

use crate::contained::contained;

/// Puts batches of these columns into bytes, and takes them out again.
pub(super) struct Wire {
    decoder: FileDecoder,
    options: IpcWriteOptions,
}

impl Wire {
    /// For batches with these columns.
    pub fn new(schema: SchemaRef) -> Self {
        Self { decoder: FileDecoder::new(schema, MetadataVersion::V5), options: IpcWriteOptions::default() }
    }

    /// Appends a batch; answers the length of its head.
    pub fn encode(&self, rows: &RecordBatch, out: &mut Vec<u8>) -> Result<u32> {
        let mut dictionaries = DictionaryTracker::new(false);
        let (_, message) = IpcDataGenerator::default()
            .encode(rows, &mut dictionaries, &self.options, &mut Default::default())
            .map_err(|e| Error::internal(format!("label join: {e}")))?;
        let (head, _) =
            write_message(out, message, &self.options).map_err(|e| Error::internal(format!("label join: {e}")))?;
        Ok(head as u32)
    }

    /// The batch of these bytes.
    pub fn decode(&self, head: u32, bytes: Buffer) -> Result<RecordBatch> {
        let corrupt = |why: String| Error::corrupt(format!("rows of the label join: {why}"));
        let Some(body) = bytes.len().checked_sub(head as usize) else {
            return Err(corrupt(format!("{} bytes with a head of {head}", bytes.len())));
        };
        let block = Block::new(0, head as i32, body as i64);
        let read = || self.decoder.read_record_batch(&block, &bytes).map_err(|e| corrupt(e.to_string()));
        let read = contained(&"a batch of the label join", read)?;
        read.ok_or_else(|| corrupt("a message without rows".into()))
    }
}

/// The bytes where arrays can lie in them.
pub(super) fn aligned(bytes: &[u8]) -> Buffer {
    let mut buffer = MutableBuffer::new(bytes.len());
    buffer.extend_from_slice(bytes);
    buffer.into()
}

/// Tells columns apart: bytes of one schema mean nothing under another.
pub(super) fn schema_hash(schema: &SchemaRef) -> u64 {
    let fields = schema.fields().iter();
    let texts: Vec<String> = fields.map(|f| format!("{} {} {}", f.name(), f.data_type(), f.is_nullable())).collect();
    hash64(texts.join("\n").as_bytes(), 0)
}
