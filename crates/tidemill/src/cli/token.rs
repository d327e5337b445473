//! `tidemill token`: makes a token and the entry that lets it in.

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use tidemill_base::{Error, Result};
use tidemill_serve::server::{Access, token_hash};

use super::{door::new_token, run::print_line, say};

/// Make a token: the first line is the secret, the second its entry for the token file
#[derive(Args)]
pub(super) struct Token {
    /// What to call it in messages
    name: String,
    /// Whose it is
    #[arg(long)]
    tenant: String,
    /// What it may do; several by commas
    #[arg(long, value_delimiter = ',', required = true)]
    roles: Vec<RoleName>,
    /// Only these of the tenant's models, like ctr or ctr*
    #[arg(long, value_delimiter = ',')]
    models: Vec<String>,
    /// Until when it holds, like 2027-01-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// Requests a second that it may send
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleName {
    /// Push events
    Ingest,
    /// Predict, rank, infer
    Predict,
    /// Roll back, promote, keep rankings, read metrics and status
    Admin,
}

impl Token {
    pub fn run(&self) -> Result<()> {
        let token = new_token()?;
        let entry = self.entry(&token_hash(&token));
        // What the server would refuse is refused here.
        let file = json!({"tenants": [{"name": self.tenant}], "tokens": [entry]});
        Access::read("token", file.to_string().as_bytes()).map_err(|e| Error::invalid(e.message().to_string()))?;
        say("the token, to be kept by its owner, and its entry for \"tokens\" in the token file:");
        print_line(&token)?;
        print_line(&entry.to_string())
    }

    fn entry(&self, hash: &str) -> Value {
        let roles: Vec<String> = self.roles.iter().map(|role| format!("{role:?}").to_ascii_lowercase()).collect();
        let mut entry = Map::new();
        entry.insert("name".into(), json!(self.name));
        entry.insert("tenant".into(), json!(self.tenant));
        entry.insert("sha256".into(), json!(hash));
        entry.insert("roles".into(), json!(roles));
        if !self.models.is_empty() {
            entry.insert("models".into(), json!(self.models));
        }
        if let Some(expires) = &self.expires {
            entry.insert("expires".into(), json!(expires));
        }
        if let Some(rate) = self.rate {
            entry.insert("requests_per_second".into(), json!(rate));
        }
        Value::Object(entry)
    }
}
