//! Where the scheduler is and who speaks: flags, then environment, then the context file, then the defaults.
//!
//! Comes in: the global flags. Goes out: clients of the API with the bearer token in every call. This part must never
//! print a token, nor send one in plaintext to another node.

use std::{fs, path::PathBuf, time::Duration};

use clap::Args;
use dure_proto::v1::{
    bookings_client::BookingsClient, forecasts_client::ForecastsClient, history_client::HistoryClient,
    jobs_client::JobsClient, nodes_client::NodesClient, schedulers_client::SchedulersClient,
    tenants_client::TenantsClient,
};
use serde::Deserialize;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, ClientTlsConfig, Endpoint},
};

use crate::{
    failure::{Failure, root},
    roam::Roam,
};

/// Where a scheduler is looked for when nobody says.
pub(crate) const DEFAULT_SERVER: &str = "http://127.0.0.1:7070";
/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a scheduler is asked whether it lives, and how long it may take to say so, where there are others.
const PING_EVERY: Duration = Duration::from_secs(2);
/// Largest answer that is taken, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// Flags that every command has.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Flags {
    /// Address of the scheduler, or of all schedulers, separated by commas [default: http://127.0.0.1:7070]
    #[arg(long, global = true, env = "DURE_SERVER", value_name = "URL", help_heading = "Connection")]
    pub(crate) server: Option<String>,
    /// File that holds your token
    #[arg(long, global = true, env = "DURE_TOKEN_FILE", value_name = "FILE", help_heading = "Connection")]
    pub(crate) token_file: Option<PathBuf>,
    /// Authority that signed the scheduler's certificate (PEM)
    #[arg(long, global = true, env = "DURE_CA", value_name = "FILE", help_heading = "Connection")]
    pub(crate) ca: Option<PathBuf>,
}

/// `~/.config/dure/context.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ContextFile {
    server: Option<String>,
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    tenant: Option<String>,
}

/// Puts the token into every call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A connection on which the token travels.
pub(crate) type Authed = InterceptedService<Roam, Bearer>;

/// Where the scheduler is and who speaks.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// Address of the scheduler, or of several.
    pub(crate) server: String,
    /// The tenant of jobs that name none.
    pub(crate) tenant: Option<String>,
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
}

impl Context {
    /// Looks in all places.
    pub(crate) fn find(flags: &Flags) -> Result<Self, Failure> {
        let file = read_context_file()?;
        Ok(Self {
            server: flags.server.clone().or(file.server).unwrap_or_else(|| DEFAULT_SERVER.to_owned()),
            tenant: std::env::var("DURE_TENANT").ok().or(file.tenant),
            token_file: flags.token_file.clone().or(file.token_file),
            ca: flags.ca.clone().or(file.ca),
        })
    }

    /// A failure from a status of this server.
    pub(crate) fn refused(&self, status: Status) -> Failure {
        Failure::from_status(status, &self.server)
    }

    /// A client of Jobs.
    pub(crate) async fn jobs(&self) -> Result<JobsClient<Authed>, Failure> {
        let (channel, bearer) = self.connect().await?;
        Ok(JobsClient::with_interceptor(channel, bearer).max_decoding_message_size(MAX_ANSWER))
    }

    /// A client of Nodes.
    pub(crate) async fn nodes(&self) -> Result<NodesClient<Authed>, Failure> {
        let (channel, bearer) = self.connect().await?;
        Ok(NodesClient::with_interceptor(channel, bearer).max_decoding_message_size(MAX_ANSWER))
    }

    /// A client of Bookings.
    pub(crate) async fn bookings(&self) -> Result<BookingsClient<Authed>, Failure> {
        let (channel, bearer) = self.connect().await?;
        Ok(BookingsClient::with_interceptor(channel, bearer).max_decoding_message_size(MAX_ANSWER))
    }

    /// A client of Tenants.
    pub(crate) async fn tenants(&self) -> Result<TenantsClient<Authed>, Failure> {
        let (channel, bearer) = self.connect().await?;
        Ok(TenantsClient::with_interceptor(channel, bearer).max_decoding_message_size(MAX_ANSWER))
    }

    /// A client of Forecasts.
    pub(crate) async fn forecasts(&self) -> Result<ForecastsClient<Authed>, Failure> {
        let (channel, bearer) = self.connect().await?;
        Ok(ForecastsClient::with_interceptor(channel, bearer))
    }

    /// A client of History.
    pub(crate) async fn history(&self) -> Result<HistoryClient<Authed>, Failure> {
        let (channel, bearer) = self.connect().await?;
        Ok(HistoryClient::with_interceptor(channel, bearer).max_decoding_message_size(MAX_ANSWER))
    }

    /// A client of Schedulers.
    pub(crate) async fn schedulers(&self) -> Result<SchedulersClient<Authed>, Failure> {
        let (channel, bearer) = self.connect().await?;
        Ok(SchedulersClient::with_interceptor(channel, bearer))
    }

