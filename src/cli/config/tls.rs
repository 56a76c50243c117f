//! `tls` of a `[[listen]]`: the certificates that it has, and those that it asks for.

use std::path::PathBuf;

use switchpoint::tls::{Acceptor, Identity, Pem, Settings};
use toml::{Spanned, de::DeValue};

use super::{
    file::{Reader, Table},
    kind::{self, quoted},
};

/// TLS as it was asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Tls {
    /// Chains and keys.
    certificates: Vec<(PathBuf, PathBuf)>,
    self_signed: bool,
    client_authorities: Option<PathBuf>,
    client_required: bool,
    http2: Option<bool>,
}

const KEYS: &[&str] = &["certificates", "self_signed", "client_authorities", "client_required", "http2"];

impl Tls {
    /// Reads the files.
    pub(super) fn acceptor(&self) -> Result<Acceptor, String> {
        let files = self.certificates.iter();
        let mut identities: Vec<Identity> = files.map(|(chain, key)| Identity::files(chain, key)).collect();
        if self.self_signed {
            let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
            identities.push(Identity::self_signed(&names).map_err(|error| error.to_string())?);
        }
        let settings = Settings {
            identities,
            client_authorities: self.client_authorities.clone().map(Pem::File),
            client_required: self.client_required,
            http2: self.http2.unwrap_or_else(|| Settings::default().http2),
        };
        Acceptor::new(settings).map_err(|error| error.to_string())
    }

    /// Its lines in a file: keys and values.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let pair = |(chain, key): &(PathBuf, PathBuf)| {
            let (chain, key) = (quoted(&chain.to_string_lossy()), quoted(&key.to_string_lossy()));
            format!("{{ chain = {chain}, key = {key} }}")
        };
        let mut lines = Vec::new();
        if !self.certificates.is_empty() {
            let pairs: Vec<String> = self.certificates.iter().map(pair).collect();
            lines.push(("certificates", format!("[{}]", pairs.join(", "))));
        }
        if self.self_signed {
            lines.push(("self_signed", "true".into()));
        }
        if let Some(authorities) = &self.client_authorities {
            lines.push(("client_authorities", quoted(&authorities.to_string_lossy())));
            lines.push(("client_required", self.client_required.to_string()));
        }
        lines.push(("http2", self.http2.unwrap_or_else(|| Settings::default().http2).to_string()));
        lines
    }
}

pub(super) fn read(reader: &mut Reader<'_>, value: &Spanned<DeValue<'_>>) -> Option<Tls> {
    let table = reader.table("listen.tls", value)?;
    reader.only(&table, KEYS);
    let mut tls = Tls::default();
    if let Some(value) = table.get("certificates") {
        for pair in reader.tables("listen.tls.certificates", value) {
            reader.only(&pair, &["chain", "key"]);
            let mut file = |key: &str| {
                let value = reader.required(&pair, key, "the path of a file in PEM")?;
                path(reader, &pair, key, value)
            };
            let (chain, key) = (file("chain"), file("key"));
            tls.certificates.extend(chain.zip(key));
        }
    }
    let mut switch = |key: &str| {
        let value = table.get(key)?;
        reader.value(&table, key, value, &*kind::switch().read)
    };
    tls.self_signed = switch("self_signed").unwrap_or_default();
    tls.client_required = switch("client_required").unwrap_or_default();
    tls.http2 = switch("http2");
    if let Some(value) = table.get("client_authorities") {
        tls.client_authorities = path(reader, &table, "client_authorities", value);
    }
    if !table.entries.iter().any(|(key, _)| matches!(key.get_ref().as_ref(), "certificates" | "self_signed"))
    {
        let help = "add certificates = [{ chain = \"cert.pem\", key = \"key.pem\" }], or self_signed = true to develop with";
        reader.problem("`listen.tls` has no certificate".into(), reader.source(value), help);
    }
    if tls.client_required && table.get("client_authorities").is_none() {
        let help = "add client_authorities, the path of their certificates in PEM";
        reader.problem(
            "`client_required` without authorities would refuse everybody".into(),
            reader.source(value),
            help,
        );
    }
    Some(tls)
}

fn path(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    key: &str,
    value: &Spanned<DeValue<'_>>,
) -> Option<PathBuf> {
    let help = "write the path of a file in PEM, in quotes";
    reader.value(table, key, value, |given| kind::text(given, "a path", help).map(PathBuf::from))
}
