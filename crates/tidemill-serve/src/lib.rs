//! Floor 2: versions in, predictions out.
//!
//! [`registry`] keeps versions on disk, [`live`] is what requests read while the trainer goes on, [`predict`] turns rows
//! into probabilities by the same transforms and the same extractor that training uses, [`server`] answers over HTTP.
//! [`split`] says who gets which version, [`trial`] watches one beside the live one, [`rollout`] decides what becomes of it;
//! [`follow`] hands what is learned to replicas in other processes. The trainer is not known here: it meets this room in the
//! snapshot and delta formats.

pub mod follow;
pub mod gate;
pub mod live;
pub mod live_views;
mod moment;
pub mod predict;
pub mod rank;
pub mod registry;
pub mod rollout;
mod scan;
pub mod server;
pub mod split;
mod strict_json;
pub mod trial;
pub mod versions;

pub(crate) use server::shown;