    async fn connect(&self) -> Result<(Roam, Bearer), Failure> {
        let bearer = self.token_file.as_ref().map_or(Ok(Bearer::default()), |path| {
            let text = fs::read_to_string(path).map_err(|err| {
                Failure::Usage(format!("--token-file {}: {err}: name the file that holds your token", path.display()))
            })?;
            bearer(text.trim()).map_err(|why| Failure::Usage(format!("--token-file {}: {why}", path.display())))
        })?;
        let ca = match &self.ca {
            Some(path) => Some(fs::read(path).map_err(|err| {
                Failure::Usage(format!("--ca {}: {err}: name the authority's certificate (PEM)", path.display()))
            })?),
            None => None,
        };
        let mut ways = Vec::new();
        for server in self.server.split(',').map(|server| server.trim().trim_end_matches('/')) {
            let endpoint = endpoint(server, ca.as_deref())?;
            if bearer.0.is_some() && endpoint.uri().scheme_str() != Some("https") && !is_loopback(&endpoint) {
                let why = "a token is not sent in plaintext to another node: use https://";
                return Err(Failure::Usage(format!("--server {server}: {why}")));
            }
            ways.push((server.to_owned(), endpoint));
        }
        if let [(server, endpoint)] = &ways[..] {
            let unreachable =
                |err: tonic::transport::Error| Failure::Unreachable { server: server.clone(), why: root(&err) };
            return Ok((Roam::on(endpoint.connect().await.map_err(unreachable)?), bearer));
        }
        let roam = Roam::new(ways.into_iter().map(|(server, endpoint)| (server, responsive(endpoint))).collect());
        Ok((roam.ok_or_else(|| Failure::Usage("--server: name at least one".to_owned()))?, bearer))
    }
}

/// The interceptor for a token.
pub(crate) fn bearer(token: &str) -> Result<Bearer, &'static str> {
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a token is one word of visible ASCII characters");
    }
    let mut value: MetadataValue<Ascii> =
        format!("Bearer {token}").parse().map_err(|_| "a token is one word of visible ASCII characters")?;
    value.set_sensitive(true);
    Ok(Bearer(Some(value)))
}

/// How to get to a server: https with the given authority, http to loopback.
pub(crate) fn endpoint(server: &str, ca: Option<&[u8]>) -> Result<Endpoint, Failure> {
    let wrong = |why: String| {
        Failure::Usage(format!("--server {server}: {why}: write http://127.0.0.1:7070 or https://name:7070"))
    };
    let endpoint = Endpoint::from_shared(server.to_owned()).map_err(|err| wrong(root(&err)))?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
    match endpoint.uri().scheme_str() {
        Some("http") => Ok(endpoint),
        Some("https") => {
            let mut tls = ClientTlsConfig::new();
            if let Some(pem) = ca {
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            endpoint.tls_config(tls).map_err(|err| wrong(root(&err)))
        }
        _ => Err(wrong("no scheme".to_owned())),
    }
}

/// Where there are others, one that hangs is left.
pub(crate) fn responsive(endpoint: Endpoint) -> Endpoint {
    endpoint.connect_timeout(CONNECT_TIMEOUT / 5).http2_keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_EVERY)
}

fn is_loopback(endpoint: &Endpoint) -> bool {
    let name = endpoint.uri().host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn read_context_file() -> Result<ContextFile, Failure> {
    let folder = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    let Some(path) = folder.map(|folder| folder.join("dure/context.toml")) else { return Ok(ContextFile::default()) };
    match fs::read_to_string(&path) {
        Ok(text) => parse_context(&text).map_err(|why| Failure::Usage(format!("{}: {why}", path.display()))),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(ContextFile::default()),
        Err(err) => Err(Failure::Usage(format!("{}: {err}", path.display()))),
    }
}

fn parse_context(text: &str) -> Result<ContextFile, String> {
    toml::from_str(text).map_err(|err| err.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_file_is_read_and_an_unknown_field_is_an_error() {
        let file = parse_context("server = \"https://s:7070\"\ntenant = \"fusion\"\n").expect("reads");
        assert_eq!((file.server.as_deref(), file.tenant.as_deref()), (Some("https://s:7070"), Some("fusion")));
        assert!(parse_context("sever = \"x\"").expect_err("refused").contains("sever"));
    }

    #[tokio::test]
    async fn a_token_is_never_sent_in_plaintext_to_another_node() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), "secret\n").expect("writes");
        let flags =
            Flags { server: Some("http://10.0.0.1:7070".into()), token_file: Some(file.path().into()), ca: None };
        let context = Context::find(&flags).expect("found");
        let failure = context.jobs().await.expect_err("refused");
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.text().contains("a token is not sent in plaintext to another node"), "{}", failure.text());
        assert!(!failure.text().contains("secret"));
    }

    #[test]
    fn addresses_are_checked() {
        assert!(endpoint("http://localhost:1", None).is_ok());
        for server in ["", "ftp://x", "127.0.0.1:7070", "http://"] {
            assert_eq!(endpoint(server, None).expect_err(server).exit_code(), 2);
        }
    }
}
