//! Files behind a path or a pattern, each a partition.
//!
//! In: a declared source. Out: its partitions, sorted by name; a name is the path as the pattern gave it. What an earlier run
//! has read must still be there. A followed file may grow by whole lines; files that cannot grow that way (compressed,
//! Parquet, Arrow) are refused with `follow`.

use std::path::{Path, PathBuf};

use arrow::datatypes::SchemaRef;
use tidemill_base::{Error, Result};

use super::{
    FileFormat, FileSettings, Opened, Partition, SourceSpec,
    arrow_ipc::ArrowPartition,
    compress::Bytes,
    delimited::Delimited,
    json::JsonDecoder,
    origin::Origin,
    parquet::ParquetPartition,
    push,
    sparse::Libsvm,
    text::{RowDecoder, TextPartition},
    vw::Vw,
};

/// Opens every file the pattern matches; none is an error, and so is a known one that is gone.
pub(super) fn open(spec: &SourceSpec, files: &FileSettings, known: &[String]) -> Result<Vec<Opened>> {
    let found = matches(&files.path)?;
    if let Some(missing) = known.iter().find(|k| *k != push::PARTITION_NAME && !found.contains(k)) {
        return Err(Error::conflict(format!(
            "source {} partition '{missing}': the file is no longer there; put it back, or start again with --from-scratch",
            spec.name
        )));
    }
    if found.is_empty() {
        return Err(Error::not_found(format!("source {}: no file matches '{}'", spec.name, files.path)));
    }
    found.into_iter().map(|name| open_one(spec, files, name)).collect()
}

/// Opens the files that match and are not among `known`.
pub(super) fn open_new(spec: &SourceSpec, files: &FileSettings, known: &[String]) -> Result<Vec<Opened>> {
    let new = matches(&files.path)?.into_iter().filter(|name| !known.contains(name));
    new.map(|name| open_one(spec, files, name)).collect()
}

fn open_one(spec: &SourceSpec, files: &FileSettings, name: String) -> Result<Opened> {
    let partition = partition(spec, files, name).map_err(|e| e.at(format_args!("source {}", spec.name)))?;
    Ok(Opened { partition, ordered: !files.follow })
}

fn partition(spec: &SourceSpec, files: &FileSettings, name: String) -> Result<Box<dyn Partition>> {
    let origin = Origin::File(PathBuf::from(&name));
    let grows = !matches!(files.format, FileFormat::Parquet | FileFormat::Arrow) && !origin.is_compressed();
    if files.follow && !grows {
        return Err(Error::invalid(format!("{name}: follow = true needs plain text files, which grow line by line")));
    }
    reader(&spec.name, &spec.columns, &files.format, origin, files.follow)
}

/// Opens what is at a place as rows of these columns.
pub(super) fn reader(
    source: &str,
    columns: &SchemaRef,
    format: &FileFormat,
    origin: Origin,
    follow: bool,
) -> Result<Box<dyn Partition>> {
    let (name, schema) = (origin.to_string(), columns.clone());
    let decoder: Box<dyn RowDecoder> = match format {
        FileFormat::Arrow if origin.is_compressed() => {
            return Err(Error::invalid(format!("{name}: Arrow IPC compresses inside; decompress the file")));
        }
        FileFormat::Arrow => return Ok(Box::new(ArrowPartition::open(source, name, origin, schema)?)),
        FileFormat::Parquet if origin.is_compressed() => {
            return Err(Error::invalid(format!("{name}: Parquet compresses inside; decompress the file")));
        }
        FileFormat::Parquet => return Ok(Box::new(ParquetPartition::open(source, name, origin, schema)?)),
        FileFormat::Delimited { delimiter, header, null } => {
            Box::new(Delimited::new(schema, *delimiter, *header, null)?)
        }
        FileFormat::Json => Box::new(JsonDecoder::new(schema)?),
        FileFormat::Libsvm => Box::new(Libsvm::new(schema)?),
        FileFormat::Vw => Box::new(Vw::new(schema)?),
    };
    let bytes = Bytes::open(origin)?;
    Ok(Box::new(TextPartition::open(source, name, bytes, decoder, !follow)?))
}

/// Names of the files behind a path or pattern, sorted. A path that exists is taken as it stands, brackets and all.
fn matches(pattern: &str) -> Result<Vec<String>> {
    if Path::new(pattern).exists() {
        return Ok(vec![pattern.to_string()]);
    }
    let paths = glob::glob(pattern).map_err(|e| Error::invalid(format!("path '{pattern}': {e}")))?;
    let mut names = Vec::new();
    for path in paths {
        let path = path.map_err(|e| {
            let place = e.path().to_path_buf();
            Error::io("read directory", &place, e.into())
        })?;
        if path.is_dir() {
            continue;
        }
        let name = path.into_os_string().into_string();
        names.push(name.map_err(|name| Error::invalid(format!("file name {name:?} is not UTF-8; rename the file")))?);
    }
    names.sort();
    Ok(names)
}
