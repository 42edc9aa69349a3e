//! `midge svid …`: SVIDs from the Workload API, and their files.

use super::admin::{Admin, spiffe_id};
use super::signals::stop_on_signal;
use crate::cli::SvidCommand;
use crate::exit::{self, WithCode as _, failure};
use crate::output::{self, Output};
use midge_agent::client::{ClientError, WorkloadClient, X509Context, X509Svid, await_identity, socket_path};
use midge_agent::files::{self, FileOptions, WatchOptions, WriteError};
use midge_api::spire::api::server::bundle::v1::GetBundleRequest;
use midge_api::spire::api::server::svid::v1::MintX509svidRequest;
use midge_identity::{CertificateFacts, SpiffeId, UnixMillis};
use midge_pki::{CsrSubject, PrivateKey, pem_encode_certs, pem_encode_key};
use midge_runtime::Backoff;
use midge_runtime::logs::LogFormat;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::Code;

/// Workload API of the edge on this host, unless the environment or the arguments name another.
const DEFAULT_WORKLOAD_API: &str = "unix:///var/lib/midge/run/workload.sock";
/// Limits of the waits for an agent that is not there yet.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// `midge svid`.
pub(crate) async fn run(admin: &Admin, command: SvidCommand, output: Output) -> anyhow::Result<()> {
    match command {
        SvidCommand::Fetch { workload_api, write, spiffe_id, on_renew, wait, once } => {
            let socket = workload_socket(workload_api.as_deref())?;
            match write {
                None => fetch(&socket, wait, output).await,
                Some(directory) => {
                    let files = FileOptions { wanted: spiffe_id, ..FileOptions::default() };
                    let options = WatchOptions { socket, directory, files, on_renew, wait };
                    if once { write_once(&options, output).await } else { keep_written(&options).await }
                }
            }
        }
        SvidCommand::Mint { spiffe_id, ttl, dns, write } => {
            let minted = mint(admin, &spiffe_id, ttl, &dns).await?;
            match write {
                Some(directory) => write_minted(&minted, &directory, output),
                None => print_minted(&minted, output),
            }
        }
    }
}

/// Socket of the Workload API: as given, else that of `SPIFFE_ENDPOINT_SOCKET`, else the edge's.
pub(super) fn workload_socket(given: Option<&str>) -> anyhow::Result<PathBuf> {
    let environment = std::env::var("SPIFFE_ENDPOINT_SOCKET").ok().filter(|address| !address.is_empty());
    let address = given.or(environment.as_deref()).unwrap_or(DEFAULT_WORKLOAD_API);
    socket_path(address).code(exit::USAGE)
}

/// What an error of the Workload API means to a person.
pub(super) fn workload_error(error: &ClientError) -> anyhow::Error {
    let code = match error {
        ClientError::NoIdentity => exit::NO,
        ClientError::Address(_) => exit::USAGE,
        ClientError::Unreachable { path, .. } => return unreachable_agent(path),
        ClientError::Refused { code: Code::PermissionDenied | Code::Unauthenticated, .. } => exit::PERMISSION,
        ClientError::Refused { .. } | ClientError::Ended => exit::UNAVAILABLE,
        _ => exit::INTERNAL,
    };
    failure(code, error.to_string())
}

fn unreachable_agent(path: &Path) -> anyhow::Error {
    // The gRPC library hides why behind "transport error".
    let error = std::os::unix::net::UnixStream::connect(path).err();
    let reason = error.as_ref().map_or_else(|| "it does not answer".to_owned(), ToString::to_string);
    let code = match error.map(|error| error.kind()) {
        Some(std::io::ErrorKind::PermissionDenied) => exit::PERMISSION,
        _ => exit::UNAVAILABLE,
    };
    let remedy = "start `midge edge` or `midge agent`, or name the socket with --workload-api or SPIFFE_ENDPOINT_SOCKET";
    failure(code, format!("cannot reach the Workload API at {}: {reason}; {remedy}", path.display()))
}

fn write_error(error: &WriteError) -> anyhow::Error {
    match error {
        WriteError::Client(error) => workload_error(error),
        // The operator's own command says no; what was written stays.
        WriteError::NoSuchSvid(_) | WriteError::Command { .. } => failure(exit::NO, error.to_string()),
        WriteError::File { .. } => failure(exit::IO, error.to_string()),
        _ => failure(exit::INTERNAL, error.to_string()),
    }
}

async fn fetch(socket: &Path, wait: bool, output: Output) -> anyhow::Result<()> {
    let context = context(socket, wait).await.map_err(|error| workload_error(&error))?;
    let svids = context.svids.iter().map(|svid| Shown::of(&svid.hint, &svid.chain));
    let svids = svids.collect::<anyhow::Result<Vec<_>>>()?;
    if output == Output::Json {
        let svids: Vec<Value> = svids.iter().map(Shown::json).collect();
        return output::json(&json!({ "svids": svids }));
    }
    for (number, svid) in svids.iter().enumerate() {
        if number > 0 {
            output::line("");
        }
        svid.print();
    }
    Ok(())
}

async fn context(socket: &Path, wait: bool) -> Result<X509Context, ClientError> {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        let asked = async { WorkloadClient::connect(socket).await?.fetch_x509().await };
        let error = match asked.await {
            Ok(context) => return Ok(context),
            Err(error) => error,
        };
        match error {
            ClientError::NoIdentity if wait && await_identity(socket).await.is_ok() => backoff.reset(),
            ClientError::NoIdentity | ClientError::Unreachable { .. } | ClientError::Ended if wait => {
                tokio::time::sleep(backoff.next_delay()).await;
            }
            error => return Err(error),
        }
    }
}

async fn write_once(options: &WatchOptions, output: Output) -> anyhow::Result<()> {
    let token = stop_on_signal()?;
    let written = files::fetch_and_write(options, &token).await.map_err(|error| write_error(&error))?;
    let pem = std::fs::read(&written.svid).code(exit::IO)?;
    let svid = Shown::of("", &midge_pki::pem_decode_certs(&pem).code(exit::IO)?)?;
    if output == Output::Json {
        return output::json(&json!({ "svids": [svid.json()], "written": options.directory }));
    }
    svid.print();
    for path in [&written.svid, &written.key, &written.bundle] {
        output::line(format_args!("Wrote {}", path.display()));
    }
    Ok(())
}

async fn keep_written(options: &WatchOptions) -> anyhow::Result<()> {
    midge_runtime::logs::init(LogFormat::Human, "info").code(exit::INTERNAL)?;
    let token = stop_on_signal()?;
    files::watch_and_write(options, &token).await.map_err(|error| write_error(&error))
}

/// What is shown of an SVID: everything but its key.
struct Shown {
    spiffe_id: String,
    hint: String,
    serial: String,
    expires: UnixMillis,
    chain_pem: String,
}

impl Shown {
    fn of(hint: &str, chain: &[impl AsRef<[u8]>]) -> anyhow::Result<Self> {
        let leaf = chain.first().map(AsRef::as_ref).unwrap_or_default();
        let facts = CertificateFacts::parse(leaf).code(exit::INTERNAL)?;
        Ok(Self {
            spiffe_id: facts.uri_sans.into_iter().next().unwrap_or_default(),
            hint: hint.to_owned(),
            serial: facts.serial,
            expires: facts.not_after,
            chain_pem: pem_encode_certs(chain),
        })
    }

    fn json(&self) -> Value {
        json!({
            "spiffe_id": self.spiffe_id,
            "hint": self.hint,
            "serial": self.serial,
            "expires_at": self.expires.as_secs(),
            "chain_pem": self.chain_pem,
        })
    }

    fn print(&self) {
        output::fields(&[
            ("SPIFFE ID", self.spiffe_id.clone()),
            ("Hint", self.hint.clone()),
            ("Serial", self.serial.clone()),
            ("Expires", self.expires.to_string()),
        ]);
    }
}

struct Minted {
    spiffe_id: String,
    expires_at: i64,
    chain: Vec<Vec<u8>>,
    key: PrivateKey,
    bundle: Vec<Vec<u8>>,
}

/// Makes a key here and has its SVID signed; the key goes nowhere.
async fn mint(admin: &Admin, id: &str, ttl: i32, dns: &[String]) -> anyhow::Result<Minted> {
    // For its message.
    spiffe_id(id)?;
    if ttl < 0 {
        return Err(failure(exit::USAGE, format!("-ttl {ttl}: an SVID cannot live for less than 1 second")));
    }
    let id = SpiffeId::new(id).code(exit::USAGE)?;
    let key = PrivateKey::generate().code(exit::INTERNAL)?;
    let csr = key.csr_der_with_dns(Some(&id), dns, CsrSubject::default());
    let csr = csr.map_err(|error| failure(exit::USAGE, format!("-dns: {error}")))?;
    let response = admin.svids().await?.mint_x509svid(MintX509svidRequest { csr, ttl }).await;
    let svid = response.map_err(|status| admin.error(&status))?.into_inner().svid.unwrap_or_default();
    let response = admin.bundles().await?.get_bundle(GetBundleRequest::default()).await;
    let bundle = response.map_err(|status| admin.error(&status))?.into_inner();
    Ok(Minted {
        spiffe_id: id.to_string(),
        expires_at: svid.expires_at,
        chain: svid.cert_chain,
        key,
        bundle: bundle.x509_authorities.into_iter().map(|root| root.asn1).collect(),
    })
}

fn write_minted(minted: &Minted, directory: &Path, output: Output) -> anyhow::Result<()> {
    let svid = X509Svid {
        spiffe_id: minted.spiffe_id.clone(),
        chain: minted.chain.clone(),
        key: minted.key.to_pkcs8_der(),
        bundle: minted.bundle.clone(),
        hint: String::new(),
    };
    let context = X509Context { svids: vec![svid], federated: BTreeMap::new() };
    let written = files::write_svid(directory, &context, &FileOptions::default());
    let written = written.map_err(|error| write_error(&error))?;
    if output == Output::Json {
        return output::json(&json!({
            "spiffe_id": minted.spiffe_id, "expires_at": minted.expires_at, "written": directory,
        }));
    }
    Shown::of("", &minted.chain)?.print();
    for path in [&written.svid, &written.key, &written.bundle] {
        output::line(format_args!("Wrote {}", path.display()));
    }
    Ok(())
}

/// The one place where a private key is printed: there is no other copy of it.
fn print_minted(minted: &Minted, output: Output) -> anyhow::Result<()> {
    let (chain, key, bundle) =
        (pem_encode_certs(&minted.chain), pem_encode_key(&minted.key), pem_encode_certs(&minted.bundle));
    if output == Output::Json {
        return output::json(&json!({
            "spiffe_id": minted.spiffe_id, "expires_at": minted.expires_at,
            "chain_pem": chain, "key_pem": key.as_str(), "bundle_pem": bundle,
        }));
    }
    for (title, pem) in
        [("X509-SVID:", chain.as_str()), ("Private key:", key.as_str()), ("Root CAs:", bundle.as_str())]
    {
        output::line(title);
        output::line(pem);
    }
    Ok(())
}
